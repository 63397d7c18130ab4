"""A run that was interrupted at any moment goes on from whole checkpoints alone, to the same bits."""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from transformers import TrainerState

from training_runs import assert_same_weights, stop_at_epoch
from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import ConfigError
from xcrossrec.training import checkpoints, loop, source
from xcrossrec.training.places import work_folder
from xcrossrec.training.source import train_source

Train = Callable[..., Path]


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory, tiny_base: str, target_domain: Domain, settings: Any) -> Train:
    """Train a source into a folder of its own; ``out`` goes on with an earlier run."""
    config: TrainingConfig = settings(epochs=3)

    def run(out: Path | None = None, **options: Any) -> Path:
        out = out or tmp_path_factory.mktemp("runs") / "model"
        train_source(target_domain, out, config=config, base=tiny_base, show_progress=False, **options)
        return out

    return run


@pytest.fixture(scope="module")
def straight(train: Train) -> Path:
    """A run that nothing interrupted."""
    return train()


@pytest.fixture(scope="module")
def stopped(train: Train, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a run was to write, with what is left of it after two of three epochs."""
    out = tmp_path_factory.mktemp("stopped") / "model"
    with pytest.MonkeyPatch.context() as patch:
        stop_at_epoch(patch, 2)
        with pytest.raises(KeyboardInterrupt):
            train(out)
    return out


@pytest.fixture
def left(stopped: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    shutil.copytree(work_folder(stopped), work_folder(tmp_path / "model"))
    return tmp_path / "model"


def cut(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-7])


def flip(checkpoint: Path) -> None:
    path = checkpoint / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


DAMAGES: dict[str, Callable[[Path], None]] = {
    "an empty folder": lambda checkpoint: (shutil.rmtree(checkpoint), checkpoint.mkdir())[1],
    "no list": lambda checkpoint: (checkpoint / "files.json").unlink(),
    "no state": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "a file cut short": cut,
    "a changed byte": flip,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_checkpoint_is_named_and_left_out(
    damage: str, left: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = sorted(work_folder(left).glob("checkpoint-*"))
    assert checkpoints._newest_whole(work_folder(left)) == second
    DAMAGES[damage](second)
    assert checkpoints._newest_whole(work_folder(left)) == first
    assert f"{second} is incomplete or damaged: it is left out" in caplog.text


def test_a_run_goes_on_from_the_checkpoint_before(straight: Path, left: Path, train: Train) -> None:
    cut(max(work_folder(left).glob("checkpoint-*")))
    assert_same_weights(straight, train(left, resume=True))
    assert not [*work_folder(left).glob("*checkpoint-*")], "what a finished run does not need is gone"


def test_without_a_whole_checkpoint_the_run_starts_again(
    straight: Path, left: Path, train: Train, caplog: pytest.LogCaptureFixture
) -> None:
    for checkpoint in work_folder(left).glob("checkpoint-*"):
        cut(checkpoint)
    assert_same_weights(straight, train(left, resume=True))
    assert f"{work_folder(left)} has no whole checkpoint: the run starts again" in caplog.text


def test_a_checkpoint_whose_best_one_is_damaged_is_no_place_to_go_on(left: Path) -> None:
    first, second = sorted(work_folder(left).glob("checkpoint-*"))
    state = TrainerState.load_from_json(str(second / "trainer_state.json"))
    state.best_global_step = int(first.name.split("-")[1])
    state.save_to_json(str(second / "trainer_state.json"))
    (second / "files.json").unlink()
    files = checkpoints.file_digests(second, besides="files.json")
    (second / "files.json").write_text(checkpoints.json.dumps({"files": files}), encoding="utf-8")
    assert checkpoints._newest_whole(work_folder(left)) == second
    flip(first)
    assert checkpoints._newest_whole(work_folder(left)) is None


def test_a_kill_while_a_checkpoint_is_written_leaves_none(
    straight: Path, train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = TrainerState.save_to_json, []

    def die(self: TrainerState, path: str) -> None:
        save(self, path)
        saved.append(path)
        if len(saved) == 3:  # twice a checkpoint
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TrainerState, "save_to_json", die)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "model")
    assert len([*work_folder(tmp_path / "model").glob("*checkpoint-*")]) == 1
    assert_same_weights(straight, train(tmp_path / "model", resume=True))


def test_which_checkpoints_go_is_told_by_their_steps_and_not_by_the_clock(left: Path) -> None:
    """The newest seems the oldest where a clock was set back; a damaged one of a later step was no place to go on."""
    first, second = sorted(work_folder(left).glob("checkpoint-*"))
    steps = [int(each.name.split("-")[1]) for each in (first, second)]
    for newer in (third := second.with_name("checkpoint-800")), second.with_name("checkpoint-900"):
        shutil.copytree(second, newer)
    for number, each in enumerate((first, second)):
        os.utime(each, (tomorrow := time.time() + 86_400 + number, tomorrow))
    state = SimpleNamespace(global_step=800, best_global_step=None)
    saved: Any = SimpleNamespace(state=state, args=SimpleNamespace(save_total_limit=2))
    checkpoints.WholeCheckpoints._keep_newest(saved, work_folder(left))
    assert {*work_folder(left).glob("checkpoint-*")} == {second, third}
    shutil.copytree(second, first)
    state.best_global_step = steps[0]
    checkpoints.WholeCheckpoints._keep_newest(saved, work_folder(left))
    assert {*work_folder(left).glob("checkpoint-*")} == {first, third}


@pytest.mark.parametrize("budget", [None, 24])
def test_a_kill_before_the_model_is_written_costs_no_training(
    budget: int | None,
    straight: Path,
    train: Train,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With users set aside, and with too few of them for that."""

    def die(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(source, "write", die)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "model", budget=budget)
    expected = train(budget=budget) if budget else straight
    monkeypatch.setattr(loop.EpochOfBatches, "on_epoch_begin", die)
    caplog.set_level(logging.INFO, logger="xcrossrec")
    assert_same_weights(expected, train(tmp_path / "model", budget=budget, resume=True))
    assert "the run goes on from" in caplog.text


@pytest.mark.parametrize(("waited", "trained"), [(2, True), (3, False)])
def test_a_run_that_had_stopped_early_is_not_trained_on(waited: int, trained: bool, left: Path, settings: Any) -> None:
    checkpoint = max(work_folder(left).glob("checkpoint-*"))
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    state.stateful_callbacks["EarlyStoppingCallback"]["attributes"]["early_stopping_patience_counter"] = waited
    state.save_to_json(str(checkpoint / "trainer_state.json"))
    trainer = Mock()
    loop._train(trainer, checkpoint, settings(patience=3))
    assert trainer.train.called is trained
    assert trainer._load_from_checkpoint.called is not trained


def test_an_unfinished_run_is_not_started_anew(left: Path, train: Train) -> None:
    with pytest.raises(ConfigError, match="holds an unfinished run: continue it with --resume"):
        train(left)
