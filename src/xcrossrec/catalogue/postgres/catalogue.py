"""A catalogue on PostgreSQL with pgvector: any number of processes may open it, and see each other's writes.

Up to :data:`EXACT_UNTIL` items each process holds all of them in memory, and reads the latest writes with every
question; with more items the database searches (:mod:`xcrossrec.catalogue.postgres.snapshot`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from threading import Lock, Thread
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np
import polars as pl
import psycopg
from jaxtyping import Float
from psycopg import Connection
from torch import Tensor

from xcrossrec.arguments import checked
from xcrossrec.catalogue.base import Catalogue, CatalogueReplacedError, Encode
from xcrossrec.catalogue.fingerprint import check_fingerprint
from xcrossrec.catalogue.postgres.connections import Database
from xcrossrec.catalogue.postgres.generations import NextGeneration
from xcrossrec.catalogue.postgres.snapshot import SearchedSnapshot
from xcrossrec.catalogue.postgres.tables import LARGEST_INDEXED, State, Tables, askable, check_texts, taken
from xcrossrec.catalogue.purchases import Purchase, PurchaseLog, first_of_each
from xcrossrec.catalogue.segment import check_vectors
from xcrossrec.catalogue.snapshot import HeldSnapshot
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.catalogue.view import Snapshot
from xcrossrec.copurchase import user_hash
from xcrossrec.data.text import TITLES, ItemText
from xcrossrec.exceptions import ConfigError, UnavailableError, XCrossRecError

log = logging.getLogger(__name__)

T = TypeVar("T")

Done: TypeAlias = tuple[T, Mapping[str, Any]]
"""The result of a write, and the facts to record; no facts where nothing changed."""

EXACT_UNTIL = 50_000
"""Up to so many items, every process holds all of them and searches exactly (lab/log, 2026-11-29)."""


class PostgresCatalogue(Catalogue):
    """A catalogue in a database. Make one with :meth:`create` or :meth:`open`."""

    _snapshot: HeldSnapshot | SearchedSnapshot  # type: ignore[assignment]

    def __init__(self, tables: Tables, state: State, arrivals: _Arrivals) -> None:
        self._tables, self._state, self._arrivals = tables, state, arrivals
        self._indexer: Thread | None = None
        snapshot: Any = self._read_all(state)
        super().__init__(None, state.fingerprint, snapshot, ItemText(state.text), arrivals.log)

    @classmethod
    def create(
        cls,
        url: str,
        items: Sequence[StoredItem],
        vectors: Float[np.ndarray, "item dim"],
        *,
        fingerprint: str,
        text: ItemText = TITLES,
        overwrite: bool = False,
        bought: PurchaseLog | None = None,
    ) -> Self:
        """Make a catalogue in one step, and open it.

        Args:
            url: ``postgresql://...``; after a ``#`` the schema for it, which must hold no other catalogue.
            items, vectors, fingerprint, text: as for :meth:`in_memory`, and DataError.
            overwrite: replace a catalogue that is there (else BundleError); processes that have it open get an error at
                their next write.
            bought: purchases and more forgotten customers to begin with; None keeps the purchases that are there.

        Raises:
            StorageError: the database refuses.
            UnavailableError: it does not answer.
        """
        tables = Tables(Database(url))
        dim = vectors.shape[1]
        checked = check_vectors(items, vectors, dim)
        check_texts(value for item in items for value in item.values)

        def make(connection: Connection[Any]) -> None:
            former = tables.create(connection)
            if former.generation and not overwrite:
                raise taken(tables.database.name)
            generation, indexed = former.generation + 1, must_index(len(items), dim)
            facts = {"generation": generation, "fingerprint": fingerprint, "dim": dim, "text": text.template}
            facts |= {"items": len(items), "next_place": len(items), "indexed": indexed, "model": None}
            tables.make_items(connection, generation, dim)
            tables.write(connection, generation, former.version + 1, range(len(items)), items, checked)
            tables.index_items(connection, generation)
            if indexed:
                tables.index_vectors(connection, generation, len(items), dim)
            tables.switch(connection, former, **facts)
            if bought is not None:
                arrived = tables.note_forgotten(connection, former.arrived, bought.forgotten)
                arrived = tables.copy_purchases(connection, arrived, bought.table())
                tables.set_state(connection, arrived=arrived)

        with tables.database.alone():
            tables.database.change(make)
        return cls._opened(tables)

    @classmethod
    def open(cls, url: str, *, fingerprint: str | None) -> Self:
        """Open a catalogue (BundleError: none is there, or another model's; UnavailableError: the database is down).

        Args:
            url: as for :meth:`create`.
            fingerprint: of the model that will encode queries; None accepts any model's vectors.
        """
        tables = Tables(Database(url))
        if fingerprint is not None:
            check_fingerprint(tables.database.name, tables.state().fingerprint, fingerprint)
        return cls._opened(tables)

    @staticmethod
    def recorded_purchases(url: str) -> PurchaseLog:
        """All purchases in order of arrival, and the forgotten customers."""
        return Tables(Database(url)).purchases()[1]

    @classmethod
    def _opened(cls, tables: Tables) -> Self:
        return cls(tables, tables.state(), _Arrivals(tables))

    # ---- read

    def snapshot(self) -> Snapshot:
        """The catalogue as it is now, with other processes' writes (UnavailableError: the database is down)."""
        if type(self._closed) is not ConfigError:
            self._catch_up()
        return self._snapshot

    @property
    def name(self) -> str:
        """Its name in messages."""
        return self._tables.database.name

    @property
    def replaced_by(self) -> str | None:
        """See :attr:`Catalogue.replaced_by`."""
        state, other = self._look()
        return state.model or "" if other else None

    def _look(self, connection: Connection[Any] | None = None) -> tuple[State, bool]:
        """The database's state, and whether it is another catalogue's: one with other vectors, or one that was built or
        restored in this one's place, whose version is lower than one that was read before."""
        known, state = self._snapshot.version, self._tables.state(connection)
        return state, state.generation != self._state.generation or state.version < known

    def purchases(self) -> pl.DataFrame:
        """All purchases, other processes' too; see :meth:`Catalogue.purchases`."""
        if type(self._closed) is not ConfigError:
            self._arrivals.catch_up(self._tables.state().arrived)
        return super().purchases()

    def elsewhere(self) -> Callable[[], Catalogue]:
        """A function that opens this catalogue by its URL; see :meth:`Catalogue.elsewhere`."""
        return partial(type(self).open, self._tables.database.url, fingerprint=self.fingerprint)

    def _read_all(self, state: State) -> HeldSnapshot | SearchedSnapshot:
        searched = SearchedSnapshot(self._tables, state.generation, state.version, state.dim, state.items)
        return searched if state.indexed else searched.held()

    def _catch_up(self) -> None:
        """Read what was written since the last call."""
        state, other = self._look()
        with self._writing:
            if other and self._closed is None:
                self._closed = CatalogueReplacedError.of(self.name, state.fingerprint)
                last = state.switched - 1 if state.former == self._state.generation else self._snapshot.version
                state = replace(self._state, version=last, arrived=state.arrived)
            elif self._closed is not None:
                state = replace(self._state, version=self._snapshot.version, arrived=state.arrived)
            self._arrivals.catch_up(state.arrived)
            if state.version <= self._snapshot.version and state.indexed == self._state.indexed:
                return
            known = self._snapshot.version
            if not state.indexed:
                written = self._tables.written(state.generation, known, state.version)
                ended = self._tables.ended(state.generation, known, state.version)
            if state.indexed or self._tables.state().purged > known:  # what was deleted may be removed by now
                self._snapshot, self._since = self._read_all(state), None
            else:
                self._apply(state.version, written, ended)
                self._merge_later()
            self._state = state

    # ---- write

    def upsert(
        self, items: Sequence[StoredItem], vectors: Float[np.ndarray, "item dim"] | Float[Tensor, "item dim"]
    ) -> int:
        """Write items; see :meth:`Catalogue.upsert`. UnavailableError: the database does not answer."""
        checked = check_vectors(items, vectors, self._state.dim)
        check_texts(value for item in items for value in item.values)
        if not items:
            return 0

        def work(connection: Connection[Any], state: State, version: int) -> Done[int]:
            known = self._tables.end(connection, state.generation, version, [item.item_id for item in items])
            free = count(state.next_place)
            places = [known[item.item_id] if item.item_id in known else next(free) for item in items]
            self._tables.write(connection, state.generation, version, places, items, checked)
            return len(items), {"items": state.items + len(items) - len(known), "next_place": next(free)}

        written = self._change(work)
        self._index_later()
        return written

    @checked
    def delete(self, item_ids: Collection[str]) -> int:
        """Delete items; see :meth:`Catalogue.delete`."""

        def work(connection: Connection[Any], state: State, version: int) -> Done[int]:
            gone = len(self._tables.end(connection, state.generation, version, askable(item_ids)))
            return gone, {"items": state.items - gone} if gone else {}

        return self._change(work)

    @checked
    def add_purchases(self, purchases: Sequence[Purchase]) -> Sequence[Purchase]:
        """Add purchases; see :meth:`Catalogue.add_purchases`."""
        asked = first_of_each(purchases)
        check_texts(value for each in asked for value in each.values)

        def work(connection: Connection[Any], state: State, version: int) -> Done[set[tuple[str, str]]]:
            rows = self._tables.add_purchases(connection, state.arrived, [each.values for each in asked])
            return {(user, item) for user, item, _ in rows}, {"arrived": state.arrived + len(rows)} if rows else {}

        fresh = self._change(work) if asked else ()
        return [each for each in asked if each.pair in fresh]

    @checked
    def forget(self, user_id: str) -> int:
        """Delete a customer's purchases; see :meth:`Catalogue.forget`. What the database's log and free space still
        hold is its own to overwrite."""

        def work(connection: Connection[Any], state: State, version: int) -> Done[int]:
            gone = self._tables.forget(connection, user_id)
            arrived = self._tables.note_forgotten(connection, state.arrived, [user_hash(user_id)])
            return gone, {"arrived": arrived, **({} if gone else {"version": state.version})}

        return self._change(work)

    def _change(self, work: Callable[[Connection[Any], State, int], Done[T]]) -> T:
        """Do work in one transaction, under the next version if something changes, and read the result."""

        def run(connection: Connection[Any]) -> T:
            state, other = self._look(connection)
            if other:
                raise CatalogueReplacedError.of(self.name, state.fingerprint)
            result, facts = work(connection, state, state.version + 1)
            if facts:
                self._tables.set_state(connection, **{"version": state.version + 1, **facts})
                self._tables.tidy(connection, state)
            return result

        self._check_open()
        result = self._tables.database.change(run)
        with suppress(UnavailableError):  # it is stored: the next question reads it
            self._catch_up()
        return result

    def compact(self) -> None:
        """See :meth:`Catalogue.compact`; nothing to do where the database searches."""
        if isinstance(self._snapshot, HeldSnapshot):
            super().compact()

    def _index_later(self) -> None:
        """Index the vectors on another thread, once there are many; until that is done each process holds them."""
        state, running = self._state, self._indexer is not None and self._indexer.is_alive()
        if must_index(state.items, state.dim) and not state.indexed and not running:
            self._indexer = Thread(target=self._index, name="xcrossrec-index", daemon=True)
            self._indexer.start()

    def _index(self) -> None:
        try:
            with self._tables.database.alone(wait=False) as connection:
                if connection is not None and not (state := self._tables.state()).indexed:
                    self._tables.index_vectors(connection, state.generation, state.items, state.dim, beside=True)
                    self._tables.set_state(connection, indexed=True)
        except (XCrossRecError, psycopg.Error) as error:
            log.warning("%s: the vectors are not indexed before the next write: %s", self.name, error)

    # ---- another model

    def embed_again(
        self, *, fingerprint: str, dim: int, encode: Encode, text: ItemText = TITLES, model: Path | str | None = None
    ) -> Self:
        """Replace all vectors in one step; see :meth:`Catalogue.embed_again`.

        One process at a time may do so; another one that waits with the same model then uses the new vectors.
        UnavailableError where the database does not answer: the present vectors stay.
        """
        self._check_open()
        with self._tables.database.alone() as lock:

            def alone() -> None:
                try:
                    assert lock is not None
                    lock.execute("SELECT 1")
                except psycopg.Error as error:
                    raise UnavailableError(
                        f"{self.name}: the connection with the lock against other processes' embedding was lost: the "
                        "present vectors stay; embed again"
                    ) from error

            if (ready := self.successor(fingerprint)) is not None:
                return ready
            indexed = must_index(self._tables.state().items, dim)
            coming = NextGeneration(self._tables, self._tables.state(), dim, encode, alone, indexed=indexed)
            facts = {"fingerprint": fingerprint, "dim": dim, "text": text.template}
            facts["model"] = None if model is None else str(Path(model).absolute())
            try:
                coming.fill()
                self._tables.database.change(lambda connection: self._switch(connection, coming, facts))
            except BaseException:
                with suppress(XCrossRecError, psycopg.Error):
                    coming.drop()
                raise
            self._catch_up()
            return type(self)(self._tables, self._tables.state(), self._arrivals)

    def _switch(self, connection: Connection[Any], coming: NextGeneration, facts: Mapping[str, Any]) -> None:
        """While writers wait: copy the last writes, and switch to the new generation."""
        state = self._tables.state(connection)
        if state.generation != self._state.generation:
            raise CatalogueReplacedError.of(self.name, state.fingerprint)
        coming.complete(connection, state.version)
        self._tables.switch(connection, state, generation=coming.number, indexed=coming.indexed, **facts)

    def successor(self, fingerprint: str) -> Self | None:
        """See :meth:`Catalogue.successor`."""
        state, other = self._look()
        if not other or state.fingerprint != fingerprint:
            return None
        self._catch_up()
        return type(self)(self._tables, state, _Arrivals(self._tables))  # an overwritten catalogue has its own

    def check(self) -> list[str]:
        """Errors in the tables, one sentence each."""
        return self._tables.check(self._tables.state())

    def _let_go(self) -> None:
        self._tables.database.close()


class _Arrivals:
    """The log of purchases and forgotten customers, as far as this process has read it; shared by all generations."""

    def __init__(self, tables: Tables) -> None:
        self._tables, self._lock = tables, Lock()
        self._arrived, self.log = tables.purchases()

    def catch_up(self, arrived: int) -> None:
        """Read the entries up to a number."""
        with self._lock:
            if arrived <= self._arrived:
                return
            last, entries = self._tables.arrivals(self._arrived)
            self._arrived = max(arrived, last)
            for each in entries:
                if isinstance(each, Purchase):
                    self.log.append([each])
                else:
                    self.log.forget(each.customer)


def must_index(items: int, dim: int) -> bool:
    """Whether there are so many items that the database searches."""
    return items > EXACT_UNTIL and 0 < dim <= LARGEST_INDEXED
