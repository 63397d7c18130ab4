"""The page of the first day: every method by the number of customers of both categories, over all pairs and each.

python -m xcrossrec_lab.report.day_one runs/day-one --to lab/results/evidence/day-one/README.md
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from xcrossrec import Evaluation
from xcrossrec.types import NEGATIVES, Negatives
from xcrossrec_lab.suites.day_one import BUDGETS, CATEGORIES, METHODS, result_file

_DRAWS = 2000
_OURS = "ladder"
PAIRS = tuple(permutations(CATEGORIES, 2))

_HEAD = """# The first day, from one category to another (MRR)

Amazon 2014 (`../shared/data/amazon-text`), whole text, the base untrained and centered: no model was trained. 400 users
of each ordered pair are asked about, of whom only purchases in the other category are known; the target is their first
item in the new one. None of them is used in fitting, nor was asked in the study that chose the form of the bridge
(lab/log, 2026-11-29). Of the others who bought in both 100, 300 or all (658 to 935) fit the bridge and choose
every weight, that of the rival "text and popularity" too; popularity is counted from all users of the new category who
are not asked about. One draw. The order of purchases between categories is not in this data, so some "other" purchases
came later. Intervals are 95%, over users within pairs; differences are paired.

    python -m xcrossrec_lab.suites.day_one ../shared/data/amazon-text --out runs/day-one
    python -m xcrossrec_lab.report.day_one runs/day-one --to lab/results/evidence/day-one/README.md
"""


class Results:
    """The reciprocal ranks of all users, by pair.

    Args:
        folder: what :mod:`xcrossrec_lab.suites.day_one` wrote.
    """

    def __init__(self, folder: Path) -> None:
        self._read = {
            (pair, budget, method): Evaluation.load(result_file(folder, *pair, budget, method))
            for pair in PAIRS
            for budget in BUDGETS
            for method in METHODS
        }

    def of(
        self, pair: tuple[str, str], budget: int | None, method: str, negatives: Negatives
    ) -> Float64[np.ndarray, " user"]:
        """Of one pair, in the users' order."""
        found = self._read[pair, budget, method].of(negatives).sort("user_id")
        return found["mrr"].to_numpy()


def interval(parts: Sequence[Float64[np.ndarray, " user"]]) -> str:
    """The mean of some pairs' means, with a 95% interval: users are drawn anew within each pair."""
    rng = np.random.default_rng(0)
    drawn = [part[rng.integers(0, len(part), (_DRAWS, len(part)))].mean(1) for part in parts]
    low, high = np.quantile(np.mean(drawn, axis=0), (0.025, 0.975))
    mean = np.mean([part.mean() for part in parts])
    digits, sign = (4, "+" if low < 0 or high < 0 else "") if abs(mean) < 0.05 else (3, "")
    return f"{mean:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def table(results: Results, pairs: Sequence[tuple[str, str]], *, differences: bool) -> str:
    """Every method by the number of customers, and by how much the ladder is above each other."""
    rows = [f"| customers of both | method | {' | '.join(NEGATIVES)} |", "|---" * (2 + len(NEGATIVES)) + "|"]
    for budget in BUDGETS:
        for method in METHODS:
            cells = [interval([results.of(pair, budget, method, kind) for pair in pairs]) for kind in NEGATIVES]
            rows.append(f"| {budget or 'all'} | {method} | {' | '.join(cells)} |")
        for method in METHODS[:-1] if differences else ():
            cells = [_above(results, pairs, budget, method, kind) for kind in NEGATIVES]
            rows.append(f"| {budget or 'all'} | *ladder above {method}* | {' | '.join(cells)} |")
    return "\n".join(rows)


def _above(
    results: Results, pairs: Sequence[tuple[str, str]], budget: int | None, method: str, negatives: Negatives
) -> str:
    found = [results.of(pair, budget, _OURS, negatives) - results.of(pair, budget, method, negatives) for pair in pairs]
    return interval(found)


def page(results: Results) -> str:
    """All pairs together with differences, then each."""
    parts = [_HEAD, "## Mean of the six pairs\n", table(results, PAIRS, differences=True), ""]
    for pair in PAIRS:
        parts += [f"## {pair[0].capitalize()} to {pair[1]}\n", table(results, [pair], differences=False), ""]
    return "\n".join(parts)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of a complete run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args(arguments)
    given.to.parent.mkdir(parents=True, exist_ok=True)
    given.to.write_text(page(Results(given.folder)), encoding="utf-8")


if __name__ == "__main__":
    main()
