"""How sure a mean, or the difference of two paired means, is (Efron 1979; Good 2005).

Every function takes the random generator it draws from; nothing touches a global seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_CHUNK_DRAWS = 2_000_000  # random numbers held at once: 16 MB as int64


@dataclass(frozen=True)
class PairedComparison:
    """What two methods, measured on the same users, differ by."""

    difference: float
    """mean(a) - mean(b), in the metric's own unit."""
    interval: tuple[float, float]
    """percentile bootstrap interval of the difference."""
    p_value: float
    """two-sided sign-flip permutation p-value of "no difference"; never 0."""
    users: int
    """number of pairs."""


def bootstrap_interval(
    values: Float[np.ndarray, " user"],
    *,
    resamples: int = 2000,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean of ``values``, users resampled with replacement.

    Args:
        values: one finite value a user, at least one.
        resamples: number of bootstrap samples.
        rng: the generator to draw from.

    Returns:
        (low, high), in the unit of ``values``.
    """
    size = values.size
    means = [values[rng.integers(0, size, size=(count, size))].mean(axis=1) for count in _chunks(resamples, size)]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)


def sign_flip_p_value(
    differences: Float[np.ndarray, " user"],
    *,
    permutations: int = 10_000,
    rng: np.random.Generator,
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
    for count in _chunks(permutations, moved.size):
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
    """Compare two methods on the same users: mean difference, its interval and a p-value.

    Args:
        a: one value a user.
        b: the other method's values, same users in the same order.
        permutations: sign flips.
        rng: the generator to draw from.
    """
    differences = np.asarray(a - b, dtype=np.float64)
    interval = bootstrap_interval(differences, rng=rng)
    p_value = sign_flip_p_value(differences, permutations=permutations, rng=rng)
    return PairedComparison(float(differences.mean()), interval, p_value, int(differences.size))


def _chunks(total: int, width: int) -> Iterator[int]:
    """Split ``total`` rows of ``width`` draws into parts that fit in memory."""
    step = max(1, _CHUNK_DRAWS // max(1, width))
    for start in range(0, total, step):
        yield min(step, total - start)
