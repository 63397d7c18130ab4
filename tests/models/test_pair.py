"""`pair` models as scorers of a catalogue, against one pair at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from xcrossrec.models import bundle
from xcrossrec.models.pair import PairKind, PairScorer, score_pairs
from xcrossrec.models.source import SourceEncoder
from xcrossrec.prompts import history_prompt

PAIR = PairKind()
TITLES = ["red train", "blue train", "train track", "cordless drill", "drill bits", "tape measure"]
HISTORIES = [[0, 1], [3], [5, 4, 0, 2]]
CANDIDATES = np.array([[2, 3], [4, 0], [1, 3]])


@pytest.fixture(params=["pair", "shared"])
def model(request: pytest.FixtureRequest, tiny_models: Any) -> CrossEncoder:
    found = bundle.load(getattr(tiny_models, request.param))
    assert isinstance(found, CrossEncoder)
    with torch.no_grad():
        found[-1].value.weight.normal_(generator=torch.Generator().manual_seed(0))
    return found


def loop_score(model: CrossEncoder, history: list[int], item: int) -> float:
    """One user and one item at a time."""
    pair = ("\n".join(TITLES[row] for row in history), TITLES[item])
    return float(model.predict([pair], show_progress_bar=False)[0])


def test_scores_equal_one_by_one_scoring(model: CrossEncoder) -> None:
    scorer = PAIR.scorer(model, TITLES)
    scores = scorer.score(HISTORIES, CANDIDATES)
    assert scores.dtype == np.float32
    for user, history in enumerate(HISTORIES):
        for place in range(2):
            expected = loop_score(model, history, int(CANDIDATES[user, place]))
            assert scores[user, place] == pytest.approx(expected, abs=1e-4)
    assert len(np.unique(scores.round(4))) == scores.size


def test_histories_of_titles_score_as_those_of_rows(model: CrossEncoder) -> None:
    scorer = PairScorer(model, TITLES)
    by_titles = scorer.score_titles([[TITLES[row] for row in history] for history in HISTORIES], CANDIDATES)
    np.testing.assert_array_equal(by_titles, scorer.score(HISTORIES, CANDIDATES))


@pytest.mark.parametrize(("characters", "candidates"), [(1, 1), (60, 2), (100_000, 256)])
def test_batches_change_no_score(
    characters: int, candidates: int, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = bundle.load(tiny_models.shared)
    expected = [[loop_score(model, history, item) for item in range(6)] for history in HISTORIES]
    monkeypatch.setattr("xcrossrec.models.pair._SHARED_CHARACTERS", characters)
    monkeypatch.setattr("xcrossrec.models.pair._SHARED_CANDIDATES", candidates)
    np.testing.assert_allclose(PairScorer(model, TITLES).score(HISTORIES), expected, atol=1e-4)


def test_a_pass_of_pairs_leaves_the_model_in_evaluation_mode(model: CrossEncoder) -> None:
    model.train()
    found = score_pairs(model, [(history_prompt([TITLES[row] for row in HISTORIES[0]]), TITLES[2])])
    assert not model.training
    assert found.shape == (1,)
    assert float(found[0]) == pytest.approx(loop_score(model, HISTORIES[0], 2), abs=1e-4)


def test_there_is_no_vector_to_keep_to_project_or_to_center(model: CrossEncoder) -> None:
    assert PAIR.dim(model) == 0
    assert PAIR.encode_items(model, TITLES).shape == (6, 0)
    assert PAIR.with_projection(model, 4, seed=0) is model
    assert PAIR.centered(model, TITLES) is model


@pytest.mark.parametrize(("attention", "reads"), [("joint", "first"), ("shared", "candidate")])
def test_a_head_reads_what_the_attention_lets_it_tell_candidates_by(
    attention: Any, reads: str, tiny_models: Any
) -> None:
    from xcrossrec.models.base import load_base

    encoder = SourceEncoder(load_base(str(tiny_models.base)), pair_attention=attention)
    (head,) = PAIR.head(encoder, "fresh")
    assert (head.reads, head.starts, head.dim) == (reads, "fresh", 32)
