"""Exact search of a catalogue's vectors: shortlist by 8-bit integers, decide by the vectors themselves.

Legend: ``item`` = one item of the catalogue, ``slot`` = one query vector (a history's item), ``dim`` = vector
size, ``found`` = one result.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from xcrossrec.catalogue.codes import Codes, processor_multiplies_integers, quantise
from xcrossrec.catalogue.pooling import Pool, only_slot
from xcrossrec.exceptions import ConfigError, DataError

QUANTISE_FROM = 20_000
"""Items from which a search reads integers first; a guess, not measured on an idle machine (lab/log, 2026-11-23)."""

_BLOCK = 65_536
"""Items scored at a time: their products stay in the cache while they are pooled."""

_RESCORED_AT_ONCE = 4096
"""Products (item times slot) computed at a time from the vectors: 12 MB at 384 dimensions."""

_LEAST_DIM = 16
"""Vector size from which integers are used; ``torch._int_mm`` of torch 2.13 is wrong at 1."""


class Found(NamedTuple):
    """The best items, best first; equal scores in the catalogue's order."""

    rows: Int64[np.ndarray, " found"]
    scores: Float32[np.ndarray, " found"]


def best_rows(
    rows: Int64[np.ndarray, " found"], scores: Float32[np.ndarray, " found"], k: int
) -> Int64[np.ndarray, " best"]:
    """Where the ``k`` highest scores stand, best first; equal ones in the order of their rows."""
    best: Int64[np.ndarray, " best"] = np.lexsort((rows, -scores))[:k]
    return best


def worth_quantising(vectors: Float32[Tensor, "item dim"]) -> bool:
    """Whether integers make a search of these vectors quicker, where the processor multiplies them well."""
    return len(vectors) >= QUANTISE_FROM and vectors.shape[1] >= _LEAST_DIM


class ItemIndex:
    """A catalogue's vectors, searched as a whole.

    Every search gives what scoring all items would give. Large catalogues are read as 8-bit integers first: items
    whose score could still be among the best, given the proven error, are scored again by their vectors.

    Args:
        vectors: one an item, in row order; kept, not copied.
        codes: the same vectors as integers, or None to read the vectors themselves.
    """

    def __init__(self, vectors: Float32[Tensor, "item dim"], codes: Codes | None = None) -> None:
        self.vectors = vectors
        self.codes = codes

    @classmethod
    def build(cls, vectors: Float32[Tensor, "item dim"]) -> Self:
        """Index vectors; from :data:`QUANTISE_FROM` on with integers, where the processor multiplies them well.

        Args:
            vectors: one an item, in row order; kept, not copied.

        Raises:
            DataError: no vectors, or one that is not finite; names its row.
        """
        if len(vectors) == 0:
            raise DataError("an index needs at least one vector, got none: give a catalogue with items")
        worst = vectors.abs().amax(1)
        if not bool(worst.isfinite().all()):
            row = int((~worst.isfinite()).nonzero()[0])
            raise DataError(f"the vector of row {row} is not finite: encode that item again, or leave it out")
        use_codes = worth_quantising(vectors) and processor_multiplies_integers()
        return cls(vectors, quantise(vectors) if use_codes else None)

    def __len__(self) -> int:
        return len(self.vectors)

    @torch.inference_mode()
    def search(
        self,
        slots: Float[Tensor, "slot dim"],
        k: int,
        *,
        pool: Pool = only_slot,
        allowed: Bool[np.ndarray, " item"] | None = None,
        products: Float32[Tensor, "slot item"] | None = None,
    ) -> Found:
        """Find the items with the highest scores.

        Args:
            slots: one query vector, or several that ``pool`` makes one score of.
            k: how many at most.
            pool: see :data:`xcrossrec.catalogue.pooling.Pool`.
            allowed: items to choose among; None allows all.
            products: of the slots with all vectors (:meth:`products`), where they are known already.

        Returns:
            exactly what scoring every item would give, up to rounding; fewer than ``k`` where there are no more.

        Raises:
            ConfigError: ``k`` below 1.
            DataError: queries of another vector size, or more than one without a pool.
        """
        self._check(slots, pool)
        queries = slots.to(torch.float32)
        rows = self.shortlist(queries, k, pool=pool, allowed=allowed, products=products)
        scores = self._scores(queries, rows, pool)
        best = best_rows(rows, scores, k)
        return Found(rows[best], scores[best])

    @torch.inference_mode()
    def shortlist(
        self,
        slots: Float32[Tensor, "slot dim"],
        k: int,
        *,
        pool: Pool = only_slot,
        allowed: Bool[np.ndarray, " item"] | None = None,
        products: Float32[Tensor, "slot item"] | None = None,
    ) -> Int64[np.ndarray, " found"]:
        """Find the rows of all items that can be among the best ``k``, in the catalogue's order.

        An item among the best has a score of at least the k-th best; both are known up to the error, so an item
        more than twice the error below the k-th best approximate score is out.

        Args:
            slots: as for :meth:`search`, so for the others.
            k: how many are wanted; more come back.
            pool: of the products.
            allowed: items to choose among.
            products: where they are known already.

        Raises:
            ConfigError: ``k`` below 1.
        """
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1 item")
        scores, error = self._approximate(slots, pool, products)
        if allowed is not None and not allowed.all():
            scores[torch.from_numpy(~allowed)] = -torch.inf
        if k >= len(scores):
            return np.flatnonzero(scores.numpy() > -np.inf)
        limit = float(torch.topk(scores, k, sorted=True).values[-1]) - 2 * error
        return np.flatnonzero(scores.numpy() >= max(limit, np.finfo(np.float32).min))

    def _check(self, slots: Tensor, pool: Pool) -> None:
        if slots.shape[1] != self.vectors.shape[1]:
            raise DataError(
                f"the query has {slots.shape[1]} dimensions, the index {self.vectors.shape[1]}: encode both with one "
                "model"
            )
        if len(slots) != 1 and pool is only_slot:
            raise DataError(f"got {len(slots)} query vectors and no pool: search them one by one, or say how to pool")

    @torch.inference_mode()
    def products(self, slots: Float32[Tensor, "slot dim"]) -> Float32[Tensor, "slot item"] | None:
        """Multiply many searches' slots with all vectors at once, which costs far less than search by search.

        Args:
            slots: of all searches together.

        Returns:
            what :meth:`search` takes, row by row; None for an index of integers, which multiplies by itself.
        """
        return None if self.codes else slots @ self.vectors.t()

    def _approximate(
        self,
        slots: Float32[Tensor, "slot dim"],
        pool: Pool,
        known: Float32[Tensor, "slot item"] | None = None,
    ) -> tuple[Float32[Tensor, " item"], float]:
        """Score every item, and say how far off a score can be."""
        if known is not None:
            return pool(known), self._rounding(slots)
        scores = torch.empty(len(self))
        queries = quantise(slots) if self.codes else None
        for start in range(0, len(self), _BLOCK):
            end = min(start + _BLOCK, len(self))
            if self.codes and queries:
                products = self.codes.products(queries.values, queries.scale, start, end)
            else:
                products = slots @ self.vectors[start:end].t()
            scores[start:end] = pool(products)
        error = self.codes.error_of(slots, queries) if self.codes and queries else 0.0
        return scores, error + self._rounding(slots)

    def _rounding(self, slots: Float32[Tensor, "slot dim"]) -> float:
        """What adding ``dim`` products in float32 may cost, with room for the pool."""
        length = self.codes.length if self.codes else 1.0
        return slots.shape[1] * torch.finfo(torch.float32).eps * max(length, 1.0) * float(slots.norm(dim=1).max())

    def _scores(
        self, slots: Float32[Tensor, "slot dim"], rows: Int64[np.ndarray, " found"], pool: Pool
    ) -> Float32[np.ndarray, " found"]:
        """Score items by their vectors; in float64, so that equal vectors get equal scores wherever they stand."""
        parts = [
            pool((self.vectors[torch.from_numpy(part)].double() * slots.double()[:, None, :]).sum(-1))
            for part in np.array_split(rows, -(-max(len(rows), 1) * len(slots) // _RESCORED_AT_ONCE))
        ]
        scores: Float32[np.ndarray, " found"] = torch.cat(parts).float().numpy()
        return scores
