"""Ranks and ranking metrics: one value a user; averaging is a second, separate step.

Legend: ``user`` = one ranked list, ``candidate`` = one item of that list, ``item`` = one item of the
catalogue.  Ties count against the method: the positive comes after every negative of the same score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

METRICS: tuple[str, ...] = ("hit@1", "hit@10", "mrr", "ndcg@10")


def ranks(scores: Float[np.ndarray, "user candidate"]) -> Int[np.ndarray, " user"]:
    """Rank the positive, which stands in column 0, among all candidates of its row.

    rank = 1 + number of negatives whose score is at least the positive's.

    Args:
        scores: finite, higher ranks first; column 0 is the positive, the others are negatives.

    Returns:
        int64 ranks from 1 (best) to the number of candidates.
    """
    ahead: Int[np.ndarray, " user"] = (scores[:, 1:] >= scores[:, :1]).sum(axis=1, dtype=np.int64)
    return 1 + ahead


def catalogue_ranks(
    scores: Float[np.ndarray, "user item"], targets: Int[np.ndarray, " user"], left_out: Sequence[Sequence[int]]
) -> tuple[Int[np.ndarray, " user"], Int[np.ndarray, " user"]]:
    """Rank each user's target in the whole catalogue without the user's other items.

    Args:
        scores: a finite score for every item of the catalogue, in row order.
        targets: the item row to rank, per user.
        left_out: per user the item rows that do not compete; the target among them is still ranked.

    Returns:
        int64 ranks, and int64 numbers of items ranked (the target and its competitors).
    """
    n_users, n_items = scores.shape
    competes = np.ones((n_users, n_items), dtype=bool)
    for user, rows in enumerate(left_out):
        competes[user, list(rows)] = False
    users = np.arange(n_users)
    competes[users, targets] = False
    ahead = (scores >= scores[users, targets][:, None]) & competes
    rank = 1 + np.count_nonzero(ahead, axis=1).astype(np.int64)
    ranked = 1 + np.count_nonzero(competes, axis=1).astype(np.int64)
    return rank, ranked


def hit_at_k(rank: Int[np.ndarray, " user"], k: int) -> Float[np.ndarray, " user"]:
    """1 where the positive is among the first ``k``, else 0."""
    return (rank <= k).astype(np.float64)


def reciprocal_rank(rank: Int[np.ndarray, " user"]) -> Float[np.ndarray, " user"]:
    """1 / rank; its mean over users is the MRR."""
    return 1.0 / rank


def ndcg_at_k(rank: Int[np.ndarray, " user"], k: int) -> Float[np.ndarray, " user"]:
    """Normalised discounted cumulative gain with one relevant item: 1 / log2(1 + rank), 0 beyond ``k``."""
    return np.where(rank <= k, 1.0 / np.log2(1.0 + rank), 0.0)


def per_user_metrics(rank: Int[np.ndarray, " user"]) -> dict[str, Float[np.ndarray, " user"]]:
    """All of :data:`METRICS`, by name, one value a user."""
    values = (hit_at_k(rank, 1), hit_at_k(rank, 10), reciprocal_rank(rank), ndcg_at_k(rank, 10))
    return dict(zip(METRICS, values, strict=True))
