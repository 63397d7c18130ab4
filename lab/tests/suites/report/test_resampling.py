import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xcrossrec import DataError
from xcrossrec_lab.report.many_comparisons import holm_adjusted, sign_flip_bound
from xcrossrec_lab.report.resampling import compare_many, interval, relative_interval


def test_shared_draws_give_the_usual_intervals_and_p_values() -> None:
    rng = np.random.default_rng(5)
    values = [rng.normal(shift, 1.0, size=40) for shift in (0.0, 0.3, 1.0)]
    for value in values:
        again = np.random.default_rng(0).integers(0, 40, (2000, 40))
        assert interval(value) == pytest.approx(np.quantile(value[again].mean(1), [0.025, 0.975]), abs=1e-9)
    few = [value[:9] for value in values] + [np.zeros(9)]
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=9)))
    for value, found in zip(few, compare_many(few), strict=True):
        exact = np.mean(np.abs(flips @ value) >= abs(value.sum()) - 1e-9)
        assert found.p_value == pytest.approx(exact, abs=0.02)
        assert (found.difference, found.users) == (pytest.approx(value.mean()), 9)
    low, high = relative_interval(1.02 * np.ones(30), np.ones(30))
    assert (low, high) == pytest.approx((0.02, 0.02))
    assert compare_many([]) == []


def test_a_clear_difference_stays_one_among_hundreds_of_comparisons() -> None:
    rng = np.random.default_rng(6)
    clear = [rng.normal(0.5, 1.0, size=400) for _ in range(2)]  # ten standard errors
    nothing = [rng.normal(0.0, 1.0, size=400) for _ in range(298)]
    adjusted = holm_adjusted([found.p_value for found in compare_many([*clear, *nothing])])
    assert max(adjusted[:2]) < 1e-6
    assert min(adjusted[2:]) > 0.01


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_between_plain_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm_adjusted(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) or q == max(
            adjusted[i] for i in range(len(p_values)) if p_values[i] <= p
        )
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    with pytest.raises(DataError, match=r"p-value is 1\.5"):
        holm_adjusted([1.5])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(hnp.arrays(np.float64, st.integers(1, 10), elements=st.floats(-10, 10, width=32)))
def test_bound_is_never_below_the_share_of_all_sign_flips(values: np.ndarray) -> None:
    sums = [abs(float(np.dot(signs, values))) for signs in itertools.product((-1.0, 1.0), repeat=values.size)]
    exact = np.mean([total >= abs(float(values.sum())) * (1 - 1e-9) for total in sums])
    assert exact - 1e-12 <= sign_flip_bound(values) <= 1.0


def test_bound_is_as_small_as_the_difference_is_clear() -> None:
    assert sign_flip_bound(np.ones(50)) == pytest.approx(2 * np.exp(-25.0))
    assert sign_flip_bound(-np.ones(50)) == sign_flip_bound(np.ones(50))
    assert sign_flip_bound(np.array([3.0, -3.0, 0.0])) == 1.0
    assert sign_flip_bound(np.zeros(4)) == 1.0
    assert 0.0 < sign_flip_bound(np.ones(100_000)) < 1e-300


def test_bound_refuses_what_is_not_finite() -> None:
    with pytest.raises(DataError, match="got 1 that are not"):
        sign_flip_bound(np.array([1.0, np.nan]))
