"""What `adapt` decides for shops with few customers, held against thousands of customers whom it never saw.

    python -m xcrossrec_lab.suites.adapt runs/evidence --out runs/adapt [--only PATTERN ...]

Seven targets (four of data/amazon, three of data/amazon-text), 128 and 512 customers each. A shop has these customers
alone: candidates are fitted on all but the last two purchases of each, chosen on the last but one, and the report's
intervals are of their last. The truth is of 2,000 other customers of the target (as many as there are): `adapt` ranks
them with its test users, so that every candidate has a score there, but nothing is chosen, stated or fitted on them.
What is decided is not decided again; ``RUN/run.json`` holds what the page needs, made from what `adapt` left.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64, Shaped

from xcrossrec import Domain, Evaluation, adapt, build_domain, read_domain
from xcrossrec.adaptation.choice import difference, gain
from xcrossrec.adaptation.curve import fit_curve
from xcrossrec.adaptation.decision import Decision
from xcrossrec.adaptation.shop import whole_ndcg
from xcrossrec.replacing import replacing_file
from xcrossrec.types import POSITION, USER, Split

AMAZON = ("electronics", "sports", "tools", "toys")
TEXT = ("beauty-fields", "sports-fields", "toys-fields")
CUSTOMERS = (512, 128)
OUTSIDERS, SEED, MINUTES = 2000, 0, 600.0


@dataclass(frozen=True)
class Shop:
    """One run.

    Attributes:
        target: the category, by the name of its folder.
        customers: of the shop.
    """

    target: str
    customers: int

    @property
    def name(self) -> str:
        """What its folder is called."""
        return f"{self.target}-{self.customers}"

    def sources(self, evidence: Path) -> list[Path]:
        """Adapters of the other categories of the same release."""
        if self.target in AMAZON:
            return [evidence / "sources" / other for other in AMAZON if other != self.target]
        return [evidence / "text-sources" / other for other in TEXT if other != self.target]

    def domain(self, evidence: Path) -> tuple[Domain, frozenset[str]]:
        """The target as the shop has it, and the outsiders, who are in the test split beside its customers."""
        whole = read_domain(evidence / ("data" if self.target in AMAZON else "text-data") / self.target)
        asked: Split = "validation" if self.target in AMAZON else "test"
        known: Split = "train" if self.target in AMAZON else "test"
        users = whole.sequences(known, minimum=4).take(self.customers, SEED).user_ids
        others = whole.sequences(asked)
        drawn = others.take(min(OUTSIDERS + self.customers, len(others)), SEED + 1).user_ids
        strangers = frozenset([user for user in drawn if user not in users][:OUTSIDERS])
        own = whole.frame(known).filter(pl.col(USER).is_in(users)).sort(USER, POSITION, maintain_order=True)
        from_end = pl.int_range(pl.len()).reverse().over(USER)
        test = pl.concat([own, whole.frame(asked).filter(pl.col(USER).is_in(strangers))])
        splits: dict[Split, pl.DataFrame] = {
            "train": own.filter(from_end >= 2),
            "validation": own.filter(from_end >= 1),
            "test": test,
        }
        return build_domain(self.target, whole.items, splits, text=whole.text.template), strangers


def run(shop: Shop, evidence: Path, out: Path) -> dict[str, Any]:
    """Let `adapt` decide, and gather what it decided, stated and would have been better.

    Args:
        shop: the run.
        evidence: folder with domains and adapters.
        out: folder of the run.
    """
    domain, outsiders = shop.domain(evidence)
    if (before := out / "run.json").exists():
        decision, cpu_s = Decision.read(out), json.loads(before.read_text(encoding="utf-8"))["cpu_s"]
    else:
        began = time.process_time()
        decision = adapt(domain, shop.sources(evidence), out=out, minutes=MINUTES, seed=SEED)
        cpu_s = round(time.process_time() - began)
    return {"shop": shop.name, **judged(decision, out, outsiders), "cpu_s": cpu_s}


def judged(decision: Decision, out: Path, outsiders: frozenset[str]) -> dict[str, Any]:
    """Report, and look up the truth, from the scores that `adapt` left.

    Args:
        decision: of a run.
        out: its folder.
        outsiders: users of the truth.

    Returns:
        by candidate NDCG of the users who choose, and MRR on the shop's customers and in truth; what was chosen; its
        gain over the best simple candidate as it is stated on the shop's customers, and in truth; how far it is above
        the simple candidate that turned out best, on the shop's customers and in truth; the curve's promise for the
        last doubling, and what came.
    """
    fitted = [each for each in decision.candidates if each.status == "fitted"]
    work = out / "work"
    choosing = {each.name: whole_ndcg(Evaluation.load(work / each.name / "choose.parquet")) for each in fitted}
    tested = {each.name: _scores(work / each.name / "report.parquet") for each in fitted}
    own = {name: values[~np.isin(users, list(outsiders))] for name, (values, users) in tested.items()}
    truth = {name: values[np.isin(users, list(outsiders))] for name, (values, users) in tested.items()}
    chosen, over = decision.chosen, decision.gain.over
    best = max(truth, key=lambda name: truth[name].mean())
    simples = [each.name for each in fitted if each.simple]
    simple, own_simple = (max(simples, key=lambda name: of[name].mean()) for of in (truth, own))
    stated, real = gain(own, chosen, over), difference(truth[chosen] - truth[over])
    return {
        "customers": own[chosen].size,
        "outsiders": truth[chosen].size,
        "chosen": chosen,
        "over": over,
        "best": best,
        "best_simple": simple,
        "candidates": {
            name: {"choose": choosing[name].mean(), "report": own[name].mean(), "truth": truth[name].mean()}
            for name in truth
        },
        "stated": [stated.mean, stated.low, stated.high],
        "true_gain": [real.mean, real.low, real.high],
        "regret": _spread(truth[best] - truth[chosen]),
        "minus_best_simple": _spread(truth[chosen] - truth[simple]),
        "own_minus_best_simple": _spread(own[chosen] - own[own_simple]),
        "promise": _promise(work / "curve.parquet", np.array(tested[chosen][1]), outsiders),
        "sources": {each.name: [each.helps, each.used] for each in decision.sources},
    }


def _spread(values: Float64[np.ndarray, " user"]) -> list[float]:
    found = difference(values)
    return [found.mean, found.low, found.high]


def _scores(file: Path) -> tuple[Float64[np.ndarray, " user"], list[str]]:
    frame = Evaluation.load(file).of("full").sort(USER)
    return frame["mrr"].to_numpy(), frame[USER].to_list()


def _promise(file: Path, users: Shaped[np.ndarray, " user"], outsiders: frozenset[str]) -> dict[str, Any] | None:
    """What the points up to half of the customers promise for all, on the customers; and the truth on the outsiders."""
    if not file.exists():
        return None
    points = {int(name): values.to_numpy() for name, values in pl.read_parquet(file).to_dict().items()}
    strange = np.isin(users, list(outsiders))
    *fewer, half, most = sorted(points)
    values = np.stack([points[count][~strange] for count in (*fewer, half)])
    curve = fit_curve([*fewer, half], values, more=most - half, seed=SEED)
    came, true = (float((points[most] - points[half])[who].mean()) for who in (~strange, strange))
    said = None if curve is None else [curve.promise.mean, curve.promise.low, curve.promise.high]
    return {"from": half, "to": most, "promise": said, "came": came, "truth": true}


def main() -> None:
    """Run all shops, the first whole before the next."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("evidence", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=["*"])
    asked = parser.parse_args()
    for shop in (Shop(target, customers) for customers in CUSTOMERS for target in (*TEXT, *AMAZON)):
        place = asked.out / shop.name
        if not any(fnmatch(shop.name, pattern) for pattern in asked.only):
            continue
        found = run(shop, asked.evidence, place)
        with replacing_file(place / "run.json") as file:
            file.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(shop.name, found["chosen"], found["regret"], flush=True)


if __name__ == "__main__":
    main()
