"""A catalogue in memory, searched exactly while it changes; subclasses store it on disk.

Searches run in snapshots (:mod:`xcrossrec.catalogue.snapshot`). A write is stored before any search sees it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import Any, Self, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from xcrossrec.arguments import checked
from xcrossrec.catalogue.purchases import Entry, Purchase, PurchaseLog, first_of_each
from xcrossrec.catalogue.segment import Segment, check_vectors, checks_of_vectors, table_of
from xcrossrec.catalogue.snapshot import HeldSnapshot, merge_parts
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.catalogue.view import Snapshot
from xcrossrec.copurchase import user_hash
from xcrossrec.data.text import TITLES, ItemText
from xcrossrec.exceptions import ConfigError, XCrossRecError
from xcrossrec.types import ITEM, USER

log = logging.getLogger(__name__)

_RECENT_LEAST, _RECENT_MOST, _RECENT_SHARE = 1024, 8192, 8
"""Recently written items are merged into a large segment once they are an eighth of the others, within these bounds."""

FEW = 64
"""Items that may be encoded while writers wait, at the end of :meth:`Catalogue.embed_again`."""

Encode: TypeAlias = Callable[[Sequence[StoredItem]], Float32[np.ndarray, "item dim"]]
"""Encodes items into vectors, from the text that a model reads of each."""


class CatalogueReplacedError(ConfigError):
    """The catalogue now holds another model's vectors; write to the catalogue that replaced it."""

    @classmethod
    def of(cls, name: str, fingerprint: str, remedy: str = "write to the catalogue that replaced this one") -> Self:
        """Make the error from the catalogue's name and the other model's fingerprint."""
        return cls(f"the catalogue {name} now holds another model's vectors (fingerprint {fingerprint[:12]}): {remedy}")


class Catalogue:
    """Items with one model's vectors. Any thread may read and write; :meth:`close` it, or use it in a ``with``.

    Args:
        folder: where it is stored; None in memory.
        fingerprint: of the model that made the vectors (:func:`xcrossrec.catalogue.fingerprint_of`).
        text: what that model reads of an item.
        bought: purchases so far; None for none.
    """

    def __init__(
        self,
        folder: Path | None,
        fingerprint: str,
        snapshot: HeldSnapshot,
        text: ItemText = TITLES,
        bought: PurchaseLog | None = None,
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.text = text
        self._snapshot = snapshot
        self._bought = PurchaseLog() if bought is None else bought
        self._writing = RLock()
        self._merging = Lock()
        self._since: set[str] | None = None  # ids written during a merge or an embed_again
        self._merger: Thread | None = None
        self._closed: ConfigError | None = None

    @staticmethod
    def in_memory(
        items: Sequence[StoredItem], vectors: Float[np.ndarray, "item dim"], fingerprint: str, text: ItemText = TITLES
    ) -> Catalogue:
        """Make a catalogue in memory, which is lost with the process.

        Args:
            items: to start with, each id once.
            vectors: of the items, finite; without columns for a `pair` model.
            fingerprint: of the model that made the vectors.
            text: what it reads of an item.

        Raises:
            DataError: a repeated id, or vectors of another number, not finite, or of different sizes.
        """
        segment = Segment.of(items, check_vectors(items, vectors, vectors.shape[1]))
        return Catalogue(None, fingerprint, HeldSnapshot.of(1, segment), text)

    @cached_property
    def _pairs(self) -> set[tuple[str, str]]:
        return set(self._bought.table().select(USER, ITEM).iter_rows())

    # ---- storage, for subclasses: in memory there is nothing to store

    def _keep_write(self, written: Segment, deleted: Collection[str], version: int) -> None:
        """Store a write, all or nothing."""

    def _keep_purchases(self, purchases: Sequence[Purchase], version: int) -> Sequence[Purchase]:
        """Store the purchases that are new, all or nothing, and return them."""
        fresh = [purchase for purchase in purchases if purchase.pair not in self._pairs]
        self._pairs.update(purchase.pair for purchase in fresh)
        return fresh

    def _keep_forgotten(self, user_id: str, version: int) -> int:
        """Delete a customer's purchases, all or nothing, and record the hash of the id; returns how many there were."""
        gone = {pair for pair in self._pairs if pair[0] == user_id}
        self._pairs -= gone
        return len(gone)

    def _wipe(self) -> None:
        """Overwrite on disk what was deleted."""

    def _keep_merged(self, merged: Segment) -> Segment:
        """Write a merged segment to disk, and return the segment to search."""
        return merged

    def _keep_instead(
        self, merged: Segment, instead_of: Collection[Segment], since: Collection[str], facts: Mapping[str, Any]
    ) -> None:
        """Let a merged segment replace others in storage, and recent items except those written since it was read."""

    def _successor(self, fingerprint: str, snapshot: HeldSnapshot, text: ItemText) -> Self:
        """The catalogue with another model's vectors that replaces this one."""
        return type(self)(self.folder, fingerprint, snapshot, text, self._bought)

    def _let_go(self) -> None:
        """Close the storage."""

    # ---- read

    def snapshot(self) -> Snapshot:
        """The catalogue as it is now; later writes do not change the snapshot."""
        return self._snapshot

    @property
    def name(self) -> str:
        """Its name in messages."""
        return "in memory" if self.folder is None else str(self.folder)

    @property
    def version(self) -> int:
        """Grows with every write."""
        return self._snapshot.version

    def __len__(self) -> int:
        return len(self._snapshot)

    def purchases(self) -> pl.DataFrame:
        """All purchases in order of arrival: ``user_id``, ``item_id``, ``timestamp`` (seconds since 1970, or null)."""
        return self._bought.table()

    @property
    def forgotten(self) -> Sequence[str]:
        """Hashes of the customers who were forgotten (:func:`xcrossrec.copurchase.user_hash`)."""
        return self._bought.forgotten

    @property
    def purchases_read(self) -> int:
        """Length of the log of purchases: grows with each purchase and each forgotten customer."""
        return len(self._bought)

    def purchases_after(self, count: int) -> Sequence[Entry]:
        """The log's entries since :attr:`purchases_read` was ``count``: purchases added since the catalogue was opened,
        and customers forgotten (for 0: ever); None for a deleted purchase. Costs next to nothing."""
        return self._bought.after(count)

    def elsewhere(self) -> Callable[[], Catalogue]:
        """A function that opens a copy of this catalogue, as it is now, in memory; another process gets it pickled."""
        items, bought = merge_parts(self._snapshot.parts), (self.purchases(), self.forgotten)
        return partial(_copied, self.fingerprint, self.version, items.table, items.vectors.numpy(), self.text, bought)

    def close(self) -> None:
        """Finish current writes and close the storage; snapshots stay readable."""
        with self._writing:
            if self._closed is None:
                self._closed = ConfigError(f"the catalogue {self.name} is closed: open it again")
                self._let_go()
        if self._merger is not None:
            self._merger.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- write

    def upsert(
        self, items: Sequence[StoredItem], vectors: Float[np.ndarray, "item dim"] | Float[Tensor, "item dim"]
    ) -> int:
        """Insert or replace items, all of them or none: stored and searchable when this returns.

        Args:
            items: each id once. A replaced item keeps its place in the catalogue's order.
            vectors: of the text that the model reads of them, finite; stored in single precision.

        Returns:
            how many were written.

        Raises:
            DataError: a repeated id, or vectors of another number or size, or not finite.
            StorageError: the disk refuses; nothing was changed.
            CatalogueReplacedError: :meth:`embed_again` gave the items another model's vectors.
            ConfigError: it is closed.
        """
        checked = check_vectors(items, vectors, self._snapshot.dim)
        if not items:
            return 0
        with self._writing:
            self._check_open()
            places = np.array(self._places(items))
            order = np.argsort(places)
            chosen = checked[torch.from_numpy(order)]
            self._write(Segment(table_of([items[n] for n in order], places[order].tolist(), chosen), chosen), ())
            self._merge_later()
        return len(items)

    @checked
    def delete(self, item_ids: Collection[str]) -> int:
        """Delete items: removed, and no longer found, when this returns.

        Args:
            item_ids: unknown ids are ignored.

        Returns:
            how many there were.

        Raises:
            ConfigError: an argument of another type.
            XCrossRecError: as for :meth:`upsert`.
        """
        with self._writing:
            self._check_open()
            known = [each for each in dict.fromkeys(item_ids) if self._snapshot.place(each) is not None]
            if known:
                self._write(Segment.empty(self._snapshot.dim), known)
        return len(known)

    @checked
    def add_purchases(self, purchases: Sequence[Purchase]) -> Sequence[Purchase]:
        """Add purchases, all of them or none: stored and readable when this returns.

        They stay when an item is deleted, or when :meth:`embed_again` replaces the vectors. Each item of a customer
        counts once, at its first arrival: a repeated purchase changes nothing.

        Args:
            purchases: in order.

        Returns:
            those that were new.

        Raises:
            XCrossRecError: as for :meth:`upsert`.
        """
        with self._writing:
            self._check_open()
            version = self.version + 1
            fresh = self._keep_purchases(first_of_each(purchases), version)
            if fresh:
                self._bought.append(fresh)
                self._snapshot = replace(self._snapshot, version=version)
        return fresh

    @checked
    def forget(self, user_id: str) -> int:
        """Delete a customer's purchases: removed from disk, including its free space, when this returns.

        A hash of the id is kept, so that a model that counted these purchases does not bring them back.

        Args:
            user_id: an unknown customer is no error.

        Returns:
            how many there were.

        Raises:
            ConfigError: an argument of another type.
            XCrossRecError: as for :meth:`upsert`; or the purchases are deleted, but the disk has no room to overwrite
                what is left of them in its free space.
        """
        with self._writing:
            self._check_open()
            version = self.version + 1
            gone = self._keep_forgotten(user_id, version)
            self._bought.forget(user_hash(user_id))
            if gone:
                self._snapshot = replace(self._snapshot, version=version)
            self._wipe()
        return gone

    def _write(self, written: Segment, deleted: Collection[str]) -> None:
        version = self.version + 1
        self._keep_write(written, deleted, version)
        self._apply(version, written, deleted)

    def _apply(self, version: int, written: Segment, deleted: Collection[str]) -> None:
        if self._since is not None:
            self._since.update(written.row_of, deleted)
        self._snapshot = self._snapshot.changed(version, written, deleted)

    def _places(self, items: Sequence[StoredItem]) -> list[int]:
        free = count(self._snapshot.next_place)
        own = [self._snapshot.place(item.item_id) for item in items]
        return [next(free) if place is None else place for place in own]

    def compact(self) -> None:
        """Merge the recently written items into a large segment now; searches and writes go on meanwhile."""
        with self._merging:
            with self._writing:
                if self._closed is not None:
                    return
                parts, self._since = self._snapshot.to_merge(), set()
            try:
                new = merge_parts(parts)
                merged = self._keep_merged(new)
                merged.folded = new.folded
                replaced = [part.segment for part in parts]
                with self._writing:
                    if self._closed is None and self._since is not None:  # else all was read again
                        self._keep_instead(merged, replaced, self._since, {})
                        self._snapshot = self._snapshot.rebased(merged, replaced, self._since)
            finally:
                self._since = None

    # ---- another model

    @property
    def replaced_by(self) -> str | None:
        """The folder of the model with which another process replaced this catalogue's vectors; empty where it is not
        known, None where that did not happen."""
        return None

    def successor(self, fingerprint: str) -> Self | None:
        """The catalogue with which another process replaced this one, if it has the vectors of the given model."""
        return None

    def embed_again(
        self, *, fingerprint: str, dim: int, encode: Encode, text: ItemText = TITLES, model: Path | str | None = None
    ) -> Self:
        """Replace all vectors by another model's, while this catalogue is read and written.

        Writers wait only at the end, while the last few items are encoded and everything is stored in one step: a
        crash leaves the old vectors or the new ones. Afterwards this object still answers searches, but refuses writes.

        Args:
            fingerprint: of the new model.
            dim: its vector size.
            encode: encodes items with the new model; some may have neither title nor text.
            text: what it reads of an item.
            model: its folder, for other processes that have the catalogue open.

        Returns:
            the catalogue that replaces this one.

        Raises:
            DataError: vectors of another size, or not finite.
            StorageError: the disk refuses; nothing was changed.
            ConfigError: the catalogue is closed, or was replaced.
        """
        with self._merging:
            try:
                known: dict[str, Float32[Tensor, " dim"]] = {}
                pending = self._changed_since()
                while len(pending) > FEW:
                    known.update(_encode(pending, encode, dim))
                    pending = self._changed_since()
                with self._writing:
                    self._check_open()
                    known.update(_encode([*pending, *self._changed_since()], encode, dim))
                    return self._replace(fingerprint, dim, known, text)
            finally:
                self._since = None

    def _changed_since(self) -> list[StoredItem]:
        """The items that were written since the last call; at the first call all items."""
        with self._writing:
            changed, self._since = self._since, set()
            if changed is None:
                return list(self._snapshot)
            return [item for item in self._snapshot.get(list(changed)) if item is not None]

    def _replace(self, fingerprint: str, dim: int, known: dict[str, Float32[Tensor, " dim"]], text: ItemText) -> Self:
        version, former = self.version + 1, merge_parts(self._snapshot.parts)
        table = former.table
        vectors = torch.stack([known[item_id] for item_id in table["item_id"]]) if len(table) else torch.empty(0, dim)
        checks = pl.Series("vector_check", checks_of_vectors(vectors), dtype=pl.UInt32)
        merged = self._keep_merged(Segment.build(table.with_columns(checks), vectors))
        merged.folded = former.folded
        facts = {"fingerprint": fingerprint, "dim": dim, "version": version, "text": text.template}
        self._keep_instead(merged, [part.segment for part in self._snapshot.parts], (), facts)
        self._closed = CatalogueReplacedError.of(self.name, fingerprint)
        return self._successor(fingerprint, HeldSnapshot.of(version, merged), text)

    def _merge_later(self) -> None:
        """Merge on another thread if there are many recent items."""
        *others, recent = (len(part.segment) for part in self._snapshot.parts)
        room = min(max(_RECENT_LEAST, sum(others) // _RECENT_SHARE), _RECENT_MOST)
        if recent > room and not (self._merger is not None and self._merger.is_alive()):
            self._merger = Thread(target=self._try_to_merge, name="xcrossrec-catalogue", daemon=True)
            self._merger.start()

    def _try_to_merge(self) -> None:
        try:
            self.compact()
        except XCrossRecError as error:
            log.warning("recently written items are not merged before the next write: %s", error)

    def _check_open(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)


def _copied(
    fingerprint: str,
    version: int,
    table: pl.DataFrame,
    vectors: Float32[np.ndarray, "item dim"],
    text: ItemText,
    bought: tuple[pl.DataFrame, Sequence[str]],
) -> Catalogue:
    snapshot = HeldSnapshot.of(version, Segment.build(table, torch.from_numpy(vectors)))
    return Catalogue(None, fingerprint, snapshot, text, PurchaseLog(*bought))


def _encode(items: Sequence[StoredItem], encode: Encode, dim: int) -> dict[str, Float32[Tensor, " dim"]]:
    if not items:
        return {}
    last = list({item.item_id: item for item in items}.values())
    vectors = check_vectors(last, encode(last), dim)
    return {item.item_id: vector for item, vector in zip(last, vectors, strict=True)}
