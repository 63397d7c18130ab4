"""EASE: a linear map from what a customer bought to what she buys, in closed form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int64
from scipy.linalg.lapack import spotrf, spotri
from scipy.sparse import csr_array

from xcrossrec import ModelError
from xcrossrec.baselines.rivals import Rival
from xcrossrec_lab.task import Fitted, Task, check_settings

L2 = 100.0
"""Weight of the squared norm, where a suite does not give one."""


class Ease(Rival):
    """Scores an item by the sum of its weights to the history's items.

    With X the users' items (0 or 1), P = (X'X + l2 I)^-1 over the items that somebody bought, the weights are
    B = I - P diag(1 / diag P): those that best restore X with no item restoring itself. Items that nobody bought score
    0.

    Args:
        baskets: per train user the item rows.
        n_items: rows of the catalogue.
        l2: weight of the squared norm; more than 0.

    Raises:
        ModelError: the matrix cannot be inverted.

    Source:
        Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019, arXiv 1905.03375).
    """

    name = "ease"

    def __init__(self, baskets: Sequence[Sequence[int]], n_items: int, l2: float = L2) -> None:
        super().__init__(n_items)
        self._bought, self._weights = ease_weights(baskets, l2)
        self._place = np.full(n_items, -1)
        self._place[self._bought] = np.arange(self._bought.size)

    def _of_history(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        scores = np.zeros(self._n_items, dtype=np.float32)
        known = self._place[np.unique(np.asarray(history, dtype=np.int64))] if len(history) else np.zeros(0, int)
        scores[self._bought] = self._weights[known[known >= 0]].sum(axis=0)
        return scores


def ease_weights(
    baskets: Sequence[Sequence[int]], l2: float
) -> tuple[Int64[np.ndarray, " bought"], Float32[np.ndarray, "bought bought"]]:
    """The item rows that somebody bought, and the weights between them: from the row's to the column's item."""
    lengths = [len(basket) for basket in baskets]
    rows = np.fromiter((row for basket in baskets for row in basket), dtype=np.int64, count=sum(lengths))
    bought, place = np.unique(rows, return_inverse=True)
    users = np.repeat(np.arange(len(baskets)), lengths)
    matrix = csr_array((np.ones(rows.size, np.float32), (users, place)), shape=(len(baskets), bought.size))
    matrix.data[:] = 1.0  # sums of repeats
    inverse = _inverse((matrix.T @ matrix).toarray(), l2)
    inverse /= -np.diag(inverse)[None, :].copy()
    np.fill_diagonal(inverse, 0.0)
    return bought, inverse


def _inverse(gram: Float32[np.ndarray, "bought bought"], l2: float) -> Float32[np.ndarray, "bought bought"]:
    gram[np.diag_indices_from(gram)] += np.float32(l2)
    factor, failed = spotrf(gram, lower=1, overwrite_a=1)
    inverse, failed_too = (factor, 1) if failed else spotri(factor, lower=1, overwrite_c=1)
    if failed or failed_too:
        raise ModelError(f"EASE's matrix cannot be inverted with an l2 of {l2}: give a larger one")
    lower: Float32[np.ndarray, "bought bought"] = np.tril(inverse, -1)
    return np.ascontiguousarray(lower + lower.T + np.diag(np.diag(inverse)))


def ease(task: Task) -> Fitted:
    """EASE of the budget's users; ``l2`` is its one setting."""
    check_settings(task, {"l2"})
    baskets = task.target.sequences("train", minimum=1).rows
    return Fitted(Ease(baskets, task.target.items.height, float(task.setting("l2", L2))))
