"""The page of the first day."""

from __future__ import annotations

import numpy as np
import pytest

from xcrossrec_lab.report.day_one import interval


def test_an_interval_is_over_users_within_pairs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.2, 0.1, 4000), rng.normal(0.4, 0.1, 4000)
    mean, rest = interval([first, second]).split(" [")
    low, high = map(float, rest.rstrip("]").split(", "))
    assert float(mean) == pytest.approx((first.mean() + second.mean()) / 2, abs=6e-4)
    half = 1.96 * 0.1 / np.sqrt(4000) / np.sqrt(2)
    assert (high - low) / 2 == pytest.approx(half, abs=1e-3)


def test_small_differences_have_a_sign() -> None:
    assert interval([np.array([-0.01, -0.01])]) == "-0.0100 [-0.0100, -0.0100]"
    assert interval([np.array([0.01, 0.01])]) == "0.0100 [0.0100, 0.0100]"
