import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec import DataError
from xcrossrec.metrics.significance import bootstrap_interval, holm_adjusted
from xcrossrec_lab.report.resampling import compare_many, interval, relative_interval


def test_shared_draws_give_the_usual_intervals_and_p_values() -> None:
    rng = np.random.default_rng(5)
    values = [rng.normal(shift, 1.0, size=40) for shift in (0.0, 0.3, 1.0)]
    for value in values:
        assert interval(value) == pytest.approx(bootstrap_interval(value, rng=np.random.default_rng(0)), abs=1e-9)
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
