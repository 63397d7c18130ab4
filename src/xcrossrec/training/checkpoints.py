"""Checkpoints of a training: each is complete or absent, and a run resumes from the newest complete one."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from xcrossrec.exceptions import BundleError, OtherRunError
from xcrossrec.models.bundle import load_modules
from xcrossrec.models.files import Digest, RelativePath, Settings, file_digests, read_settings, verify_files
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import encoder_of
from xcrossrec.replacing import replace_text, replacing_folder
from xcrossrec.training.places import CHECKPOINT_FILES, RUN_FILE, refuse_unfinished
from xcrossrec.training.processes import Processes

_NAME = "checkpoint-{}"

_log = logging.getLogger(__name__)


class _Files(Settings):
    """What a checkpoint holds, beside the list itself."""

    files: Annotated[dict[RelativePath, Digest], Field(min_length=1)]


class WholeCheckpoints:
    """Mixin of a sentence-transformers trainer: checkpoints are written under another name and then renamed.

    Of several processes the first one does so; each adds the state of its random numbers.
    """

    state: Any
    args: Any
    model: Any
    processes: Processes
    _beside: Path | None = None

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add no model card, which would take time to encode examples."""

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._beside or self.args.output_dir)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Save the model alone: a model card takes longer than all the rest, and a run knows its arguments."""
        self.model.save_pretrained(output_dir, create_model_card=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        work, name = Path(self.args.output_dir), _NAME.format(self.state.global_step)
        with replacing_folder(work / name) if self.processes.first else nullcontext() as mine:
            beside: Any = self.processes.by_first(lambda: mine)  # of the first process, for all of them
            self._beside = beside
            try:
                super()._save_checkpoint(model, trial)  # type: ignore[misc]
            finally:
                self._beside = None
            best = self.state.best_global_step
            self.state.best_model_checkpoint = str(work / _NAME.format(best)) if best else None
            self.processes.wait()
            if self.processes.first:
                self.state.save_to_json(str(beside / name / TRAINER_STATE_NAME))
                for path in (beside / name).iterdir():
                    path.rename(beside / path.name)
                (beside / name).rmdir()
                (beside / CHECKPOINT_FILES).write_text(
                    json.dumps({"files": file_digests(beside, besides=CHECKPOINT_FILES)}), encoding="utf-8"
                )
        if self.processes.first:
            self._keep_newest(work)
        self.processes.wait()

    def _keep_newest(self, work: Path) -> None:
        """Keep as many as asked for: this checkpoint, the best, then earlier ones; later ones are damaged."""
        now, best = self.state.global_step, self.state.best_global_step
        found = _checkpoints(work)
        order = sorted(found, key=lambda step: (step == now, step == best, step < now, step), reverse=True)
        for step in order[self.args.save_total_limit :]:
            shutil.rmtree(found[step], ignore_errors=True)

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        """Load over the base at its present path, which may have changed since the run began."""
        base, own = encoder_of(self.model).base_name, [type(module) for module in self.model]
        loaded = load_modules(Path(checkpoint_path), kind_of(self.model).name, base=base, also=own)
        self.model.load_state_dict(loaded.state_dict())


def prepare_work(work: Path, run: Mapping[str, Any], *, resume: bool, writes: bool = True) -> Path | None:
    """Refuse to mix runs, and find the checkpoint to resume from.

    Args:
        work: the run's folder; made if it is absent.
        run: what must be equal to resume a run.
        resume: whether to resume an interrupted run.
        writes: whether this process records ``run``.

    Returns:
        the newest whole checkpoint; None for a run from the start.

    Raises:
        OtherRunError: nothing to resume, or a run with other settings; or an unfinished run is in the way.
    """
    refuse_unfinished(work, resume=resume)
    path = work / RUN_FILE
    if resume:
        if read_settings(path, Settings) != json.loads(json.dumps(run)):
            raise OtherRunError(
                f"{work} holds a run with other settings, data or sources: resume with the same, or remove it"
            )
        last = _newest_whole(work)
        if last is None:
            _log.warning("%s has no whole checkpoint: the run starts again", work)
        else:
            _log.info("the run goes on from %s", last)
        return last
    if writes:
        replace_text(path, json.dumps(run))
    return None


def state_of(checkpoint: Path) -> TrainerState:
    """A checkpoint's trainer state, with the best checkpoint's path in the same folder."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    best = state.best_global_step
    state.best_model_checkpoint = str(checkpoint.with_name(_NAME.format(best))) if best else None
    return state


def forget_checkpoints(work: Path) -> None:
    """Remove a finished run's checkpoints, incomplete ones included."""
    for pattern in ("checkpoint-*", ".checkpoint-*"):
        for folder in work.glob(pattern):
            shutil.rmtree(folder, ignore_errors=True)


def _newest_whole(work: Path) -> Path | None:
    """The newest complete checkpoint whose best one is complete too; incomplete ones are logged."""
    whole = {step: path for step, path in _checkpoints(work).items() if _is_whole(path)}
    for step in sorted(whole, reverse=True):
        best = state_of(whole[step]).best_global_step
        if not best or best in whole:
            return whole[step]
    return None


def _checkpoints(work: Path) -> dict[int, Path]:
    """All checkpoints, complete or not, by their step."""
    names = ((re.fullmatch(r"checkpoint-(\d+)", path.name), path) for path in work.glob("checkpoint-*"))
    return {int(name[1]): path for name, path in names if name}


def _is_whole(checkpoint: Path) -> bool:
    try:
        files = read_settings(checkpoint / CHECKPOINT_FILES, _Files)["files"]
        verify_files(checkpoint, files, besides=CHECKPOINT_FILES)
    except BundleError:
        _log.warning("%s is incomplete or damaged: it is left out", checkpoint)
        return False
    return True
