"""What many comparisons at once need: a bound below what sign flips can count, and a correction for their number."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from xcrossrec import DataError


def sign_flip_bound(differences: Float[np.ndarray, " user"]) -> float:
    """An upper bound on the exact sign-flip p-value, which no number of flips limits from below.

    p <= 2 exp(-(sum d)^2 / (2 sum d^2)), Hoeffding's inequality (1963) for a sum of d times random signs. Counted flips
    cannot say less than 1 / (1 + permutations), and a correction for many comparisons multiplies that.

    Args:
        differences: one paired difference a user.

    Raises:
        DataError: one that is not finite.
    """
    if not np.isfinite(differences).all():
        raise DataError(f"differences must be finite, got {int((~np.isfinite(differences)).sum())} that are not")
    squares = float(np.square(differences).sum())
    if squares == 0.0:
        return 1.0
    return min(1.0, max(sys.float_info.min, 2.0 * math.exp(-(float(differences.sum()) ** 2) / (2.0 * squares))))


def holm_adjusted(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for the number of comparisons (Holm's step-down method, family-wise error).

    The i-th smallest of m is multiplied by m - i + 1, and never falls below a smaller one's.

    Args:
        p_values: of one family of comparisons, in any order.

    Returns:
        adjusted ones in the same order, at most 1.

    Raises:
        DataError: a value outside [0, 1].
    """
    if wrong := [p for p in p_values if not 0.0 <= p <= 1.0]:
        raise DataError(f"a p-value is {wrong[0]!r}: give values between 0 and 1")
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    floor = 0.0
    for rank, index in enumerate(order):
        floor = max(floor, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = floor
    return adjusted
