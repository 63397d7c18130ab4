"""Choose settings by the loss on users set aside of the target's training users, before anybody is ranked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from xcrossrec import ConfigError
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite


def prepared(suite: Suite, out: Path, *, tune: bool) -> Suite:
    """The suite as it runs in a folder: its search's trials, or its cells with the settings that the trials chose.

    Args:
        suite: as read.
        out: the run's folder.
        tune: whether the trials are wanted.

    Raises:
        ConfigError: a search without all of its trials, or (for trials) no search.
    """
    placed = replace(suite, out=out)
    return placed.for_tuning() if tune else placed.with_settings(chosen_settings(placed))


def chosen_settings(suite: Suite) -> dict[str, dict[str, Any]]:
    """Give each searched method the combination with the lowest loss; the first of equal ones.

    Raises:
        ConfigError: a trial is missing, or none of a method's gave a loss.
    """
    searched = [method for method in suite.methods.values() if method.search]
    if not searched:
        return {}
    losses = trial_losses(suite)
    chosen = {}
    for method in searched:
        trials = method.trials()
        if missing := [trial for trial in trials if trial not in losses[method.name]]:
            raise ConfigError(
                f"the search of method {method.name!r} has not tried {missing[0]}: run `xcrossrec-lab tune` first"
            )
        best = min(trials, key=lambda trial: losses[method.name][trial])
        if not math.isfinite(losses[method.name][best]):
            raise ConfigError(f"no trial of method {method.name!r} reports a loss: give its settings without a search")
        chosen[method.name] = trials[best]
    return chosen


def trial_losses(suite: Suite) -> dict[str, Mapping[str, float]]:
    """The losses of the trials that are complete, by method and trial; infinite where a method reports none."""
    tuning = suite.for_tuning()
    files = CellFiles(tuning.out)
    losses: dict[str, dict[str, float]] = {method.name: {} for method in suite.methods.values() if method.search}
    for cell in tuning.cells():
        if files.done(cell):
            method, trial = cell.method.split("@", 1)
            loss = files.read(cell)["report"].get("best_loss")
            losses[method][trial] = math.inf if loss is None else float(loss)
    return dict(losses)
