"""Jobs that are killed (-9) at random moments and started again with the same command.

Each job runs once undisturbed, which gives its time and its result. Then it is killed at a random moment, as often as
asked; the same command must end well, say in a sentence what became of what was there, and give the same result.
"""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SENTENCE = re.compile(
    "was removed: an interrupted|was put back|were removed: an interrupted|were there from an earlier run|"
    "already holds a domain|exists"
)


@dataclass(frozen=True)
class Job:
    """A command, what it makes, and what it needs to find before each trial.

    Attributes:
        name: of the job.
        command: the command line without ``xcrossrec``.
        made: file or folder that it makes or changes.
        files: patterns of one file each in that folder, which must be the same each time; none where it is a file.
        before: a folder that stands there before, or None.
    """

    name: str
    command: Sequence[str]
    made: Path
    files: Sequence[str] = ()
    before: Path | None = None


def prepare(place: Path, users: int, items: int) -> None:
    """Write tables, a users' file and two models; in a process of its own, so that the killed ones can be forked."""
    import polars as pl
    import torch

    from xcrossrec.models import bundle
    from xcrossrec.models.base import load_base
    from xcrossrec.models.kinds import build_model
    from xcrossrec.models.source import SourceEncoder, default_lora

    draw = random.Random(0)
    titles = [f"{draw.choice(['red', 'blue', 'green', 'black'])} thing number {number}" for number in range(items)]
    catalogue = pl.DataFrame({"item_id": [f"i{number}" for number in range(items)], "title": titles})
    catalogue.write_csv(place / "items.csv")
    bought = [(f"u{user}", f"i{draw.randrange(items)}", 1e9 + 9 * n) for user in range(users) for n in range(6)]
    pl.DataFrame(bought, schema=["user_id", "item_id", "timestamp"], orient="row").write_csv(place / "bought.csv")
    histories = pl.DataFrame({"user_id": [f"u{n}" for n in range(users)], "history": [["i1", "i2"]] * users})
    histories.write_parquet(place / "users.parquet", row_group_size=max(users // 20, 1))
    for number in range(2):
        torch.manual_seed(number)
        encoder = SourceEncoder(load_base(), default_lora(2))
        with torch.no_grad():
            for name, parameter in encoder.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 0.1)
        bundle.save(build_model(encoder), place / f"model-{number}", {"kind": "adapter", "domain": None})


def jobs_of(place: Path) -> list[Job]:
    """The jobs, each of which may use what an earlier one made."""
    domain, items, model, other = place / "domain", place / "items.csv", place / "model-0", place / "model-1"
    tables = ["--interactions", place / "bought.csv", "--items", items]
    arrays = ["items-1.arrow", "vectors-1.npy"]
    out, asked = place / "out.parquet", [place / "users.parquet", "--catalog", place / "built"]
    return [
        _job("import", domain, ["data", "import", *tables, "--out", domain], ["items.parquet", "train.parquet"]),
        _job("build", place / "built", ["catalog", "build", model, items, "--out", place / "built"], arrays),
        _job("embed", place / "c", ["catalog", "embed", other, place / "c"], ["vectors-*.npy"], before=place / "built"),
        _job("batch", out, ["recommend-batch", model, *asked, "--out", out]),
    ]


def _job(
    name: str, made: Path, words: Sequence[object], files: Sequence[str] = (), *, before: Path | None = None
) -> Job:
    return Job(name, [str(word) for word in words], made, files, before)


def kill_at_random(job: Job, count: int, draw: random.Random, log: Path) -> Counter[str]:
    """Kill a job and start it again.

    Returns:
        how often what came of it. What starts with FAILED must not occur.
    """
    _clear(job)
    start = time.perf_counter()
    if status := _wait(start_job(job, log)):
        return Counter({f"FAILED undisturbed ({status}): {log.read_text()}": 1})
    wall, expected = time.perf_counter() - start, _digest(job)
    keep = job.made.with_name(f"{job.made.name}-kept")
    _copy(job.made, keep)
    found: Counter[str] = Counter()
    for number in range(count):
        _clear(job)
        child = start_job(job, log)
        time.sleep(draw.uniform(0.7 * wall if number % 2 else 0, wall))  # most is written in the end
        os.kill(child, signal.SIGKILL)
        _wait(child)
        status = _wait(start_job(job, log))
        found[_outcome(job, status, log.read_text(encoding="utf-8"), expected)] += 1
    _clear(job)
    _copy(keep, job.made)  # for the jobs that use it
    return found


def _outcome(job: Job, status: int, said: str, expected: str) -> str:
    complete = _digest(job) == expected
    left = [path.name for path in job.made.parent.glob(f".{job.made.name}.*")]
    if left or not complete or "Traceback" in said:
        return f"FAILED: status {status}, complete {complete}, left {left}: {said}"
    sentence = SENTENCE.search(said)
    if status:
        return "had ended before the kill, and says so" if sentence else f"FAILED: status {status}: {said}"
    return f"ended; said: {sentence.group()}" if sentence else "ended as if for the first time; nothing had been left"


def start_job(job: Job, log: Path) -> int:
    """Run a command in a child of this process, which has the modules already."""
    if (child := os.fork()) == 0:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.argv = ["xcrossrec", *job.command]
        status = 1
        try:
            from xcrossrec.cli import main

            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def in_child(action: Callable[[], None]) -> int:
    """Do something in a child of this process; its exit status."""
    if (child := os.fork()) == 0:
        try:
            action()
        finally:
            os._exit(int(sys.exc_info()[0] is not None))
    return _wait(child)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _clear(job: Job) -> None:
    for path in [job.made, *job.made.parent.glob(f".{job.made.name}.*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if job.before is not None:
        _copy(job.before, job.made)


def _copy(source: Path, target: Path) -> None:
    shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
    shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)


def _digest(job: Job) -> str:
    paths = [path for name in job.files for path in job.made.glob(name)] if job.files else [job.made]
    if len(paths) != max(len(job.files), 1) or not all(path.is_file() for path in paths):
        return f"only {[path.name for path in paths]}"
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()
