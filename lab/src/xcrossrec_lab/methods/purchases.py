"""What is bought with what: alone, and beside any method that scores by text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Int

from xcrossrec import Scorer
from xcrossrec.copurchase import CoPurchases
from xcrossrec.types import ITEM
from xcrossrec_lab.task import Fitted, Task, check_settings

WEIGHT = 5.0


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


def with_purchases(task: Task, text: Scorer) -> PurchasesScorer:
    """Add what the budget's users bought together to a method's scores."""
    return PurchasesScorer(text, _counted(task), task.target.items[ITEM].to_list(), WEIGHT)


def copurchase(task: Task) -> Fitted:
    """What the budget's users bought together, alone."""
    check_settings(task, set())
    return Fitted(PurchasesScorer(None, _counted(task), task.target.items[ITEM].to_list(), 1.0))


def _counted(task: Task) -> CoPurchases:
    return CoPurchases.count(task.target.frame("train"))
