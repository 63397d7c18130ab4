"""The interface between scorers of items and the code that evaluates or serves them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from xcrossrec.exceptions import DataError

Rung: TypeAlias = Literal["none", "other", "one", "several"]
"""What is known of a customer: nothing; only purchases in other categories; one purchase here; several."""

KNOWN: dict[Rung, str] = {
    "none": "nothing",
    "other": "purchases in other categories alone",
    "one": "one purchase here",
    "several": "several purchases here",
}
"""Each rung in words."""


def rung_of(history: Sequence[object], elsewhere: Sequence[object] = ()) -> Rung:
    """The rung of a customer with these purchases."""
    if len(history):
        return "one" if len(history) < 2 else "several"
    return "other" if len(elsewhere) else "none"


@runtime_checkable
class Scorer(Protocol):
    """Anything that scores items of one catalogue for a user's history.

    A scorer is bound to one catalogue before use (each implementation has its own builder); items are row
    numbers of that catalogue. Legend: ``user`` = one history, ``candidate`` = one item.
    """

    @property
    def name(self) -> str:
        """Its name in tables and result files."""
        ...

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates for each history; a higher score ranks first.

        Args:
            histories: per user the item rows bought, oldest first; may be empty.
            candidates: item rows to score per user; None scores the whole catalogue, in row order.

        Returns:
            finite float32 scores, one row for each history.

        Raises:
            DataError: an item row outside the catalogue.
        """
        ...


@runtime_checkable
class LadderScorer(Scorer, Protocol):
    """A scorer that also reads what a customer bought in other categories."""

    def score_with(
        self,
        histories: Sequence[Sequence[int]],
        elsewhere: Sequence[Sequence[str]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates as :meth:`Scorer.score` does.

        ``elsewhere`` has for each user the texts of what she bought in other categories, oldest first; may be empty.
        """
        ...


def check_rows(
    histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None, n_items: int
) -> None:
    """Raise DataError for item rows outside the catalogue, and for candidates of another number of users."""
    for user, history in enumerate(histories):
        for row in history:
            if not 0 <= row < n_items:
                raise _unknown_row(row, f"history number {user}", n_items)
    if candidates is None:
        return
    if candidates.shape[0] != len(histories):
        raise DataError(
            f"candidates are for {candidates.shape[0]} users, expected {len(histories)}: "
            "give one row of candidates a history"
        )
    outside = np.argwhere((candidates < 0) | (candidates >= n_items))
    if outside.size:
        user, column = outside[0]
        raise _unknown_row(int(candidates[user, column]), f"candidates of user number {user}", n_items)


def _unknown_row(row: int, where: str, n_items: int) -> DataError:
    return DataError(
        f"unknown item row {row} in {where}: the catalogue has {n_items} items, "
        f"expected rows 0 to {n_items - 1}; bind the scorer to the catalogue that the rows are of"
    )
