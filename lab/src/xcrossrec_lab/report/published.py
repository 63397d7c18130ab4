"""The pages that are committed, each made from kept cells alone: one a suite, and the table of docs/evidence.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from xcrossrec import ConfigError
from xcrossrec_lab.places import EVIDENCE, REPOSITORY, RESULTS
from xcrossrec_lab.report.claims import relative_over
from xcrossrec_lab.report.page import PAGE, page_text
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.report.tables import budget_name, markdown_table
from xcrossrec_lab.suites.cells import ALL
from xcrossrec_lab.suites.kept import KeptCells
from xcrossrec_lab.suites.suite import Suite

SUITES = ("amazon", "unused", "amazon-long", "pair")
SUMMARY = REPOSITORY / "docs" / "evidence.md"
OURS = "merged-lora"
_BLOCK = re.compile(r"(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        task: what the base can do already.
        suite: whose cells.
        budget: users to learn from.
        rivals: methods of the suite, one a column.
    """

    task: str
    suite: str
    budget: int
    rivals: tuple[str, ...]


COLUMNS = ("a LoRA", "a LoRA from the best source", "the mean of its sources", "AdapterFusion", "X-Cross")
_RANKS, _LEARNS = "the base ranks already (`dual`)", "the base must learn the task (`pair`)"
_FEW = ("lora-slow", "lora-from-source-slow", "mean-of-sources", "adapter-fusion", "xcross")
_MANY = ("lora", "lora-from-source", "mean-of-sources", "adapter-fusion", "xcross")
_MANY_IN_PAIR = ("lora", "lora-from-source-fast", "mean-of-sources", "adapter-fusion", "xcross")
ROWS = (
    Row(_RANKS, "unused", 128, _FEW),
    Row(_RANKS, "unused", 512, _FEW),
    Row(_RANKS, "amazon", 2048, _MANY),
    Row(_RANKS, "amazon", ALL, _MANY),
    Row(_LEARNS, "pair", 128, _MANY),
    Row(_LEARNS, "pair", 512, _MANY),
    Row(_LEARNS, "pair", 2048, _MANY_IN_PAIR),
    Row(_LEARNS, "pair", ALL, _MANY_IN_PAIR),
)
"""A LoRA stands at the rate at which it ranks better with so many users."""


def suite_of(name: str) -> Suite:
    """Read one of :data:`SUITES`."""
    return Suite.read(EVIDENCE / f"{name}.toml")


def kept_of(name: str) -> KeptCells:
    """Its kept cells."""
    return KeptCells(RESULTS / "evidence" / name)


def pages(names: Sequence[str] = SUITES) -> dict[Path, Callable[[], str]]:
    """Each committed page and what makes its text anew."""
    made: dict[Path, Callable[[], str]] = {
        kept_of(name).root / PAGE: lambda name=name: page_text(suite_of(name), kept_of(name))  # type: ignore[misc]
        for name in names
    }
    if names == SUITES:
        made[SUMMARY] = lambda: filled(SUMMARY.read_text(encoding="utf-8"), summary_table())
    return made


def differing(names: Sequence[str] = SUITES) -> list[Path]:
    """The committed pages that are not what the kept cells give."""
    return [path for path, make in pages(names).items() if path.read_text(encoding="utf-8") != make()]


def write_pages(names: Sequence[str] = SUITES) -> list[Path]:
    """Make the pages anew; each is written beside its place and renamed."""
    for path, make in pages(names).items():
        beside = path.with_suffix(".new")
        beside.write_text(make(), encoding="utf-8")
        beside.replace(path)
    return list(pages(names))


def filled(text: str, table: str) -> str:
    """A page with its table made anew.

    Raises:
        ConfigError: there is no place for one.
    """
    if not _BLOCK.search(text):
        raise ConfigError(f"{SUMMARY} has no place for its table: put `<!-- table -->` and `<!-- end -->` there")
    return _BLOCK.sub(lambda block: f"{block[1]}{table}\n{block[2]}", text)


def summary_table() -> str:
    """The default's MRR relative to its rivals', over the users of all targets together."""
    head = ["what the base can do", "users", "of a LoRA's parameters", *(f"minus {name}" for name in COLUMNS)]
    return markdown_table(head, [_row(row) for row in ROWS])


def _row(row: Row) -> list[str]:
    pairs = [_pairs(row, rival) for rival in row.rivals]
    shares = {f"{ours.body_parameters / lora.body_parameters:.0%}" for ours, lora in pairs[0]}
    return [row.task, budget_name(row.budget), " ".join(sorted(shares)), *map(_relative, pairs)]


def _pairs(row: Row, rival: str) -> list[tuple[Point, Point]]:
    """Ours and a rival on every target; empty where one lacks a target."""
    points = _points(row.suite)
    found = [
        (points.find(target, OURS, row.budget), points.find(target, rival, row.budget)) for target in points.targets
    ]
    both = [(ours, other) for ours, other in found if ours is not None and other is not None]
    return both if len(both) == len(found) else []


def _relative(pairs: Sequence[tuple[Point, Point]]) -> str:
    if not pairs:
        return ""
    found = relative_over(pairs, "popularity")
    low, high = found.interval
    return f"{found.value:+.1%} [{low:+.1%}, {high:+.1%}]"


@cache
def _points(name: str) -> Points:
    return Points(suite_of(name), kept_of(name))
