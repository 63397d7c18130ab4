"""How often a 95% interval holds the truth, by how many customers are asked: the product's and the bootstrap's.

    python -m xcrossrec_lab.report.coverage runs/adapt

Of each finished run of `xcrossrec_lab.suites.adapt` some 2,000 customers were ranked by every candidate; their mean is
the truth. Customers are drawn from them with replacement, and candidates at random, but never what sells most: two for
the difference of their reciprocal ranks, one for its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from xcrossrec import Evaluation
from xcrossrec.metrics.significance import difference_interval, mean_interval
from xcrossrec.types import USER
from xcrossrec_lab.report.resampling import interval

ASKED, DRAWS = (32, 128, 512, 1500), 60

Scores = Mapping[str, Float64[np.ndarray, " user"]]


def scores_of(run: Path) -> Scores:
    """Reciprocal ranks of a run's customers by candidate."""
    files = {file.parent.name: file for file in sorted(run.glob("work/*/report.parquet"))}
    return {
        name: Evaluation.load(file).of("full").sort(USER)["mrr"].to_numpy()
        for name, file in files.items()
        if name != "popularity"
    }


def held(runs: Sequence[Scores], asked: int, draws: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of draws in which an interval of so many customers holds the truth."""
    hits: dict[str, list[bool]] = {
        f"{what}{how}": [] for what in ("difference", "score") for how in ("", ", bootstrap")
    }
    for scores in runs:
        for _ in range(draws):
            one, other = rng.choice(list(scores), 2, replace=False)
            rows = rng.integers(0, scores[one].size, asked)
            whole = {"difference": scores[one] - scores[other], "score": scores[one]}
            for what, own in (("difference", difference_interval), ("score", mean_interval)):
                for how, between in (("", own), (", bootstrap", interval)):
                    low, high = between(whole[what][rows])
                    hits[what + how].append(low <= whole[what].mean() <= high)
    return {what: float(np.mean(found)) for what, found in hits.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a row a number of customers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    given = parser.parse_args(arguments)
    runs = [scores_of(file.parent) for file in sorted(given.folder.glob("*/run.json"))]
    rng = np.random.default_rng(0)
    for asked in ASKED:
        found = held(runs, asked, DRAWS, rng)
        print(asked, "customers:", ", ".join(f"{what} {share:.1%}" for what, share in found.items()), flush=True)


if __name__ == "__main__":
    main()
