"""How many customers a live test takes."""

from __future__ import annotations

import numpy as np
import pytest

from xcrossrec.adaptation.trial import plan_trial, sample_size


def hits(shown: int, users: int = 1000) -> np.ndarray:
    return (np.arange(users) < shown).astype(np.float64)


@pytest.mark.parametrize(("first", "second", "needed"), [(0.6, 0.7, 356), (0.1, 0.2, 199), (0.2, 0.1, 199)])
def test_the_textbooks_sizes(first: float, second: float, needed: int) -> None:
    assert sample_size(first, second) == needed


def test_so_many_customers_see_the_difference_four_times_in_five() -> None:
    rng, size = np.random.default_rng(0), sample_size(0.2, 0.25)
    one, other = (rng.binomial(size, rate, 4000) / size for rate in (0.2, 0.25))
    mean = (one + other) / 2
    seen = np.abs(other - one) / np.sqrt(2 * mean * (1 - mean) / size) > 1.96
    assert seen.mean() == pytest.approx(0.8, abs=0.02)


def test_the_measured_gain_sizes_the_test() -> None:
    plan = plan_trial(hits(300), hits(200))
    assert (plan.baseline, plan.effect, plan.per_arm) == (0.2, pytest.approx(0.1), sample_size(0.2, 0.3))
    assert "To detect a rise from 20.0% to 30.0%" in plan.sentence
    assert f"{plan.per_arm:,} customers" in plan.sentence
    assert "If the gain is only 8." in plan.sentence


def test_a_gain_that_may_be_chance_says_so() -> None:
    chosen, now = hits(3, 20), np.roll(hits(2, 20), 5)
    plan = plan_trial(chosen, now)
    assert plan.per_arm == sample_size(0.1, 0.15)
    assert "may be chance" in plan.sentence


@pytest.mark.parametrize("shown", [200, 150])
def test_without_a_gain_there_is_no_size(shown: int) -> None:
    plan = plan_trial(hits(shown), hits(200))
    assert plan.per_arm is None
    assert "No gain in the first ten was measured" in plan.sentence
