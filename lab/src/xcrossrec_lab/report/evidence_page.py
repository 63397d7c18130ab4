"""Write the tables of docs/evidence.md anew from the runs of its suites: ``tables.py [--check]``.

Each table stands between ``<!-- table NAME -->`` and ``<!-- end -->``; the makers are in :data:`TABLES`. The runs come
from ``xcrossrec-lab run`` or ``restore``. With ``--check`` nothing is written, and the exit status is 1 if a
table differs.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from pathlib import Path

from xcrossrec.metrics.significance import PairedComparison
from xcrossrec.types import Negatives
from xcrossrec_lab.places import REPOSITORY
from xcrossrec_lab.report.claims import (
    SIGNIFICANT,
    Duel,
    compare_points,
    data_ratios,
    duels_together,
    relative_over,
)
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.report.tables import budget_name, fine, markdown_table, short, signed
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, CellFiles
from xcrossrec_lab.suites.suite import Suite

PAGE = REPOSITORY / "docs" / "evidence.md"
SUITES = Path("lab/evidence")
TARGETS = {"toys": "Toys", "tools": "Tools", "sports": "Sports", "electronics": "Electronics"}
BLOCK = re.compile(r"(<!-- table ([a-z0-9-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

DUAL = {
    "tfidf": "TF-IDF of titles",
    "untrained-late": "untrained base",
    "untrained-centered": "untrained base, centered",
    "source-1": "first source",
    "source-2": "second source",
    "mean-of-sources": "mean of the sources",
    "merged-linear": "merged, linear",
    "merged-cat": "merged, the mean of the updates",
    "merged-ties": "merged, TIES",
    "merged-dare": "merged, DARE",
    "arrow": "Arrow",
    "lorahub": "LoraHub",
    "xlora": "X-LoRA",
    "adapter-fusion": "AdapterFusion, 1e-3",
    "adapter-fusion-fast": "AdapterFusion, 3e-3",
    "itemknn": "ItemKNN",
    "popularity": "popularity",
    "unisrec": "UniSRec",
    "sasrec": "SASRec",
    "head": "head on the base",
    "head-fast": "head on the base, 3e-3 (`head-fast`)",
    "lora-slow": "LoRA, 1e-3 (`lora-slow`)",
    "lora": "LoRA, 3e-3 (`lora`)",
    "lora-fast": "LoRA, 1e-2 (`lora-fast`)",
    "lora-rank-2": "LoRA of rank 2, 3e-3",
    "lora-rank-2-fast": "LoRA of rank 2, 1e-2",
    "full-fine-tuning": "full fine-tuning",
    "lora-from-source-slow": "LoRA from the best source, 1e-3",
    "lora-from-source": "LoRA from the best source, 3e-3",
    "lora-from-merged": "LoRA from the merged sources, 3e-3",
    "xcross-paper": "X-Cross, paper's, all layers",
    "xcross-pairwise": "X-Cross, pairwise, with the base",
    "xcross-lora": "X-Cross with a LoRA of the target's own, r=1",
    "xcross-lora-fast": "the same, three times the rates (`xcross-lora-fast`)",
    "xcross-top": "X-Cross with a LoRA of the target's own in the last two layers, r=4",
    "mean-lora": "mean of the sources with a LoRA of the target's own, r=2",
    "xcross-fast": "X-Cross, three times the rate (`xcross-fast`)",
    "xcross": "**X-Cross**",
    "merged-lora": "**merged sources with a LoRA of the target's own, r=2** (default)",
}
"""What the page calls the methods of regime (a), in its order."""

PAIR = {
    "tfidf": "TF-IDF",
    "source-1": "first source",
    "source-2": "second source",
    "mean-of-sources": "mean of the sources",
    "merged-linear": "merged, linear",
    "merged-cat": "merged, the mean of the updates",
    "merged-ties": "merged, TIES",
    "arrow": "Arrow",
    "lorahub": "LoraHub",
    "xlora": "X-LoRA",
    "adapter-fusion": "AdapterFusion",
    "adapter-fusion-joint": "AdapterFusion, pairs see each other, fresh head (`adapter-fusion-joint`)",
    "lora": "LoRA from the base, 1e-3",
    "lora-fast": "the same, 3e-3",
    "lora-slow": "the same, 3e-4",
    "lora-from-source": "LoRA from the best source, 3e-4",
    "lora-from-source-fast": "the same, 1e-3",
    "lora-from-merged": "LoRA from the merged sources, 3e-4",
    "xcross": "**X-Cross**",
    "xcross-lora": "X-Cross with a LoRA of the target's own, r=1",
    "xcross-lora-fast": "the same, higher rates (`xcross-lora-fast`)",
    "mean-lora": "mean of the sources with a LoRA of the target's own, r=2 (`mean-lora`)",
    "merged-lora": "**merged sources with a LoRA of the target's own, r=2** (default)",
}
"""The same of regime (b)."""

FORMS = tuple(
    (budget, method, form, "lora-slow" if budget in (128, 512) else "lora")
    for budget in (128, 512, 2048, 8192, ALL)
    for method, form in (
        ("merged-lora", "default"),
        ("mean-lora", "`--integrator none --target-rank 2`"),
        ("xcross", "`--integrator paper`"),
    )
)
"""Users, our form, what the page calls it, and LoRA at its better rate there."""

PAIR_FORMS = (
    *((budget, "merged-lora", "default") for budget in (128, 512, 2048, 8192, ALL)),
    *((budget, "mean-lora", "`--integrator none --target-rank 2`") for budget in (512, ALL)),
    *((budget, "xcross", "`--integrator paper`") for budget in (128, 512, 2048, ALL)),
)
RIVAL_COLUMNS: tuple[tuple[str, Negatives, int], ...] = (
    ("amazon", "popularity", 128),
    ("amazon", "popularity", 512),
    ("amazon", "popularity", 2048),
    ("unused", "popularity", 128),
    ("unused", "popularity", 512),
    ("unused", "uniform", 128),
    ("unused", "uniform", 512),
    ("unused", "full", 128),
    ("unused", "full", 512),
)
PAIR_COLUMNS = tuple((ours, budget) for ours in ("merged-lora", "xcross") for budget in (128, 512, 2048, ALL))
SHOWN: Sequence[Negatives] = ("popularity", "uniform")


@cache
def points(name: str) -> Points:
    """The finished cells of a suite's run; without any there is no page to write."""
    path = SUITES / f"{name}.toml"
    suite = Suite.read(path)
    found = Points(suite, CellFiles(suite.out))
    if not len(found):
        kept = f"lab/results/evidence/{name}"
        sys.exit(f"{suite.out} has no finished cell: run `xcrossrec-lab restore {path} --from {kept}` first")
    return found


def parameters() -> str:
    """Our forms relative to LoRA on the same users, per target and together."""
    rows = []
    for budget, method, form, lora in FORMS:
        pairs = _pairs("amazon", (method, budget), (lora, budget))
        rate = _rate(points("amazon").suite.methods[lora].settings["learning_rate"])
        for negatives in SHOWN if pairs else ():
            texts = [_relative([pairs[target]], negatives) if target in pairs else "" for target in TARGETS]
            together = _relative(list(pairs.values()), negatives) if len(pairs) == len(TARGETS) else ""
            rows.append([budget_name(budget), form, rate, negatives, *texts, together])
    return markdown_table(["users", "form", "LoRA", "negatives", *TARGETS.values(), "together"], rows)


def data(ours: str) -> str:
    """Users that one of our forms needs for what each LoRA reaches."""
    rows = []
    for rival in ("lora-slow", "lora", "lora-from-source-slow", "lora-from-source", "lora-from-merged"):
        found = {target: _ratios(ours, rival, target) for target in TARGETS}
        for budget in points("amazon").budgets:
            texts = [found[target].get(budget, "") for target in TARGETS]
            if any(texts):
                rows.append([DUAL[rival], budget_name(budget), *texts])
    return markdown_table(["LoRA", "its users", *TARGETS.values()], rows)


def _ratios(ours: str, rival: str, target: str) -> dict[int, str]:
    cells = points("amazon")
    budgets = {cells.users(target, budget): budget for budget in cells.budgets}
    texts = {}
    for ratio in data_ratios(cells, ours, rival, target, "popularity"):
        needed = "" if ratio.own_users is None else f"{ratio.own_users:,.0f} users for "
        said = f"{needed}{short(ratio.rival_value)}" + (": " if needed else " ") + ratio.text()
        texts[budgets[ratio.rival_users]] = said
    return texts


def rivals(ours: str, called: str) -> str:
    """One of our forms minus every other method over all targets' users."""
    columns = [
        {duel.rival: duel for duel in _together(suite, ours, negatives) if duel.budget == budget}
        for suite, negatives, budget in RIVAL_COLUMNS
    ]
    head = [f"{called} minus", *(f"`{suite}`, {negatives}, {b:,}" for suite, negatives, b in RIVAL_COLUMNS)]
    return _duel_table(head, DUAL, columns)


def pair_rivals() -> str:
    """The same in regime (b), popularity negatives, for several of our forms."""
    columns = [
        {duel.rival: duel for duel in _together("pair", ours, "popularity") if duel.budget == budget}
        for ours, budget in PAIR_COLUMNS
    ]
    head = ["minus", *(f"`{ours}`, {budget_name(budget)}" for ours, budget in PAIR_COLUMNS)]
    return _duel_table(head, PAIR, columns)


@cache
def _together(suite: str, ours: str, negatives: Negatives) -> list[Duel]:
    return duels_together(points(suite), ours, negatives)


def _duel_table(head: Sequence[str], names: dict[str, str], columns: Sequence[dict[str, Duel]]) -> str:
    rows = []
    for method, name in names.items():
        texts = [_duel(column.get(method)) for column in columns]
        if any(texts):
            rows.append([name, *texts])
    return markdown_table(head, rows)


def accuracy(budget: int) -> str:
    """MRR of every method at a number of users: each target under popularity, and means of the targets."""
    cells, rows = points("amazon"), []
    for method, name in DUAL.items():
        found = {target: cells.find(target, method, budget) for target in TARGETS}
        shown = [point for point in found.values() if point is not None and _belongs(point, budget)]
        if not shown:
            continue
        each = [short(p.mean("popularity")) if p in shown and p is not None else "" for p in found.values()]
        means = ["", "", ""]
        if len(shown) == len(TARGETS):
            means = [_mean(shown, "popularity"), _mean(shown, "uniform"), fine(_average(shown, "full"))]
        rows.append([name + _seeds(shown), f"{shown[0].body_parameters:,}", *each, *means])
    return markdown_table(["method", "body", *TARGETS.values(), "popularity", "uniform", "full"], rows)


def _belongs(point: Point, budget: int) -> bool:
    """What needs no training stands in the table of the fewest users alone."""
    return point.budget == budget or (point.budget == NO_BUDGET and budget == 128)


def _seeds(shown: Sequence[Point]) -> str:
    most = max(len(point.seeds) for point in shown)
    return f" ({most} seeds)" if most > 1 else ""


def _average(shown: Sequence[Point], negatives: Negatives) -> float:
    return sum(point.mean(negatives) for point in shown) / len(shown)


def _mean(shown: Sequence[Point], negatives: Negatives) -> str:
    return short(_average(shown, negatives))


def pair_accuracy(target: str) -> str:
    """MRR uniform / popularity of every method on one target of regime (b)."""
    cells, rows = points("pair"), []
    budgets = [128, 512, 2048, ALL]
    for method, name in PAIR.items():
        fixed = cells.find(target, method, NO_BUDGET)
        found = [None if fixed else cells.find(target, method, budget) for budget in budgets]
        shown = next((point for point in (fixed, *found) if point is not None), None)
        if shown is not None:
            rows.append([name, f"{shown.body_parameters:,}", _both(fixed), *map(_both, found)])
    everybody = f"all {cells.users(target, ALL):,}"
    return markdown_table(["method", "body", "0", "128", "512", "2,048", everybody], rows)


def _both(point: Point | None) -> str:
    if point is None:
        return ""
    seeds = f" ({len(point.seeds)})" if len(point.seeds) > 1 else ""
    return f"{short(point.mean('uniform'))} / {short(point.mean('popularity'))}{seeds}"


def pair_parameters() -> str:
    """Our forms in regime (b) relative to a LoRA from the base on the same users."""
    return _pair_table(lambda budget: budget, lambda pair, negatives: _relative([pair], negatives))


def pair_data() -> str:
    """Our forms in regime (b) minus a LoRA from the base with all of the target's users."""
    return _pair_table(lambda _: ALL, lambda pair, negatives: _difference(compare_points(*pair, negatives)))


def _pair_table(lora_budget: Callable[[int], int], say: Callable[[tuple[Point, Point], Negatives], str]) -> str:
    rows = []
    for budget, method, form in PAIR_FORMS:
        pairs = _pairs("pair", (method, budget), ("lora", lora_budget(budget)))
        for negatives in SHOWN if pairs else ():
            texts = [say(pairs[target], negatives) if target in pairs else "" for target in TARGETS]
            rows.append([budget_name(budget), form, negatives, *texts])
    return markdown_table(["users", "form", "negatives", *TARGETS.values()], rows)


def _pairs(suite: str, ours: tuple[str, int], other: tuple[str, int]) -> dict[str, tuple[Point, Point]]:
    """Two methods, each at a budget, on every target that has both."""
    found = {target: (points(suite).find(target, *ours), points(suite).find(target, *other)) for target in TARGETS}
    return {
        target: (mine, theirs) for target, (mine, theirs) in found.items() if mine is not None and theirs is not None
    }


def _relative(pairs: Sequence[tuple[Point, Point]], negatives: Negatives) -> str:
    found = relative_over(pairs, negatives)
    low, high = found.interval
    return f"{found.value:+.1%} [{low:+.1%}, {high:+.1%}]"


def _difference(found: PairedComparison) -> str:
    low, high = found.interval
    return f"{signed(found.difference)} [{signed(low)}, {signed(high)}]"


def _duel(duel: Duel | None) -> str:
    if duel is None:
        return ""
    text = _difference(duel.found)
    return f"**{text}**" if duel.adjusted < SIGNIFICANT else text


def _rate(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-")


TABLES: dict[str, Callable[[], str]] = {
    "parameters": parameters,
    "data-default": partial(data, "merged-lora"),
    "data": partial(data, "xcross"),
    "rivals-default": partial(rivals, "merged-lora", "The default"),
    "rivals": partial(rivals, "xcross", "X-Cross"),
    **{f"users-{budget or 'all'}": partial(accuracy, budget) for budget in (128, 512, 2048, 8192, ALL)},
    **{f"pair-{target}": partial(pair_accuracy, target) for target in TARGETS},
    "pair-parameters": pair_parameters,
    "pair-data": pair_data,
    "pair-rivals": pair_rivals,
}
"""The maker of each table by its name on the page."""


def filled(text: str, makers: dict[str, Callable[[], str]]) -> str:
    """A page with every table made anew.

    Raises:
        KeyError: the page names a table that has no maker.
    """
    return BLOCK.sub(lambda block: f"{block[1]}{makers[block[2]]()}\n{block[3]}", text)


def main(arguments: Iterable[str] | None = None) -> int:
    """Write the page, or say that it is not what the cells give."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a table differs")
    options = parser.parse_args(None if arguments is None else list(arguments))
    before = PAGE.read_text(encoding="utf-8")
    after = filled(before, TABLES)
    if options.check:
        print("as the cells give them" if after == before else f"{PAGE} differs from its cells: run {__file__}")
        return int(after != before)
    beside = PAGE.with_suffix(".new")
    beside.write_text(after, encoding="utf-8")
    beside.replace(PAGE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
