"""Another model's vectors, beside those that count: made while these are read and written, and switched in one step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float32
from psycopg import Connection
from torch import Tensor

from xcrossrec.catalogue.base import FEW, Encode
from xcrossrec.catalogue.postgres.snapshot import SearchedSnapshot
from xcrossrec.catalogue.postgres.tables import State, Tables
from xcrossrec.catalogue.segment import Segment, check_vectors
from xcrossrec.catalogue.stored_item import StoredItem

_AT_ONCE = 5000
"""Items that are encoded together, unless what encodes them says better."""


class NextGeneration:
    """A generation that does not count yet.

    Args:
        state: of the generation that counts.
        dim, encode: of the new vectors.
        alone: raises an error where another process may embed by now; asked before each write.
        indexed: whether the database shall search them.
    """

    def __init__(
        self, tables: Tables, state: State, dim: int, encode: Encode, alone: Callable[[], None], *, indexed: bool
    ) -> None:
        self.number, self.indexed = state.generation + 1, indexed
        self._tables, self._former, self._dim, self._encode, self._alone = tables, state, dim, encode, alone
        self._upto = state.version

    def fill(self) -> None:
        """Encode all items; those that are written meanwhile too, but for the few that come last."""
        tables, change, former = self._tables, self._tables.database.change, self._former
        change(lambda connection: tables.make_items(connection, self.number, self._dim))
        at_once = getattr(self._encode, "at_once", _AT_ONCE)
        for page in SearchedSnapshot(tables, former.generation, former.version, former.dim, former.items).pages(
            at_once
        ):
            places, items = zip(*page, strict=True)
            change(partial(self._write, places=places, items=items, vectors=self._vectors(items)))

        def index(connection: Connection[Any]) -> None:
            tables.index_items(connection, self.number)
            if self.indexed:
                tables.index_vectors(connection, self.number, former.items, self._dim)

        change(index)
        while len(written := self.written_since()) > FEW:
            self._take_over(written)
        self._take_over(written)

    def written_since(self) -> Segment:
        """The items that were written since the last call."""
        since, self._upto = self._upto, self._tables.state().version
        return self._tables.written(self._former.generation, since, self._upto)

    def complete(self, connection: Connection[Any], version: int) -> None:
        """Take over what was written last, and drop what was deleted, while nobody can write; a step of the transaction
        that switches."""
        self._alone()
        self._take_over(self._tables.written(self._former.generation, self._upto, version, connection), connection)
        self._tables.leave_out_deleted(connection, self.number, self._former.generation)

    def drop(self) -> None:
        """Remove it, unless it counts by now."""

        def work(connection: Connection[Any]) -> None:
            if self._tables.state(connection).generation < self.number:
                self._tables.drop_items(connection, self.number)

        self._tables.database.change(work)

    def _take_over(self, written: Segment, connection: Connection[Any] | None = None) -> None:
        items = [written.item(row) for row in range(len(written))]
        vectors = self._vectors(items)

        def work(connection: Connection[Any]) -> None:
            self._tables.remove(connection, self.number, written.ids)
            self._write(connection, written.places.tolist(), items, vectors)

        if items:
            self._tables.database.change(work) if connection is None else work(connection)

    def _vectors(self, items: Sequence[StoredItem]) -> Float32[Tensor, "item dim"]:
        return check_vectors(items, self._encode(items), self._dim) if items else torch.empty(0, self._dim)

    def _write(
        self,
        connection: Connection[Any],
        places: Sequence[int],
        items: Sequence[StoredItem],
        vectors: Float32[Tensor, "item dim"],
    ) -> None:
        self._alone()
        self._tables.write(connection, self.number, self._upto, places, items, vectors)
