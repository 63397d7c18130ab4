"""Keep the memory that tensors free, instead of giving it back to the system after every layer."""

from __future__ import annotations

import ctypes
import platform
from functools import cache

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 1024 * 1024  # glibc refuses more
_KEPT_BYTES = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep and reuse freed blocks (idempotent; nothing happens elsewhere).

    On the CPU every layer frees and asks again for a few megabytes; by default each time goes through the
    kernel, which on a virtual machine can cost as much as the arithmetic (measured in lab/log).

    Returns:
        whether the allocator accepted.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    settings = {_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD, _TRIM_THRESHOLD: _KEPT_BYTES, _TOP_PAD: 64 * 1024 * 1024}
    return all(libc.mallopt(option, value) == 1 for option, value in settings.items())
