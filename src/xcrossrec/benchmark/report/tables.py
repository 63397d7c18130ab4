"""The report's Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from xcrossrec.benchmark.cells import ALL
from xcrossrec.benchmark.report.claims import (
    CLAIM_BUDGETS,
    CLAIM_NEGATIVES,
    SIGNIFICANT,
    Duel,
    compare_points,
    cross_domain_rivals,
    data_ratios,
    duels,
    largest_common_budget,
)
from xcrossrec.benchmark.report.points import Point, Points
from xcrossrec.types import Negatives


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw one table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def short(value: float) -> str:
    """A metric between 0 and 1 with three digits and no leading zero."""
    text = f"{value:.3f}"
    return text.removeprefix("0") if value >= 0 else "-" + text.removeprefix("-0")


def signed(value: float) -> str:
    """A difference with its sign."""
    return ("+" if value >= 0 else "") + short(value)


def budget_name(budget: int) -> str:
    """A budget as the tables call it."""
    return "all" if budget == ALL else f"{budget:,}"


def accuracy_table(points: Points, target: str, negatives: Negatives, metric: str = "mrr") -> str:
    """Methods by budgets: mean, half-width of the 95% interval over users, spread over seeds."""
    head = ["method", "trained (head included)", *(budget_name(budget) for budget in points.budgets)]
    rows = []
    for method in points.methods(target):
        found = [points.find(target, method, budget) for budget in points.budgets]
        sizes = [f"{point.parameters:,}" for point in found if point is not None]
        rows.append([method, sizes[0] if sizes else "", *(_cell(point, negatives, metric) for point in found)])
    return markdown_table(head, rows)


def _cell(point: Point | None, negatives: Negatives, metric: str) -> str:
    if point is None:
        return ""
    low, high = point.interval(negatives, metric)
    text = f"{short(point.mean(negatives, metric))} ±{short((high - low) / 2)}"
    spread = point.by_seed(negatives, metric)
    return f"{text} (seeds {short(min(spread))} to {short(max(spread))})" if len(spread) > 1 else text


def parameters_table(points: Points, ours: str, lora: str) -> str:
    """Claim 2: trained parameters and accuracy against LoRA, at the largest budget that both have."""
    rows = []
    for target in points.targets:
        budget = largest_common_budget(points, target, [ours, lora])
        if budget is None:
            continue
        mine, other = points.find(target, ours, budget), points.find(target, lora, budget)
        assert mine is not None
        assert other is not None
        rows.append(_parameter_row(target, budget, mine, other))
    head = ["target", "users", "body parameters", "with head", "MRR", "LoRA's MRR", "difference [95%]", "relative"]
    return markdown_table(head, rows)


def _parameter_row(target: str, budget: int, mine: Point, other: Point) -> list[str]:
    found = compare_points(mine, other, "popularity")
    ours, lora = mine.mean("popularity"), other.mean("popularity")
    return [
        target,
        budget_name(budget),
        f"{mine.body_parameters:,} of {other.body_parameters:,} = {mine.body_parameters / other.body_parameters:.1%}",
        f"{mine.parameters:,} of {other.parameters:,} = {mine.parameters / other.parameters:.1%}",
        short(ours),
        short(lora),
        _difference(found.difference, found.interval),
        f"{(ours - lora) / lora:+.1%}",
    ]


def _difference(value: float, interval: tuple[float, float]) -> str:
    return f"{signed(value)} [{signed(interval[0])}, {signed(interval[1])}]"


def data_table(points: Points, ours: str, rivals: Sequence[str], negatives: Negatives) -> str:
    """Claim 3: the share of a rival's users that ours needs to reach the same, at every point of its curve."""
    rows = []
    for target in points.targets:
        for rival in rivals:
            rows += [
                [
                    target,
                    rival,
                    f"{ratio.rival_users:,}",
                    short(ratio.rival_value),
                    _users(ratio.own_users),
                    ratio.text(),
                ]
                for ratio in data_ratios(points, ours, rival, target, negatives)
            ]
    return markdown_table(["target", "rival", "its users", "its MRR", "users ours needs", "ratio"], rows)


def _users(users: float | None) -> str:
    return "more than measured" if users is None else f"{users:,.0f}"


def rivals_table(points: Points, ours: str) -> str:
    """Claim 4: ours against every other cross-domain method, corrected for the number of comparisons."""
    rows = []
    for negatives in CLAIM_NEGATIVES:
        for target in points.targets:
            found = duels(points, ours, target, negatives, cross_domain_rivals(points, target))
            for rival in dict.fromkeys(duel.rival for duel in found):
                rows.append([negatives, target, rival, *_by_budget([d for d in found if d.rival == rival])])
    head = ["negatives", "target", "rival", *(f"{budget:,}" for budget in CLAIM_BUDGETS)]
    return markdown_table(head, rows)


def _by_budget(found: Sequence[Duel]) -> list[str]:
    by_budget = {duel.budget: duel for duel in found}
    return [_duel(by_budget[budget]) if budget in by_budget else "" for budget in CLAIM_BUDGETS]


def _duel(duel: Duel) -> str:
    return f"{_difference(duel.found.difference, duel.found.interval)} {duel.verdict}"


def verdict_counts(points: Points, ours: str) -> str:
    """Claim 4 in one table: on how many targets ours is better than all the others."""
    rows = []
    for negatives in CLAIM_NEGATIVES:
        for target in points.targets:
            found = duels(points, ours, target, negatives, cross_domain_rivals(points, target))
            counts = {word: sum(duel.verdict == word for duel in found) for word in ("better", "even", "worse")}
            rows.append([negatives, target, *(str(count) for count in counts.values())])
    head = ["negatives", "target", f"better (p < {SIGNIFICANT:g})", "even", "worse"]
    return markdown_table(head, rows)


def unseen_table(points: Points, ours: str, rivals: Sequence[str], budget: int) -> str:
    """Ours against rivals on all users, and on those whom no source has seen."""
    rows = []
    for target in points.targets:
        mine = points.find(target, ours, budget)
        for rival in rivals:
            other = points.find(target, rival, budget)
            if mine is None or other is None:
                continue
            rows.append([target, rival, *_unseen_cells(mine, other)])
    return markdown_table(["target", "rival", "users", "difference", "unseen users", "difference on them"], rows)


def _unseen_cells(mine: Point, other: Point) -> list[str]:
    difference = mine.per_user("popularity") - other.per_user("popularity")
    unseen = mine.unseen() & other.unseen()
    return [
        str(difference.size),
        signed(float(np.mean(difference))),
        str(int(unseen.sum())),
        signed(float(np.mean(difference[unseen]))),
    ]


def ablation_table(points: Points) -> str:
    """Every integrating model with its integration switched off at inference."""
    rows = []
    for point in points:
        off = [r["integration_off"]["metrics"]["popularity"]["mrr"] for r in point.records if r["integration_off"]]
        if off:
            on = point.mean("popularity")
            rows.append(
                [
                    point.target,
                    point.method,
                    "+".join(point.sources),
                    budget_name(point.budget),
                    short(on),
                    short(float(np.mean(off))),
                    signed(on - float(np.mean(off))),
                ]
            )
    return markdown_table(["target", "method", "sources", "users", "MRR", "integration off", "what mixing adds"], rows)


def compute_table(points: Points, target: str, budget: int) -> str:
    """What each method cost at one budget."""
    rows = []
    for method in points.methods(target):
        point = points.find(target, method, budget)
        if point is not None:
            memory = max(record["peak_memory_mib"] for record in point.records)
            rows.append(
                [
                    method,
                    f"{point.parameters:,}",
                    f"{point.cpu_s:,.0f}",
                    f"{memory:,.0f}",
                    short(point.mean("popularity")),
                ]
            )
    return markdown_table(["method", "trained", "CPU s", "peak MiB", "MRR"], rows)
