"""A model's center: the catalogue's mean vector, against a plain mean."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.heads import Center, Projection
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model
from xcrossrec.prompts import item_texts

TITLES = ["w1 w2 w3", "w4 w3", "w5 w6", "w7 w5 w6 w8 w9", "w10", "w1 w10 w11"]


def pooled(model: SentenceTransformer, title: str) -> torch.Tensor:
    """The mean state of one title's tokens, encoded alone."""
    features = model[0].preprocess(item_texts([title]))
    with torch.no_grad():
        return model[0](features)["token_embeddings"][0].mean(0)


def test_the_center_is_the_mean_over_the_titles_and_is_taken_off_each(make_model: Callable[..., Model]) -> None:
    model = make_model()
    plain = torch.stack([pooled(model, title) for title in TITLES])
    centered = kind_of(model).centered(model, TITLES)
    expected = torch.nn.functional.normalize(plain - plain.mean(0), dim=-1)
    torch.testing.assert_close(encode_titles(centered, item_texts(TITLES)), expected, atol=1e-4, rtol=0)


def test_it_comes_before_the_projection_and_once(make_model: Callable[..., Model]) -> None:
    model = DUAL.centered(DUAL.with_projection(make_model(), 2, seed=0), TITLES)
    assert [type(module) for module in model][2:4] == [Center, Projection]
    first = model[2].mean.clone()
    again = kind_of(model).centered(model, ["w20 w21", "w22"])
    assert again is model
    assert float((model[2].mean - first).abs().max()) > 1e-3
    assert [type(module) for module in DUAL.with_projection(DUAL.centered(make_model(), TITLES), 2, seed=0)][2:4] == [
        Center,
        Projection,
    ]


def test_it_is_saved_and_never_trained(make_model: Callable[..., Model], tmp_path: Path) -> None:
    model = DUAL.centered(make_model(), TITLES)
    assert not any("mean" in name for name, _ in model.named_parameters())
    bundle.save(model, tmp_path / "centered", {"kind": "x-cross"})
    loaded = bundle.load(tmp_path / "centered")
    np.testing.assert_array_equal(loaded[2].mean.numpy(), model[2].mean.numpy())
    texts = item_texts(TITLES)
    np.testing.assert_array_equal(encode_titles(loaded, texts).numpy(), encode_titles(model, texts).numpy())


def test_the_mode_of_the_model_is_left_as_it_was(make_model: Callable[..., Model]) -> None:
    model = make_model()
    for mode in (True, False):
        model.train(mode)
        model = kind_of(model).centered(model, TITLES)
        assert model.training is mode


def test_a_large_catalogue_is_read_in_part(make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcrossrec.models.centering._TITLES", 3)
    model = make_model()
    expected = torch.stack([pooled(model, title) for title in TITLES[::2]]).mean(0)
    torch.testing.assert_close(kind_of(model).centered(model, TITLES)[2].mean, expected, atol=1e-4, rtol=0)


def test_a_pair_model_has_no_center(make_model: Callable[..., Model]) -> None:
    model = make_model(scoring="pair")
    assert isinstance(model, CrossEncoder)
    assert kind_of(model).centered(model, TITLES) is model
