"""Functions that differ between Linux and macOS and do not exist on Windows, where the import fails."""

from __future__ import annotations

import ctypes
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from xcrossrec.exceptions import UnsupportedSystemError

try:
    import fcntl as fcntl
    import resource as resource
except ImportError as error:
    raise UnsupportedSystemError(
        f"xcrossrec runs on Linux and macOS, and Python on {sys.platform} has no {error.name!r}: on Windows install it "
        "in WSL (wsl --install) and run it there; xcrossrec.client, which asks a service, runs everywhere"
    ) from error

FINDER = ".DS_Store"
"""Written by macOS into folders that it displays; no content of a user."""

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux; RENAME_SWAP of macOS has the same number


def force_to_disk(path: Path) -> None:
    """Force a file's content, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if whole := getattr(fcntl, "F_FULLFSYNC", None):  # macOS: its fsync does not flush the disk's own cache
            with suppress(OSError):  # a network disk may not support it
                fcntl.fcntl(handle, whole)
        os.fsync(handle)
    finally:
        os.close(handle)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two paths atomically; False if the system or the disk cannot."""
    library, names = ctypes.CDLL(None), (os.fsencode(one), os.fsencode(other))
    if (of_linux := getattr(library, "renameat2", None)) is not None:
        return bool(of_linux(_HERE, names[0], _HERE, names[1], _EXCHANGE) == 0)
    of_macos = getattr(library, "renamex_np", None)
    return of_macos is not None and of_macos(*names, _EXCHANGE) == 0


def most_memory_mb() -> float:
    """Peak memory of this process: on Linux since the last reset, elsewhere since its start."""
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii")):
            return int(found[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
