from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xcrossrec.metrics.ranking import (
    METRICS,
    catalogue_ranks,
    hit_at_k,
    ndcg_at_k,
    per_user_metrics,
    ranks,
    reciprocal_rank,
)

quick = settings(deadline=None, derandomize=True)
# Few distinct values, so that ties are common.
scores_of = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.sampled_from([-1, 0, 0.5, 2])
)
rank_arrays = hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(1, 60))


def _rank_by_loop(row: list[float]) -> int:
    rank = 1
    for negative in row[1:]:
        if negative >= row[0]:
            rank += 1
    return rank


def _ndcg_by_loop(rank: int, k: int) -> float:
    gains = [1.0 if place == rank else 0.0 for place in range(1, 100)]
    dcg = sum(gain / math.log2(place + 1) for place, gain in enumerate(gains[:k], start=1))
    ideal = 1.0 / math.log2(2)
    return dcg / ideal


@quick
@given(scores_of)
def test_ranks_equal_the_loop_reference(scores: np.ndarray) -> None:
    found = ranks(scores)
    assert found.dtype == np.int64
    assert found.tolist() == [_rank_by_loop(row) for row in scores.tolist()]


@quick
@given(scores_of, st.randoms(use_true_random=False))
def test_ranks_do_not_depend_on_the_order_of_negatives(scores: np.ndarray, random: object) -> None:
    order = list(range(1, scores.shape[1]))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert ranks(scores[:, [0, *order]]).tolist() == ranks(scores).tolist()


@quick
@given(scores_of)
def test_ranks_survive_a_rising_transformation(scores: np.ndarray) -> None:
    assert ranks(3 * scores + 1).tolist() == ranks(scores).tolist()


def test_ranks_count_ties_against_the_method() -> None:
    assert ranks(np.zeros((2, 30))).tolist() == [30, 30]


def test_ranks_of_the_positive_alone_are_one() -> None:
    assert ranks(np.array([[0.3]])).tolist() == [1]


@quick
@given(scores_of, st.data())
def test_catalogue_ranks_equal_the_loop_reference(scores: np.ndarray, data: st.DataObject) -> None:
    users, items = scores.shape
    row = st.integers(0, items - 1)
    targets = np.array(data.draw(st.lists(row, min_size=users, max_size=users)), dtype=np.int64)
    own = data.draw(st.lists(st.lists(row, max_size=4), min_size=users, max_size=users))
    found, ranked = catalogue_ranks(scores, targets, own)
    for user in range(users):
        rivals = [item for item in range(items) if item not in own[user] and item != targets[user]]
        in_order = [float(scores[user, targets[user]]), *(float(scores[user, item]) for item in rivals)]
        assert found[user] == _rank_by_loop(in_order)
        assert ranked[user] == 1 + len(rivals)


def test_catalogue_ranks_keep_a_target_that_is_in_the_history() -> None:
    scores = np.array([[3.0, 2.0, 1.0]])
    found, ranked = catalogue_ranks(scores, np.array([1]), [(0, 1, 1)])
    assert (found.tolist(), ranked.tolist()) == ([1], [2])


@quick
@given(rank_arrays, st.integers(1, 20))
def test_ndcg_equals_the_loop_reference(rank: np.ndarray, k: int) -> None:
    np.testing.assert_allclose(ndcg_at_k(rank, k), [_ndcg_by_loop(int(value), k) for value in rank])


@quick
@given(rank_arrays, st.integers(1, 20))
def test_metrics_lie_in_order_between_zero_and_one(rank: np.ndarray, k: int) -> None:
    hit, ndcg = hit_at_k(rank, k), ndcg_at_k(rank, k)
    assert ((hit == 0) | (hit == 1)).all()
    assert (ndcg <= hit).all()
    assert (hit_at_k(rank, k + 1) >= hit).all()
    assert ((reciprocal_rank(rank) > 0) & (reciprocal_rank(rank) <= 1)).all()


@quick
@given(rank_arrays)
def test_metrics_fall_when_the_rank_rises(rank: np.ndarray) -> None:
    better, worse = per_user_metrics(rank), per_user_metrics(rank + 1)
    assert all((worse[name] <= better[name]).all() for name in METRICS)


def test_metrics_of_known_ranks() -> None:
    found = per_user_metrics(np.array([1, 2, 10, 11]))
    assert list(found) == list(METRICS)
    assert found["hit@1"].tolist() == [1, 0, 0, 0]
    assert found["hit@10"].tolist() == [1, 1, 1, 0]
    assert found["mrr"].tolist() == pytest.approx([1, 1 / 2, 1 / 10, 1 / 11])
    assert found["ndcg@10"].tolist() == pytest.approx([1, 1 / math.log2(3), 1 / math.log2(11), 0])


def test_chance_mrr_of_thirty_candidates_is_as_the_protocol_says() -> None:
    assert reciprocal_rank(np.arange(1, 31)).mean() == pytest.approx(0.133, abs=5e-4)
