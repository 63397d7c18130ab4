"""The report's Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from xcrossrec.types import Negatives
from xcrossrec_lab.report.claims import (
    CLAIM_BUDGETS,
    CLAIM_NEGATIVES,
    MARGIN,
    NOT_RUN,
    SIGNIFICANT,
    Duel,
    Relative,
    budgets_together,
    compare_points,
    data_ratios,
    data_verdict,
    duels_together,
    largest_common_budget,
    parameters_verdict,
    relative_over,
    relative_to,
    rival_duels,
    rivals_verdict,
    seed_differences,
    shuffled_pairs,
)
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Draw one table; nothing where there is no row."""
    drawn = [f"| {' | '.join(row)} |" for row in rows]
    if not drawn:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *drawn])


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


def fine(value: float) -> str:
    """A small metric or spread with four digits and no leading zero."""
    return f"{value:.4f}".removeprefix("0")


def accuracy_table(points: Points, target: str, negatives: Negatives, metric: str = "mrr") -> str:
    """Methods, and sets of sources, by budgets: mean, half-width of the 95% interval over users, spread over seeds."""
    head = ["method", "trained (head included)", *(budget_name(budget) for budget in points.budgets)]
    rows = []
    main, *others = points.source_sets(target)
    for method in points.methods(target):
        for sources in (main, *others):
            found = [points.find(target, method, budget, sources) for budget in points.budgets]
            if sources != main:
                found = [point if point is not None and point.sources else None for point in found]
            sizes = [f"{point.parameters:,}" for point in found if point is not None]
            name = method if sources == main else f"{method} ({'+'.join(sources)})"
            if sizes or sources == main:
                rows.append([name, sizes[0] if sizes else "", *(_cell(p, negatives, metric) for p in found)])
    return markdown_table(head, rows)


def _cell(point: Point | None, negatives: Negatives, metric: str) -> str:
    if point is None:
        return ""
    low, high = point.interval(negatives, metric)
    text = f"{short(point.mean(negatives, metric))} ±{short((high - low) / 2)}"
    spread = point.spread(negatives, metric)
    return text if spread is None else f"{text} (sd {fine(spread)} over {len(point.seeds)} seeds)"


def averages_table(points: Points, negatives: Negatives, budgets: Sequence[int] = CLAIM_BUDGETS) -> str:
    """MRR averaged over targets, per method and budget; the best of a budget is bold.

    A budget's targets are those at which the report's `ours` and (first) `lora` have a cell (without a report: any). A
    method that lacks a cell at one of them is left out, so that every number of a column is of the same targets.
    """
    columns = {budget: _averages(points, negatives, budget) for budget in budgets}
    columns = {budget: found for budget, found in columns.items() if found[1]}
    head = ["method", *(f"{budget_name(b)} users, {len(found[0])} targets" for b, found in columns.items())]
    best = {budget: max(means.values()) for budget, (_, means) in columns.items()}
    rows = []
    for method in points.suite.methods:
        texts = [_average(means.get(method), best[budget]) for budget, (_, means) in columns.items()]
        if any(texts):
            rows.append([method, *texts])
    return markdown_table(head, rows)


def _averages(points: Points, negatives: Negatives, budget: int) -> tuple[list[str], dict[str, float]]:
    report = points.suite.report
    needed = [name for name in (report.get("ours"), *report.get("lora", [])[:1]) if name]
    targets = [t for t in points.targets if needed and all(points.find(t, name, budget) for name in needed)]
    targets = targets if needed else points.targets
    means = {}
    for method in points.suite.methods:
        found = [point for target in targets if (point := points.find(target, method, budget)) is not None]
        if targets and len(found) == len(targets):
            means[method] = float(np.mean([point.mean(negatives) for point in found]))
    return targets, means


def _average(value: float | None, best: float) -> str:
    if value is None:
        return ""
    return f"**{fine(value)}**" if value == best else fine(value)


def claims_table(points: Points, ours: str, loras: Sequence[str]) -> str:
    """Every claim on every target, in a word."""
    rows = []
    for lora in loras:
        what = f"a quarter of `{lora}`'s parameters or less, at most 1% below its MRR"
        rows.append([what, *(parameters_verdict(points, ours, lora, target) for target in points.targets)])
        what = f"half of `{lora}`'s users or less for its MRR"
        rows.append([what, *(data_verdict(points, ours, lora, target) for target in points.targets)])
    sets = max(len(points.source_sets(target)) for target in points.targets)
    for negatives in _claimed(points):
        for number in range(sets):
            what = f"better than every other cross-domain method, {negatives}, {_SETS[min(number, 1)]}"
            rows.append([what, *(_rivals_verdict(points, ours, t, negatives, number) for t in points.targets)])
    return markdown_table(["claim", *points.targets], rows)


_SETS = ("the first sources", "more sources")


def _rivals_verdict(points: Points, ours: str, target: str, negatives: Negatives, number: int) -> str:
    sets = points.source_sets(target)
    if number >= len(sets):
        return NOT_RUN
    return rivals_verdict(rival_duels(points, ours, target, negatives, sets[number]))


def permutation_table(points: Points) -> str:
    """True titles against titles dealt out anew, and what a random order would give."""
    rows = []
    for target in points.targets:
        for name, dealt in shuffled_pairs(points):
            for budget in (NO_BUDGET, *points.budgets):
                true, shuffled = points.find(target, name, budget), points.find(target, dealt, budget)
                if true is None or shuffled is None or true.budget != budget:
                    continue
                rows += [_permutation_row(true, shuffled, negatives) for negatives in points.suite.negatives]
    head = ["target", "method", "users", "negatives", "true titles", "dealt out anew", "chance", "difference [95%]"]
    return markdown_table(head, rows)


def _permutation_row(true: Point, shuffled: Point, negatives: Negatives) -> list[str]:
    found = compare_points(true, shuffled, negatives)
    users = "" if true.budget == NO_BUDGET else budget_name(true.budget)
    means = (true.mean(negatives), shuffled.mean(negatives), true.chance(negatives))
    return [
        true.target,
        true.method,
        users,
        negatives,
        *map(fine, means),
        _difference(found.difference, found.interval),
    ]


def parameters_table(points: Points, ours: str, lora: str) -> str:
    """Claim 2: trained parameters and accuracy against LoRA, at every budget that both have."""
    rows = []
    for target in points.targets:
        for budget in points.budgets:
            mine, other = points.find(target, ours, budget), points.find(target, lora, budget)
            if mine is not None and other is not None:
                largest = budget == largest_common_budget(points, target, [ours, lora])
                rows.append(_parameter_row(f"{_users_of(points, target, budget)}{_LARGEST * largest}", mine, other))
    head = ["target", "users", "body parameters", "with head", "MRR", "LoRA's MRR", "difference [95%]"]
    return markdown_table([*head, "relative [95%]", "within 1%", "by the interval"], rows)


def relative_table(points: Points, ours: str, lora: str) -> str:
    """Claim 2 under every kind of negatives: accuracy relative to LoRA, by target and over all that have both."""
    rows = []
    for budget in points.budgets:
        found = [
            (mine, other)
            for target in points.targets
            if (mine := points.find(target, ours, budget)) is not None
            and (other := points.find(target, lora, budget)) is not None
        ]
        groups = [(mine.target, [(mine, other)]) for mine, other in found]
        if len(found) > 1:
            groups.append((f"these {len(found)} together", found))
        for name, pairs in groups:
            relatives = [relative_over(pairs, negatives) for negatives in points.suite.negatives]
            rows.append([budget_name(budget), name, *map(_relative, relatives)])
    return markdown_table(["users", "target", *points.suite.negatives], rows)


_LARGEST = ", the most both have"


def _users_of(points: Points, target: str, budget: int) -> str:
    return f"all {points.users(target, budget):,}" if budget == ALL else budget_name(budget)


def _parameter_row(users: str, mine: Point, other: Point) -> list[str]:
    found, relative = compare_points(mine, other, "popularity"), relative_to(mine, other)
    return [
        mine.target,
        users,
        f"{mine.body_parameters:,} of {other.body_parameters:,} = {mine.body_parameters / other.body_parameters:.1%}",
        f"{mine.parameters:,} of {other.parameters:,} = {mine.parameters / other.parameters:.1%}",
        short(mine.mean("popularity")),
        short(other.mean("popularity")),
        _difference(found.difference, found.interval),
        _relative(relative),
        "yes" if relative.value >= -MARGIN else "no",
        relative.verdict,
    ]


def _relative(found: Relative) -> str:
    return f"{found.value:+.1%} [{found.interval[0]:+.1%}, {found.interval[1]:+.1%}]"


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


def fewer_users_table(points: Points, ours: str, rivals: Sequence[str]) -> str:
    """Claim 3 with its intervals: ours with each number of users minus a rival with all of the target's."""
    rows = []
    for rival in rivals:
        for negatives in points.suite.negatives:
            for budget in points.budgets:
                found = [_minus_all(points, target, ours, budget, rival, negatives) for target in points.targets]
                if any(found):
                    rows.append([rival, negatives, budget_name(budget), *found])
    return markdown_table(["minus all users'", "negatives", f"users of {ours}", *points.targets], rows)


def _minus_all(points: Points, target: str, ours: str, budget: int, rival: str, negatives: Negatives) -> str:
    mine, other = points.find(target, ours, budget), points.find(target, rival, ALL)
    if mine is None or other is None:
        return ""
    found = compare_points(mine, other, negatives)
    return _difference(found.difference, found.interval)


def _users(users: float | None) -> str:
    return "more than measured" if users is None else f"{users:,.0f}"


def rivals_table(points: Points, ours: str) -> str:
    """Claim 4: ours against every other cross-domain method, for each set of sources, corrected for their number."""
    rows = []
    for negatives in _claimed(points):
        for target, sources in _places(points):
            found = rival_duels(points, ours, target, negatives, sources)
            for rival in dict.fromkeys(duel.rival for duel in found):
                of_rival = [duel for duel in found if duel.rival == rival]
                rows.append([negatives, target, "+".join(sources), rival, *_by_budget(of_rival)])
    head = ["negatives", "target", "sources", "rival", *(f"{budget:,}" for budget in CLAIM_BUDGETS)]
    return markdown_table(head, rows)


def together_table(points: Points, ours: str, negatives: Negatives) -> str:
    """Ours against every other method over the users of all targets together."""
    found, budgets = duels_together(points, ours, negatives), budgets_together(points)
    rows = [
        [rival, *_by_budget([duel for duel in found if duel.rival == rival], budgets)]
        for rival in dict.fromkeys(duel.rival for duel in found)
    ]
    users = {duel.budget: duel.found.users for duel in found}
    head = [
        f"{budget_name(budget)} users" + (f" ({users[budget]:,} ranked)" if budget in users else "")
        for budget in budgets
    ]
    return markdown_table(["rival", *head], rows)


def _places(points: Points) -> list[tuple[str, tuple[str, ...]]]:
    return [(target, sources) for target in points.targets for sources in points.source_sets(target)]


def _by_budget(found: Sequence[Duel], budgets: Sequence[int] = CLAIM_BUDGETS) -> list[str]:
    by_budget = {duel.budget: duel for duel in found}
    return [_duel(by_budget[budget]) if budget in by_budget else "" for budget in budgets]


def _duel(duel: Duel) -> str:
    return f"{_difference(duel.found.difference, duel.found.interval)} {duel.verdict}"


def verdict_counts(points: Points, ours: str) -> str:
    """Claim 4 in one table: on how many targets ours is better than all the others."""
    rows = []
    for negatives in _claimed(points):
        for target, sources in _places(points):
            found = rival_duels(points, ours, target, negatives, sources)
            counts = {word: sum(duel.verdict == word for duel in found) for word in ("better", "even", "worse")}
            rows.append([negatives, target, "+".join(sources), *(str(count) for count in counts.values())])
    head = ["negatives", "target", "sources", f"better (p < {SIGNIFICANT:g})", "even", "worse"]
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


def seeds_table(points: Points, ours: str, rivals: Sequence[str], negatives: Negatives) -> str:
    """Ours minus each rival seed by seed: a seed draws the users to learn from, so this is what another draw would do.

    A row needs two seeds that both have. The last row of a budget averages the targets' differences, seed by seed,
    where every target has the same seeds.
    """
    rows = []
    for budget in points.budgets:
        for rival in rivals:
            found = {
                target: differences
                for target in points.targets
                if len(differences := seed_differences(points, target, ours, rival, budget, negatives)) > 1
            }
            rows += [_seed_row(budget, rival, target, by_seed) for target, by_seed in found.items()]
            if len(found) > 1 and len({tuple(by_seed) for by_seed in found.values()}) == 1:
                means = {seed: float(np.mean([d[seed] for d in found.values()])) for seed in next(iter(found.values()))}
                rows.append(_seed_row(budget, rival, f"mean of these {len(found)}", means))
    return markdown_table(["users", "rival", "target", "difference by seed", "mean", "sd"], rows)


def _seed_row(budget: int, rival: str, target: str, by_seed: Mapping[int, float]) -> list[str]:
    values = list(by_seed.values())
    texts = ", ".join(f"{signed(value)} (seed {seed})" for seed, value in by_seed.items())
    return [
        budget_name(budget),
        rival,
        target,
        texts,
        signed(float(np.mean(values))),
        fine(float(np.std(values, ddof=1))),
    ]


def ablation_table(points: Points) -> str:
    """Every integrating model with its integration switched off at inference, a row a seed."""
    rows = [
        _ablation_row(point, record) for point in points for record in point.records if record.get("integration_off")
    ]
    head = ["target", "method", "sources", "users", "seed", "MRR", "integration off", "what mixing adds [95%]"]
    return markdown_table(head, rows)


def _ablation_row(point: Point, record: Mapping[str, Any]) -> list[str]:
    on, off = (float(found["metrics"]["popularity"]["mrr"]) for found in (record["metrics"], record["integration_off"]))
    added = signed(on - off)
    if "mixing_adds" in record["integration_off"]:  # records of older versions have the means alone
        found = record["integration_off"]["mixing_adds"]["popularity"]["mrr"]
        added = _difference(found["difference"], found["ci"])
    names = [point.target, point.method, "+".join(point.sources), budget_name(point.budget), str(record["seed"])]
    return [*names, short(on), short(off), added]


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
                    "-" if point.cpu_s is None else f"{point.cpu_s:,.0f}",
                    f"{memory:,.0f}",
                    short(point.mean("popularity")),
                ]
            )
    return markdown_table(["method", "trained", "CPU s", "peak MiB", "MRR"], rows)


def _claimed(points: Points) -> list[Negatives]:
    """The negatives that the claims are about, as far as the suite ranks among them."""
    return [negatives for negatives in CLAIM_NEGATIVES if negatives in points.suite.negatives]
