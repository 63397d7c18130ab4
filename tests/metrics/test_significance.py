from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xcrossrec.metrics import significance
from xcrossrec.metrics.significance import (
    bootstrap_interval,
    paired_comparison,
    sign_flip_p_value,
)

quick = settings(deadline=None, derandomize=True, max_examples=50)
values_of = hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-10, 10, width=32))


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@quick
@given(values_of)
def test_bootstrap_interval_lies_within_the_values(values: np.ndarray) -> None:
    low, high = bootstrap_interval(values, resamples=100, rng=_rng())
    assert values.min() - 1e-9 <= low <= high <= values.max() + 1e-9


def test_bootstrap_interval_equals_the_loop_reference() -> None:
    values, rng = _rng(1).normal(size=40), _rng(5)
    means = [np.mean([values[rng.integers(0, 40)] for _ in range(40)]) for _ in range(3000)]
    expected = np.quantile(means, [0.025, 0.975])
    found = bootstrap_interval(values, resamples=3000, rng=_rng(6))
    np.testing.assert_allclose(found, expected, atol=0.03)


def test_bootstrap_interval_is_close_to_the_normal_one() -> None:
    values = _rng(2).normal(size=2000)
    low, high = bootstrap_interval(values, rng=_rng())
    half = 1.96 * values.std() / np.sqrt(2000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.005)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = _rng(3)
    hits = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.normal(size=60), resamples=300, rng=rng)
        hits += low <= 0.0 <= high
    assert 0.89 <= hits / 200 <= 0.99


def test_bootstrap_interval_repeats_with_its_generator() -> None:
    values = np.arange(10.0)
    assert bootstrap_interval(values, rng=_rng(7)) == bootstrap_interval(values, rng=_rng(7))


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = _rng(4).normal(size=50)
    whole = bootstrap_interval(values, rng=_rng())
    p_whole = sign_flip_p_value(values, permutations=500, rng=_rng())
    monkeypatch.setattr(significance, "_CHUNK_DRAWS", 400)
    assert bootstrap_interval(values, rng=_rng()) == whole
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
    assert found.interval == pytest.approx((0.1, 0.1))
    assert found.p_value < 0.01
    assert found.users == 400


def test_paired_comparison_with_itself_finds_nothing() -> None:
    a = _rng(12).uniform(size=30)
    found = paired_comparison(a, a, permutations=50, rng=_rng())
    assert (found.difference, found.interval, found.p_value) == (0.0, (0.0, 0.0), 1.0)
