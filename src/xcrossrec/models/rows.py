"""Rows of a catalogue, checked before anything is scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xcrossrec.exceptions import DataError


def check_rows(histories: Sequence[Sequence[int]], candidates: np.ndarray | None, catalog_size: int) -> None:
    """Refuse empty histories and rows outside the catalogue.

    Raises:
        DataError: names the first offender.
    """
    if any(len(history) == 0 for history in histories):
        raise DataError("a history is empty: give at least one item id or title")
    rows = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories]) if histories else np.empty(0)
    if candidates is not None:
        rows = np.concatenate([rows, candidates.ravel()])
    outside = rows[(rows < 0) | (rows >= catalog_size)]
    if outside.size:
        raise DataError(f"item row {int(outside[0])} is outside the catalogue of {catalog_size} items: use its rows")
