from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xcrossrec.metrics import significance
from xcrossrec.metrics.significance import (
    difference_interval,
    mean_interval,
    paired_comparison,
    sign_flip_p_value,
)

quick = settings(deadline=None, derandomize=True, max_examples=50)
values_of = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-10, 10, width=32))


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@quick
@given(hnp.arrays(np.float64, st.integers(2, 20), elements=st.floats(-1, 1, width=32)))
def test_an_interval_holds_its_mean_and_is_as_if_two_users_more_had_been_asked(values: np.ndarray) -> None:
    low, high = difference_interval(values)
    mean, far = values.mean(), max(np.abs(values).max(), 0.1)
    asked = [*values, mean + far, mean - far]
    half = 1.96 * math.sqrt(sum((value - mean) ** 2 for value in asked)) / len(values)
    assert (low, high) == pytest.approx((max(mean - half, -1), min(mean + half, 1)))
    assert low - 1e-9 <= mean <= high + 1e-9
    low, high = mean_interval(np.abs(values))
    assert 0 <= low <= np.abs(values).mean() <= high <= 1


def test_an_interval_of_many_users_is_the_normal_one() -> None:
    values = _rng(2).normal(0, 0.1, size=20_000).clip(-1, 1)
    half = 1.96 * values.std() / math.sqrt(20_000)
    assert difference_interval(values) == pytest.approx((values.mean() - half, values.mean() + half), abs=2e-5)


@pytest.mark.parametrize("users", [32, 128, 512])
def test_an_interval_covers_the_mean_where_few_users_decide_it(users: int) -> None:
    rng = _rng(3)
    moves = rng.normal(0, 0.002, 20_000)  # reciprocal ranks of two models: nearly all are far down with both
    moves[:300] = rng.uniform(-0.3, 0.5, 300)
    held = percentile = 0
    for _ in range(400):
        asked = rng.choice(moves, users)
        low, high = difference_interval(asked)
        held += low <= moves.mean() <= high
        again = rng.choice(asked, (200, users)).mean(1)
        percentile += np.quantile(again, 0.025) <= moves.mean() <= np.quantile(again, 0.975)
    assert held / 400 >= 0.93
    assert percentile < held


def test_one_user_proves_nothing() -> None:
    assert difference_interval(np.array([0.5])) == (-1.0, 1.0)
    assert mean_interval(np.array([0.5])) == (0.0, 1.0)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _rng(4).normal(size=50)
    p_whole = sign_flip_p_value(values, permutations=500, rng=_rng())
    monkeypatch.setattr(significance, "_CHUNK_DRAWS", 400)
    assert sign_flip_p_value(values, permutations=500, rng=_rng()) == pytest.approx(p_whole, abs=0.05)


@pytest.mark.parametrize("differences", [[1.0, 2.0, 3.0, -0.5], [0.5, 0.0, 0.5, 0.25, -1.0]])
def test_p_value_equals_all_sign_flips(differences: list[float]) -> None:
    observed = abs(sum(differences))
    flips = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True))) >= observed
        for signs in product((-1, 1), repeat=len(differences))
    ]
    found = sign_flip_p_value(np.array(differences), permutations=20_000, rng=_rng())
    assert found == pytest.approx(np.mean(flips), abs=0.015)


@quick
@given(values_of, st.integers(0, 5))
def test_p_value_is_a_probability_and_has_no_direction(values: np.ndarray, seed: int) -> None:
    p = sign_flip_p_value(values, permutations=99, rng=_rng(seed))
    assert 0.01 <= p <= 1.0
    assert sign_flip_p_value(-values, permutations=99, rng=_rng(seed)) == p


def test_p_value_of_no_difference_is_one() -> None:
    assert sign_flip_p_value(np.zeros(20), permutations=100, rng=_rng()) == 1.0


def test_p_value_of_a_clear_difference_is_the_smallest_possible() -> None:
    values = _rng(9).normal(loc=1.0, size=500)
    assert sign_flip_p_value(values, permutations=999, rng=_rng()) == pytest.approx(0.001)


def test_p_value_is_even_where_nothing_differs() -> None:
    rng = _rng(10)
    found = [sign_flip_p_value(rng.normal(size=40), permutations=199, rng=rng) for _ in range(300)]
    assert np.mean(np.array(found) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_paired_comparison_gives_the_mean_difference_and_its_interval() -> None:
    rng = _rng(11)
    b = rng.uniform(size=400)
    found = paired_comparison(b + 0.1, b, permutations=200, rng=_rng())
    assert found.difference == pytest.approx(0.1)
    assert found.interval == pytest.approx((0.1, 0.1), abs=1e-3)
    assert found.p_value < 0.01
    assert found.users == 400


def test_paired_comparison_with_itself_finds_nothing() -> None:
    a = _rng(12).uniform(size=30)
    found = paired_comparison(a, a, permutations=50, rng=_rng())
    assert (found.difference, found.interval, found.p_value) == (0.0, pytest.approx((-0.009, 0.009), abs=1e-3), 1.0)


@pytest.mark.parametrize("users", [32, 128, 512])
def test_an_interval_covers_a_metric_that_few_users_make(users: int) -> None:
    rng = _rng(5)
    ranks = np.exp(rng.uniform(0, np.log(20_000), 20_000))
    metric = np.where(rng.random(20_000) < 0.7, 1 / 5_000, 1 / ranks.round())
    held = sum(
        low <= metric.mean() <= high for low, high in (mean_interval(rng.choice(metric, users)) for _ in range(400))
    )
    assert held / 400 >= 0.93
