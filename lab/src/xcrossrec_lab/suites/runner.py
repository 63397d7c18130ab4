"""Run a suite's cells, several at a time, each in a process of its own; what is finished is never run again.

Here processes are forked from a server. An engine that works elsewhere (Ray) gets a cell a block, and its workers start
a process each; they find suite, data, adapters and the run's folder at the same paths.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from xcrossrec import ConfigError
from xcrossrec.engine import Engine, Work
from xcrossrec_lab.suites import cell_process
from xcrossrec_lab.suites.cell_process import CELL, TRIAL
from xcrossrec_lab.suites.cell_server import THREADS, CellServer
from xcrossrec_lab.suites.cells import Cell, CellFiles
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.suites.tuning import prepared

_POLL_S = 0.5
_LOCK = "run.lock"
_SERVER_LOG = "server.log"
_LOST = -256  # no exit code: the server died before it could tell


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        total: cells asked for.
        done: complete, those of earlier runs too.
        failed: names of cells that ended with an error.
        running: names of the cells at work.
        last: the cell that ended last.
        started: when the run began (`time.monotonic`).
        finished_now: cells that this run completed.
    """

    total: int
    done: int
    failed: list[str] = field(default_factory=list)
    running: list[str] = field(default_factory=list)
    last: str | None = None
    started: float = field(default_factory=time.monotonic)
    finished_now: int = 0

    def line(self) -> str:
        """One line for people."""
        minutes = (time.monotonic() - self.started) / 60
        failed = f", {len(self.failed)} failed" if self.failed else ""
        at_work = f"; now {', '.join(self.running)}" if self.running else ""
        last = f"; last {self.last}" if self.last else ""
        return f"{self.done} of {self.total} cells{failed} after {minutes:.1f} min{last}{at_work}"


@dataclass
class _Running:
    cell: Cell
    job: int


def select(suite: Suite, only: Sequence[str] = ()) -> list[Cell]:
    """The suite's cells, in order, whose name fits one of the patterns (all without any).

    Raises:
        ConfigError: a pattern fits no cell.
    """
    cells = suite.cells()
    for pattern in only:
        if not any(fnmatch(cell.name, pattern) for cell in cells):
            raise ConfigError(f"no cell of {suite.name!r} fits {pattern!r}: names look like {cells[0].name}")
    return [cell for cell in cells if not only or any(fnmatch(cell.name, pattern) for pattern in only)]


def run(
    suite_path: Path,
    out: Path,
    *,
    workers: int = 1,
    threads: int | None = None,
    only: Sequence[str] = (),
    tune: bool = False,
    progress: Callable[[Progress], None] | None = None,
    engine: Engine | None = None,
) -> Progress:
    """Run what is missing of a suite; can be killed at any moment and started again.

    Args:
        suite_path: the suite's TOML.
        out: the run's folder.
        workers: cells at a time.
        threads: of each; None shares the processor's cores among the workers.
        only: patterns of cell names.
        tune: run the trials of the suite's search instead.
        progress: called whenever a cell starts or ends.
        engine: where cells run; None is this machine. One elsewhere has workers of its own, each with so many
            threads, or one.

    Raises:
        ConfigError: a faulty suite, no worker, or another run in the same folder.
    """
    if workers < 1:
        raise ConfigError(f"{workers} workers are asked for: give 1 or more")
    suite = prepared(Suite.read(suite_path), out, tune=tune)
    files = CellFiles(suite.out)
    cells = select(suite, only)
    waiting = [cell for cell in cells if not files.done(cell)]
    state = Progress(total=len(cells), done=len(cells) - len(waiting))
    report = progress or (lambda _: None)
    running: list[_Running] = []
    if engine is not None and not engine.here:
        with _sole_run(out):
            command = [str(suite_path.absolute()), str(out.absolute()), TRIAL if tune else CELL]
            blocks = {str(n): (cell.name, _log(files, cell).absolute()) for n, cell in enumerate(waiting)}
            for n, code in engine.results(partial(_starting, command, threads or 1, Path.cwd()), blocks):
                _note(files, waiting[int(n)], int(code), state)
                report(state)
        return state
    with _sole_run(out), _Servers(out / _SERVER_LOG, threads or _share(workers)) as servers:
        while waiting or running:
            while waiting and len(running) < workers:
                cell = waiting.pop(0)
                arguments = [str(suite_path), str(out), TRIAL if tune else CELL, cell.name]
                running.append(_Running(cell, servers.living().start(arguments, _log(files, cell))))
                state.running = [item.cell.name for item in running]
                report(state)
            if _collect(files, running, servers, state):
                report(state)
            else:
                time.sleep(_POLL_S)
    return state


def _share(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


@contextmanager
def _sole_run(out: Path) -> Iterator[None]:
    """Hold the folder's lock; the system lets go of it when the process ends, however that happens."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"another run is at work in {out}: wait for it, or give another --out") from None
        yield


class _Servers:
    """The server that forks the cells; when it dies, the next cell gets another one."""

    def __init__(self, log: Path, threads: int) -> None:
        self.log = log
        self._threads = threads
        self._server: CellServer | None = None

    def __enter__(self) -> _Servers:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes at work, when the run is interrupted too."""
        if self._server is not None:
            self._server.close()
        self.log.unlink(missing_ok=True)

    def living(self) -> CellServer:
        """One that takes jobs."""
        if self._server is None or not self._server.alive:
            if self._server is not None:
                self._server.close()
            self._server = CellServer(self._threads, self.log)
        return self._server

    def ended(self, jobs: Sequence[int]) -> dict[int, int]:
        """Exit codes of those of the jobs that have ended; all of them where the server has died."""
        assert self._server is not None
        lost = {} if self._server.alive else dict.fromkeys(jobs, _LOST)
        return lost | self._server.ended()


def _log(files: CellFiles, cell: Cell) -> Path:
    return files.failure(cell).with_suffix(".log")


def _collect(files: CellFiles, running: list[_Running], servers: _Servers, state: Progress) -> bool:
    """Take note of the processes that have ended; whether there were any."""
    codes = servers.ended([item.job for item in running])
    ended = [item for item in running if item.job in codes]
    for item in ended:
        running.remove(item)
        of_server = servers.log.read_bytes() if codes[item.job] == _LOST else b""
        _note(files, item.cell, codes[item.job], state, of_server)
    state.running = [item.cell.name for item in running]
    return bool(ended)


def _note(files: CellFiles, cell: Cell, code: int, state: Progress, more: bytes = b"") -> None:
    """Take note of a cell's process that has ended; what a failed one printed is kept, and what more is to be said."""
    log = _log(files, cell)
    if code == 0 and files.done(cell):
        log.unlink(missing_ok=True)
        state.done += 1
        state.finished_now += 1
        state.last = cell.name
    else:
        log.write_bytes(log.read_bytes() + more + f"\nended with code {code}\n".encode())
        log.replace(files.failure(cell))
        state.failed.append(cell.name)


def _starting(arguments: Sequence[str], threads: int, folder: Path) -> Work:
    """Start a cell's process in an engine's worker, in the folder of the run's own, and give its exit code."""
    python = [sys.executable, "-W", "ignore", "-m", cell_process.__name__, *arguments]
    environment = {**os.environ, **dict.fromkeys(THREADS, str(threads))}

    def work(block: tuple[str, Path]) -> bytes:
        name, log = block
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as said:
            command = [*python, name, str(os.getpid())]
            done = subprocess.run(command, stdout=said, stderr=said, env=environment, cwd=folder, check=False)
        return str(done.returncode).encode()

    return work
