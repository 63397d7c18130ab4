"""Exact search of vectors: shortlist by 8-bit integers, decide by the vectors themselves.

Integers are a quarter of the bytes, and processors with VNNI multiply them at memory speed. What they give is not the
cosine, but no further from it than :meth:`Codes.error_of`: items within twice that are scored again by their vectors.

Legend: ``part`` = some items, ``found`` = one result; the others are the package's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int8, Int64
from torch import Tensor

from xcrossrec.models.heads import HistoryMatcher

QUANTISE_FROM = 20_000
"""Items from which a search reads integers first; a guess, not measured on an idle machine (lab/log, 2026-11-23)."""

_LEAST_DIM = 16
"""Vector size from which integers are used; ``torch._int_mm`` of torch 2.13 is wrong at 1."""

_LARGEST = 127

_BLOCK = 65_536
"""Items quantised or scored at a time: their products stay in the cache while they are pooled."""

_RESCORED_AT_ONCE = 4096
"""Products (item times slot) computed at a time from the vectors: 12 MB at 384 dimensions."""

Pool: TypeAlias = Callable[[Float[Tensor, "slot part"]], Float[Tensor, " part"]]
"""One score an item from its products with each slot.

It may not move by more than the product that moves most, which holds of a maximum, a mean, one slot, and of the
soft maximum of :class:`xcrossrec.models.heads.HistoryMatcher`.
"""


def history_pool(matcher: HistoryMatcher, slots: int) -> Pool:
    """The matcher's score of a history of so many items, as a pool.

    It is what :meth:`HistoryMatcher.pool` gives, with the items contiguous in memory instead of the slots.
    """
    sharpness = float(matcher.sharpness.detach())
    weight = matcher.recency_weight(torch.arange(slots - 1, -1, -1)).detach()
    shares = (weight / weight.sum())[:, None]

    def pool(products: Float[Tensor, "slot part"]) -> Float[Tensor, " part"]:
        peak = products.amax(0)
        total = products.sub(peak).mul_(sharpness).exp_().mul_(shares).sum(0)
        return total.log_().div_(sharpness).add_(peak)

    return pool


def best_rows(
    rows: Int64[np.ndarray, " found"], scores: Float32[np.ndarray, " found"], k: int
) -> Int64[np.ndarray, " best"]:
    """Where the ``k`` highest scores stand, best first; equal ones in the order of their rows."""
    best: Int64[np.ndarray, " best"] = np.lexsort((rows, -scores))[:k]
    return best


@dataclass(frozen=True)
class Codes:
    """A catalogue's vectors x, each written as ``scale * values``.

    Attributes:
        values: integers from -127 to 127.
        scale: one a vector.
        error: the largest ``|x - scale * values|`` (Euclidean).
        length: the largest ``|x|``.
    """

    values: Int8[Tensor, "item dim"]
    scale: Float32[Tensor, " item"]
    error: float
    length: float

    def products(self, queries: Codes, start: int, end: int) -> Float32[Tensor, "slot part"]:
        """Approximate inner products of queries with the items from ``start`` to ``end``."""
        whole = torch._int_mm(queries.values, self.values[start:end].t())
        return whole.to(torch.float32).mul_(self.scale[None, start:end]).mul_(queries.scale[:, None])

    def error_of(self, queries: Codes) -> float:
        """How far :meth:`products` can be from the inner products, at most.

        ``<x, q> - <x', q'> = <x - x', q> + <x', q - q'>``, and each is at most the product of the lengths.
        """
        return self.error * queries.length + (self.length + self.error) * queries.error


def quantise(vectors: Float32[Tensor, "item dim"]) -> Codes:
    """Write finite vectors of any length as integers; each has a scale of its own."""
    values = torch.empty(vectors.shape, dtype=torch.int8)
    scale = torch.empty(len(vectors))
    error = length = 0.0
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        step = (block.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole = (block / step[:, None]).round_()
        values[start : start + _BLOCK] = whole.to(torch.int8)
        scale[start : start + _BLOCK] = step
        error = max(error, float((whole.mul_(step[:, None]) - block).norm(dim=1).max()))
        length = max(length, float(block.norm(dim=1).max()))
    return Codes(values, scale, error, length)


def worth_quantising(vectors: Float32[Tensor, "item dim"]) -> bool:
    """Whether integers make a search of these vectors quicker, where the processor multiplies them well."""
    return len(vectors) >= QUANTISE_FROM and vectors.shape[1] >= _LEAST_DIM


@cache
def processor_multiplies_integers() -> bool:
    """Whether 8-bit products are quick and right here: AVX-512, and a sample with the largest values is exact.

    Without VNNI a library may add pairs of products in 16 bits, where they can overflow.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    left = torch.full((2, 64), _LARGEST, dtype=torch.int8)
    right = torch.full((64, 64), -_LARGEST, dtype=torch.int8)
    right[::2] = _LARGEST
    try:
        found = torch._int_mm(left, right.t())
    except (AttributeError, RuntimeError):  # a private operator: it may be gone
        return False
    return torch.equal(found.long(), left.long() @ right.long().t())


def shortlist(
    vectors: Float32[Tensor, "item dim"],
    codes: Codes | None,
    slots: Float32[Tensor, "slot dim"],
    k: int,
    *,
    pool: Pool,
    allowed: Bool[np.ndarray, " item"],
    products: Float32[Tensor, "slot item"] | None = None,
    added: Float64[np.ndarray, " item"] | None = None,
) -> Int64[np.ndarray, " found"]:
    """Find the rows of all allowed items that can be among the best ``k``, rising; more than ``k`` come back.

    An item among the best has a score of at least the k-th best; both are known up to the error, so an item more
    than twice the error below the k-th best approximate score is out.

    Args:
        vectors: one an item.
        codes: the same as integers, to read instead; None reads the vectors. The others are :meth:`Segment.search`'s.
    """
    scores, error = _approximate(vectors, codes, slots, pool) if products is None else (pool(products), 0.0)
    error += _rounding(slots, codes)
    if added is not None:
        scores = scores + torch.from_numpy(added).float()
        error += 2 * torch.finfo(torch.float32).eps * float(np.abs(added).max())
    if not allowed.all():
        scores = scores.masked_fill(torch.from_numpy(~allowed), -torch.inf)
    if k >= len(scores):
        return np.flatnonzero(scores.numpy() > -np.inf)
    limit = float(torch.topk(scores, k, sorted=True).values[-1]) - 2 * error
    return np.flatnonzero(scores.numpy() >= max(limit, np.finfo(np.float32).min))


def _approximate(
    vectors: Float32[Tensor, "item dim"], codes: Codes | None, slots: Float32[Tensor, "slot dim"], pool: Pool
) -> tuple[Float32[Tensor, " item"], float]:
    """Score every item, and say how far off a score can be, rounding aside."""
    scores = torch.empty(len(vectors))
    queries = quantise(slots) if codes else None
    for start in range(0, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        products = codes.products(queries, start, end) if codes and queries else slots @ vectors[start:end].t()
        scores[start:end] = pool(products)
    return scores, codes.error_of(queries) if codes and queries else 0.0


def _rounding(slots: Float32[Tensor, "slot dim"], codes: Codes | None) -> float:
    """What adding ``dim`` products in float32 may cost, with room for the pool."""
    length = codes.length if codes else 1.0
    longest = float(torch.linalg.vector_norm(slots, dim=1).max())
    return slots.shape[1] * torch.finfo(torch.float32).eps * max(length, 1.0) * longest


def exact_scores(
    vectors: Float32[Tensor, "item dim"],
    slots: Float32[Tensor, "slot dim"],
    rows: Int64[np.ndarray, " found"],
    pool: Pool,
) -> Float32[np.ndarray, " found"]:
    """Score items by their vectors; in float64, so that equal vectors get equal scores wherever they stand."""
    queries, step = slots.double()[:, None, :], max(1, _RESCORED_AT_ONCE // len(slots))
    parts = [
        pool((vectors[torch.from_numpy(rows[start : start + step])].double() * queries).sum(-1))
        for start in range(0, max(len(rows), 1), step)
    ]
    scores: Float32[np.ndarray, " found"] = torch.cat(parts).float().numpy()
    return scores
