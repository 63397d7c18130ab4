"""Who is told how a training goes: losses, rates and settings, by the callbacks of transformers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require_package

Tracker: TypeAlias = Literal["tensorboard", "mlflow", "wandb", "trackio"]

LOGS = "logs"
"""TensorBoard's folder, in a run's."""

PROJECT = "xcrossrec"
"""Of runs, where a tracker has projects and its own variables name none."""


def check_tracker(tracker: Tracker) -> None:
    """Refuse an unknown tracker (ConfigError), and one that is not installed (MissingExtraError)."""
    if tracker not in get_args(Tracker):
        raise ConfigError(f"unknown tracker {tracker!r}: report_to is one of {', '.join(get_args(Tracker))}")
    require_package(tracker, "train" if tracker == "tensorboard" else None)


def arguments_of(tracker: Tracker, work: Path) -> dict[str, Any]:
    """A trainer's arguments that name its tracker and the run there, by the folder of the result."""
    name = work.name.removesuffix(".training")
    return {"report_to": [] if tracker == "tensorboard" else [tracker], "run_name": name, "project": PROJECT}


@contextmanager
def told_once() -> Iterator[None]:
    """Within the block no traceback of TensorBoard's thread is printed: what it raises, its writer raises again."""
    printed = threading.excepthook
    threading.excepthook = lambda found: (
        None if type(found.thread).__module__.startswith("tensorboard.") else printed(found)
    )
    try:
        yield
    finally:
        threading.excepthook = printed


def tracker_callbacks(tracker: Tracker, work: Path) -> list[Any]:
    """TensorBoard's own, whose logs lie in the run's folder; a trainer finds those of the others by their names."""
    if tracker != "tensorboard":
        return []
    from transformers.integrations import TensorBoardCallback

    callback = TensorBoardCallback()
    callback.logging_dir = callback.logging_dir or str(work / LOGS)
    return [callback]
