"""What more users are worth: the reported metric over the number of users, a line through it, and its band.

Legend: ``user`` = one user of the report, ``point`` = one measurement, ``draw`` = one draw of the bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from xcrossrec.adaptation.choice import score
from xcrossrec.adaptation.decision import Curve, Interval, Point

LEAST_POINTS = 3
"""Fewest different numbers of users to fit a line through."""

_DRAWS = 2000
_LEAST_RISE = 0.1
"""Least change of the two added users."""


def sizes(users: int) -> list[int]:
    """The numbers of users to measure at: 64, 128, 256, ... and all; of fewer than 256 users from 16 on."""
    first = 64 if users >= 256 else 16
    found = [first * 2**step for step in range(20) if first * 2**step < users * 0.75]
    return [*found, users]


def fit_curve(
    users: Sequence[int], values: Float64[np.ndarray, "point user"], *, more: int, seed: int = 0
) -> Curve | None:
    """Fit a line to the metric over the logarithm of the number of users, and predict what more users would add.

    The band comes from 2,000 bootstrap draws of users and of points. Two users are added, one who gains and one who
    loses as much as any user, or a tenth, since few users change at all (see
    :func:`~xcrossrec.metrics.significance.difference_interval`). What ``more`` users add is the line's rise plus the
    scatter of single points, so that the interval holds for a new measurement.

    Args:
        users: number of users that each point was fitted on; a number may be repeated with another draw.
        values: the metric of each user of the report at each point.
        more: users in addition to the largest number.
        seed: of the draws.

    Returns:
        None for fewer than three different numbers.
    """
    if len(set(users)) < LEAST_POINTS:
        return None
    x, most = np.log2(np.array(users, dtype=np.float64)), max(users)
    grid = sorted({*users, *(most + round(more * share) for share in (0.25, 0.5, 0.75, 1.0))})
    at = np.log2(np.array(grid, dtype=np.float64))
    level, slope = _line(x, values.mean(1))
    scatter = (values.mean(1) - level - slope * x) * np.sqrt(len(x) / max(len(x) - 2, 1))
    lines, rises = [], []
    rise = np.log2((most + more) / most)
    _, slopes = _line(x, values)
    furthest = max(float(np.abs(slopes).max()), _LEAST_RISE / rise) * (x - x.mean())
    asked = np.column_stack([values, values.mean(1) + furthest, values.mean(1) - furthest])
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        means = asked[:, rng.integers(0, asked.shape[1], values.shape[1])].mean(1)
        again = rng.integers(0, len(x), len(x))
        if len(set(x[again])) < 2:
            continue
        own_level, own_slope = _line(x[again], means[again])
        lines.append(own_level + own_slope * at)
        rises.append(own_slope * rise + np.subtract(*rng.choice(scatter, 2)))
    low, high = np.quantile(np.stack(lines), [0.025, 0.975], axis=0)
    band = [
        Point(users=n, mean=level + slope * float(np.log2(n)), low=float(a), high=float(b))
        for n, a, b in zip(grid, low, high, strict=True)
    ]
    down, up = (float(each) for each in np.quantile(rises, [0.025, 0.975]))
    promise = Interval(mean=float(slope * rise), low=down, high=up)
    measured = {n: score(values[[each == n for each in users]].mean(0)) for n in sorted(set(users))}
    points = tuple(Point(users=n, **found.model_dump()) for n, found in measured.items())
    return Curve(points=points, band=tuple(band), more_users=more, promise=promise, sentence=said(more, promise))


def said(more: int, promise: Interval) -> str:
    """The promise in words."""
    if promise.low <= 0 <= promise.high:
        return (
            f"{more:,} more users may change the MRR by {promise.low:+.4f} to {promise.high:+.4f}: whether they help "
            "cannot be told yet."
        )
    return f"{more:,} more users would add about {promise.mean:+.4f} (from {promise.low:+.4f} to {promise.high:+.4f})."


def _line(x: Float64[np.ndarray, " point"], y: Float64[np.ndarray, "point ..."]) -> tuple[Any, Any]:
    """Level and slope of the least-squares line."""
    off = x - x.mean()
    slope = off @ y / (off**2).sum()
    return y.mean(0) - slope * x.mean(), slope
