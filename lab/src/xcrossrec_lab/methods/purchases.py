"""What is bought with what: alone, and beside any method that scores by text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Int

from xcrossrec import Scorer
from xcrossrec.copurchase import CoPurchases
from xcrossrec.copurchase.weight import EXPECTED, choose_weights
from xcrossrec.training.purchases import MOST_TEXTS
from xcrossrec.types import ITEM
from xcrossrec_lab.task import Fitted, Task, check_settings


@dataclass(frozen=True)
class PurchasesScorer:
    """The scores of a method plus what its history's items were bought with.

    Args:
        text: another method, bound to the catalogue; None scores by the purchases alone.
        counts: of purchases.
        item_ids: the catalogue's, by row.
        weight: of the counts' scores.
    """

    text: Scorer | None
    counts: CoPurchases
    item_ids: Sequence[str]
    weight: float

    @property
    def name(self) -> str:
        """What tables call it."""
        return "copurchase" if self.text is None else f"{self.text.name}+copurchase"

    @property
    def about(self) -> dict[str, Any]:
        """What a record says of it."""
        return {"weight": self.weight}

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        width = len(self.item_ids)
        scores: Float32[np.ndarray, "user item"] = np.zeros((len(histories), width), dtype=np.float32)
        if self.text is not None:
            scores += self.text.score(histories)
        rows = {item: row for row, item in enumerate(self.item_ids)}
        for user, history in enumerate(histories):
            for item, score in self.counts.scores([self.item_ids[row] for row in history]).items():
                if item in rows:
                    scores[user, rows[item]] += self.weight * score
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def fixed(task: Task, text: Scorer, purchases: pl.DataFrame | None = None) -> PurchasesScorer:
    """Add what customers bought together to a method's scores, with the expected weight.

    Args:
        task: the cell's.
        text: the method, bound to the catalogue.
        purchases: to be counted; None takes those of the budget's users.
    """
    counts = CoPurchases.count(task.target.frame("train") if purchases is None else purchases)
    return PurchasesScorer(text, counts, task.target.items[ITEM].to_list(), EXPECTED)


def chosen(task: Task, text: Scorer, of_items: Callable[[Sequence[int]], Scorer]) -> PurchasesScorer:
    """The same with the weight that `train target` chooses, of histories of several items.

    Args:
        task: the cell's.
        text: the method, bound to the catalogue.
        of_items: gives the method on some rows of the catalogue alone.
    """
    ids = task.target.items[ITEM].to_list()
    rows = {item: row for row, item in enumerate(ids)}
    sequences = [[ids[row] for row in items] for items in task.users.rows]
    most = min(MOST_TEXTS, 2 * sum(map(len, sequences)))
    choice = choose_weights(
        sequences, ids, lambda items: of_items([rows[item] for item in items]).score, most_texts=most, seed=task.seed
    )
    return replace(fixed(task, text), weight=choice.weights["several"])


def copurchase(task: Task) -> Fitted:
    """What the budget's users bought together, alone."""
    check_settings(task, set())
    counts = CoPurchases.count(task.target.frame("train"))
    return Fitted(PurchasesScorer(None, counts, task.target.items[ITEM].to_list(), 1.0))
