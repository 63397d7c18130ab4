"""What co-purchases add to a score: their weight depends on how much of a customer is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from xcrossrec.copurchase.counts import CoPurchases
from xcrossrec.scoring import Rung, rung_of

RUNGS: tuple[Rung, ...] = ("one", "several")
"""Those on which co-purchases can count."""


@dataclass(frozen=True)
class Term:
    """Counts and their weights.

    Attributes:
        counts: of purchases.
        weights: of the counts' scores beside the text's, by rung; one that is missing is 0.
    """

    counts: CoPurchases
    weights: Mapping[Rung, float] = field(default_factory=dict)

    def bonus(self, history: Sequence[str]) -> dict[str, float]:
        """What is added to the text score, by item id; items that are not named get nothing.

        Args:
            history: item ids, oldest first; anything else in an item's place that the catalogue lacks.
        """
        weight = self.weights.get(rung_of(history), 0.0)
        return self.counts.scores(history, weight) if weight else {}
