"""Checks of item rows where they enter a scorer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from xcrossrec.exceptions import DataError


def check_rows(
    histories: Sequence[Sequence[int]],
    candidates: Int[np.ndarray, "user candidate"] | None,
    n_items: int,
) -> None:
    """Refuse item rows outside a catalogue, and candidates for another number of users.

    Args:
        histories: per user the item rows bought.
        candidates: item rows to score per user, or None.
        n_items: rows of the catalogue.

    Raises:
        DataError: names the first bad row and the rows allowed.
    """
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
