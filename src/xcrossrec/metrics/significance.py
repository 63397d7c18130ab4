"""How sure a mean, or the difference of two paired means, is (Good 2005).

Functions that draw take their random generator; nothing touches a global seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_CHUNK_DRAWS = 2_000_000  # random numbers held at once: 16 MB as int64
_NORMAL = 1.96
_SURPRISE, _SURPRISING_MOVE = 0.5, 0.1  # of a metric, and of a difference


@dataclass(frozen=True)
class PairedComparison:
    """What two methods, measured on the same users, differ by."""

    difference: float
    """mean(a) - mean(b), in the metric's own unit."""
    interval: tuple[float, float]
    """of the difference; see :func:`difference_interval`."""
    p_value: float
    """two-sided sign-flip permutation p-value of "no difference"; never 0."""
    users: int
    """number of pairs."""


def mean_interval(values: Float[np.ndarray, " user"]) -> tuple[float, float]:
    """95% interval of the mean of a metric over users; see :func:`difference_interval`.

    Args:
        values: one value a user between 0 and 1, at least one.

    Returns:
        (low, high), in the unit of ``values``, between 0 and 1.
    """
    return _interval(values, 0.0, _SURPRISE)


def difference_interval(differences: Float[np.ndarray, " user"]) -> tuple[float, float]:
    """95% interval of the mean of paired differences over users, few of whom make it.

    The normal interval, as if two users more had been asked: one as far above the mean as any difference is from zero,
    or a tenth, and one as far below (of a metric a half, not a tenth). What a handful of users decide is not known from
    users of whom none happened to be among them. It is what adding successes and failures is to a share (Agresti and
    Caffo, The American Statistician 54, 2000). Of differences in MRR among 128 customers it holds the truth 99 times of
    100, among 512 in 98; a percentile bootstrap does in 73 and 85 (xcrossrec_lab.report.coverage).

    Args:
        differences: one finite difference a user between -1 and 1, at least one.

    Returns:
        (low, high), in the unit of ``differences``, between -1 and 1.
    """
    return _interval(differences, -1.0, _SURPRISING_MOVE)


def _interval(values: Float[np.ndarray, " user"], least: float, far: float) -> tuple[float, float]:
    if values.size == 1:
        return least, 1.0  # which proves nothing
    mean, far = float(values.mean()), max(float(np.abs(values).max()), far)
    half = _NORMAL * float(np.sqrt(((values - mean) ** 2).sum() + 2 * far**2)) / values.size
    return max(mean - half, least), min(mean + half, 1.0)


def sign_flip_p_value(
    differences: Float[np.ndarray, " user"], *, permutations: int = 10_000, rng: np.random.Generator
) -> float:
    """Two-sided p-value of "each difference could as well have had the other sign".

    p = (1 + number of sign flips with a mean at least as far from 0) / (1 + permutations)

    Args:
        differences: one finite paired difference a user, at least one.
        permutations: number of random sign flips.
        rng: the generator to draw from.
    """
    moved = differences[differences != 0.0]  # a zero stays zero under any flip
    observed = abs(float(moved.sum()))
    slack = 1e-12 * float(np.abs(moved).sum())  # equal sums in another order must count as equal
    extreme = 0
    step = max(1, _CHUNK_DRAWS // max(1, moved.size))
    for start in range(0, permutations, step):
        count = min(step, permutations - start)
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(count, moved.size), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ moved) >= observed - slack))
    return (1 + extreme) / (1 + permutations)


def paired_comparison(
    a: Float[np.ndarray, " user"],
    b: Float[np.ndarray, " user"],
    *,
    permutations: int = 10_000,
    rng: np.random.Generator,
) -> PairedComparison:
    """Compare two methods on the same users in the same order: mean difference a - b, its interval and a p-value (see
    :func:`sign_flip_p_value`)."""
    differences = np.asarray(a - b, dtype=np.float64)
    interval = difference_interval(differences)
    p_value = sign_flip_p_value(differences, permutations=permutations, rng=rng)
    return PairedComparison(float(differences.mean()), interval, p_value, int(differences.size))
