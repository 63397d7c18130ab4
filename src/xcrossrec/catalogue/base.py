"""A catalogue that is searched exactly while it changes, in memory; kept on disk by a class that inherits it.

Searches run in snapshots (:mod:`xcrossrec.catalogue.snapshot`). Where a catalogue is kept, a write is there before any
search sees it.
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
"""Recently written items are put into a large segment from an eighth of the others on, within these bounds."""

FEW = 64
"""Items that may be encoded while writers wait, when a catalogue changes its model."""

Encode: TypeAlias = Callable[[Sequence[StoredItem]], Float32[np.ndarray, "item dim"]]
"""Items to vectors, of what a model reads of each."""


class CatalogueReplacedError(ConfigError):
    """The catalogue holds another model's vectors by now; write to the one that took its place."""

    @classmethod
    def of(cls, name: str, fingerprint: str, remedy: str = "write to the one that took its place") -> Self:
        """Say it of a catalogue by its name, and of the model by its fingerprint."""
        return cls(
            f"the catalogue {name} holds another model's vectors by now (fingerprint {fingerprint[:12]}): {remedy}"
        )


class Catalogue:
    """Items with one model's vectors. Any thread may read and write; :meth:`close` it, or use it in a ``with``.

    Args:
        folder: in which it is kept; None in memory.
        fingerprint: of the model that made the vectors (:func:`xcrossrec.catalogue.fingerprint_of`).
        text: what that model reads of an item.
        bought: what was bought of it; None for nothing yet.
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
        self._since: set[str] | None = None  # ids written while segments are merged, or titles encoded
        self._merger: Thread | None = None
        self._closed: ConfigError | None = None

    @staticmethod
    def in_memory(
        items: Sequence[StoredItem], vectors: Float[np.ndarray, "item dim"], fingerprint: str, text: ItemText = TITLES
    ) -> Catalogue:
        """Make a catalogue that nothing outlives.

        Args:
            items: to start with, each id once.
            vectors: theirs, finite; no columns for a `pair` model, which has none.
            fingerprint: of the model that made the vectors.
            text: what it reads of an item.

        Raises:
            DataError: an id twice, or vectors that do not fit.
        """
        segment = Segment.of(items, check_vectors(items, vectors, vectors.shape[1]))
        return Catalogue(None, fingerprint, HeldSnapshot.of(1, segment), text)

    @cached_property
    def _pairs(self) -> set[tuple[str, str]]:
        """Customers and items of all purchases, where these are in memory alone."""
        return set(self._bought.table().select(USER, ITEM).iter_rows())

    # ---- where it is kept: in memory there is nothing to do

    def _keep_write(self, written: Segment, deleted: Collection[str], version: int) -> None:
        """Keep a write; it is there when this returns, or nothing of it is."""

    def _keep_purchases(self, purchases: Sequence[Purchase], version: int) -> Sequence[Purchase]:
        """Keep those purchases that are new, likewise; gives them."""
        fresh = [purchase for purchase in purchases if purchase.pair not in self._pairs]
        self._pairs.update(purchase.pair for purchase in fresh)
        return fresh

    def _keep_forgotten(self, user_id: str, version: int) -> int:
        """Delete a customer's purchases, likewise, and note the hash of her id; gives how many there were."""
        gone = {pair for pair in self._pairs if pair[0] == user_id}
        self._pairs -= gone
        return len(gone)

    def _wipe(self) -> None:
        """Leave nothing on disk of what was deleted."""

    def _keep_merged(self, merged: Segment) -> Segment:
        """Write a segment beside what is kept; give the one to search."""
        return merged

    def _keep_instead(
        self, merged: Segment, instead_of: Collection[Segment], since: Collection[str], facts: Mapping[str, Any]
    ) -> None:
        """Put a segment that was written in the place of others, and of recent items but for those written since."""

    def _successor(self, fingerprint: str, snapshot: HeldSnapshot, text: ItemText) -> Self:
        """The catalogue of another model's vectors that takes this one's place."""
        return type(self)(self.folder, fingerprint, snapshot, text, self._bought)

    def _let_go(self) -> None:
        """Close what it is kept in."""

    # ---- read

    def snapshot(self) -> Snapshot:
        """The catalogue as it is now; what comes later does not change it."""
        return self._snapshot

    @property
    def name(self) -> str:
        """How messages call it."""
        return "in memory" if self.folder is None else str(self.folder)

    @property
    def version(self) -> int:
        """Grows with every write."""
        return self._snapshot.version

    def __len__(self) -> int:
        return len(self._snapshot)

    def purchases(self) -> pl.DataFrame:
        """All purchases: ``user_id``, ``item_id``, ``timestamp`` (seconds since 1970, or null), in order of arrival."""
        return self._bought.table()

    @property
    def forgotten(self) -> Sequence[str]:
        """Hashes of the customers who were forgotten (:func:`xcrossrec.copurchase.user_hash`)."""
        return self._bought.forgotten

    @property
    def purchases_read(self) -> int:
        """How far the purchases go: grows with each, and with each customer who is forgotten."""
        return len(self._bought)

    def purchases_after(self, count: int) -> Sequence[Entry]:
        """What was bought since :attr:`purchases_read` was ``count`` and the catalogue was opened, and who was
        forgotten since that count, ever for 0; None for a purchase that is deleted. Costs next to nothing."""
        return self._bought.after(count)

    def elsewhere(self) -> Callable[[], Catalogue]:
        """A function that opens a copy of this catalogue, as it is now, in memory; another process gets it pickled."""
        items, bought = merge_parts(self._snapshot.parts), (self.purchases(), self.forgotten)
        return partial(_copied, self.fingerprint, self.version, items.table, items.vectors.numpy(), self.text, bought)

    def close(self) -> None:
        """Finish what is being written and let go of what it is kept in; snapshots that were taken stay readable."""
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
        """Write items, new ones and others anew: all of them or none; kept, and found, when this returns.

        Args:
            items: each id once. An item that is written anew keeps its place in the order.
            vectors: theirs, of what the model reads, finite; kept in single precision.

        Returns:
            how many were written.

        Raises:
            DataError: an id twice, or vectors that do not fit.
            StorageError: the disk refuses; nothing was changed.
            CatalogueReplacedError: the catalogue is another model's by now (:meth:`embed_again`).
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
        """Delete items; gone, and found no longer, when this returns.

        Args:
            item_ids: unknown ones are no error.

        Returns:
            how many were there.

        Raises:
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
        """Add purchases, all of them or none; kept, and to be read, when this returns.

        They belong to the catalogue, not to its items or its model: they stay when an item is deleted, and when
        another model's vectors take the place. A purchase that is there already changes nothing: each item of a
        customer counts once, from when it came first.

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
        """Delete a customer's purchases: gone from disk, its free space too, when this returns.

        A hash of her id stays, by which no model that counted her purchases brings them back.

        Args:
            user_id: one of whom nothing is known is no error.

        Returns:
            how many there were.

        Raises:
            XCrossRecError: as for :meth:`upsert`; or they are deleted, and the disk has no room to write the rest anew,
                without what is left of them in free space.
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
        """The places of items: their own, or the next free ones."""
        free = count(self._snapshot.next_place)
        own = [self._snapshot.place(item.item_id) for item in items]
        return [next(free) if place is None else place for place in own]

    def compact(self) -> None:
        """Put the recently written items into a large segment now; searches and writes go on meanwhile."""
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
                    if self._closed is None and self._since is not None:  # else all was read again meanwhile
                        self._keep_instead(merged, replaced, self._since, {})
                        self._snapshot = self._snapshot.rebased(merged, replaced, self._since)
            finally:
                self._since = None

    # ---- another model

    @property
    def replaced_by(self) -> str | None:
        """The folder of the model whose vectors took this one's place elsewhere, empty where it is not known; None
        where none did."""
        return None

    def successor(self, fingerprint: str) -> Self | None:
        """The catalogue that took this one's place elsewhere, if it has a model's vectors; None else."""
        return None

    def embed_again(
        self, *, fingerprint: str, dim: int, encode: Encode, text: ItemText = TITLES, model: Path | str | None = None
    ) -> Self:
        """Give all items another model's vectors, in the same place, while this catalogue is read and written.

        Only at the end do writers wait, until the few items that were written last are encoded too and everything
        is kept in one step: a crash leaves the old vectors or the new ones. Then this catalogue still answers
        searches and refuses writes.

        Args:
            fingerprint: of the new model.
            dim: its vector size.
            encode: items to vectors, by the new model; one without a title or a text may be among them.
            text: what it reads of an item.
            model: its folder, for other processes that have the catalogue open.

        Returns:
            the catalogue that takes this one's place.

        Raises:
            DataError: vectors that do not fit.
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
        """The items that were written since the last call, as they are now; all of them first."""
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
        """Merge on another thread if many recent items stand apart."""
        *others, recent = (len(part.segment) for part in self._snapshot.parts)
        room = min(max(_RECENT_LEAST, sum(others) // _RECENT_SHARE), _RECENT_MOST)
        if recent > room and not (self._merger is not None and self._merger.is_alive()):
            self._merger = Thread(target=self._try_to_merge, name="xcrossrec-catalogue", daemon=True)
            self._merger.start()

    def _try_to_merge(self) -> None:
        try:
            self.compact()
        except XCrossRecError as error:
            log.warning("recent items stay apart until the next write: %s", error)

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
