"""Train the adapters that a suite's cells integrate, once each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from transformers.trainer_utils import get_last_checkpoint

from xcrossrec import read_domain, source_config, train_source
from xcrossrec.training.places import work_folder
from xcrossrec_lab.suites.suite import Suite


def train_sources(suite: Suite, *, progress: Callable[[str], None] | None = None) -> list[Path]:
    """Train what is missing of the suite's source adapters; an interrupted one goes on where it was.

    Args:
        suite: names the sources and their settings (``[sources]``: a budget, and training settings).
        progress: called with a line before each.

    Returns:
        the folders trained now.
    """
    settings = dict(suite.source_training)
    budget = settings.pop("budget", None)
    config = source_config(**settings)
    trained = []
    for name in suite.source_names():
        out = suite.adapters / name
        if out.exists():
            continue
        if progress is not None:
            progress(f"training the source {name}")
        domain = read_domain(suite.data / name)
        users = None if budget is None else min(budget, len(domain.sequences("train")))
        train_source(
            domain,
            out,
            config=config,
            base=suite.base,
            budget=users,
            scoring=suite.scoring,
            pair_attention=suite.pair_attention,
            pair_start=suite.pair_start,
            resume=work_folder(out).is_dir() and get_last_checkpoint(str(work_folder(out))) is not None,
            show_progress=progress is not None,
        )
        trained.append(out)
    return trained
