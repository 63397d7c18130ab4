"""What differs between Linux and macOS, and what Windows is told; all of it tried on Linux."""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from xcrossrec import system

needs_renameat2 = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "renameat2"), reason="macOS's call is played by Linux's"
)


def on_windows(code: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run code where neither ``fcntl`` nor ``resource`` can be imported."""
    without = "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None; "
    return subprocess.run([sys.executable, "-c", without + code, *words], capture_output=True, text=True, check=False)


SENTENCE = "xcrossrec runs on Linux and macOS, and Python on linux has no 'fcntl': on Windows install it in WSL"


@pytest.mark.skipif(sys.platform != "linux", reason="the sentence names this system")
def test_windows_is_told_in_one_sentence_what_to_do() -> None:
    command = on_windows("from xcrossrec.__main__ import main; main()", "--version")
    assert (command.returncode, command.stdout, command.stderr.count("\n")) == (2, "", 1)
    assert command.stderr.startswith(f"error: {SENTENCE}")
    python = on_windows(
        "import xcrossrec\ntry: xcrossrec.read_domain\nexcept ImportError as error: print(type(error).__name__, error)"
    )
    assert python.stdout.startswith(f"UnsupportedSystemError {SENTENCE}"), python.stderr


def test_no_other_module_imports_what_windows_lacks() -> None:
    wanted = re.compile(r"^ *(import|from) (fcntl|resource|pwd|grp|termios|posix)\b", re.MULTILINE)
    package = Path(system.__file__).parent
    assert [path.name for path in package.rglob("*.py") if wanted.search(path.read_text("utf-8"))] == ["system.py"]


def test_the_client_runs_everywhere() -> None:
    done = on_windows("from xcrossrec.client import Client; import xcrossrec.metrics; print(Client.__name__)")
    assert (done.stdout, done.stderr) == ("Client\n", "")


def with_library(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., int]) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(**functions))


@needs_renameat2
def test_two_folders_change_places_by_the_call_of_macos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of_linux = ctypes.CDLL(None).renameat2

    def renamex_np(one: bytes, other: bytes, flags: int) -> int:
        assert flags == 2  # RENAME_SWAP
        return int(of_linux(-100, one, -100, other, 2))

    with_library(monkeypatch, renamex_np=renamex_np)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert system.exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert not system.exchange(tmp_path / "one", tmp_path / "absent")


def test_a_system_without_such_a_call_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_library(monkeypatch)
    assert not system.exchange(tmp_path, tmp_path)


@pytest.mark.parametrize("known", [True, False])
def test_macos_empties_the_disks_own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool) -> None:
    asked: list[object] = []

    def control(handle: int, what: int) -> None:
        asked.append(what)
        if not known:
            raise OSError(45, "Operation not supported")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", control)
    monkeypatch.setattr(os, "fsync", lambda handle: asked.append("fsync"))
    system.force_to_disk(tmp_path)
    assert asked == [51, "fsync"]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 2**20)])
def test_the_most_memory_is_in_kilobytes_or_bytes(monkeypatch: pytest.MonkeyPatch, platform: str, unit: int) -> None:
    def absent(*_: object, **__: object) -> str:
        raise FileNotFoundError("/proc/self/status")

    monkeypatch.setattr(Path, "read_text", absent)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(resource, "getrusage", lambda of: SimpleNamespace(ru_maxrss=300 * unit))
    assert system.most_memory_mb() == 300
