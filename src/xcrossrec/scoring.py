"""The one interface between whatever ranks items and whatever measures or serves it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores items of one catalogue for a user's history.

    A scorer is bound to one catalogue before use (each implementation has its own builder); items are
    row numbers of that catalogue. Legend: ``user`` = one history, ``candidate`` = one item.
    """

    @property
    def name(self) -> str:
        """What tables and result files call it."""
        ...

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates for each history; a higher score ranks first.

        Args:
            histories: per user the item rows bought, oldest first; may be empty.
            candidates: item rows to score per user; None scores the whole catalogue, in row order.

        Returns:
            finite float32 scores, one row a history.

        Raises:
            DataError: an item row outside the catalogue.
        """
        ...
