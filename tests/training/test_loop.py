"""Small decisions of the training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.models.base import load_base
from xcrossrec.models.bundle import load
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.kinds import TRAININGS
from xcrossrec.training.loop import _holdout_count, _trainer, uses_bfloat16
from xcrossrec.types import Scoring


@pytest.mark.parametrize(
    ("users", "share", "expected"),
    [(2, 0.15, 0), (31, 0.15, 0), (32, 0.15, 8), (100, 0.15, 15), (10_000, 0.15, 256), (100, 0.0, 0)],
)
def test_users_set_aside_are_8_to_256_and_none_of_a_few(users: int, share: float, expected: int) -> None:
    assert _holdout_count(users, TrainingConfig(holdout_share=share)) == expected


def test_a_single_user_is_refused() -> None:
    with pytest.raises(DataError, match="training needs at least 2 users, got 1"):
        _holdout_count(1, TrainingConfig())


def test_precision_is_what_was_asked_for() -> None:
    assert uses_bfloat16(TrainingConfig(precision="bf16"))
    assert not uses_bfloat16(TrainingConfig(precision="fp32"))


@pytest.mark.parametrize("native", [True, False])
def test_automatic_precision_asks_the_processor(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    assert uses_bfloat16(TrainingConfig(precision="auto")) is native


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_a_mac_computes_on_its_processor(
    tiny_models: Any,
    settings: Any,
    target_domain: Domain,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    scoring: Scoring,
) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)  # which cannot be had here: a use of it fails
    model = load(tiny_models.late if scoring == "dual" else tiny_models.pair)
    batches = TRAININGS[scoring].batches(model, target_domain.sequences("train").rows, target_domain.texts, settings())
    trainer = _trainer(model, batches, None, settings(), tmp_path, "tensorboard")
    assert (model.device.type, trainer.args.device.type) == ("cpu", "cpu")


def test_users_set_aside_have_a_collator_of_their_own(
    tiny_base: str, target_domain: Domain, settings: Any, tmp_path: Path
) -> None:
    model, config = build_model(SourceEncoder(load_base(tiny_base), default_lora(2))), settings()
    rows = target_domain.sequences("train").rows
    batches = TRAININGS["dual"].batches(model, rows, target_domain.texts, config)
    trainer = _trainer(model, batches, replace(batches, sequences=[[0, 1]] * 3), config, tmp_path, "tensorboard")
    (held,), *training = trainer.get_eval_dataloader(), *trainer.get_train_dataloader()
    assert held["label"]["sequences"].shape == (3, 2)
    assert sum(len(batch["label"]["sequences"]) for batch in training) == len(rows)
