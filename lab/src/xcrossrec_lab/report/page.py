"""Write a suite's report: one Markdown page and its figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from xcrossrec.exceptions import ConfigError
from xcrossrec_lab.report import figures, tables
from xcrossrec_lab.report.claims import CLAIM_BUDGETS, shuffled_pairs
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import ALL, CellFiles
from xcrossrec_lab.suites.kept import write_records
from xcrossrec_lab.suites.suite import Suite

PAGE = "README.md"


def write_report(suite: Suite, files: CellFiles, out: Path) -> Path:
    """Make the page and the figures from the cells that are complete, and put their records beside.

    Args:
        suite: its ``[report]`` says whose claims are examined.
        files: the cells.
        out: folder to write to; made if needed.

    Returns:
        the page.

    Raises:
        ConfigError: no cell is complete.
    """
    points = Points(suite, files)
    if not len(points):
        raise ConfigError(f"no cell of {suite.name!r} is complete in {files.root}: run `xcrossrec-lab run` first")
    out.mkdir(parents=True, exist_ok=True)
    sections = _filled([_head(suite, files), *_claims(points), *_accuracy(points, out), *_costs(points, out)])
    write_records(out, suite, files)
    page = out / PAGE
    page.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
    return page


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


def _head(suite: Suite, files: CellFiles) -> str:
    cells = suite.cells()
    done = sum(files.done(cell) for cell in cells)
    commits = sorted({str(files.read(cell)["commit"]) for cell in cells if files.done(cell)})
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


def _accuracy(points: Points, out: Path) -> list[str]:
    sections = ["# Accuracy", _FIGURES_NOTE]
    for negatives in points.suite.negatives:
        title = f"## MRR averaged over targets, {negatives} negatives"
        sections += [title, tables.averages_table(points, negatives, (*CLAIM_BUDGETS, ALL))]
    if shuffled_pairs(points):
        sections += ["## The check: titles dealt out anew", tables.permutation_table(points)]
    for target in points.targets:
        for negatives in points.suite.negatives:
            sections += [f"## {target}, {negatives} negatives", tables.accuracy_table(points, target, negatives)]
        name = f"curves-{target}.png"
        if figures.budget_curves(points, target, "popularity", out / name):
            sections.append(f"![Budget curves on {target}]({name})")
    return sections


def _costs(points: Points, out: Path) -> list[str]:
    sections = ["# Cost and integration"]
    for budget in (b for b in CLAIM_BUDGETS if b in points.budgets):
        for what in ("parameters", "cpu_s"):
            name = f"{what}-{budget}.png"
            if figures.accuracy_against(points, what, budget, out / name):
                sections.append(f"![Accuracy against {what}, {budget} users]({name})")
        for target in points.targets:
            sections += [f"## {target}, {budget:,} users", tables.compute_table(points, target, budget)]
        for method in points.suite.methods:
            name = f"map-{method}-{budget}.png"
            if figures.integration_maps(points, method, budget, out / name):
                sections.append(f"![What the streams of {method} take from each other, by layer]({name})")
    return sections
