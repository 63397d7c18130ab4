"""`dual` and `pair` are objects that a model is asked for, and every kind keeps one contract."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import KINDS, build_model, kind_named, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.types import Scoring

TITLES = ["red train", "blue train", "train track", "cordless drill", "drill bits", "tape measure"]
HISTORIES = [[0, 1], [3], [5, 4, 0, 2]]
CANDIDATES = np.array([[2, 3], [4, 0], [1, 3]])


@pytest.fixture
def encoder(tiny_models: Any) -> SourceEncoder:
    return SourceEncoder(load_base(str(tiny_models.base)))


@pytest.fixture(params=["late", "merged", "pair", "shared"])
def model(request: pytest.FixtureRequest, tiny_models: Any) -> Model:
    return bundle.load(getattr(tiny_models, request.param))


# ---- every kind


def test_there_is_a_kind_for_each_scoring() -> None:
    assert tuple(KINDS) == get_args(Scoring)
    assert all(kind_named(name).name == name for name in KINDS)


def test_a_model_is_of_the_kind_it_was_built_as(encoder: SourceEncoder) -> None:
    dual = build_model(encoder)
    assert isinstance(dual, SentenceTransformer)
    assert kind_of(dual) is kind_named("dual")
    assert isinstance(dual[-1], HistoryMatcher)
    pair = build_model(encoder, scoring="pair", pair_start="fresh")
    assert isinstance(pair, CrossEncoder)
    assert kind_of(pair) is kind_named("pair")
    assert isinstance(pair[-1], PairHead)
    assert pair[-1].starts == "fresh"
    assert encoder_of(dual) is encoder_of(pair) is encoder


def test_a_scorer_keeps_the_contract_of_scorers(model: Model) -> None:
    scorer = kind_of(model).scorer(model, TITLES)
    everything = scorer.score(HISTORIES)
    assert everything.shape == (3, 6)
    some = scorer.score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(np.take_along_axis(everything, CANDIDATES, 1), some, atol=1e-4)
    np.testing.assert_allclose(scorer.score(HISTORIES[1:2])[0], everything[1], atol=1e-4)


def test_vectors_have_the_size_that_the_kind_says(model: Model) -> None:
    kind = kind_of(model)
    vectors = kind.encode_items(model, TITLES)
    assert vectors.shape == (len(TITLES), kind.dim(model))
    assert vectors.dtype == np.float32


def test_nothing_asks_a_hub(encoder: SourceEncoder) -> None:
    for scoring in KINDS:
        assert build_model(encoder, scoring=scoring).model_card_data.local_files_only


def test_modules_stand_in_their_order(encoder: SourceEncoder) -> None:
    modules = [encoder, *kind_named("dual").head(encoder, "similarity")]
    assert list(kind_named("dual").assemble(modules)) == modules


def test_an_unknown_scoring(encoder: SourceEncoder) -> None:
    with pytest.raises(ConfigError, match="unknown scoring 'triple': choose dual or pair"):
        build_model(encoder, scoring="triple")  # type: ignore[arg-type]


# ---- encoder and matcher of a model


@pytest.mark.parametrize(("name", "cls"), [("late", XCrossEncoder), ("merged", MergedEncoder), ("pair", XCrossEncoder)])
def test_every_model_has_an_encoder_and_a_matcher(name: str, cls: type[TitleEncoder], tiny_models: Any) -> None:
    model = bundle.load(getattr(tiny_models, name))
    assert type(encoder_of(model)) is cls
    assert isinstance(matcher_of(model), HistoryMatcher)
    assert matcher_of(model) is (model[-1].matcher if name == "pair" else model[-1])


def test_a_foreign_model_has_no_encoder_and_no_matcher_of_ours() -> None:
    foreign = torch.nn.Sequential(torch.nn.Linear(2, 2))
    with pytest.raises(BundleError, match="starts with a Linear, expected an xcrossrec encoder"):
        encoder_of(foreign)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="ends with a Linear, expected an xcrossrec head"):
        matcher_of(foreign)  # type: ignore[arg-type]
