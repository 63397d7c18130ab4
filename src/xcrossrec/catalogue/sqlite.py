"""The catalogue of a service: items and vectors that outlive a crash, searched exactly while they change.

Rows and vectors are durable on disk (:mod:`xcrossrec.catalogue.rows`); searches run over memory, in snapshots
(:mod:`xcrossrec.catalogue.snapshot`). A write is on disk before any search sees it.

Legend: ``item`` = one item, ``slot`` = one query vector, ``dim`` = vector size.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock, RLock, Thread
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from xcrossrec._version import __version__
from xcrossrec.catalogue.filters import Filters
from xcrossrec.catalogue.pooling import Pool
from xcrossrec.catalogue.rows import DATABASE, Rows
from xcrossrec.catalogue.segment import Segment
from xcrossrec.catalogue.snapshot import Part, Snapshot
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.bundle import replacing

__all__ = [
    "CatalogueReplacedError",
    "Filters",
    "Snapshot",
    "SqliteCatalogue",
    "StoredItem",
    "is_catalogue",
    "recorded_fingerprint",
]

FORMAT_VERSION = 1
KIND = "catalogue"

_RECENT_LEAST, _RECENT_MOST, _RECENT_SHARE = 1024, 8192, 8
"""Items written since the base was made are put into a new base from an eighth of it on, within these bounds."""

_NO_VECTORS = np.empty((0, 0), dtype=np.float32)

_FEW = 64
"""Items that may be encoded while writers wait, when a catalogue changes its model."""


class CatalogueReplacedError(ConfigError):
    """The catalogue holds another model's vectors by now; write to the store that took its place."""


def is_catalogue(folder: Path | str) -> bool:
    """Whether a folder holds a catalogue that :meth:`SqliteCatalogue.create` made."""
    return (Path(folder) / DATABASE).is_file()


def recorded_fingerprint(folder: Path | str) -> str | None:
    """Whose vectors a catalogue holds; None for one that is damaged, or open already."""
    try:
        rows = Rows.open(Path(folder) / DATABASE)
    except BundleError:
        return None
    try:
        return str(rows.facts().get("fingerprint"))
    except BundleError:
        return None
    finally:
        rows.close()


class SqliteCatalogue:
    """An open catalogue. Any thread may read and write; one process at a time has it open.

    Make one with :meth:`create` or :meth:`open`, and :meth:`close` it, or use it in a ``with`` statement.
    """

    def __init__(self, folder: Path, rows: Rows, facts: dict[str, Any], snapshot: Snapshot, next_place: int) -> None:
        self.folder = folder
        self.fingerprint: str = facts["fingerprint"]
        self.dim: int = facts["dim"]
        self._rows = rows
        self._snapshot = snapshot
        self._place_of = {item.item_id: int(place) for item, place in _placed(snapshot.base.segment)}
        self._next_place = next_place
        self._writing = RLock()
        self._merging = Lock()
        self._since: set[str] | None = None  # ids written while a new base is made
        self._merger: Thread | None = None
        self._closed: ConfigError | None = None

    # ---- make, open, close

    @classmethod
    def create(
        cls,
        folder: Path | str,
        *,
        fingerprint: str,
        dim: int,
        items: Sequence[StoredItem] = (),
        vectors: Float32[np.ndarray, "item dim"] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Make a catalogue beside its place, rename it into place, and open it.

        Args:
            folder: to make.
            fingerprint: of the model that made the vectors (:func:`xcrossrec.catalogue.vector_fingerprint`).
            dim: vector size; 0 for a `pair` model, which has no vectors.
            items: to start with; here alone titles may be empty.
            vectors: theirs.
            overwrite: replace a catalogue that is already there, and not open.

        Raises:
            BundleError: the folder exists and may not be replaced.
            DataError: an id twice, or vectors that do not fit.
            StorageError: the disk refuses.
        """
        folder = Path(folder)
        checked = _check_vectors(items, _NO_VECTORS.reshape(0, dim) if vectors is None else vectors, dim)
        if overwrite and folder.exists() and not is_catalogue(folder):
            raise BundleError(f"{folder} exists and is no catalogue: it is not replaced, choose another place")
        with replacing(folder, overwrite=overwrite) as temporary:
            facts = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "dim": dim, "version": 0}
            rows = Rows.create(temporary / DATABASE, facts)
            try:
                rows.write(range(len(items)), items, checked, facts={"version": 1})
            finally:
                rows.close()
            _write_manifest(temporary)
        _sync(folder.absolute().parent)
        return cls.open(folder, fingerprint=fingerprint)

    @classmethod
    def open(cls, folder: Path | str, *, fingerprint: str | None) -> Self:
        """Open a catalogue; what an interrupted write left is taken back.

        Args:
            folder: what :meth:`create` made.
            fingerprint: of the model that queries will come from; None takes whatever model's vectors are there.

        Raises:
            BundleError: no catalogue there, damaged, open in another process, of another format, or of another
                model's vectors: then the sentence names the command that encodes it again.
        """
        folder = Path(folder)
        if not is_catalogue(folder):
            raise BundleError(
                f"{folder} holds no catalogue: check the path, or make one with  xcrossrec catalog build MODEL ITEMS "
                f"--out {folder}"
            )
        rows = Rows.open(folder / DATABASE)
        try:
            facts = _check_facts(folder, rows.facts(), fingerprint)
            items, places, vectors = rows.read(facts["dim"])
            base = Segment(items, places, torch.from_numpy(vectors))
        except BaseException:
            rows.close()
            raise
        snapshot = Snapshot(facts["version"], Part.whole(base), Part.whole(Segment.empty(facts["dim"])))
        return cls(folder, rows, facts, snapshot, int(places[-1]) + 1 if len(places) else 0)

    def close(self) -> None:
        """Finish what is being written and let go of the folder; snapshots that were taken stay readable."""
        with self._writing:
            if self._closed is None:
                self._closed = ConfigError(f"the catalogue {self.folder} is closed: open it again")
                self._rows.close()
        if self._merger is not None:
            self._merger.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- read

    def snapshot(self) -> Snapshot:
        """The catalogue as it is now; what comes later does not change it."""
        return self._snapshot

    @property
    def version(self) -> int:
        """Grows with every write."""
        return self._snapshot.version

    @property
    def count(self) -> int:
        """How many items there are."""
        return len(self._snapshot)

    def __len__(self) -> int:
        return self.count

    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; see :meth:`Snapshot.get`."""
        return self._snapshot.get(item_ids)

    def items(self) -> Iterator[StoredItem]:
        """Give all items of one version, in the catalogue's order: by when an id came first."""
        return iter(self._snapshot)

    def search_titles(self, text: str, limit: int) -> list[StoredItem]:
        """Find items by a part of their title; see :meth:`Snapshot.search_titles`."""
        return self._snapshot.search_titles(text, limit)

    def search(
        self,
        slots: Float32[Tensor, "slot dim"] | Float32[np.ndarray, "slot dim"],
        k: int,
        *,
        pool: Pool,
        filters: Filters | None = None,
        exclude: Collection[str] = (),
        among: Collection[str] | None = None,
    ) -> list[tuple[StoredItem, float]]:
        """Find the items with the highest scores; see :meth:`Snapshot.search`."""
        return self._snapshot.search(slots, k, pool=pool, filters=filters, exclude=exclude, among=among)

    # ---- write

    def upsert(
        self,
        items: Sequence[StoredItem],
        vectors: Float32[np.ndarray, "item dim"] | Float32[Tensor, "item dim"],
    ) -> int:
        """Write items, new ones and others anew: all of them or none; on disk, and found, when this returns.

        Args:
            items: each id once. An item that is written anew keeps its place in the order.
            vectors: of their titles, finite.

        Returns:
            how many were written.

        Raises:
            DataError: an id twice, an empty title, or vectors that do not fit.
            StorageError: the disk refuses; nothing was changed.
            CatalogueReplacedError: the catalogue is another model's by now (:meth:`embed_again`).
            ConfigError: it is closed.
        """
        checked = _check_vectors(items, _as_array(vectors), self.dim)
        if untitled := next((item for item in items if not item.title), None):
            raise DataError(f"item {untitled.item_id!r} has an empty title: give its text")
        if not items:
            return 0
        with self._writing:
            self._check_open()
            places = self._places(items)
            self._rows.write(places, items, checked, facts={"version": self.version + 1})
            order = np.argsort(places)
            written = Segment(
                [items[number] for number in order.tolist()],
                np.array(places, dtype=np.int64)[order],
                torch.from_numpy(checked[order]),
            )
            self._show(self._snapshot.changed(self.version + 1, written), written.row_of)
            self._place_of.update({item.item_id: place for item, place in zip(items, places, strict=True)})
            self._next_place = max(self._next_place, max(places) + 1)
        self._merge_later()
        return len(items)

    def delete(self, item_ids: Collection[str]) -> int:
        """Delete items; on disk, and found no longer, when this returns.

        Args:
            item_ids: unknown ones are no error.

        Returns:
            how many were there.

        Raises:
            StorageError: the disk refuses; nothing was changed.
            CatalogueReplacedError: the catalogue is another model's by now (:meth:`embed_again`).
            ConfigError: it is closed.
        """
        with self._writing:
            self._check_open()
            known = [item_id for item_id in dict.fromkeys(item_ids) if item_id in self._place_of]
            if not known:
                return 0
            facts = {"version": self.version + 1}
            self._rows.write([], [], _NO_VECTORS.reshape(0, self.dim), deleted=known, facts=facts)
            self._show(self._snapshot.changed(self.version + 1, deleted=known), known)
            for item_id in known:
                del self._place_of[item_id]
        return len(known)

    # ---- other models, and the base

    def compact(self) -> None:
        """Put the recently written items into a new base now; searches and writes go on meanwhile."""
        with self._merging:
            with self._writing:
                if self._closed is not None:
                    return
                before, self._since = self._snapshot, set()
            try:
                base = before.merged()
                with self._writing:
                    self._snapshot = self._snapshot.rebased(base, self._since)
            finally:
                self._since = None

    def embed_again(
        self, *, fingerprint: str, dim: int, encode: Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]]
    ) -> Self:
        """Give all items another model's vectors, in the same folder, while this store is read and written.

        Only at the end do writers wait, until the few items that were written last are encoded too and everything
        is on disk in one transaction: a crash leaves the old vectors or the new ones. Then this store still
        answers searches, from memory, and refuses writes.

        Args:
            fingerprint: of the new model.
            dim: its vector size.
            encode: titles to vectors, by the new model; an empty title is among them where an item has none.

        Returns:
            the store that takes this one's place.

        Raises:
            DataError: vectors that do not fit.
            StorageError: the disk refuses; nothing was changed.
            ConfigError: the catalogue is closed, or was replaced.
        """
        with self._merging:
            try:
                known: dict[str, Float32[np.ndarray, " dim"]] = {}
                pending = self._changed_since(everything=True)
                while len(pending) > _FEW:
                    known.update(_encode(pending, encode, dim))
                    pending = self._changed_since()
                with self._writing:
                    self._check_open()
                    known.update(_encode([*pending, *self._changed_since()], encode, dim))
                    return self._replace(fingerprint, dim, known)
            finally:
                self._since = None

    def _changed_since(self, *, everything: bool = False) -> list[StoredItem]:
        """The items that were written since the last call, as they are now."""
        with self._writing:
            changed, self._since = self._since, set()
            if everything or changed is None:
                return list(self._snapshot)
            return [item for item in self._snapshot.get(list(changed)) if item is not None]

    def _replace(self, fingerprint: str, dim: int, known: dict[str, Float32[np.ndarray, " dim"]]) -> Self:
        items = list(self._snapshot)
        places = np.array([self._place_of[item.item_id] for item in items], dtype=np.int64)
        vectors = np.stack([known[item.item_id] for item in items]) if items else np.empty((0, dim), np.float32)
        facts = {"fingerprint": fingerprint, "dim": dim, "version": self.version + 1}
        self._rows.replace_vectors(places.tolist(), vectors, facts=facts)
        self._closed = CatalogueReplacedError(
            f"the catalogue {self.folder} holds another model's vectors by now (fingerprint {fingerprint[:12]}): write "
            "to the store that took its place"
        )
        base = Segment(items, places, torch.from_numpy(vectors))
        snapshot = Snapshot(self.version + 1, Part.whole(base), Part.whole(Segment.empty(dim)))
        return type(self)(self.folder, self._rows, facts, snapshot, self._next_place)

    def _show(self, snapshot: Snapshot, changed: Collection[str]) -> None:
        if self._since is not None:
            self._since.update(changed)
        self._snapshot = snapshot

    def _places(self, items: Sequence[StoredItem]) -> list[int]:
        """The places of items: their own, or the next free ones."""
        free = iter(range(self._next_place, self._next_place + len(items)))
        return [self._place_of[i.item_id] if i.item_id in self._place_of else next(free) for i in items]

    def _merge_later(self) -> None:
        with self._writing:
            base, recent = (len(part.segment) for part in self._snapshot.parts)
            room = min(max(_RECENT_LEAST, base // _RECENT_SHARE), _RECENT_MOST)
            busy = self._merger is not None and self._merger.is_alive()
            if recent > room and not busy and self._closed is None:
                self._merger = Thread(target=self.compact, name="xcrossrec-catalogue", daemon=True)
                self._merger.start()

    def _check_open(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(*self._closed.args)


def _placed(segment: Segment) -> Iterator[tuple[StoredItem, int]]:
    return zip(segment.items, segment.places.tolist(), strict=True)


def _as_array(
    vectors: Float32[np.ndarray, "item dim"] | Float32[Tensor, "item dim"],
) -> Float32[np.ndarray, "item dim"]:
    return vectors.detach().cpu().numpy() if isinstance(vectors, Tensor) else vectors


def _check_vectors(
    items: Sequence[StoredItem], vectors: Float32[np.ndarray, "given dim"], dim: int
) -> Float32[np.ndarray, "item dim"]:
    """Refuse ids that come twice, and vectors of another number, size or type, or not finite."""
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise DataError(f"item id {item.item_id!r} comes twice in one write: send it once")
        seen.add(item.item_id)
    if vectors.shape != (len(items), dim):
        raise DataError(
            f"{len(items)} items came with vectors of shape {tuple(vectors.shape)}, expected {(len(items), dim)}: "
            "encode their titles with the catalogue's model"
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise DataError(f"the vector of item {items[bad[0]].item_id!r} is not finite: encode its title again")
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _encode(
    items: Sequence[StoredItem], encode: Callable[[Sequence[str]], Float32[np.ndarray, "text dim"]], dim: int
) -> dict[str, Float32[np.ndarray, " dim"]]:
    if not items:
        return {}
    last = list({item.item_id: item for item in items}.values())
    vectors = _check_vectors(last, encode([item.title for item in last]), dim)
    return {item.item_id: vector for item, vector in zip(last, vectors, strict=True)}


def _check_facts(folder: Path, facts: dict[str, Any], fingerprint: str | None) -> dict[str, Any]:
    if lost := [name for name in ("format_version", "fingerprint", "dim", "version") if name not in facts]:
        raise BundleError(f"the catalogue {folder} does not say its {lost[0]!r}: it is damaged; build it again")
    if facts["format_version"] != FORMAT_VERSION:
        raise BundleError(
            f"the catalogue {folder} has format version {facts['format_version']!r}, this release reads "
            f"{FORMAT_VERSION}: build it again"
        )
    if fingerprint is not None and facts["fingerprint"] != fingerprint:
        raise BundleError(
            f"the catalogue {folder} holds another model's vectors (fingerprint {facts['fingerprint'][:12]}, this "
            f"model's is {fingerprint[:12]}): encode its titles again with  xcrossrec catalog embed MODEL {folder}"
        )
    return facts


def _write_manifest(folder: Path) -> None:
    manifest = {
        "kind": KIND,
        "format_version": FORMAT_VERSION,
        "xcrossrec_version": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def _sync(folder: Path) -> None:
    """Make a folder's entries durable, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
