"""The history's part of an exported model, in numpy alone; this file is a part of every export."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def scores(history: Sequence[str], slots: Any, ids: Sequence[str], vectors: Any, known: Any) -> Any:
    """Score all items for one customer; the highest come first.

    Args:
        history: ids of what she bought, oldest first; anything else for what is no item.
        slots: their unit vectors, one a row, as the model reads a history's items.
        vectors: their unit vectors, one a row.
        known: what history.json holds.
    """
    if not len(history):
        return np.array([known["popularity"].get(item, 0.0) for item in ids])
    ages = np.minimum(np.arange(len(history))[::-1], len(known["recency"]) - 1)
    weight, sharpness = np.array(known["recency"])[ages], known["sharpness"]
    cosines = np.asarray(vectors, dtype=float) @ np.asarray(slots, dtype=float).T
    peak = cosines.max(1)
    total = peak + np.log(np.exp(sharpness * (cosines - peak[:, None])) @ (weight / weight.sum())) / sharpness
    row = {item: number for number, item in enumerate(ids)}
    count = known["copurchase"]["one" if len(history) == 1 else "several"]
    newest = {item: age for age, item in reversed(list(enumerate(history[: -known["longest"] - 1 : -1])))}
    for item, age in newest.items():
        for number, value in zip(*known["together"].get(item, ((), ())), strict=True):
            if (place := row.get(known["items"][number])) is not None:
                total[place] += count * known["decay"] ** age * value
    return total
