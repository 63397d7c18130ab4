"""The page of a growth suite: every method at every budget, ours against each, what each thing adds to co-purchases.

python -m xcrossrec_lab.report.growth lab/evidence/growth.toml [--to FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from xcrossrec import Evaluation
from xcrossrec.metrics.significance import PairedComparison
from xcrossrec.types import NEGATIVES, USER, Negatives
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.report.many_comparisons import holm_adjusted
from xcrossrec_lab.report.resampling import compare_many, interval, relative_interval
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET
from xcrossrec_lab.suites.growth import CO, COUNTING, LATER, LEARNED, Files, asked_cells, with_copurchases
from xcrossrec_lab.suites.suite import Suite

PerUser: TypeAlias = Float64[np.ndarray, " user"]
TEXT = "untrained-centered"
"""Text alone, without any training."""

OURS = ("merged-lora-co", "merged-lora-later", "untrained-centered-co")
"""The default of `train target`, with so many users or with more purchases counted later; else text and purchases."""

QUOTED = (
    ("TIGER (arXiv 2305.05065)", {"beauty": ".0648 / .0384", "sports": ".0400 / .0225", "toys": ".0712 / .0432"}),
    ("BSARec (arXiv 2312.10325)", {"beauty": ".1008 / .0611", "sports": ".0612", "toys": ""}),
    ("SASRec as tuned by RecBole's users", {"beauty": "about .085 / .043", "sports": "", "toys": ""}),
)
"""Published on the same data with all users, full catalogue: Recall@10 / NDCG@10, or Recall@10 where that alone is
given. Protocols differ, such as whether a history's items compete: quotes, not comparisons."""


@dataclass(frozen=True, eq=False)
class Point:
    """One method at one budget on one target.

    Attributes:
        drawn: whether its customers were drawn, by the seed; else each seed has the same ones.
        draws: what was found with each seed.
    """

    target: str
    method: str
    budget: int
    drawn: bool
    draws: dict[int, Evaluation] = field(default_factory=dict)

    def per_user(self, negatives: Negatives, metric: str) -> PerUser:
        """The metric of each user, averaged over the draws; users in the order of their ids."""
        return self._mean(negatives, metric, self.draws)

    @cached_property
    def ndcg(self) -> PerUser:
        """NDCG@10 under full ranking."""
        return self.per_user("full", "ndcg@10")

    def beside(self, other: Point) -> tuple[PerUser, PerUser]:
        """NDCG@10 of one's own and the other's, over those draws of customers that both have learned from."""
        if not (self.drawn and other.drawn):
            return self.ndcg, other.ndcg
        shared = self.draws.keys() & other.draws.keys()
        return self._mean("full", "ndcg@10", shared), other._mean("full", "ndcg@10", shared)

    def _mean(self, negatives: Negatives, metric: str, seeds: Iterable[int]) -> PerUser:
        values = [self.draws[seed].of(negatives).sort(USER)[metric].to_numpy() for seed in sorted(seeds)]
        mean: PerUser = np.stack(values).mean(axis=0)
        return mean


class Points:
    """The finished cells of a suite.

    Args:
        suite: whose.
    """

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self._points: dict[tuple[str, str, int], Point] = {}
        files = Files(suite.out)
        for cell, budgets in asked_cells(suite):
            for each in [cell, *with_copurchases(cell, budgets)]:
                if files.record(each).exists():
                    key = (each.target, each.method, each.budget)
                    learned_from_some = KINDS[suite.methods[cell.method].kind].learns and cell.budget != ALL
                    drawn = learned_from_some or each.budget not in (ALL, NO_BUDGET)
                    point = self._points.setdefault(key, Point(*key, drawn))
                    point.draws[each.seed] = Evaluation.load(files.results(each))

    def get(self, target: str, method: str, budget: int) -> Point | None:
        """One, or what a method is without a budget."""
        return self._points.get((target, method, budget)) or self._points.get((target, method, NO_BUDGET))

    def first(self, target: str, methods: Sequence[str], budget: int) -> Point | None:
        """The first of some methods that was run there."""
        return next((point for method in methods if (point := self.get(target, method, budget)) is not None), None)

    @property
    def targets(self) -> list[str]:
        """In the order of the grid."""
        return list(dict.fromkeys(target for target, _, _ in self._points))

    @property
    def budgets(self) -> list[int]:
        """Rising, all users last."""
        return sorted({b for _, _, b in self._points} - {NO_BUDGET}, key=lambda budget: budget or np.inf)

    @property
    def methods(self) -> list[str]:
        """Those that know purchases alone first, then text alone, then text with purchases."""
        found = list(dict.fromkeys(method for _, method, _ in self._points))
        kinds = [self.suite.methods[text_of(method)].kind in COUNTING for method in found]
        order = sorted(range(len(found)), key=lambda i: (not kinds[i], found[i] != text_of(found[i]), i))
        return [found[i] for i in order]


def name_of(budget: int) -> str:
    """A budget as a column's title."""
    return "all users" if budget == ALL else f"{budget:,} users"


def shown(method: str) -> str:
    """A method as a row's title."""
    said = {"": "", CO: " + co-purchases"}
    said |= {LATER: ", trained before, + co-purchases", LEARNED: " + all earlier purchases"}
    return text_of(method) + said[method.removeprefix(text_of(method))]


def text_of(method: str) -> str:
    """A method's name without what is said of its co-purchases."""
    return next((method.removesuffix(end) for end in (CO, LATER, LEARNED) if method.endswith(end)), method)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def figures(points: Points, target: str, first: tuple[Negatives, str], second: tuple[Negatives, str]) -> str:
    """Two metrics of every method at every budget."""
    rows = []
    for method in points.methods:
        found = [points.get(target, method, budget) for budget in points.budgets]
        if any(found):
            rows.append([shown(method), *(_two(point, first, second) for point in found)])
    return _table(["method", *map(name_of, points.budgets)], rows)


def _two(point: Point | None, first: tuple[Negatives, str], second: tuple[Negatives, str]) -> str:
    if point is None:
        return ""
    draws = f" ({len(point.draws)})" if len(point.draws) > 1 else ""
    return f"{point.per_user(*first).mean():.4f} / {point.per_user(*second).mean():.4f}{draws}"


def differences(points: Points, ours: Sequence[str]) -> str:
    """NDCG@10 of one method minus that of every other, paired, corrected over the whole table.

    Args:
        points: of a suite.
        ours: methods; the first that was run with so many users counts.
    """
    pairs = [
        (target, budget, method, mine, other)
        for target in points.targets
        for budget in points.budgets
        for method in points.methods
        if (mine := points.first(target, ours, budget)) is not None
        and method != mine.method
        and (other := points.get(target, method, budget)) is not None
    ]
    found: dict[int, PairedComparison] = {}
    for target in points.targets:
        here = [n for n, pair in enumerate(pairs) if pair[0] == target]
        compared = compare_many([np.subtract(*pairs[n][3].beside(pairs[n][4])) for n in here])
        found |= dict(zip(here, compared, strict=True))
    corrected = holm_adjusted([found[n].p_value for n in range(len(pairs))])
    cells = {
        (t, m, b): f"{found[n].difference:+.4f} [{found[n].interval[0]:+.4f}, {found[n].interval[1]:+.4f}]"
        + ("" if corrected[n] < 0.05 else " (n.s.)")
        for n, (t, b, m, _, _) in enumerate(pairs)
    }
    rows = [
        [target, shown(method), *(cells.get((target, method, budget), "") for budget in points.budgets)]
        for target in points.targets
        for method in points.methods
        if any((target, method, budget) in cells for budget in points.budgets)
    ]
    return _table(["target", "ours minus", *map(name_of, points.budgets)], rows)


def gains(points: Points) -> str:
    """NDCG@10 relative to another method's: what co-purchases add to each text, what each thing adds on top of them."""
    rows = []
    for target in points.targets:
        for ours, other in _pairs(points):
            cells = [_gain(points.get(target, ours, b), points.get(target, other, b)) for b in points.budgets]
            if any(cells):
                rows.append([target, shown(ours), shown(other), *cells])
    return _table(["target", "", "over", *map(name_of, points.budgets)], rows)


def _pairs(points: Points) -> Iterator[tuple[str, str]]:
    texts = [method for method in points.methods if method.endswith((CO, LATER, LEARNED))]
    yield from ((method, TEXT) for method in texts)
    yield from ((method, text_of(method)) for method in texts if text_of(method) != TEXT)
    yield from ((method, TEXT + CO) for method in texts if method != TEXT + CO)


def _gain(ours: Point | None, other: Point | None) -> str:
    if ours is None or other is None:
        return ""
    mine, theirs = ours.beside(other)
    low, high = relative_interval(mine, theirs)
    return f"{mine.mean() / theirs.mean() - 1:+.1%} [{low:+.1%}, {high:+.1%}]"


def half_width(points: Points, target: str) -> tuple[int, float]:
    """How many users are ranked, and the half width of the 95% interval of text's NDCG@10."""
    values = next(p for b in points.budgets if (p := points.get(target, TEXT, b)) is not None).ndcg
    low, high = interval(values)
    return len(values), (high - low) / 2


def page(points: Points, ours: Sequence[str]) -> str:
    """All tables.

    Args:
        points: of a suite.
        ours: methods; the first that was run with so many users is compared with all others.
    """
    parts = ["# What each thing adds as a category grows", _legend(points)]
    for target in points.targets:
        users, width = half_width(points, target)
        category = target.split("-")[0]
        quoted = [[name, figures[category]] for name, figures in QUOTED if figures.get(category)]
        parts += [
            f"## {target}",
            f"{users:,} users ranked in the whole catalogue; the 95% interval of a mean NDCG@10 is about {width:.4f} "
            "to either side, that of a difference much less.",
            "Recall@10 / NDCG@10:",
            figures(points, target, ("full", "hit@10"), ("full", "ndcg@10")),
            "Published, all users, quoted (protocols differ):",
            _table(["", "Recall@10 / NDCG@10"], quoted),
            "MRR among 29 others, popularity / uniform:",
            figures(points, target, ("popularity", "mrr"), ("uniform", "mrr")),
        ]
    parts += [
        "## Over another method: NDCG@10, relative",
        gains(points),
        "## Ours minus every other: NDCG@10",
        f"Ours is the first of these that was run with so many users: {'; '.join(map(shown, ours))}.",
        differences(points, ours),
    ]
    return "\n\n".join(parts) + "\n"


def _legend(points: Points) -> str:
    return (
        f"Made by `python -m xcrossrec_lab.report.growth` from the suite `{points.suite.name}`: split "
        f"`{points.suite.split}`, leave-last-out, {', '.join(points.suite.negatives or NEGATIVES)}; items of the "
        "history do not compete. A number in brackets is how many draws of customers were averaged, one where "
        "there is none; two methods are compared over the draws that both have. Intervals are of users, 95%, paired; "
        "n.s.: p at least .05 after Holm's correction over the whole table."
    )


def records(suite: Suite) -> dict[str, dict[str, Any]]:
    """What is known of each finished cell beside its ranks: users, settings, weight, cost, the code's commit."""
    kept = ("users", "settings", "trained_parameters", "commit", "cpu_s", "weight")
    files = Files(suite.out)
    cells = [each for cell, budgets in asked_cells(suite) for each in (cell, *with_copurchases(cell, budgets))]
    known = {each.name: json.loads(files.record(each).read_text()) for each in cells if files.record(each).exists()}
    return {name: {key: known[name][key] for key in kept if key in known[name]} for name in sorted(known)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a suite's finished cells, with their records beside it, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--ours", nargs="+", default=OURS, help="which method is compared with all others")
    parser.add_argument("--to", type=Path, help="the page's file")
    given = parser.parse_args(arguments)
    suite = Suite.read(given.suite)
    text = page(Points(suite), given.ours)
    if given.to:
        given.to.write_text(text, encoding="utf-8")
        given.to.with_name("cells.json").write_text(json.dumps(records(suite), indent=1) + "\n", encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
