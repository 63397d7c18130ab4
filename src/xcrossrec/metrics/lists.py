"""What the recommended lists are like beside being right: of all users together, not one value a user.

Legend: ``user`` = one list, ``place`` = one item of it, ``item`` = one item of the catalogue.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Int64

LENGTH = 10
"""Items of a list."""

NOBODY = -1
"""Stands where a list has no more items."""

_BLOCK = 64
"""Items of which the best alone is looked at first."""


def best_items(
    scores: Float[np.ndarray, "user item"],
    left_out: Sequence[Sequence[int]],
    targets: Int[np.ndarray, " user"],
    k: int = LENGTH,
) -> Int64[np.ndarray, "user place"]:
    """List the ``k`` best items of each user, best first; of equal scores the first item of the catalogue.

    Args:
        scores: a finite score for every item of the catalogue, in row order.
        left_out: per user the item rows that are not recommended.
        targets: the item row that is recommended nevertheless, per user.
        k: places of a list.

    Returns:
        item rows; :data:`NOBODY` where a list has no more.
    """
    users, n_items = scores.shape
    bar = _bar(scores, np.array([k + len(rows) for rows in left_out], dtype=np.int64))
    places = np.flatnonzero(scores >= bar[:, None])  # five times as quick as with two axes
    out = [number * n_items + row for number, rows in enumerate(left_out) for row in rows]
    allowed = ~np.isin(places, out) | np.isin(places, np.arange(users) * n_items + targets)
    user, row = np.divmod(places[allowed], n_items)
    order = np.lexsort((-scores[user, row], user))  # stable: equal scores stay in the catalogue's order
    user, row = user[order], row[order]
    place = np.arange(user.size) - np.searchsorted(user, user)
    listed = np.full((users, k), NOBODY, dtype=np.int64)
    listed[user[place < k], place[place < k]] = row[place < k]
    return listed


def _bar(scores: Float[np.ndarray, "user item"], count: Int64[np.ndarray, " user"]) -> Float[np.ndarray, " user"]:
    """A score that at least ``count`` items of each user reach, and few more: a high one of the maxima of blocks."""
    users, n_items = scores.shape
    blocks = n_items // _BLOCK
    maxima = scores[:, : blocks * _BLOCK].reshape(users, _BLOCK, blocks).max(axis=1)
    each = np.sort(np.concatenate([maxima, scores[:, blocks * _BLOCK :]], axis=1), axis=1)
    bar: Float[np.ndarray, " user"] = each[np.arange(users), np.maximum(each.shape[1] - count, 0)]
    return np.where(count > each.shape[1], -np.inf, bar)


def list_metrics(
    lists: Int[np.ndarray, "user place"],
    n_items: int,
    counts: Int[np.ndarray, " item"] | None = None,
    targets: Int[np.ndarray, " user"] | None = None,
) -> dict[str, float]:
    """Measure what is recommended to all users together.

    - ``coverage@10``: share of the catalogue that is in a list at all (Herlocker et al. 2004).
    - ``gini@10``: how unequally often items are listed, 0 for all alike, 1 for one item alone: the sum of
      ``(2 r - n - 1) p(r)`` over the n items by rising share ``p``, over ``n - 1`` (Castells, Hurley and Vargas 2022).
    - ``novelty@10``: mean self-information ``-log2 p`` of a listed item, in bits, ``p`` its share of the purchases
      of train; an item that train lacks counts as bought once (Zhou et al. 2010; Vargas and Castells 2011).
    - ``popularity@10``: how often a listed item was bought in train, on average (average recommendation popularity,
      ARP: Yin et al. 2012; Abdollahpouri et al. 2019); and ``popularity_bought``, the same of what users bought next.
      A method that lists what is more popular than that has a popularity bias.

    Args:
        lists: item rows, :data:`NOBODY` for none; a list counts by its items.
        n_items: of the catalogue.
        counts: purchases in train, by item row; None leaves out what needs them.
        targets: item rows that users bought next.

    Returns:
        by name; nothing where no list has an item.
    """
    listed = lists[lists != NOBODY]
    if not listed.size:
        return {}
    often = np.bincount(listed, minlength=n_items)
    place = 2 * np.arange(1, n_items + 1) - n_items - 1
    gini = (place * np.sort(often)).sum() / (often.sum() * max(n_items - 1, 1))
    found = {"coverage": np.count_nonzero(often) / n_items, "gini": gini}
    if counts is not None and counts.sum():
        bits = -np.log2(np.maximum(counts, 1) / counts.sum())
        found |= {"novelty": bits[listed].mean(), "popularity": counts[listed].mean()}
    measured = {f"{name}@{lists.shape[1]}": float(value) for name, value in found.items()}
    if "popularity" in found and counts is not None and targets is not None:
        measured["popularity_bought"] = float(counts[targets].mean())
    return measured
