"""Fork a process a cell from one that has imported everything: ``python -m xcrossrec_lab.suites.cell_server``.

Importing torch and the trainers takes seconds, a fork none. The server imports and does nothing else: no threads of
computation, so that a fork is safe. Each cell still has a process of its own, with its own peak memory.

The server reads a JSON object a line, ``{"job": 3, "log": PATH, "arguments": [...]}``, and writes one when the job's
process ends, ``{"job": 3, "code": 0}``. When its input ends, by a kill of the runner too, it kills what is at work.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_CHECK_S = 0.1
_CLOSE_S = 3.0
_PRELOADED = ("datasets", "peft", "sentence_transformers", "transformers.models.bert.modeling_bert")
_FOR_FORKS = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # else asking for a GPU starts CUDA here, and no fork can use it
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


class CellServer:
    """The runner's end.

    Args:
        threads: of each cell; they hold from the server's start, before torch is imported.
        log: file for what the server itself prints.
    """

    def __init__(self, threads: int, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._jobs = 0
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "xcrossrec_lab.suites.cell_server"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, **dict.fromkeys(THREADS, str(threads)), **_FOR_FORKS},
            )
        assert self._process.stdout is not None
        os.set_blocking(self._process.stdout.fileno(), False)
        self._unread = b""

    @property
    def alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def start(self, arguments: Sequence[str], log: Path) -> int:
        """Ask for a process; its output goes to the log, which is made.

        Returns:
            the job's number.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_bytes(b"")
        self._jobs += 1
        line = json.dumps({"job": self._jobs, "log": str(log), "arguments": list(arguments)})
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # a dead server: the runner sees that
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        return self._jobs

    def ended(self) -> dict[int, int]:
        """Exit codes of the jobs that have ended since the last call."""
        assert self._process.stdout is not None
        self._unread += self._process.stdout.read() or b""
        *lines, self._unread = self._unread.split(b"\n")
        return {found["job"]: found["code"] for found in map(json.loads, lines)}

    def close(self) -> None:
        """End the server, which kills what is at work; one that still imports is killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def main() -> None:
    """Serve until the input ends."""
    _preload()
    at_work: dict[int, int] = {}
    unread = b""
    try:
        while True:
            ready, _, _ = select.select([0], [], [], _CHECK_S)
            if ready:
                received = os.read(0, 1 << 16)
                if not received:
                    return
                *lines, unread = (unread + received).split(b"\n")
                for line in lines:
                    job = json.loads(line)
                    at_work[_fork(job)] = job["job"]
            _report_ended(at_work)
    finally:
        for pid in at_work:
            os.kill(pid, signal.SIGKILL)


def _preload() -> None:
    """Import what cells need, so that no cell does; what cannot be imported fails in the cell that needs it."""
    from xcrossrec_lab.methods import KINDS
    from xcrossrec_lab.suites.cell_process import commit

    modules = {f"xcrossrec_lab.methods.{kind.place.split(':')[0]}" for kind in KINDS.values()}
    for name in (*_PRELOADED, *sorted(modules)):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    commit()  # of the code that is now in memory
    gc.freeze()


def _fork(job: Mapping[str, Any]) -> int:
    server = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        _run(job, server)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _run(job: Mapping[str, Any], server: int) -> None:
    from xcrossrec_lab.suites.cell_process import main as run

    nothing = os.open(os.devnull, os.O_RDONLY)
    log = os.open(job["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for opened, place in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(opened, place)
    run([*job["arguments"], str(server)])


def _report_ended(at_work: dict[int, int]) -> None:
    while at_work:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        line = json.dumps({"job": at_work.pop(pid), "code": os.waitstatus_to_exitcode(status)})
        os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main()
