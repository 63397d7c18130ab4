"""Customers side by side: what the chosen model recommends to each, with a reason, and what is there now."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xcrossrec.adaptation.decision import Customer, Listed
from xcrossrec.answers import Explanation, customers
from xcrossrec.data.domain import Domain
from xcrossrec.metrics.lists import NOBODY, best_items
from xcrossrec.recommender import Recommender
from xcrossrec.scoring import Scorer
from xcrossrec.types import ITEM

SHOWN = 3
"""Products that each side recommends to a customer."""

NEWEST = 5
"""Purchases that are shown of a customer."""


def side_by_side(
    recommender: Recommender, now: Scorer, domain: Domain, *, customers: int = 10, seed: int = 0
) -> tuple[Customer, ...]:
    """Recommend to some customers of the test split by both; their last purchase is kept from either.

    Args:
        recommender: of the chosen model, over the domain's items.
        now: what it is compared with, bound to the domain.
        customers: how many at most, drawn by the seed.
    """
    ids, (found, targets) = domain.items[ITEM].to_list(), domain.sequences("test").histories_and_targets()
    sample = np.random.default_rng(seed).permutation(len(found))[:customers]
    histories = [found[row] for row in sample]
    bought = [()] * len(sample) if domain.keeps_repeats else histories
    listed = best_items(now.score(histories), bought, targets[sample], SHOWN)
    return tuple(
        Customer(
            history=tuple(domain.titles[row] for row in rows[-NEWEST:]),
            ours=_suggestions(recommender, [f"id:{ids[row]}" for row in rows], repeats=domain.keeps_repeats),
            now=tuple(domain.titles[row] for row in places if row != NOBODY),
        )
        for rows, places in zip(histories, listed.tolist(), strict=True)
    )


def reason_in_words(explanation: Explanation) -> str:
    """What an explanation names first, without figures that only its authors can read."""
    if not explanation.matches:
        return " ".join(explanation.reasons)
    match = explanation.best_match
    said = f"goes with \u201c{match.title}\u201d"
    if match.bought_together:
        said += f"; {customers(match.bought_together)} bought both"
    return said


def _suggestions(recommender: Recommender, history: Sequence[str], *, repeats: bool) -> tuple[Listed, ...]:
    found = recommender.recommend(history, k=SHOWN, include_bought=repeats)
    reasons = recommender.explain_many(history, [f"id:{each.item_id}" for each in found])
    return tuple(
        Listed(title=each.title, reason=reason_in_words(reason)) for each, reason in zip(found, reasons, strict=True)
    )
