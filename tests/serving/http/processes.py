"""Services in processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_MAIN = "from xcrossrec.cli import main; main()"


class Process:
    """A running `xcrossrec serve`."""

    def __init__(self, popen: subprocess.Popen[str], log: Path) -> None:
        self.popen = popen
        self.log = log
        self.url = ""

    def lines(self) -> list[dict[str, Any]]:
        """What it logged; every line must be a JSON object."""
        return [dict(json.loads(line)) for line in self.log.read_text().splitlines()]

    def wait_until_it_listens(self, timeout_s: float = 120.0) -> None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.popen.poll() is None:
            for line in self.log.read_text().splitlines():
                if "listening at " in line:
                    self.url = str(json.loads(line)["message"]).rpartition(" ")[2]
                    return
            time.sleep(0.05)
        raise AssertionError(f"it does not listen: {self.log.read_text()}")

    def waited_s(self) -> float:
        """How long it was kept from a processor by others; 0 where the system does not tell."""
        try:
            return int(Path(f"/proc/{self.popen.pid}/schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def stop(self, sig: int = signal.SIGTERM, timeout_s: float = 60.0) -> int:
        self.popen.send_signal(sig)
        return self.popen.wait(timeout_s)


@contextmanager
def started(words: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Process]:
    """Run the command line's words in a folder; what is left is killed at the end."""
    log = folder / "service.log"
    with log.open("w") as file:
        popen = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", _MAIN, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        )
    try:
        yield Process(popen, log)
    finally:
        if popen.poll() is None:
            popen.kill()
        popen.wait(10)


def recommend(url: str, history: Sequence[Mapping[str, str]], **more: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/recommend", json={"history": list(history), **more}, timeout=60)
