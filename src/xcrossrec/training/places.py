"""Where a training writes, and checks of that place; imports nothing heavy, so that commands can check early."""

from __future__ import annotations

from pathlib import Path

from xcrossrec.exceptions import OtherRunError

RUN_FILE = "training.json"
"""Of an unfinished training: what must be equal to resume it."""

CHECKPOINT_FILES = "files.json"
"""Of a complete checkpoint: the digests of its files."""


def work_folder(out: Path) -> Path:
    """Where checkpoints and TensorBoard logs of a run go: beside its result."""
    return out.with_name(out.name + ".training")


def is_unfinished(work: Path) -> bool:
    """Whether a run has left a checkpoint in its folder."""
    return any(work.glob(f"checkpoint-*/{CHECKPOINT_FILES}"))


def refuse_unfinished(work: Path, *, resume: bool) -> None:
    """Refuse a run that cannot begin or go on in its folder (OtherRunError): nothing is there to resume, or an
    unfinished run is in the way."""
    if resume and not (work / RUN_FILE).exists():
        raise OtherRunError(f"nothing to resume in {work}: run without --resume")
    if not resume and is_unfinished(work):
        raise OtherRunError(f"{work} holds an unfinished run: continue it with --resume, or remove the folder")
