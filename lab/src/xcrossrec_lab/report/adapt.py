"""The page of `adapt`: what it shipped for each shop, what it stated, and what was true.

python -m xcrossrec_lab.report.adapt runs/adapt --to lab/results/evidence/adapt
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Run = Mapping[str, Any]

_HEAD = """# What `adapt` decides, held against customers whom it never saw

Seven targets, 128 and 512 customers each, as a shop has them: candidates are fitted on all but the last two purchases
of each customer, one is chosen on the last but one, the report's interval is of the last. The truth is measured on up
to 2,000 other customers of the target. MRR over the whole catalogue; intervals are 95%, as the report has them. Sources
are the other categories of the same release (data/amazon: titles of eight words; `-fields`: data/amazon-text, title,
brand and category). One draw of customers a run. The shops of data/amazon are those by which the rule of choice was set
(lab/log, 2026-11-29), so only those of data/amazon-text test it.

    python -m xcrossrec_lab.suites.adapt runs/evidence --out runs/adapt
    python -m xcrossrec_lab.report.adapt runs/adapt --to lab/results/evidence/adapt
"""


def signed(values: Sequence[float]) -> str:
    """A mean with its interval."""
    mean, low, high = values
    return f"{mean:+.4f} [{low:+.4f}, {high:+.4f}]"


def shipped(runs: Sequence[Run]) -> str:
    """A row a run: what was shipped, and what the truth says of it."""
    rows = [
        "| shop | shipped | best of all in truth | regret | shipped above the best simple one, in truth "
        "| the same on the shop's customers |",
        "|---|---|---|---|---|---|",
    ]
    rows += [
        f"| {each['shop']} | {each['chosen']} | {each['best']} | {signed(each['regret'])} "
        f"| {signed(each['minus_best_simple'])} over {each['best_simple']} | {signed(each['own_minus_best_simple'])} |"
        for each in runs
    ]
    return "\n".join(rows)


def stated(runs: Sequence[Run]) -> str:
    """A row a run: the gain as the report states it, what it truly is, and whether the interval holds it."""
    rows = ["| shop | over | stated | true | inside |", "|---|---|---|---|---|"]
    rows += [
        f"| {each['shop']} | {each['over']} | {signed(each['stated'])} | {each['true_gain'][0]:+.4f} "
        f"| {'yes' if covers(each) else 'no'} |"
        for each in runs
    ]
    return "\n".join(rows)


def covers(run: Run) -> bool:
    """Whether the stated interval holds the true gain."""
    _, low, high = run["stated"]
    return bool(low <= run["true_gain"][0] <= high)


def promises(runs: Sequence[Run]) -> str:
    """A row a run: what the curve up to half of the customers promised, and what came with all."""
    rows = [
        "| shop | customers | promised | came on the shop's | inside | came on the others | inside |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in runs:
        if (curve := each["promise"]) is not None and curve["promise"] is not None:
            _, low, high = curve["promise"]
            came, true = (f"{curve[name]:+.4f} | {inside(curve[name], low, high)}" for name in ("came", "truth"))
            rows.append(
                f"| {each['shop']} | {curve['from']} to {curve['to']} | {signed(curve['promise'])} | {came} | {true} |"
            )
    return "\n".join(rows)


def inside(value: float, low: float, high: float) -> str:
    """In a word."""
    return "yes" if low <= value <= high else "no"


def summary(runs: Sequence[Run]) -> str:
    """The answers to the questions that the runs were made for."""
    regret = np.array([each["regret"][0] for each in runs])
    worse = [each for each in runs if each["minus_best_simple"][2] < 0]
    below = min(runs, key=lambda each: each["minus_best_simple"][0])
    own = [each["shop"] for each in runs if each["own_minus_best_simple"][2] < 0]
    named = f" ({', '.join(each['shop'] for each in worse)})" if worse else ""
    kept = [each["promise"] for each in runs if each["promise"] and each["promise"]["promise"]]
    held = sum(inside(each["came"], *each["promise"][1:]) == "yes" for each in kept)
    true = sum(inside(each["truth"], *each["promise"][1:]) == "yes" for each in kept)
    which = "all 14 shops" if len(runs) == 14 else f"{len(runs)} of the 14 shops, those that are run"
    return f"""Over {which}:

- The shipped model is worse than the best simple candidate in truth, for sure, in {len(worse)}{named}; the lowest
  difference is {signed(below["minus_best_simple"])} ({below["shop"]}). On the shop's own customers who report:
  in {len(own)}{f" ({', '.join(own)})" if own else ""}. The best simple candidate is named in hindsight, of up to a
  dozen, which favours it.
- Regret against the best candidate in hindsight: {regret.mean():.4f} on average, {regret.max():.4f} at worst.
- The interval that the report states holds the true gain in {sum(map(covers, runs))} of {len(runs)}.
- The data curve's promise for twice the customers held in {held} of {len(kept)} on the shop's own customers, and in
  {true} on the others.
"""


def page(runs: Sequence[Run]) -> str:
    """The whole page."""
    parts = [_HEAD, summary(runs), "## What was shipped\n", shipped(runs), ""]
    parts += ["## The gain over the best simple candidate, as the report states it\n", stated(runs), ""]
    parts += ["## What twice the customers were to bring\n", promises(runs), ""]
    return "\n".join([*parts, "## All candidates, in truth\n", candidates(runs), ""])


def candidates(runs: Sequence[Run]) -> str:
    """A row a run, a column a kind of candidate: the mean MRR on the others."""
    names = sorted({name for each in runs for name in each["candidates"] if not name.startswith("source-")})
    rows = [f"| shop | best source alone | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for each in runs:
        found = {name: scores["truth"] for name, scores in each["candidates"].items()}
        alone = max((value for name, value in found.items() if name.startswith("source-")), default=None)
        cells = [found.get(name) for name in names]
        rows.append(f"| {each['shop']} | {' | '.join('' if v is None else f'{v:.4f}' for v in [alone, *cells])} |")
    return "\n".join(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the page of the runs that there are, and keep what it was made of beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--to", type=Path, required=True)
    given = parser.parse_args(arguments)
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(given.folder.glob("*/run.json"))]
    given.to.mkdir(parents=True, exist_ok=True)
    (given.to / "runs.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")
    (given.to / "README.md").write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
