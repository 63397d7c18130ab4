"""Run one cell in this process: ``python -m xcrossrec_lab.suites.cell_process SUITE OUT cell|trial NAME PARENT``.

A run does the same in processes that :mod:`xcrossrec_lab.suites.cell_server` forks. A process a cell: its peak memory
is the cell's own, and a kill costs no more than the cell.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import torch

from xcrossrec import ConfigError, Domain, Evaluation, evaluate, read_domain
from xcrossrec.training.source import seen_users
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.suites.ablation import integration_map, integration_switched_off
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, Cell, CellFiles
from xcrossrec_lab.suites.ranked import Ranked, ranked_users
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.suites.tuning import prepared
from xcrossrec_lab.task import Fitted, Source, Task

CELL, TRIAL = "cell", "trial"
_RATES_OF_TRAINING = ("head_learning_rate", "target_learning_rate")
"""Settings that a method may give although all encoders' training has them."""
_PARENT_CHECK_S = 2.0


@dataclass(frozen=True)
class _Clock:
    """Wall and processor seconds since it was started."""

    wall: float
    cpu: float

    @classmethod
    def start(cls) -> _Clock:
        return cls(time.perf_counter(), time.process_time())

    def seconds(self) -> dict[str, float]:
        return {
            "wall_s": round(time.perf_counter() - self.wall, 2),
            "cpu_s": round(time.process_time() - self.cpu, 2),
        }


def run_cell(suite: Suite, files: CellFiles, cell: Cell) -> dict[str, Any]:
    """Fit one cell's method, rank the split's users, and write the record and the per-user results.

    A trial of a search ranks nobody.

    Args:
        suite: what the cell belongs to.
        files: where it is written.
        cell: which one.

    Returns:
        the record as written.

    Raises:
        ConfigError: the cell's method is retired.
    """
    suite.methods[cell.method].refuse_if_retired()
    domain = read_domain(suite.data / cell.target)
    ranked = ranked_users(suite, domain) if suite.ranks else None  # before the training: it may refuse the grid
    scratch = files.root / "work"
    scratch.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f"{cell.target}-{cell.method}-{cell.budget_name}-", dir=scratch))
    try:
        task = make_task(suite, cell, domain, work)
        fitting = _Clock.start()
        fitted = KINDS[suite.methods[cell.method].kind].load()(task)
        record = _record(suite, cell, task, fitted, domain) | {"fit": fitting.seconds()}
        evaluation = None
        if ranked is not None:
            ranking = _Clock.start()
            evaluation = _rank(suite, task, fitted, ranked)
            record |= {"rank": ranking.seconds(), "metrics": evaluation.summary()}
            record["integration_off"] = integration_switched_off(fitted, suite, task, ranked, evaluation)
            record["integration_map"] = integration_map(fitted, task)
        record["peak_memory_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
        record |= _accelerator()
        files.write(cell, evaluation, record)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return record


def make_task(suite: Suite, cell: Cell, domain: Domain, work: Path) -> Task:
    """Cut the target to the budget and gather the sources and settings.

    Raises:
        ConfigError: a source has no adapter yet.
    """
    sources = tuple(Source(name, suite.adapters / name, suite.data / name) for name in cell.sources)
    for source in sources:
        if not source.adapter.is_dir():
            raise ConfigError(
                f"source {source.name!r} has no adapter at {source.adapter}: run `xcrossrec-lab sources` first"
            )
    settings = settings_at(suite.methods[cell.method].settings, cell.budget)
    target = cut_to_budget(domain, cell.budget, cell.seed)
    if settings.pop("shuffle_titles", False):
        target = shuffle_titles(target, cell.seed)
    training = suite.training_for(cell.budget, cell.seed)
    pair_attention = settings.pop("pair_attention", suite.pair_attention)
    rates = {name: settings.pop(name) for name in _RATES_OF_TRAINING if name in settings}
    return Task(
        target=target,
        sources=sources,
        seed=cell.seed,
        work=work,
        training=replace(training, **rates),
        settings=settings,
        base=suite.base,
        scoring=suite.scoring,
        pair_attention=pair_attention,
        pair_start=suite.pair_start,
        encoding=suite.encoding,
    )


def settings_at(settings: Mapping[str, Any], budget: int) -> dict[str, Any]:
    """A method's settings at a budget: a table of values by budget gives that of the largest one not above it."""
    users = sys.maxsize if budget == ALL else budget
    return {
        name: _by_budget(name, found, users) if isinstance(found, Mapping) else found
        for name, found in settings.items()
    }


def _by_budget(name: str, values: Mapping[str, Any], users: int) -> Any:
    """Choose from a table of values by budget.

    Raises:
        ConfigError: a key is no number, or all are above the budget.
    """
    try:
        fitting = {int(key): value for key, value in values.items() if int(key) <= users}
    except ValueError as error:
        raise ConfigError(f"{name} is {dict(values)!r}: give a value, or a table of values by budget") from error
    if not fitting:
        raise ConfigError(f"{name} has no value for {users} users, only from {min(map(int, values))} on: add one")
    return fitting[max(fitting)]


def cut_to_budget(domain: Domain, budget: int, seed: int) -> Domain:
    """The domain with the training users of a budget, and no others.

    A method without a budget gets all of them, and may use the catalogue alone (its kind says so).
    """
    frame = domain.frame("train")
    if budget not in (ALL, NO_BUDGET):
        chosen = domain.sequences("train").take(budget, seed).user_ids
        frame = frame.filter(frame["user_id"].is_in(chosen))
    return replace(domain, interactions={"train": frame})


def shuffle_titles(domain: Domain, seed: int) -> Domain:
    """The same interactions with titles, brands and so on dealt out anew: what a method then gains, it did not read."""
    dealt = pl.int_range(domain.items.height, eager=True).sample(fraction=1.0, shuffle=True, seed=seed)
    return replace(domain, items=domain.items.with_columns(domain.items.drop("item_id")[dealt]))


def _rank(suite: Suite, task: Task, fitted: Fitted, ranked: Ranked) -> Evaluation:
    seen = _seen(task, ranked.domain, suite) if fitted.uses_sources else None
    return evaluate(
        fitted.scorer,
        ranked.domain,
        suite.split,
        negatives=suite.negatives,
        seed=suite.candidate_seed,
        directory=ranked.directory,
        seen_users=seen,
    )


def _seen(task: Task, domain: Domain, suite: Suite) -> frozenset[str]:
    return frozenset().union(*(seen_users(s.adapter, domain, suite.split) for s in task.sources))


def _record(
    suite: Suite,
    cell: Cell,
    task: Task,
    fitted: Fitted,
    domain: Domain,
) -> dict[str, Any]:
    return {
        "suite": suite.name,
        "cell": cell.name,
        "target": cell.target,
        "sources": list(cell.sources),
        "method": cell.method,
        "kind": suite.methods[cell.method].kind,
        "budget": cell.budget_name,
        "users": None if cell.budget == NO_BUDGET else len(task.users),
        "seed": cell.seed,
        "settings": settings_at(suite.methods[cell.method].settings, cell.budget),
        "training": asdict(task.training),
        "scoring": suite.scoring,
        "encoding": suite.encoding,
        "pair": {"attention": task.pair_attention, "start": task.pair_start} if task.scoring == "pair" else None,
        "data_fingerprint": domain.fingerprint,
        "commit": commit(),
        "trained_parameters": fitted.trained_parameters,
        "head_parameters": fitted.head_parameters,
        "report": dict(fitted.report),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


def _accelerator() -> dict[str, Any]:
    """The GPU that models are trained and ranked on, and the most of its memory that was in use."""
    if not torch.cuda.is_available():
        return {"accelerator": None}
    peak = torch.cuda.max_memory_allocated() / 2**20
    return {"accelerator": torch.cuda.get_device_name(), "accelerator_peak_memory_mib": round(peak, 1)}


@cache
def commit() -> str | None:
    """The checkout's commit, with ``+`` behind it where tracked files differ; None outside a checkout.

    Where code was copied without its history, ``XCROSSREC_COMMIT`` says it. Asked once, when the code is imported: what
    is edited afterwards does not run.
    """
    if told := os.environ.get("XCROSSREC_COMMIT"):
        return told
    root = Path(__file__).parent
    described = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=10"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() or None


def _end_with_parent(parent: int) -> None:
    """End this process when its runner is gone, so that a restarted runner does not meet it."""
    while os.getppid() == parent:
        time.sleep(_PARENT_CHECK_S)
    os._exit(1)


def main(arguments: list[str]) -> None:
    """Run the cell that the runner names, or the trial: suite, run's folder, cell or trial, name, parent's id."""
    suite_path, out, what, name, parent = arguments
    threading.Thread(target=_end_with_parent, args=(int(parent),), daemon=True).start()
    suite = prepared(Suite.read(Path(suite_path)), Path(out), tune=what == TRIAL)
    cell = next(cell for cell in suite.cells() if cell.name == name)
    run_cell(suite, CellFiles(suite.out), cell)


if __name__ == "__main__":
    main(sys.argv[1:])
