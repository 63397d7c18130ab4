"""Where a training writes, and what may not stand there; loads nothing heavy, so that a command can ask first."""

from __future__ import annotations

from pathlib import Path

from xcrossrec.exceptions import BundleError, OtherRunError
from xcrossrec.replacing import check_folder

RUN_FILE = "training.json"
"""Of an unfinished training: what must be the same for it to go on."""

CHECKPOINT_FILES = "files.json"
"""Of a checkpoint that was written to its end."""


def refuse_existing(out: Path, overwrite: bool) -> None:
    """Stop before the work, not after it.

    Raises:
        BundleError: ``out`` exists and may not be replaced.
        DataError: it cannot be a folder.
    """
    check_folder(out)
    if out.exists() and not overwrite:
        raise BundleError(f"{out} exists: choose another place, or pass --overwrite")


def work_folder(out: Path) -> Path:
    """Where checkpoints and TensorBoard logs of a run go: beside its result."""
    return out.with_name(out.name + ".training")


def refuse_unfinished(work: Path, *, resume: bool) -> None:
    """Refuse a run that cannot begin or go on in its folder.

    Raises:
        OtherRunError: nothing to resume; or an unfinished run is in the way.
    """
    if resume and not (work / RUN_FILE).exists():
        raise OtherRunError(f"nothing to resume in {work}: run without --resume")
    if not resume and any(work.glob(f"checkpoint-*/{CHECKPOINT_FILES}")):
        raise OtherRunError(f"{work} holds an unfinished run: continue it with --resume, or remove the folder")
