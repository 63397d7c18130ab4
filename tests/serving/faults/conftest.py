"""Processes for the tests of faults."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

COLOURS = ("red", "blue", "green", "black", "white")
TITLES = [f"{colour} {thing}" for colour in COLOURS for thing in ("train", "drill", "track", "saw")]
HERE = Path(__file__).parent
PRELOADED = ("xcrossrec.cli", "xcrossrec.recommender", "xcrossrec.serving.server", "catalogue_writer")


@dataclass
class Started:
    """A process that the nursery started."""

    nursery: Nursery
    pid: int
    log: Path
    status: int | None = None

    def kill(self, number: int = signal.SIGKILL) -> int:
        """Send a signal and give the exit status, negative for a signal."""
        if self.status is None:
            os.kill(self.pid, number)
        return self.wait()

    def wait(self) -> int:
        """Wait for the end."""
        if self.status is None:
            self.status = int(self.nursery.order({"wait": self.pid}))
        return self.status

    def lines(self) -> list[str]:
        """What it printed, whole lines only."""
        text = self.log.read_text(encoding="utf-8") if self.log.exists() else ""
        return text[: text.rfind("\n") + 1].splitlines()


class Nursery:
    """See nursery.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "XCROSSREC_DRAIN_S": "0"}
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


@dataclass
class Server:
    """``xcrossrec serve`` in a process of its own."""

    process: Started
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def wait_until_ready(self, seconds: float = 120) -> None:
        until = time.monotonic() + seconds
        with self.client() as client:
            while True:
                try:
                    if client.get("/readyz").status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                assert time.monotonic() < until, self.process.lines()
                time.sleep(0.02)

    def kill(self) -> None:
        """Kill -9."""
        assert self.process.kill() == -signal.SIGKILL

    def stop(self) -> None:
        """Stop as an operator does; it must end well."""
        assert self.process.kill(signal.SIGTERM) == 0, self.process.lines()


@pytest.fixture
def start_server(nursery: Nursery, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start ``xcrossrec serve ARGUMENTS`` and wait until it is ready; what still runs at the end is killed."""
    servers: list[Server] = []

    def start(*arguments: object, ready: bool = True, **options: Any) -> Server:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = ["serve", *arguments, "--port", port]
        log = tmp_path / f"server-{len(servers)}.log"
        server = Server(nursery.start("xcrossrec.cli:main", words, log, **options), port)
        servers.append(server)
        if ready:
            server.wait_until_ready()
        return server

    yield start
    for server in servers:
        server.process.kill()


@pytest.fixture
def catalogue(tiny_models: Any, tmp_path: Path) -> Path:
    """A catalogue of twenty items for the model with `late` pooling."""
    from xcrossrec.catalogue import build_catalogue
    from xcrossrec.models import bundle

    table = pl.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES})
    build_catalogue(bundle.load(tiny_models.late), table, tmp_path / "catalogue").close()
    return tmp_path / "catalogue"


def recommend(client: httpx.Client, *titles: str, **more: Any) -> httpx.Response:
    return client.post("/v1/recommend", json={"history": [{"title": title} for title in titles], **more})


def sentence(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    return str(answer.json()["error"]["message"])
