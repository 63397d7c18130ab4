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
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from xcrossrec import Recommender
from xcrossrec.catalogue import Catalogue, Purchase, StoredItem, fingerprint_of
from xcrossrec.copurchase import CoPurchases
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import with_counts
from xcrossrec.models.source import SourceEncoder, default_lora

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
    """Time questions of ids, in turn with and without the term."""
    rng = np.random.default_rng(seed)
    table = draw_purchases(items, purchases, rng)
    plain: Model = build_model(SourceEncoder(load_base(), default_lora(2)))
    catalogue = draw_catalogue(items, plain, rng)
    begun = time.process_time()
    counts = CoPurchases.count(table.head(purchases - live))
    count_s = time.process_time() - begun
    without = Recommender(plain, catalogue)
    known = Recommender(with_counts(plain, counts, {"one": 1.0, "several": 1.0}), catalogue)
    learn_ms = learn(known, table.tail(live).rows())
    histories = table.group_by("user_id", maintain_order=True).agg("item_id")["item_id"]
    asked = [histories[int(row)].to_list()[-50:] for row in rng.choice(len(histories), questions, replace=False)]
    bonuses = [len(known.bought.term.bonus(history)) if known.bought.term is not None else 0 for history in asked]
    times = ask_in_turn({"without": without, "with": known}, asked)
    median, mean = ({name: float(of(each)) for name, each in times.items()} for of in (np.median, np.mean))
    return {
        "items": items,
        "purchases": purchases,
        "of these live": live,
        "count_s": round(count_s, 2),
        "learn_ms a purchase": round(learn_ms, 4),
        "items of a history": round(float(np.mean([len(history) for history in asked])), 1),
        "items with a bonus": {"mean": round(float(np.mean(bonuses))), "most": int(np.max(bonuses))},
        "p50_ms": {name: round(value, 3) for name, value in median.items()},
        "mean_ms": {name: round(value, 3) for name, value in mean.items()},
        "p95_ms": {name: round(float(np.percentile(each, 95)), 3) for name, each in times.items()},
        "ratio of medians": round(median["with"] / median["without"], 3),
        "ratio of means": round(mean["with"] / mean["without"], 3),
    }


def draw_catalogue(items: int, model: Model, rng: np.random.Generator) -> Catalogue:
    """Draw items whose vectors are half of their own and half their kind's."""
    kinds, own = rng.standard_normal((KINDS, DIM)), rng.standard_normal((items, DIM))
    vectors = (kinds[np.arange(items) * KINDS // items] + own).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    named = [StoredItem(f"i{number}", f"Thing {number}") for number in range(items)]
    return Catalogue.in_memory(named, vectors, fingerprint_of(model))


def learn(recommender: Recommender, rows: Sequence[tuple[str, str]]) -> float:
    """Add purchases, ten at a time; milliseconds in which one is counted."""
    spent = 0.0
    for start in range(0, len(rows), 10):
        recommender.catalogue.add_purchases([Purchase(*row) for row in rows[start : start + 10]])
        begun = time.process_time()
        recommender.bought.learn()
        spent += time.process_time() - begun
    return 1000 * spent / max(len(rows), 1)


def ask_in_turn(arms: Mapping[str, Recommender], asked: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Milliseconds of each question, by recommender."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number, history in enumerate(asked):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            begun = time.process_time()
            arms[name].recommend(history, k=10)
            times[name].append(1000 * (time.process_time() - begun))
    return times


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
