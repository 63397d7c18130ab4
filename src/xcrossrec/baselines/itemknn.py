"""Items bought by the same users (Deshpande & Karypis 2004, item-based top-N)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64

from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.scoring import check_rows


class ItemKNN:
    """Score an item by its summed co-occurrence cosine with the history's items.

    cosine(i, j) = users with both / sqrt(users with i * users with j), over the users of train; an item is
    no neighbour of itself.  Kept as compressed rows.  An empty history, or one never seen together with
    anything, scores every item 0.

    Args:
        baskets: per train user the item rows.
        n_items: rows of the catalogue.
    """

    name = "itemknn"

    def __init__(self, baskets: Sequence[Sequence[int]], n_items: int) -> None:
        self._starts, self._neighbours, self._cosines = _cosine_rows(baskets, n_items)

    @classmethod
    def fit(cls, domain: Domain) -> ItemKNN:
        """Count co-occurrence in the train split of a domain.

        Raises:
            DataError: the domain has no train split.
        """
        train: Sequences = domain.sequences("train", minimum=1)
        return cls(train.rows, domain.items.height)

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates by summed cosine; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        n_items = self._starts.size - 1
        check_rows(histories, candidates, n_items)
        scores = np.zeros((len(histories), n_items), dtype=np.float32)
        for user, history in enumerate(histories):
            for row in history:
                chosen = slice(self._starts[row], self._starts[row + 1])
                scores[user, self._neighbours[chosen]] += self._cosines[chosen]
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def _cosine_rows(
    baskets: Sequence[Sequence[int]], n_items: int
) -> tuple[Int64[np.ndarray, " starts"], Int64[np.ndarray, " pair"], Float32[np.ndarray, " pair"]]:
    """Compute the cosines as compressed rows: where each item's row starts, neighbours, cosines."""
    distinct = [np.unique(np.asarray(basket, dtype=np.int64)) for basket in baskets if len(basket)]
    empty = np.zeros(0, dtype=np.int64)
    users_of = np.bincount(np.concatenate([empty, *distinct]), minlength=n_items)
    pairs = np.concatenate([empty, *(_pairs(basket, n_items) for basket in distinct)])
    keys, together = np.unique(pairs, return_counts=True)
    first, second = np.divmod(keys, n_items)
    cosines: Float64[np.ndarray, " pair"] = together / np.sqrt(users_of[first] * users_of[second])
    starts = np.searchsorted(first, np.arange(n_items + 1)).astype(np.int64)
    return starts, second, cosines.astype(np.float32)


def _pairs(basket: Int64[np.ndarray, " item"], n_items: int) -> Int64[np.ndarray, " pair"]:
    """Every ordered pair of different items of a basket, as one number ``first * n_items + second``."""
    keys = basket[:, None] * n_items + basket[None, :]
    pairs: Int64[np.ndarray, " pair"] = keys[~np.eye(basket.size, dtype=bool)]
    return pairs
