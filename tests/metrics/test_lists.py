"""Lists of the best items, and what they are like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcrossrec.metrics.lists import NOBODY, best_items, list_metrics

quick = settings(deadline=None, derandomize=True)


def _best_by_loop(scores: list[float], left_out: tuple[int, ...], target: int, k: int) -> list[int]:
    rows = [row for row in range(len(scores)) if row not in left_out or row == target]
    best = sorted(rows, key=lambda row: (-scores[row], row))[:k]
    return [*best, *[NOBODY] * (k - len(best))]


@quick
@given(st.integers(0, 2**32), st.sampled_from([1, 5, 63, 64, 65, 300, 1000]), st.sampled_from([2, 50, 10**6]))
def test_the_best_equal_the_loop_reference(seed: int, n_items: int, distinct: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, distinct, (6, n_items)).astype(np.float32) / 7  # few distinct values tie often
    left_out = [tuple(rng.integers(0, n_items, rng.integers(0, 40)).tolist()) for _ in range(6)]
    targets = rng.integers(0, n_items, 6)
    found = best_items(scores, left_out, targets, k=4)
    expected = [_best_by_loop(*each, 4) for each in zip(scores.tolist(), left_out, targets.tolist(), strict=True)]
    assert found.tolist() == expected


def test_scores_stay_as_they_are() -> None:
    scores = np.arange(12, dtype=np.float32).reshape(2, 6)
    scores.flags.writeable = False
    assert best_items(scores, [(5,), ()], np.array([0, 1]), k=2).tolist() == [[4, 3], [5, 4]]


def _gini_by_pairs(often: list[int]) -> float:
    """Half the mean absolute difference of two different items, over the mean."""
    n, mean = len(often), sum(often) / len(often)
    return sum(abs(a - b) for a in often for b in often) / (2 * n * (n - 1) * mean)


@quick
@given(st.integers(0, 2**32), st.integers(2, 30))
def test_metrics_of_lists_equal_the_loop_reference(seed: int, n_items: int) -> None:
    rng = np.random.default_rng(seed)
    lists = rng.integers(NOBODY, n_items, (5, 3))
    lists[0, 0] = 0
    counts, targets = rng.integers(0, 9, n_items), rng.integers(0, n_items, 5)
    counts[0] = 1
    found = list_metrics(lists, n_items, counts, targets)
    listed = [row for own in lists.tolist() for row in own if row != NOBODY]
    often = [listed.count(row) for row in range(n_items)]
    assert found["coverage@3"] == pytest.approx(len({*listed}) / n_items)
    assert found["gini@3"] == pytest.approx(_gini_by_pairs(often))
    bits = [-math.log2(max(int(counts[row]), 1) / int(counts.sum())) for row in listed]
    assert found["novelty@3"] == pytest.approx(sum(bits) / len(bits))
    assert found["popularity@3"] == pytest.approx(sum(int(counts[row]) for row in listed) / len(listed))
    assert found["popularity_bought"] == pytest.approx(sum(int(counts[row]) for row in targets) / 5)


def test_ends_of_the_scales() -> None:
    counts = np.array([8, 4, 2, 2])
    alike = list_metrics(np.arange(4).reshape(4, 1), 4, counts, np.array([0, 0, 1, 1]))
    assert alike == {
        "coverage@1": 1.0,
        "gini@1": 0.0,
        "novelty@1": (1 + 2 + 3 + 3) / 4,
        "popularity@1": 4.0,
        "popularity_bought": 6.0,
    }
    one = list_metrics(np.zeros((4, 1), dtype=np.int64), 4, counts)
    assert (one["coverage@1"], one["gini@1"], one["novelty@1"]) == (0.25, 1.0, 1.0)
    assert list_metrics(np.zeros((4, 1), dtype=np.int64), 4) == {"coverage@1": 0.25, "gini@1": 1.0}
    assert list_metrics(np.full((2, 3), NOBODY), 4, counts) == {}
    assert list_metrics(np.zeros((2, 1), dtype=np.int64), 1)["gini@1"] == 0.0
