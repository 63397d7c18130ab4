"""The paper's claims, each as a table with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xcrossrec.benchmark.cells import ALL, NO_BUDGET
from xcrossrec.benchmark.methods import KINDS
from xcrossrec.benchmark.report.points import Point, Points
from xcrossrec.metrics.significance import PairedComparison, holm_adjusted, paired_comparison
from xcrossrec.types import Negatives

CLAIM_BUDGETS = (128, 512, 2048)
CLAIM_NEGATIVES: tuple[Negatives, ...] = ("popularity", "full")
SIGNIFICANT = 0.01
_NO_RIVAL_KINDS = {"xcross", "xcross-head-only"}


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


def compare_points(ours: Point, rival: Point, negatives: Negatives) -> PairedComparison:
    """Pair the users of two points; each user's metric is averaged over the seeds first."""
    return paired_comparison(ours.per_user(negatives), rival.per_user(negatives), rng=np.random.default_rng(0))


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
) -> list[Duel]:
    """Compare ours with each rival at each budget that both have, and correct for their number (Holm)."""
    pairs = list(_pairs(points, ours, target, rivals, budgets))
    found = [compare_points(mine, other, negatives) for mine, other, _ in pairs]
    adjusted = holm_adjusted([comparison.p_value for comparison in found])
    return [
        Duel(target, negatives, budget, other.method, comparison, p)
        for (_, other, budget), comparison, p in zip(pairs, found, adjusted, strict=True)
    ]


def _pairs(
    points: Points, ours: str, target: str, rivals: Sequence[str], budgets: Sequence[int]
) -> Iterator[tuple[Point, Point, int]]:
    for budget in budgets:
        mine = points.find(target, ours, budget)
        for rival in rivals:
            other = points.find(target, rival, budget)
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
        """The ratio as a word."""
        if self.own_users is None:
            return "not reached"
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


__all__ = [
    "ALL",
    "CLAIM_BUDGETS",
    "CLAIM_NEGATIVES",
    "Curve",
    "DataRatio",
    "Duel",
    "compare_points",
    "cross_domain_rivals",
    "curve",
    "data_ratios",
    "duels",
    "largest_common_budget",
]
