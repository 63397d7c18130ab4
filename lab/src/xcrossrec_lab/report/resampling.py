"""Many intervals and paired comparisons at once: the same draws of users serve all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, UInt8

from xcrossrec.metrics.significance import PairedComparison
from xcrossrec_lab.report.many_comparisons import sign_flip_bound

RESAMPLES = 2000
PERMUTATIONS = 10_000
_SEED = 0
_SIGN_ROWS = 500  # sign flips held at once: 500 x 2,000 users are 8 MB
_COUNT_ROWS = 200  # bootstrap samples held at once as floats: 200 x 20,000 users are 32 MB
_TAIL = 0.025


@lru_cache(maxsize=8)  # a size a target and one for all of them; 20,000 users take 40 MB
def resample_counts(users: int) -> UInt8[np.ndarray, "resample user"]:
    """How often each user is in each bootstrap sample; read only.

    Above 255 times nobody is drawn: the chance of 20 times is below 1e-18 already.
    """
    rng = np.random.default_rng(_SEED)
    counts = np.empty((RESAMPLES, users), dtype=np.uint8)
    for row in counts:
        row[:] = np.bincount(rng.integers(0, users, size=users), minlength=users)
    counts.setflags(write=False)
    return counts


def resampled_means(table: Float64[np.ndarray, "user column"]) -> Float64[np.ndarray, "resample column"]:
    """The means of each bootstrap sample."""
    counts = resample_counts(len(table))
    blocks = np.split(counts, range(_COUNT_ROWS, RESAMPLES, _COUNT_ROWS))
    means: Float64[np.ndarray, "resample column"] = np.concatenate([b.astype(np.float64) @ table for b in blocks])
    return means / len(table)


def interval(values: Float64[np.ndarray, " user"]) -> tuple[float, float]:
    """The 95% percentile bootstrap interval of the mean (Efron 1979); for thousands of users."""
    (found,) = _intervals(resampled_means(values[:, np.newaxis]))
    return found


def relative_interval(ours: Float64[np.ndarray, " user"], theirs: Float64[np.ndarray, " user"]) -> tuple[float, float]:
    """The 95% bootstrap interval of mean(ours) / mean(theirs) - 1, users drawn for both alike."""
    mine, other = resampled_means(np.stack([ours, theirs], axis=1)).T
    (found,) = _intervals((mine / other - 1.0)[:, np.newaxis])
    return found


def compare_many(differences: Sequence[Float64[np.ndarray, " user"]]) -> list[PairedComparison]:
    """Mean, interval and sign-flip p-value of several paired differences on the same users.

    Every comparison meets the same sign flips, so that they cost little more than one. Where the flips cannot tell how
    small a p-value is, Hoeffding's bound does: after a correction for hundreds of comparisons it counts.
    """
    if not differences:
        return []
    table = np.stack(differences, axis=1)
    bounds = [sign_flip_bound(values) for values in differences]
    p_values = np.minimum(_sign_flip_p_values(table), bounds)
    return [
        PairedComparison(float(values.mean()), between, float(p), values.size)
        for values, between, p in zip(differences, _intervals(resampled_means(table)), p_values, strict=True)
    ]


def _sign_flip_p_values(table: Float64[np.ndarray, "user comparison"]) -> Float64[np.ndarray, " comparison"]:
    rng = np.random.default_rng(_SEED)
    slack = 1e-12 * np.abs(table).sum(axis=0)  # equal sums in another order must count as equal
    observed = np.abs(table.sum(axis=0)) - slack
    extreme = np.zeros(table.shape[1])
    for _ in range(PERMUTATIONS // _SIGN_ROWS):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(_SIGN_ROWS, table.shape[0]), dtype=np.int8)
        extreme += (np.abs(signs @ table) >= observed).sum(axis=0)
    p_values: Float64[np.ndarray, " comparison"] = (1.0 + extreme) / (1.0 + PERMUTATIONS)
    return p_values


def _intervals(drawn: Float64[np.ndarray, "resample column"]) -> list[tuple[float, float]]:
    low, high = np.quantile(drawn, [_TAIL, 1.0 - _TAIL], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))
