"""One user's recommendation out of 10,000 items, against a cross-encoder with one LoRA that scores 30 candidates.

Ours has encoded the catalogue beforehand; the history names items of it by id, or is of free titles, which must be
encoded. No two calls have the same free titles. The cross-encoder's answer is for 30 candidates, ours for all 10,000.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from xcrossrec import Item, Recommender
from xcrossrec.prompts import clean_title, history_prompt
from xcrossrec_lab.speed import material, rivals
from xcrossrec_lab.speed.harness import Figure, Measured, Settings, alternate, medians, paired_ratio, timed

ITEMS, CANDIDATES, CALLS, RIVAL_CALLS = 10_000, 30, 30, 3
P95_ALLOWED_MS = 40.0
_SEED = 0


class _Calls:
    """Runs the next few calls of a list at each turn and keeps each one's seconds."""

    def __init__(self, call: Callable[[Any], Any], inputs: Sequence[Any], at_once: int) -> None:
        self.call, self.inputs, self.at_once = call, inputs, at_once
        self.seconds: list[float] = []
        self._next = 0

    def __call__(self) -> None:
        for _ in range(self.at_once):
            chosen = self.inputs[self._next % len(self.inputs)]
            self._next += 1
            self.seconds.append(timed(lambda chosen=chosen: self.call(chosen)))  # type: ignore[misc]


def measure_recommend(settings: Settings) -> Measured:
    """Compare seconds a user."""
    base = material.base_name(settings)
    model = material.integrated_model(base, material.random_adapters(base, 2, settings.work / "adapters"))
    catalog = material.read_amazon_items(settings, "toys").head(200 if settings.quick else ITEMS)
    recommender = Recommender(model, catalog)
    encoder = rivals.lora_cross_encoder(base)
    calls, rival_calls = (3, 1) if settings.quick else (CALLS, RIVAL_CALLS)
    rounds = settings.repetitions + 1  # and a warm-up
    rng = np.random.default_rng(_SEED)
    titles, ids = catalog["title"].to_list(), catalog["item_id"].to_list()
    by_id = [[ids[row] for row in _rows(rng, len(ids))] for _ in range(calls * rounds)]
    free = [[Item(title=title) for title in titles] for titles in _free_titles(settings, calls * rounds, rng)]
    pairs = [_pairs(titles, rng) for _ in range(rival_calls * rounds)]
    size = _best_size(encoder, pairs[0])
    arms = {
        "ours, history by ids": _Calls(recommender.recommend, by_id, calls),
        "ours, history by free titles": _Calls(recommender.recommend, free, calls),
        "cross-encoder, one LoRA, 30 candidates": _Calls(
            lambda texts: encoder.predict(texts, batch_size=size), pairs, rival_calls
        ),
    }
    seconds = alternate(arms, settings.repetitions)
    a_user = {name: [total / arm.at_once for total in seconds[name]] for name, arm in arms.items()}
    return _measured(a_user, arms, size, len(ids))


def _measured(a_user: dict[str, list[float]], arms: dict[str, _Calls], size: int, items: int) -> Measured:
    *ours, rival = a_user
    ratios = {name: paired_ratio(a_user[rival], a_user[name]) for name in ours}
    worst = min(ours, key=lambda name: ratios[name][0])
    timed_calls = {name: arms[name].seconds[arms[name].at_once :] for name in ours}  # without the warm-up
    p95 = {name: float(np.percentile(calls, 95) * 1e3) for name, calls in timed_calls.items()}
    details = {
        "decides": worst,
        "items": items,
        "history": material.HISTORY,
        "times_faster": {name: ratio for name, (ratio, _) in ratios.items()},
        "median_ms": {name: value * 1e3 for name, value in medians(a_user).items()},
        "p95_ms": p95,
        "calls": {name: len(calls) for name, calls in timed_calls.items()},
        "rival_batch_size": size,
        "met_also": f"p95 under {P95_ALLOWED_MS:g} ms for both kinds of history",
    }
    return Measured(*ratios[worst], details, met_also=max(p95.values()) < P95_ALLOWED_MS)


def _rows(rng: np.random.Generator, items: int) -> list[int]:
    return [int(row) for row in rng.choice(items, material.HISTORY, replace=False)]


def _free_titles(settings: Settings, histories: int, rng: np.random.Generator) -> list[list[str]]:
    """Histories of titles of another domain, none twice where there are enough of them."""
    pool = [title for title in material.read_amazon_items(settings, "sports")["title"].to_list() if clean_title(title)]
    drawn = [pool[row] for row in rng.permutation(len(pool))]
    wanted = histories * material.HISTORY
    drawn = (drawn * (-(-wanted // len(drawn))))[:wanted]
    return [drawn[start : start + material.HISTORY] for start in range(0, wanted, material.HISTORY)]


def _pairs(titles: Sequence[str], rng: np.random.Generator) -> list[tuple[str, str]]:
    chosen = rng.choice(len(titles), material.HISTORY + CANDIDATES, replace=False)
    texts = [clean_title(titles[row]) for row in chosen]
    history = history_prompt([text for text in texts[: material.HISTORY] if text])
    return [(history, text) for text in texts[material.HISTORY :]]


def _best_size(encoder: CrossEncoder, pairs: list[tuple[str, str]]) -> int:
    best, _ = rivals.best_batch_size(lambda size: encoder.predict(pairs, batch_size=size), sizes=(8, 16, 32))
    return best


FIGURES = (
    Figure(
        name="recommend-one",
        title="One user's recommendation out of 10,000 items",
        goal=20.0,
        better="higher",
        unit="times faster than 30 candidates by a cross-encoder",
        measure=measure_recommend,
    ),
)
