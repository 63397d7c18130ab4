"""The A/B plan: how many customers a live test needs to see the gain that was measured here."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from xcrossrec.adaptation.decision import Trial
from xcrossrec.metrics.significance import difference_interval

ERROR = 0.05
"""How often a test may see a difference that is none; two-sided."""

POWER = 0.8
"""How often it shall see one that is there."""


def plan_trial(chosen: Float[np.ndarray, " user"], simplest: Float[np.ndarray, " user"]) -> Trial:
    """Size a test with two arms, one with each model, by the measured share of customers who are shown what they buy.

    Args:
        chosen: hit@10 of the model to ship, 0 or 1 a user.
        simplest: of what runs in the other arm, same users in the same order.
    """
    baseline, effect = float(simplest.mean()), float((chosen - simplest).mean())
    low, _ = difference_interval(chosen - simplest)
    if effect <= 0:
        said = (
            "No gain in the first ten was measured, so the size of a test cannot be computed. "
            "Test only if you expect a gain elsewhere."
        )
        return Trial(baseline=baseline, effect=effect, per_arm=None, sentence=said)
    needed = sample_size(baseline, baseline + effect)
    said = (
        f"To detect a rise from {baseline:.1%} to {baseline + effect:.1%} in a live test, show each version to "
        f"{needed:,} customers (two-sided test at the {ERROR:.0%} level, {POWER:.0%} power)."
    )
    if low <= 0:
        said += " This gain may be chance: measure with more customers before you rely on it."
    else:
        said += f" If the gain is only {100 * low:.1f} percentage points, the lower end of its interval, it takes "
        said += f"{sample_size(baseline, baseline + low):,}."
    return Trial(baseline=baseline, effect=effect, per_arm=needed, sentence=said)


def sample_size(first: float, second: float) -> int:
    """Customers in each arm that tell two rates apart.

    .. math:: n = (z_{1-a/2} sqrt(2 p (1-p)) + z_{1-b} sqrt(p_1 (1-p_1) + p_2 (1-p_2)))^2 / (p_2 - p_1)^2

    with p the mean of both rates, a = :data:`ERROR` and 1 - b = :data:`POWER`.

    Args:
        first, second: rates between 0 and 1 that differ.

    Source:
        Fleiss, Levin and Paik, "Statistical Methods for Rates and Proportions" (3rd ed., Wiley 2003), chapter 4,
        without the correction for continuity.
    """
    mean = (first + second) / 2
    alike = NormalDist().inv_cdf(1 - ERROR / 2) * math.sqrt(2 * mean * (1 - mean))
    apart = NormalDist().inv_cdf(POWER) * math.sqrt(first * (1 - first) + second * (1 - second))
    return math.ceil((alike + apart) ** 2 / (second - first) ** 2)
