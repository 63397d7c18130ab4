"""What an item's text is worth: targets that differ by their text alone, compared user by user.

    python -m xcrossrec_lab.report.texts lab/evidence/text.toml [--from KEPT] [--to FILE]

A suite's targets are called CATEGORY-TEXT, such as ``toys-title``; the users of a category are the same for every text.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from xcrossrec import DataError
from xcrossrec.types import NEGATIVES, Negatives
from xcrossrec_lab.report.points import Point, Points
from xcrossrec_lab.report.resampling import relative_interval
from xcrossrec_lab.suites.cells import CellFiles, Cells
from xcrossrec_lab.suites.kept import KeptCells
from xcrossrec_lab.suites.suite import Suite

TEXTS = ("words", "title", "fields")
"""Titles cut to eight words, whole titles, and title, brand and category."""

PAIRS = (("fields", "title"), ("fields", "words"), ("title", "words"))
"""Which texts are compared, the second with the first."""

HEADINGS: dict[Negatives, str] = {
    "uniform": "Among 29 others, drawn evenly",
    "popularity": "Among 29 others, drawn by how often they are bought",
    "full": "In the whole catalogue",
}

HOW_TO_READ = """The score is the mean reciprocal rank (MRR) of the product bought next: 1 if it is ranked first, 1/2 if
second. Customers and products are the same in every column; only what models read of a product differs: `words` is its
title cut to eight words, `title` the whole title, `fields` title, brand and category. Trained methods and their sources
have learned with that text, too. A gain is in percent, with its 95% interval over the customers, paired; `draws` is how
many draws of customers to learn from were averaged first."""


def text_table(points: Points, negatives: Negatives) -> str:
    """MRR of every category and method by text, and how much more a text gives than another.

    Args:
        points: of a suite whose targets are called CATEGORY-TEXT.
        negatives: which candidates.

    Returns:
        a table in Markdown; gains in percent, with 95% intervals over the users, draws averaged first.

    Raises:
        DataError: the texts of a category were not ranked for the same users.
    """
    gains = [f"{ours} over {other}" for ours, other in PAIRS]
    rows = [
        f"| category | method | draws | {' | '.join((*TEXTS, *gains))} |",
        "|---" * (3 + len(TEXTS) + len(PAIRS)) + "|",
    ]
    for category, method, found in _groups(points):
        means = [f"{found[text].mean(negatives):.4f}" if text in found else "" for text in TEXTS]
        each = [_gain(found.get(ours), found.get(other), negatives) for ours, other in PAIRS]
        draws = min(len(point.seeds) for point in found.values())
        rows.append(f"| {category} | {method} | {draws} | {' | '.join((*means, *each))} |")
    return "\n".join(rows)


def _groups(points: Points) -> Iterator[tuple[str, str, dict[str, Point]]]:
    """The points of every category and method, by text."""
    found: dict[tuple[str, str], dict[str, Point]] = {}
    for point in points:
        category, _, text = point.target.rpartition("-")
        found.setdefault((category, point.method), {})[text] = point
    for (category, method), by_text in found.items():
        yield category, method, by_text


def _gain(ours: Point | None, other: Point | None, negatives: Negatives) -> str:
    if ours is None or other is None or ours.seeds != other.seeds:
        return ""
    mine, theirs = ours.per_user(negatives), other.per_user(negatives)
    if len(mine) != len(theirs):
        raise DataError(
            f"{ours.target} ranks {len(mine)} users and {other.target} {len(theirs)}: import both from the same files"
        )
    low, high = relative_interval(mine, theirs)
    return f"{mine.mean() / theirs.mean() - 1:+.1%} [{low:+.1%}, {high:+.1%}]"


def page(points: Points) -> str:
    """The tables of all kinds of candidates.

    Raises:
        DataError: see :func:`text_table`.
    """
    parts = [f"## {HEADINGS[each]}\n\n{text_table(points, each)}" for each in points.suite.negatives or NEGATIVES]
    head = f"Made by `python -m xcrossrec_lab.report.texts` from the suite `{points.suite.name}`."
    return "\n\n".join(["# What the item's text is worth after training", f"{head}\n{HOW_TO_READ}", *parts]) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a suite's complete cells, or print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--from", dest="kept", type=Path, help="kept cells, instead of the run's")
    parser.add_argument("--to", type=Path, help="the page's file")
    given = parser.parse_args(arguments)
    suite = Suite.read(given.suite)
    cells: Cells = KeptCells(given.kept) if given.kept else CellFiles(suite.out)
    text = page(Points(suite, cells))
    if given.to:
        given.to.write_text(text, encoding="utf-8")
    else:
        print(text, end="")


if __name__ == "__main__":
    main()
