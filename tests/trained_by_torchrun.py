"""Trains tiny models and writes every step's loss; training/test_processes.py runs it in one process and in two."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from xcrossrec.config import Integration, TrainingConfig
from xcrossrec.data import read_domain
from xcrossrec.training.processes import Processes
from xcrossrec.training.source import train_source
from xcrossrec.training.target import train_target

SETTINGS: dict[str, Any] = {
    "epochs": 2,
    "batch_users": 3,  # of 73 users: 25 steps an epoch, the last with one of them
    "learning_rate": 1e-3,
    "target_learning_rate": 1e-3,
    "sampled_negatives": 3,
    "pair_negatives": 2,
    "holdout_share": 0.15,
    "patience": 2,
    "projection_rank": 2,
    "precision": "fp32",
}
KILLED = "killed"


class Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        args.logging_steps = state.logging_steps = 1

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.found += [logs["loss"]] if "loss" in logs else []


class Death(TrainerCallback):
    """Ends the first process as a machine does that loses power, in the middle of the second epoch."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 30 and Processes.here().first:
            os.kill(os.getpid(), signal.SIGKILL)


def runs(folder: Path) -> dict[str, Callable[..., Any]]:
    """Every way to train, by name; each takes a place to write and what all share."""
    domain, base = read_domain(folder / "domain"), str(folder / "base")
    sources = [folder / "first", folder / "second"]
    return {
        "source": lambda out, **more: train_source(domain, out, base=base, **more),
        "lora": lambda out, **more: train_source(domain, out, init=sources[0], purchases=True, **more),
        "merged": lambda out, **more: train_target(domain, sources, out, **more),
        "xcross": lambda out, **more: train_target(domain, sources, out, integration=Integration("xcross"), **more),
    }


def main(folder: Path, out: Path) -> None:
    """Train all, and let the first process write what it saw."""
    found, config, ways = {}, TrainingConfig(**SETTINGS), runs(folder)
    for name, run in ways.items():
        losses = Losses()
        report = run(out / name, config=config, show_progress=False, callbacks=[losses])
        held = [report.initial_loss, *report.losses]
        found[name] = {"steps": losses.found, "held": held, "weights": str(report.copurchase)}
    if Processes.here().first:
        (out / "found.json").write_text(json.dumps(found))
    if Processes.here().count > 1:
        ways["merged"](out / KILLED, config=config, show_progress=False, callbacks=[Death()])


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
