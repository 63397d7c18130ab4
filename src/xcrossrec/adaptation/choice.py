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
"""Approximate chance that a lucky candidate is preferred to an equally good simpler one (lab/log, 2026-11-29)."""

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

    The best candidate has the highest mean; its lead over each other one is measured in standard errors of the paired
    difference. The users are resampled 2,000 times, and each time the largest lead that arises by chance is noted. A
    candidate is within noise if the best leads it by no more than the 70% quantile of these. Of the candidates within
    noise the one with the lowest level of cost is chosen; of several at one level an average goes first, since the
    highest of them is mostly lucky and averages lost less in hindsight (lab/log, 2026-11-29). The bar accounts for the
    number of candidates (White's reality check, Econometrica 2000, with Hansen's studentized differences, JBES 2005).

    Args:
        scores: by candidate the deciding metric of each user (:func:`xcrossrec.adaptation.shop.whole_ndcg`); the same
            users in the same order.
        level: by candidate its level of cost, 0 the lowest.
        averages: candidates that are the mean of others.
        seed: of the draws.

    Returns:
        a candidate's name.
    """
    return min(within_noise(scores, seed), key=lambda name: (level[name], name not in averages, -scores[name].mean()))


def within_noise(scores: Mapping[str, Float64[np.ndarray, " user"]], seed: int = 0) -> list[str]:
    """All candidates that the best may lead only by chance, itself included; see :func:`choose`."""
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
    """By how much the chosen candidate is better than another, on the users of the report.

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
    """Say in two sentences what to ship and how good it is; in a third, what the users of the report say against it.

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
