"""The paper's claims, each as a table with intervals."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from xcrossrec.metrics.significance import PairedComparison
from xcrossrec.types import Negatives
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.report.many_comparisons import holm_adjusted
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.report.resampling import compare_many, interval, relative_interval
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET
from xcrossrec_lab.suites.suite import MethodEntry

CLAIM_BUDGETS = (128, 512, 2048)
CLAIM_NEGATIVES: tuple[Negatives, ...] = ("popularity", "full")
SIGNIFICANT = 0.01
_NO_RIVAL_KINDS = {"xcross", "merged"}


@dataclass(frozen=True)
class Duel:
    """Ours against one rival at one point of the grid.

    Attributes:
        target: the new domain.
        negatives: the protocol.
        budget: users.
        rival: the rival's method.
        found: difference (ours minus rival), interval and p-value.
        adjusted: p-value after Holm's correction over the target's duels under this protocol.
    """

    target: str
    negatives: Negatives
    budget: int
    rival: str
    found: PairedComparison
    adjusted: float

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``even`` at :data:`SIGNIFICANT` after correction."""
        if self.adjusted >= SIGNIFICANT:
            return "even"
        return "better" if self.found.difference > 0 else "worse"


@dataclass(frozen=True)
class Difference:
    """Ours minus another, the mean over users, with its interval."""

    difference: float
    interval: tuple[float, float]


def compare_points(ours: Point, rival: Point, negatives: Negatives) -> Difference:
    """Pair the users of two points; each user's metric is averaged over the seeds first."""
    values = ours.per_user(negatives) - rival.per_user(negatives)
    return Difference(float(values.mean()), interval(values))


def seed_differences(
    points: Points, target: str, ours: str, rival: str, budget: int, negatives: Negatives
) -> dict[int, float]:
    """Ours minus a rival for each seed that both have, ascending; empty if one of them is missing."""
    mine, other = points.find(target, ours, budget), points.find(target, rival, budget)
    if mine is None or other is None:
        return {}
    own, theirs = mine.by_seed(negatives), other.by_seed(negatives)
    return {seed: own[seed] - theirs[seed] for seed in sorted(own.keys() & theirs.keys())}


def cross_domain_rivals(points: Points, target: str) -> list[str]:
    """Every method on a target that uses the sources and is not a form of X-Cross."""
    methods = points.suite.methods
    return [
        name
        for name in points.methods(target)
        if KINDS[methods[name].kind].uses_sources and methods[name].kind not in _NO_RIVAL_KINDS
    ]


def duels(
    points: Points,
    ours: str,
    target: str,
    negatives: Negatives,
    rivals: Sequence[str],
    budgets: Sequence[int] = CLAIM_BUDGETS,
    sources: Sequence[str] | None = None,
) -> list[Duel]:
    """Compare ours with each rival at each budget that both have, and correct for their number (Holm).

    Args:
        points: of the suite.
        ours: the method under test.
        target: the new domain.
        negatives: the protocol.
        rivals: the others.
        budgets: users.
        sources: which set of sources both use; None takes that of the suite's first part.
    """
    pairs = list(_pairs(points, ours, target, rivals, budgets, sources))
    found = compare_many([mine.per_user(negatives) - other.per_user(negatives) for mine, other, _ in pairs])
    adjusted = holm_adjusted([comparison.p_value for comparison in found])
    return [
        Duel(target, negatives, budget, other.method, comparison, p)
        for (_, other, budget), comparison, p in zip(pairs, found, adjusted, strict=True)
    ]


def rival_duels(
    points: Points, ours: str, target: str, negatives: Negatives, sources: tuple[str, ...] | None = None
) -> list[Duel]:
    """Ours against every other cross-domain method with one set of sources; computed once."""
    rivals = cross_domain_rivals(points, target)
    key = ("duels", ours, target, negatives, sources)
    return points.remember(key, lambda: duels(points, ours, target, negatives, rivals, sources=sources))


TOGETHER = "all targets"
"""Stands for the target in a duel over the users of all of them."""


def budgets_together(points: Points) -> tuple[int, ...]:
    """The claim's budgets, and all of a target's users where some method had them."""
    return (*CLAIM_BUDGETS, *(budget for budget in points.budgets if budget == ALL))


def duels_together(points: Points, ours: str, negatives: Negatives) -> list[Duel]:
    """Ours against every other method over the users of all targets together, corrected for their number (Holm).

    A rival takes part at a budget at which it has a point on every target on which ours has one.
    """
    pairs = []
    for budget in budgets_together(points):
        mine = [point for target in points.targets if (point := points.find(target, ours, budget)) is not None]
        for rival in points.suite.methods:
            others = [point for own in mine if (point := points.find(own.target, rival, budget)) is not None]
            if len(mine) > 1 and len(others) == len(mine) and rival != ours:
                pairs.append((budget, rival, mine, others))
    by_pair = [
        np.concatenate([a.per_user(negatives) - b.per_user(negatives) for a, b in zip(mine, others, strict=True)])
        for _, _, mine, others in pairs
    ]
    found = _compare_by_users(by_pair, [tuple(point.target for point in mine) for _, _, mine, _ in pairs])
    adjusted = holm_adjusted([comparison.p_value for comparison in found])
    return [
        Duel(TOGETHER, negatives, budget, rival, comparison, p)
        for (budget, rival, _, _), comparison, p in zip(pairs, found, adjusted, strict=True)
    ]


def _compare_by_users(
    differences: Sequence[Float64[np.ndarray, " user"]], users: Sequence[Hashable]
) -> list[PairedComparison]:
    """Compare all differences of the same users at once; ``users`` says which are of the same."""
    found: dict[int, PairedComparison] = {}
    for group in dict.fromkeys(users):
        numbers = [number for number, of in enumerate(users) if of == group]
        found |= zip(numbers, compare_many([differences[number] for number in numbers]), strict=True)
    return [found[number] for number in range(len(differences))]


def _pairs(
    points: Points,
    ours: str,
    target: str,
    rivals: Sequence[str],
    budgets: Sequence[int],
    sources: Sequence[str] | None,
) -> Iterator[tuple[Point, Point, int]]:
    for budget in budgets:
        mine = points.find(target, ours, budget, sources)
        for rival in rivals:
            other = points.find(target, rival, budget, sources)
            if mine is not None and other is not None and rival != ours:
                yield mine, other, budget


@dataclass(frozen=True)
class Curve:
    """Mean metric over the number of users, ascending."""

    users: tuple[int, ...]
    values: tuple[float, ...]

    def users_to_reach(self, value: float) -> float | None:
        """Users at which the curve first reaches a value, interpolated on the logarithm; None if it never does.

        The smallest measured budget stands for everything below it.
        """
        for number, (users, found) in enumerate(zip(self.users, self.values, strict=True)):
            if found < value:
                continue
            if number == 0:
                return float(users)
            before, below = self.users[number - 1], self.values[number - 1]
            share = (value - below) / (found - below)
            return math.exp(math.log(before) + share * (math.log(users) - math.log(before)))
        return None


def curve(points: Points, target: str, method: str, negatives: Negatives) -> Curve:
    """A method's budget curve."""
    found = [
        (points.users(target, budget), point.mean(negatives))
        for budget in points.budgets
        if (point := points.find(target, method, budget)) is not None and point.budget != NO_BUDGET
    ]
    found.sort()
    return Curve(tuple(users for users, _ in found), tuple(value for _, value in found))


@dataclass(frozen=True)
class DataRatio:
    """How many users ours needs for what a rival reaches with a budget.

    Attributes:
        rival_users: the rival's users.
        rival_value: what it reaches.
        own_users: users that ours needs; None: it does not reach it within its curve.
        at_floor: ours reaches it at its smallest measured budget, so that it may need fewer.
    """

    rival_users: int
    rival_value: float
    own_users: float | None
    at_floor: bool

    def text(self) -> str:
        """The ratio as a word; none where ours was measured only with more users than the rival had."""
        if self.own_users is None:
            return "not reached"
        if self.at_floor and self.own_users > self.rival_users:
            return "not measured"
        return f"{'≤' if self.at_floor else ''}{self.own_users / self.rival_users:.2f}"


def data_ratios(points: Points, ours: str, rival: str, target: str, negatives: Negatives) -> list[DataRatio]:
    """The claim of less data, at every point of the rival's curve."""
    own = curve(points, target, ours, negatives)
    other = curve(points, target, rival, negatives)
    ratios = []
    for users, value in zip(other.users, other.values, strict=True):
        needed = own.users_to_reach(value)
        ratios.append(DataRatio(users, value, needed, bool(own.users) and needed == own.users[0]))
    return ratios


def largest_common_budget(points: Points, target: str, methods: Sequence[str]) -> int | None:
    """The largest budget at which all these methods have a point (all users is the largest)."""
    for budget in reversed(points.budgets):
        if all(points.find(target, method, budget) is not None for method in methods):
            return budget
    return None


HOLDS, FAILS, OPEN, NOT_RUN = "holds", "does not hold", "open", "not run"
PARAMETER_SHARE = 0.25
MARGIN = 0.01


@dataclass(frozen=True)
class Relative:
    """One point over another, or several over several: mean(ours) / mean(other) - 1, with its interval."""

    value: float
    interval: tuple[float, float]

    @property
    def verdict(self) -> str:
        """Whether ours is at most :data:`MARGIN` below, as far as the interval tells."""
        if self.interval[0] >= -MARGIN:
            return HOLDS
        return FAILS if self.interval[1] < -MARGIN else OPEN


def relative_to(ours: Point, other: Point, negatives: Negatives = "popularity") -> Relative:
    """Compare two points on the same users."""
    return relative_over([(ours, other)], negatives)


def relative_over(pairs: Sequence[tuple[Point, Point]], negatives: Negatives) -> Relative:
    """Compare ours with the other over the users of all pairs together.

    Args:
        pairs: ours and the other, each pair on the same users.
        negatives: the protocol.
    """
    mine = np.concatenate([ours.per_user(negatives) for ours, _ in pairs])
    theirs = np.concatenate([other.per_user(negatives) for _, other in pairs])
    return Relative(float(mine.mean() / theirs.mean()) - 1.0, relative_interval(mine, theirs))


def parameters_verdict(points: Points, ours: str, lora: str, target: str) -> str:
    """At most a quarter of LoRA's body parameters, at most 1% below its MRR, at the largest common budget.

    The streams' weights are not counted, as in the paper's 25% (an integrator's 8d of LoRA's 32d a layer).
    """
    budget = largest_common_budget(points, target, [ours, lora])
    if budget is None:
        return NOT_RUN
    mine, other = points.find(target, ours, budget), points.find(target, lora, budget)
    assert mine is not None
    assert other is not None
    if mine.body_parameters - mine.stream_weights > PARAMETER_SHARE * other.body_parameters:
        return FAILS
    return relative_to(mine, other).verdict


def data_verdict(points: Points, ours: str, lora: str, target: str) -> str:
    """Whether ours with at most half of the users reaches what LoRA does with its largest budget.

    It holds if ours with at most half is at most 1% below; it does not if ours with more than half, up to all of them,
    is further below. It stays open where LoRA itself gains nothing from the larger half: any ratio would be noise.
    """
    largest = largest_common_budget(points, target, [ours, lora])
    if largest is None:
        return NOT_RUN
    theirs = points.find(target, lora, largest)
    users = points.users(target, largest)
    measured = [b for b in points.budgets if points.find(target, ours, b) and points.users(target, b) <= users]
    half = [b for b in measured if points.users(target, b) <= users / 2]
    more = [b for b in measured if b not in half]
    assert theirs is not None
    if any(_point(points, target, ours, b, theirs).verdict == FAILS for b in more[:1]):
        return FAILS
    smaller = points.find(target, lora, half[-1]) if half else None
    if smaller is None or compare_points(theirs, smaller, "popularity").interval[0] <= 0:
        return OPEN
    return HOLDS if _point(points, target, ours, half[-1], theirs).verdict == HOLDS else OPEN


def _point(points: Points, target: str, method: str, budget: int, other: Point) -> Relative:
    found = points.find(target, method, budget)
    assert found is not None
    return relative_to(found, other)


def rivals_verdict(found: Sequence[Duel]) -> str:
    """Better than every rival everywhere holds; one that is better than ours refutes; anything else is open."""
    if not found:
        return NOT_RUN
    if any(duel.verdict == "worse" for duel in found):
        return FAILS
    return HOLDS if all(duel.verdict == "better" for duel in found) else OPEN


def shuffled_pairs(points: Points) -> list[tuple[str, str]]:
    """Each method whose titles are dealt out anew, after the same method with true titles.

    The partner of ``NAME-shuffled`` is ``NAME``; without such a name, the method of the same kind and settings.
    """
    methods = points.suite.methods
    pairs = []
    for name, entry in methods.items():
        if not entry.settings.get("shuffle_titles"):
            continue
        alike = [o for o, other in methods.items() if o != name and _core(other) == _core(entry) and not _deals(other)]
        named = name.removesuffix("-shuffled")
        partner = named if named in methods and named != name else next(iter(alike), None)
        if partner is not None:
            pairs.append((partner, name))
    return pairs


def _deals(entry: MethodEntry) -> bool:
    return bool(entry.settings.get("shuffle_titles"))


def _core(entry: MethodEntry) -> tuple[str, dict[str, Any]]:
    """What a method computes; looks into it (``ablate``) change nothing."""
    return entry.kind, {k: v for k, v in entry.settings.items() if k not in ("shuffle_titles", "ablate")}


__all__ = [
    "ALL",
    "CLAIM_BUDGETS",
    "CLAIM_NEGATIVES",
    "MARGIN",
    "Curve",
    "DataRatio",
    "Duel",
    "Relative",
    "budgets_together",
    "compare_points",
    "cross_domain_rivals",
    "curve",
    "data_ratios",
    "data_verdict",
    "duels",
    "duels_together",
    "largest_common_budget",
    "parameters_verdict",
    "relative_over",
    "relative_to",
    "rival_duels",
    "rivals_verdict",
    "seed_differences",
    "shuffled_pairs",
]
