"""The choice: of all candidates whose distance to the best may be luck, the simplest.

Legend: ``user`` = one user, the same for every candidate; ``candidate`` = one that may be shipped.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float, Float64

from xcrossrec.adaptation.decision import Gain, Interval
from xcrossrec.metrics.significance import difference_interval, mean_interval

LUCK = 0.3
"""How often the simplest of equally good candidates may be passed over for a lucky one, about (lab/log, 2026-11-29)."""

_RESAMPLES = 2000


def score(values: Float[np.ndarray, " user"]) -> Interval:
    """The mean of a metric with its 95% interval; see :func:`~xcrossrec.metrics.significance.mean_interval`."""
    low, high = mean_interval(values)
    return Interval(mean=float(values.mean()), low=low, high=high)


def difference(values: Float[np.ndarray, " user"]) -> Interval:
    """The mean of paired differences, as :func:`~xcrossrec.metrics.significance.difference_interval` says."""
    low, high = difference_interval(values)
    return Interval(mean=float(values.mean()), low=low, high=high)


def choose(
    scores: Mapping[str, Float64[np.ndarray, " user"]],
    level: Mapping[str, int],
    averages: Collection[str] = (),
    seed: int = 0,
) -> str:
    """Choose the simplest candidate within noise of the best; of several as simple an average, else the highest mean.

    The best is the one with the highest mean; it is ahead of each other one by so many standard errors of the paired
    difference. How far the best of equally good candidates would be ahead is found by drawing the users anew, 2,000
    times, each time with the largest of the differences from what they are. A candidate that the best is not further
    ahead of than in seven draws of ten is within noise. Of these the simplest is chosen, by its level of cost. Where
    several are as simple, the highest is so by luck more often than not: one that averages others goes before them, for
    it lost less against the best in hindsight (lab/log, 2026-11-29). However many candidates there are, the bar is
    as high as their number makes it (White's reality check, Econometrica 2000, with Hansen's studentized differences,
    JBES 2005).

    Args:
        scores: by candidate what decides, of each user (:func:`xcrossrec.adaptation.shop.whole_ndcg`); the same users
            in the same order.
        level: by candidate what it costs, 0 the least.
        averages: candidates that are the mean of others.
        seed: of the draws.

    Returns:
        a candidate's name.
    """
    return min(within_noise(scores, seed), key=lambda name: (level[name], name not in averages, -scores[name].mean()))


def within_noise(scores: Mapping[str, Float64[np.ndarray, " user"]], seed: int = 0) -> list[str]:
    """Every candidate that the best may be ahead of by luck, itself among them; see :func:`choose`."""
    names, values = list(scores), np.stack(list(scores.values()))
    ahead = values[values.mean(1).argmax()] - values
    users, mean = ahead.shape[1], ahead.mean(1)
    if users < 2:
        return names
    error = ahead.std(1, ddof=1) / np.sqrt(users)
    differs = error > 0
    if not differs.any():
        return [name for name, by in zip(names, mean, strict=True) if by <= 0]
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(users, np.full(users, 1 / users), size=_RESAMPLES)
    luck = (draws @ ahead[differs].T / users - mean[differs]) / error[differs]
    bar = max(float(np.quantile(luck.max(1), 1 - LUCK)), 0.0)
    return [name for name, by, noise in zip(names, mean, error, strict=True) if by <= bar * noise]


def gain(scores: Mapping[str, Float64[np.ndarray, " user"]], chosen: str, over: str) -> Gain:
    """What the chosen candidate is better by than another, on the users of the report; one user proves nothing.

    Args:
        scores: by candidate the reported metric (MRR) of each user.
        over: another one, or the chosen itself where there is no other.
    """
    found = difference(scores[chosen] - scores[over])
    before = float(scores[over].mean())
    return Gain(over=over, relative=found.mean / before if before else 0.0, sure=found.low > 0, **found.model_dump())


def verdict(
    label: str, others: Mapping[str, Interval], over: str, found: Gain, users: int, mean: float
) -> tuple[str, str]:
    """Say in two sentences what to ship, and what it is worth; in a third, what the users of the report say against it.

    Args:
        label: of the chosen one, in words.
        others: by label how far every other fitted candidate is ahead of the chosen one, on the users of the report.
        over: label of the one that it is compared with.
        found: the gain over that one.
        users: of the report.
        mean: the chosen one's metric on them.
    """
    known = f"On purchases of {users:,} customers, set aside for this report, its mean reciprocal rank is {mean:.4f}"
    if not others:
        return f"Ship {label}: nothing else was fitted.", f"{known}."
    first = f"Ship {label}: no other candidate (of {len(others)}) is clearly better, or as good and simpler."
    measured = f"{found.mean:+.4f} ({found.relative:+.1%}), 95% interval {found.low:+.4f} to {found.high:+.4f}"
    words = "better than" if found.sure else "worse than" if found.high < 0 else "not significantly different from"
    told = f"{known}, {words} that of {over}: {measured}."
    surely = {name: by for name, by in others.items() if by.low > 0}
    if surely:
        name = max(surely, key=lambda name: surely[name].mean)
        told += (
            f" On these customers {name} did better ({surely[name].mean:+.4f}), which the customers used for the "
            "choice do not confirm: run adapt again when there are more customers."
        )
    return first, told
