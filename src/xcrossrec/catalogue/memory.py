"""A catalogue in memory: for one run, gone with the process.

Legend: ``item`` = one item, ``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Self

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from xcrossrec.catalogue.base import Catalogue, check_vectors
from xcrossrec.catalogue.segment import Segment, table_of
from xcrossrec.catalogue.snapshot import Snapshot
from xcrossrec.catalogue.stored_item import StoredItem


class MemoryCatalogue(Catalogue):
    """A catalogue that nothing outlives."""

    @classmethod
    def create(
        cls,
        *,
        fingerprint: str,
        dim: int,
        items: Sequence[StoredItem] = (),
        vectors: Float32[np.ndarray, "item dim"] | Float32[Tensor, "item dim"] | None = None,
    ) -> Self:
        """Make a catalogue.

        Args:
            fingerprint: of the model that made the vectors (:func:`xcrossrec.catalogue.vector_fingerprint`).
            dim: vector size; 0 for a `pair` model, which has no vectors.
            items: to start with, each id once.
            vectors: theirs, finite.

        Raises:
            DataError: an id twice, or vectors that do not fit.
        """
        return cls(None, fingerprint, Snapshot.of(1, *first_segments(items, vectors, dim), dim=dim))

    def _keep_write(self, written: Segment, deleted: Collection[str], version: int) -> None:
        pass

    def _keep_merged(self, merged: Segment) -> Segment:
        return merged

    def _keep_instead(self, merged: Segment, instead_of: Collection[Segment], since: Collection[str]) -> None:
        pass

    def _keep_model(self, merged: Segment, fingerprint: str, version: int) -> Self:
        return type(self)(None, fingerprint, Snapshot.of(version, merged, dim=merged.vectors.shape[1]))

    def _let_go(self) -> None:
        pass


def first_segments(
    items: Sequence[StoredItem],
    vectors: Float32[np.ndarray, "given dim"] | Float32[Tensor, "given dim"] | None,
    dim: int,
) -> list[Segment]:
    """Make the segment that a catalogue starts with; none of no items.

    Raises:
        DataError: an id twice, or vectors that do not fit.
    """
    given = np.empty((0, dim), dtype=np.float32) if vectors is None else vectors
    checked = check_vectors(items, given, dim)
    return [Segment.build(table_of(items, range(len(items))), checked)] if items else []
