"""Models as scorers of a catalogue, against loops over users and candidates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from xcrossrec.exceptions import DataError
from xcrossrec.models import bundle
from xcrossrec.models.dual import DualScorer
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.models.pair import PairScorer
from xcrossrec.models.rows import check_rows
from xcrossrec.scoring import Scorer

TITLES = ["red train", "blue train", "train track", "cordless drill", "drill bits", "tape measure"]
HISTORIES = [[0, 1], [3], [5, 4, 0, 2]]
CANDIDATES = np.array([[2, 3], [4, 0], [1, 3]])


@pytest.fixture(params=["late", "prompt", "pair", "shared"])
def model(request: pytest.FixtureRequest, tiny_models: Any) -> Model:
    return bundle.load(getattr(tiny_models, request.param))


@torch.no_grad()
def loop_score(model: Any, history: list[int], item: int) -> float:
    """One user and one item at a time."""
    matcher = matcher_of(model)
    titles = [TITLES[row] for row in history]
    if kind_of(model).name == "pair":
        return float(model.predict([("\n".join(titles), TITLES[item])], show_progress_bar=False)[0])
    texts = ["\n".join(titles)] if matcher.pooling == "prompt" else titles
    slots = torch.stack([torch.from_numpy(model.encode(text, show_progress_bar=False)) for text in texts])
    target = torch.from_numpy(model.encode(TITLES[item], show_progress_bar=False))
    return float(matcher.match(slots[None], torch.ones(1, len(texts), dtype=torch.bool), target[None]))


def test_scores_equal_one_by_one_scoring(model: Model) -> None:
    scorer = kind_of(model).scorer(model, TITLES, name="mine")
    assert isinstance(scorer, Scorer)
    assert isinstance(scorer, PairScorer if kind_of(model).name == "pair" else DualScorer)
    assert scorer.name == "mine"
    scores = scorer.score(HISTORIES, CANDIDATES)
    assert scores.dtype == np.float32
    for user, history in enumerate(HISTORIES):
        for place in range(2):
            expected = loop_score(model, history, int(CANDIDATES[user, place]))
            assert scores[user, place] == pytest.approx(expected, abs=1e-4)


def test_the_whole_catalogue_holds_the_candidates_scores(model: Model) -> None:
    scorer = kind_of(model).scorer(model, TITLES)
    everything = scorer.score(HISTORIES)
    assert everything.shape == (3, 6)
    some = scorer.score(HISTORIES, CANDIDATES)
    np.testing.assert_allclose(np.take_along_axis(everything, CANDIDATES, 1), some, atol=1e-4)
    np.testing.assert_allclose(scorer.score(HISTORIES[1:2])[0], everything[1], atol=1e-4)


@pytest.mark.parametrize("similarities", [1, 6 * 3, 10**6])
def test_how_many_users_share_a_product_changes_no_score(
    tiny_models: Any, monkeypatch: pytest.MonkeyPatch, similarities: int
) -> None:
    monkeypatch.setattr("xcrossrec.models.scorer._SIMILARITIES", similarities)
    model = bundle.load(tiny_models.late)
    everything = kind_of(model).scorer(model, TITLES).score(HISTORIES)
    expected = [[loop_score(model, history, item) for item in range(len(TITLES))] for history in HISTORIES]
    np.testing.assert_allclose(everything, expected, atol=1e-4)


def test_known_vectors_are_not_computed_again(tiny_models: Any) -> None:
    model = bundle.load(tiny_models.late)
    first = DualScorer(model, TITLES)
    second = DualScorer(model, TITLES, vectors=first.vectors)
    assert second.vectors is first.vectors
    np.testing.assert_array_equal(second.score(HISTORIES), first.score(HISTORIES))


def test_an_empty_history_is_refused(model: Model) -> None:
    with pytest.raises(DataError, match="a history is empty: give at least one item id or title"):
        kind_of(model).scorer(model, TITLES).score([[0], []])


@pytest.mark.parametrize(("history", "candidate", "row"), [([6], 0, 6), ([-1], 0, -1), ([0], 99, 99)])
def test_rows_outside_the_catalogue(history: list[int], candidate: int, row: int) -> None:
    with pytest.raises(DataError, match=f"item row {row} is outside the catalogue of 6 items"):
        check_rows([history], np.array([[candidate]]), 6)
    check_rows([], None, 6)
