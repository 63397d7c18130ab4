"""Processes for the tests of faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
PRELOADED = ("xcrossrec.cli", "xcrossrec.recommender", "xcrossrec.serving.store", "catalogue_writer")


@dataclass
class Started:
    """A process that the nursery started."""

    nursery: Nursery
    pid: int
    log: Path

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and give the exit status, negative for a signal."""
        os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end."""
        return int(self.nursery.order({"wait": self.pid}))

    def lines(self) -> list[str]:
        """What it printed, whole lines only."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()


class Nursery:
    """See nursery.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(HERE / "nursery.py"), *PRELOADED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )
        assert self._line() == "ready"

    def order(self, order: dict[str, Any]) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._line()

    def start(self, call: str, argv: Sequence[object], log: Path, **options: Any) -> Started:
        order = {"call": call, "argv": [call, *map(str, argv)], "log": str(log), **options}
        return Started(self, int(self.order(order)), log)

    def close(self) -> None:
        self._process.communicate(timeout=60)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()
