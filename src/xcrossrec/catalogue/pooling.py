"""A history's score as a pool over its items' products, laid out for millions of items."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from xcrossrec.models.heads import HistoryMatcher

Pool: TypeAlias = Callable[[Float[Tensor, "slot part"]], Float[Tensor, " part"]]
"""One score an item from its products with each slot (history item).

It may not move by more than the product that moves most, which holds of a maximum, a mean, one slot, and of the
soft maximum of :class:`xcrossrec.models.heads.HistoryMatcher`.
"""


def only_slot(products: Float[Tensor, "slot part"]) -> Float[Tensor, " part"]:
    """The pool of a query that is one vector: the product itself."""
    return products[0]


def history_pool(matcher: HistoryMatcher, slots: int) -> Pool:
    """The matcher's score of a history without gaps, as a pool.

    It is what :meth:`HistoryMatcher.pool` gives, with the items contiguous in memory instead of the slots.

    Args:
        matcher: its settings are read now.
        slots: history items, oldest first.
    """
    sharpness = float(matcher.sharpness.detach())
    weight = matcher.recency_weight(torch.arange(slots - 1, -1, -1)).detach()
    shares = (weight / weight.sum())[:, None]

    def pool(products: Float[Tensor, "slot part"]) -> Float[Tensor, " part"]:
        peak = products.amax(0)
        total = products.sub(peak).mul_(sharpness).exp_().mul_(shares).sum(0)
        return total.log_().div_(sharpness).add_(peak)

    return pool
