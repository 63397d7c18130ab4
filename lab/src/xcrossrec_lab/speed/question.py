"""A question with co-purchases against one without, over a catalogue of 100,000 items that takes in purchases.

    python -m xcrossrec_lab.speed.question --items 100000 --purchases 1000000 --live 100000

Customers keep to a few kinds of items, and popularity falls as a power, so that histories, counts and overlaps are of
the size that a shop has. The last purchases come in through the catalogue, one request of ten after the other, after
all others were counted. Both recommenders have the same vectors (random, alike within a kind) and are asked in turn.
Times are the processor's, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import polars as pl

from xcrossrec.catalogue import Catalogue, Purchase, StoredItem, fingerprint_of
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import with_counts
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.recommender import Recommender

KINDS, A_CUSTOMER, DIM = 500, 8.0, 384


def draw_purchases(items: int, purchases: int, rng: np.random.Generator) -> pl.DataFrame:
    """Draw customers' purchases: of three kinds of items each, popular ones more often."""
    customers = round(purchases / A_CUSTOMER)
    lengths = 1 + rng.geometric(1 / (A_CUSTOMER - 1), customers)
    users = np.repeat(np.arange(customers), lengths)[:purchases]
    kinds = rng.integers(0, KINDS, (customers, 3))[users, rng.integers(0, 3, len(users))]
    in_kind = items // KINDS
    rank = np.minimum((in_kind ** rng.random(len(users))).astype(np.int64), in_kind - 1)
    bought = kinds * in_kind + rank
    return pl.DataFrame({"user_id": users, "item_id": bought}).select(
        pl.format("u{}", "user_id").alias("user_id"), pl.format("i{}", "item_id").alias("item_id")
    )


def measure(items: int, purchases: int, live: int, questions: int, seed: int) -> dict[str, Any]:
    """Time questions of ids, in turn with and without the term; what is learned between them is not timed."""
    rng = np.random.default_rng(seed)
    table = draw_purchases(items, purchases, rng)
    kinds, own = rng.standard_normal((KINDS, DIM)), rng.standard_normal((items, DIM))
    vectors = (kinds[np.arange(items) * KINDS // items] + own).astype(np.float32)  # half of it is the kind's
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    counted, later = table.head(purchases - live), table.tail(live)
    started = time.perf_counter()
    counts = CoPurchases.count(counted)
    count_s = time.perf_counter() - started
    plain: Model = build_model(SourceEncoder(load_base(), default_lora(2)))
    fingerprint = fingerprint_of(plain)
    catalogue = Catalogue.in_memory([StoredItem(f"i{n}", f"Thing {n}") for n in range(items)], vectors, fingerprint)
    without = Recommender(plain, catalogue)
    known = Recommender(with_counts(plain, counts, {"one": 1.0, "several": 1.0}), catalogue)
    rows = later.rows()
    learned = []
    for start in range(0, len(rows), 10):
        catalogue.add_purchases([Purchase(*row) for row in rows[start : start + 10]])
        begun = time.perf_counter()
        known.bought.learn()
        learned.append((time.perf_counter() - begun) / 10)
    histories = table.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    asked = [histories[int(row)].to_list()[-50:] for row in rng.choice(len(histories), questions, replace=False)]
    times: dict[str, list[float]] = {"without": [], "with": []}
    bonuses = []
    for number, history in enumerate(asked):
        arms = [("without", without), ("with", known)]
        for name, recommender in arms[:: 1 if number % 2 else -1]:
            begun = time.process_time()
            recommender.recommend(history, k=10)
            times[name].append(1000 * (time.process_time() - begun))
        bonuses.append(len(known.bought.term.bonus(history)) if known.bought.term is not None else 0)
    median = {name: round(float(np.median(each)), 3) for name, each in times.items()}
    ratios = np.array(times["with"]) / np.array(times["without"])
    return {
        "items": items,
        "purchases": purchases,
        "of these live": live,
        "count_s": round(count_s, 2),
        "learn_ms a purchase": round(1000 * float(np.mean(learned)), 4),
        "items of a history": round(float(np.mean([len(history) for history in asked])), 1),
        "items with a bonus": {"mean": round(float(np.mean(bonuses))), "most": int(np.max(bonuses))},
        "p50_ms": median,
        "p95_ms": {name: round(float(np.percentile(each, 95)), 3) for name, each in times.items()},
        "mean_ms": {name: round(float(np.mean(each)), 3) for name, each in times.items()},
        "ratio of medians": round(median["with"] / median["without"], 3),
        "ratio of means": round(float(np.mean(times["with"]) / np.mean(times["without"])), 3),
        "median ratio": round(float(np.median(ratios)), 3),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--purchases", type=int, default=1_000_000)
    parser.add_argument("--live", type=int, default=100_000, help="of these come in while serving")
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(measure(**vars(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
