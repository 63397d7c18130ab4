"""Write a suite's report: one Markdown page and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xcrossrec import ConfigError
from xcrossrec_lab.report import figures, tables
from xcrossrec_lab.report.claims import CLAIM_BUDGETS, shuffled_pairs
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import ALL, Cells
from xcrossrec_lab.suites.suite import Suite

PAGE = "README.md"


def write_report(suite: Suite, cells: Cells, out: Path, *, with_figures: bool = False) -> Path:
    """Make the page from the cells that are complete, and from nothing else.

    Args:
        suite: its ``[report]`` says whose claims are examined.
        cells: a run's or kept ones.
        out: folder to write to; made if needed.
        with_figures: draw figures beside the page, and show them in it.

    Returns:
        the page.

    Raises:
        ConfigError: no cell is complete.
    """
    text = page_text(suite, cells, figures_in=out if with_figures else None)
    out.mkdir(parents=True, exist_ok=True)
    page = out / PAGE
    beside = page.with_suffix(".new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(page)
    return page


def page_text(suite: Suite, cells: Cells, *, figures_in: Path | None = None) -> str:
    """The page of a suite.

    Args:
        suite: its ``[report]`` says whose claims are examined.
        cells: a run's or kept ones.
        figures_in: folder for its figures; None draws none.

    Raises:
        ConfigError: no cell is complete.
    """
    points = Points(suite, cells)
    if not len(points):
        raise ConfigError(f"no cell of {suite.name!r} is complete in {cells.root}: run `xcrossrec-lab run` first")
    if figures_in is not None:
        figures_in.mkdir(parents=True, exist_ok=True)
    sections = [_head(suite, cells), *_claims(points), *_accuracy(points, figures_in), *_costs(points, figures_in)]
    return "\n\n".join(_filled(sections)) + "\n"


def _filled(sections: Sequence[str]) -> list[str]:
    """Without tables that have no row, and without headings under which nothing is left."""
    kept: list[str] = []
    for section in reversed(sections):
        nothing_follows = not kept or 0 < _level(kept[-1]) <= _level(section)
        if section and not (_is_heading(section) and nothing_follows):
            kept.append(section)
    return kept[::-1]


def _level(section: str) -> int:
    """1 for `# a heading`, 2 for `## one below it`, 0 for what is none."""
    return len(section) - len(section.lstrip("#"))


def _is_heading(section: str) -> bool:
    return _level(section) > 0 and "\n" not in section


def _head(suite: Suite, found: Cells) -> str:
    cells = suite.cells()
    done = sum(found.done(cell) for cell in cells)
    commits = sorted({str(found.read(cell)["commit"]) for cell in cells if found.done(cell)})
    return (
        f"# Suite {suite.name}\n\n{done} of {len(cells)} cells are complete; made at {', '.join(commits)}. "
        f"MRR, 1 + 29 candidates unless `full`; ± is half the 95% bootstrap interval over users."
    )


def _claims(points: Points) -> list[str]:
    report = points.suite.report
    if "ours" not in report:
        return []
    ours, loras, warm = report["ours"], report["lora"], list(report.get("warm", []))
    sections = [f"# Claims, about `{ours}`", *_against_lora(points, ours, loras, warm), *_together(points, ours)]
    sections += [
        "## Against every other cross-domain method",
        tables.verdict_counts(points, ours),
        tables.rivals_table(points, ours),
    ]
    for budget in CLAIM_BUDGETS:
        if budget in points.budgets and loras:
            title = f"## With and without users seen in a source's training, {budget:,} users"
            sections += [title, tables.unseen_table(points, ours, [*loras, *warm], budget)]
    sections += ["## Integration switched off at inference", tables.ablation_table(points)]
    for negatives in points.suite.negatives:
        title = f"## `{ours}` minus LoRA, seed by seed, {negatives} negatives"
        sections += [title, tables.seeds_table(points, ours, [*loras, *warm], negatives)]
    run = {point.method for point in points}
    for form in (name for name in report.get("forms", []) if name in run):
        sections += [f"# Claims, about `{form}`", *_against_lora(points, form, loras, warm), *_together(points, form)]
    return sections


def _together(points: Points, ours: str) -> list[str]:
    """Ours minus each other method, over the users of all targets."""
    sections = []
    for negatives in points.suite.negatives:
        title = f"## `{ours}` against every other method, all targets' users together, {negatives} negatives"
        sections += [title, tables.together_table(points, ours, negatives)]
    return sections


def _against_lora(points: Points, ours: str, loras: list[str], warm: list[str]) -> list[str]:
    """Every claim in a word, and those against LoRA, at each of its rates, in numbers."""
    sections = [tables.claims_table(points, ours, loras)]
    for lora in loras:
        sections += [
            f"## Parameters: against `{lora}` (popularity negatives)",
            tables.parameters_table(points, ours, lora),
            f"## MRR relative to that of `{lora}`, every kind of negatives",
            tables.relative_table(points, ours, lora),
        ]
    if loras:
        sections += [
            "## Data: users that ours needs for what a LoRA reaches (popularity negatives)",
            tables.data_table(points, ours, [*loras, *warm], "popularity"),
        ]
    if loras and ALL in points.budgets:
        title = f"## Data: `{ours}` with so many users minus a LoRA with all of the target's"
        sections += [title, tables.fewer_users_table(points, ours, [*loras, *warm])]
    return sections


_FIGURES_NOTE = (
    f"The tables have every method. The figures leave out those far below the others ({', '.join(figures.LEFT_OUT)}) "
    "and the checks on titles dealt out anew."
)


def _accuracy(points: Points, figures_in: Path | None) -> list[str]:
    sections = ["# Accuracy", *([_FIGURES_NOTE] if figures_in else [])]
    for negatives in points.suite.negatives:
        title = f"## MRR averaged over targets, {negatives} negatives"
        sections += [title, tables.averages_table(points, negatives, (*CLAIM_BUDGETS, ALL))]
    if shuffled_pairs(points):
        sections += ["## The check: titles dealt out anew", tables.permutation_table(points)]
    for target in points.targets:
        for negatives in points.suite.negatives:
            sections += [f"## {target}, {negatives} negatives", tables.accuracy_table(points, target, negatives)]
        name = f"curves-{target}.png"
        if figures_in and figures.budget_curves(points, target, "popularity", figures_in / name):
            sections.append(f"![Budget curves on {target}]({name})")
    return sections


def _costs(points: Points, figures_in: Path | None) -> list[str]:
    sections = ["# Cost and integration"]
    for budget in (b for b in CLAIM_BUDGETS if b in points.budgets):
        for target in points.targets:
            sections += [f"## {target}, {budget:,} users", tables.compute_table(points, target, budget)]
        if figures_in:
            sections += _cost_figures(points, budget, figures_in)
    return sections


def _cost_figures(points: Points, budget: int, folder: Path) -> list[str]:
    shown = []
    for what in ("parameters", "cpu_s"):
        name = f"{what}-{budget}.png"
        if figures.accuracy_against(points, what, budget, folder / name):
            shown.append(f"![Accuracy against {what}, {budget} users]({name})")
    for method in points.suite.methods:
        name = f"map-{method}-{budget}.png"
        if figures.integration_maps(points, method, budget, folder / name):
            shown.append(f"![What the streams of {method} take from each other, by layer]({name})")
    return shown
