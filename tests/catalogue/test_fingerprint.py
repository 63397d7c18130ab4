"""The fingerprint of vectors changes when a vector can, and only then."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from xcrossrec.catalogue import fingerprint_of
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import encoder_of, matcher_of

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading


@pytest.mark.parametrize("kind", ["late", "source"])
def test_it_is_the_same_for_every_load_and_place(kind: str, tiny_models: Any, tmp_path: Path) -> None:
    path = tiny_models.late if kind == "late" else tiny_models.sources[0]
    model = bundle.load(path)
    first = fingerprint_of(model)
    model.encode(["A red train"])
    assert fingerprint_of(model) == first
    shutil.copytree(path, tmp_path / "elsewhere")
    assert fingerprint_of(bundle.load(tmp_path / "elsewhere")) == first
    base = shutil.copytree(tiny_models.base, tmp_path / "base")
    assert fingerprint_of(bundle.load(path, base=base)) == first


def test_models_differ_and_the_matcher_does_not_count(tiny_models: Any) -> None:
    paths = (tiny_models.late, *tiny_models.sources)
    assert len({fingerprint_of(bundle.load(path)) for path in paths}) == 3
    model = bundle.load(tiny_models.late)
    before = fingerprint_of(model)
    with torch.no_grad():
        matcher_of(model).log_recency.add_(1.0)
    assert fingerprint_of(model) == before


@pytest.mark.parametrize("part", ["stream_weight", "concat_weight"])
def test_a_changed_weight_changes_it(part: str, tiny_models: Any) -> None:
    model = bundle.load(tiny_models.late)
    before = fingerprint_of(model)
    with torch.no_grad():
        next(value for name, value in model.named_parameters() if part in name).add_(1e-4)
    assert fingerprint_of(model) != before


def test_a_projection_and_the_text_limit_count(tiny_models: Any) -> None:
    model = bundle.load(tiny_models.late)
    before = fingerprint_of(model)
    assert fingerprint_of(kind_of(model).with_projection(model, 2, 0)) != before
    other = bundle.load(tiny_models.late)
    encoder_of(other).max_tokens -= 1
    assert fingerprint_of(other) != before


def test_another_tokenizer_gives_another_fingerprint(tiny_models: Any) -> None:
    model = bundle.load(tiny_models.merged)
    before, encoder = fingerprint_of(model), encoder_of(model)
    weights, tokenizer, configuration = encoder.base_digest.split(".")
    encoder.base_digest = f"{weights}.{tokenizer[::-1]}.{configuration}"
    assert fingerprint_of(model) != before
