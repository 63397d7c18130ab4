"""A catalogue in a folder: items and vectors that survive a crash.

A write is one transaction of a SQLite database (:mod:`xcrossrec.catalogue.rows`); most items are in files next to it,
which are written once and mapped when the catalogue opens (:mod:`xcrossrec.catalogue.files`).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from jaxtyping import Float

from xcrossrec.catalogue import files
from xcrossrec.catalogue.base import Catalogue
from xcrossrec.catalogue.fingerprint import check_fingerprint
from xcrossrec.catalogue.purchases import LAST_NUMBER, Purchase, PurchaseLog, as_table
from xcrossrec.catalogue.rows import DATABASE, DamagedError, InUseError, Rows, SegmentRecord
from xcrossrec.catalogue.segment import PLACE, Segment, check_of_item, check_vectors, checks_of_vectors, table_of_rows
from xcrossrec.catalogue.snapshot import HeldSnapshot, Part
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.copurchase import user_hash
from xcrossrec.data.text import TITLES, ItemText
from xcrossrec.exceptions import BundleError, NoCatalogueError, StorageError
from xcrossrec.replacing import check_in_place, check_vacant, replacing_folder
from xcrossrec.system import force_to_disk

log = logging.getLogger(__name__)


def is_catalogue(folder: Path | str) -> bool:
    """Whether a folder holds a catalogue, or what is left of one (StorageError: this user may not read the folder)."""
    with suppress(FileNotFoundError, NotADirectoryError, ValueError):
        if not os.access(folder, os.X_OK):  # Python 3.14's exists() is False there, and raises nothing
            files.check_access(Path(folder))
    return any((Path(folder) / name).exists() for name in (DATABASE, files.VERSION))


def recorded_fingerprint(folder: Path) -> str | None:
    """The fingerprint of a catalogue's model (BundleError: it is damaged); None if it is open or has another format."""
    try:
        with closing(Rows.open(folder / DATABASE)) as rows:
            return str(rows.facts["fingerprint"])
    except DamagedError:
        raise
    except BundleError:
        return None


class SqliteCatalogue(Catalogue):
    """A catalogue in a folder; one process at a time has it open. Make one with :meth:`create` or :meth:`open`."""

    folder: Path

    def __init__(
        self, folder: Path, rows: Rows, fingerprint: str, snapshot: HeldSnapshot, text: ItemText, bought: PurchaseLog
    ) -> None:
        super().__init__(folder, fingerprint, snapshot, text, bought)
        self._rows = rows
        self._next_number = 1 + max(_numbers(snapshot), default=0)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        items: Sequence[StoredItem],
        vectors: Float[np.ndarray, "item dim"],
        *,
        fingerprint: str,
        text: ItemText = TITLES,
        overwrite: bool = False,
        version: int = 1,
        bought: PurchaseLog | None = None,
    ) -> Self:
        """Make a catalogue in a temporary folder, move it to its place in one step, and open it.

        Args:
            folder: to make; the others, and DataError, are those of :meth:`in_memory`.
            overwrite: replace a catalogue that is already there, and not open (else BundleError).
            version: to begin with.
            bought: purchases and forgotten customers to begin with; None for none.

        Raises:
            StorageError: the disk refuses.
        """
        folder, dim = Path(folder), vectors.shape[1]
        segment = Segment.of(items, check_vectors(items, vectors, dim))
        with replacing_folder(folder, overwrite=overwrite) as temporary, held(folder, overwrite=overwrite):
            bought = bought or PurchaseLog()
            facts = {"fingerprint": fingerprint, "dim": dim, "version": version, "text": text.template}
            facts["forgotten"] = bought.forgotten
            written = [files.write_segment(temporary, 1, segment)] if items else []
            Rows.create(temporary / DATABASE, facts, written, bought.table().iter_rows()).close()
            files.write_version(temporary, version)
        return cls.open(folder, fingerprint=fingerprint)

    @classmethod
    def open(cls, folder: Path | str, *, fingerprint: str | None) -> Self:
        """Open a catalogue: roll back an interrupted write, and check everything.

        Args:
            folder: what :meth:`create` made.
            fingerprint: of the model that will encode queries; None accepts any model's vectors.

        Raises:
            BundleError: no catalogue, a damaged one, lost writes that had been acknowledged, open in another process,
                another format, or another model's vectors; the message names the command that helps.
            StorageError: this user may not write it.
        """
        folder = Path(folder)
        check_folder(folder)
        rows = Rows.open(folder / DATABASE)
        try:
            facts = rows.facts
            if fingerprint is not None:
                check_fingerprint(str(folder), facts["fingerprint"], fingerprint)
            if (version := facts["version"]) < (acknowledged := files.read_version(folder)):
                raise BundleError(
                    f"{folder} was taken back to version {version}, {acknowledged - version} writes lost: version "
                    f"{acknowledged} had been acknowledged, and the log that held them is damaged or gone; restore a "
                    f"copy, or continue without them with  xcrossrec catalog repair MODEL {folder}"
                )
            if version > acknowledged:  # a crash came between a write and its acknowledgement
                with suppress(OSError):
                    files.write_version(folder, version)
            snapshot = _read(folder, rows)
            bought = _read_purchases(rows)
            if facts.get("unwiped"):  # a process died between the two steps of forgetting
                try:
                    rows.wipe()
                except StorageError as error:
                    log.warning("%s", error)
        except BaseException:
            rows.close()
            raise
        return cls(folder, rows, facts["fingerprint"], snapshot, ItemText(facts["text"]), bought)

    @staticmethod
    def recorded_purchases(folder: Path | str) -> PurchaseLog:
        """All purchases in order of arrival, and the forgotten customers.

        BundleError: no catalogue, a damaged one, or one that is open in another process.
        """
        check_folder(Path(folder))
        with closing(Rows.open(Path(folder) / DATABASE)) as rows:
            return _read_purchases(rows)

    def _keep_write(self, written: Segment, deleted: Collection[str], version: int) -> None:
        gone = {*written.row_of, *deleted}
        dead = [
            (part.segment.record.number, row)
            for part in self._snapshot.parts
            if part.segment.record
            for row in part.segment.rows_of(gone)
            if part.alive[row]
        ]
        facts = {"version": version}
        self._rows.write(written.table.rows(), written.vectors.numpy(), deleted=deleted, dead=dead, facts=facts)
        self._acknowledge(version)

    def _keep_purchases(self, purchases: Sequence[Purchase], version: int) -> Sequence[Purchase]:
        fresh = [purchase for purchase in purchases if not self._rows.known_purchase(purchase.values)]
        if fresh:
            self._rows.add_purchases([purchase.values for purchase in fresh], facts={"version": version})
            self._acknowledge(version)
        return fresh

    def _keep_forgotten(self, user_id: str, version: int) -> int:
        if gone := self._rows.forget(user_id, user_hash(user_id), facts={"version": version}):
            self._acknowledge(version)
        return gone

    def _wipe(self) -> None:
        self._rows.wipe()

    def _check_open(self) -> None:
        super()._check_open()
        check_in_place(self._rows.path, self._rows.opened)

    def _keep_merged(self, merged: Segment) -> Segment:
        if not len(merged):
            return merged
        check_in_place(self._rows.path, self._rows.opened)  # else files of another catalogue might be overwritten
        number, self._next_number = self._next_number, self._next_number + 1
        record = files.write_segment(self.folder, number, merged)
        return files.read_segment(self.folder, record, merged.vectors.shape[1])

    def _keep_instead(
        self, merged: Segment, instead_of: Collection[Segment], since: Collection[str], facts: Mapping[str, Any]
    ) -> None:
        """Switch in one transaction, then remove the files that are no longer used."""
        check_in_place(self._rows.path, self._rows.opened)  # else files of another catalogue might be removed
        keep = _numbers(self._snapshot)
        added = [merged.record] if merged.record else []
        removed = {each.record.number for each in instead_of if each.record}
        dead = [(record.number, row) for record in added for row in merged.rows_of(since)]
        try:
            self._rows.replace_segments(added, removed, dead=dead, still_recent=since, facts=facts)
            keep |= {record.number for record in added}
            if "version" in facts:
                self._acknowledge(facts["version"])
            if self._rows.write_back():  # damage to the log would bring the old segments back
                keep -= removed
        finally:
            files.remove_segments(self.folder, keep=keep)

    def _successor(self, fingerprint: str, snapshot: HeldSnapshot, text: ItemText) -> Self:
        return type(self)(self.folder, self._rows, fingerprint, snapshot, text, self._bought)

    def _acknowledge(self, version: int) -> None:
        """Write the version to a file of its own, which damage to the database's log does not change."""
        try:
            files.write_version(self.folder, version)
        except OSError as error:
            log.warning("%s: version %d is stored, but its loss would not be noticed (%s)", self.folder, version, error)

    def _let_go(self) -> None:
        self._rows.close()
        with suppress(OSError):  # one that is too low is no damage
            force_to_disk(self.folder / files.VERSION)


def _numbers(snapshot: HeldSnapshot) -> set[int]:
    return {part.segment.record.number for part in snapshot.parts if part.segment.record}


def _read(folder: Path, rows: Rows) -> HeldSnapshot:
    """Check and read a folder's items, and remove files that belong to no segment."""
    rows.check()
    parts = read_parts(rows, lambda record: files.read_segment(folder, record, rows.facts["dim"]))
    recent = parts[-1].segment
    if bad := [row for row, sound in zip(recent.table.rows(), are_sound(recent), strict=True) if not all(sound)]:
        raise DamagedError(rows.path, f"the checksum of item {bad[0][1]!r} differs; {len(bad)} such items")
    _check_items(rows.path, parts)
    snapshot = HeldSnapshot(rows.facts["version"], tuple(parts))
    if left := files.remove_segments(folder, keep=_numbers(snapshot)):
        log.warning("%s: %s were removed: an interrupted write had left them", folder, ", ".join(left))
    return snapshot


def read_parts(rows: Rows, read: Callable[[SegmentRecord], Segment]) -> list[Part]:
    """Read all segments and the recent items, and mark dead rows (BundleError: one of them does not exist)."""
    parts = {record.number: Part.whole(read(record)) for record in rows.segments()}
    for number, row in rows.dead():
        if number not in parts or row not in range(len(parts[number].segment)):
            raise DamagedError(rows.path, f"the dead row {row!r} of segment {number!r} does not exist")
        parts[number].alive[row] = False
    return [*parts.values(), Part.whole(read_recent(rows))]


def _check_items(path: Path, parts: Sequence[Part]) -> None:
    """Refuse values that no catalogue writes, whatever their checksums (DamagedError): a folder may be forged."""
    for segment in [part.segment for part in parts if len(part.segment)]:
        values, vectors = segment.can_be()
        if not (values & vectors).all():
            item = segment.table["item_id"][int(np.argmin(values & vectors))]
            raise DamagedError(path, f"the values or the vector of item {item!r} cannot have been written")
        places = segment.places
        if places[0] < 0 or places[-1] >= LAST_NUMBER or (np.diff(places) <= 0).any():
            raise DamagedError(path, "the items of a segment are not in order")
    for name in ("item_id", PLACE):
        column = pl.concat([part.segment.table[name].filter(pl.Series(part.alive)) for part in parts])
        if column.n_unique() < len(column):
            raise DamagedError(path, f"two items have the {name} {column.filter(column.is_duplicated())[0]!r}")


def _read_purchases(rows: Rows) -> PurchaseLog:
    tables = []
    for sound, damaged in rows.purchases():
        if damaged:
            raise DamagedError(rows.path, damaged[0])
        tables.append(as_table(sound))
    return PurchaseLog(pl.concat([as_table(()), *tables]), rows.forgotten)


def read_recent(rows: Rows) -> Segment:
    """Read the items that are in no segment yet; cells of another type become null, vectors of another size zeros."""
    found, dim = rows.recent(), rows.facts["dim"]

    def fits(vector: object) -> bool:
        return isinstance(vector, bytes) and len(vector) == 4 * dim

    content = bytearray().join(row[-1] if fits(row[-1]) else bytes(4 * dim) for row in found)
    vectors = np.frombuffer(content, dtype=np.float32).reshape(len(found), dim)
    return Segment.build(table_of_rows([row[:-1] for row in found]), torch.from_numpy(vectors))


def are_sound(segment: Segment) -> list[tuple[bool, bool]]:
    """Return for each item whether its values, and whether its vector, are what was written."""

    def reads(row: Sequence[Any]) -> bool:
        with suppress(BundleError):
            return check_of_item(row[:-2]) == row[-2] and StoredItem.restore(*row[1:-2]) is not None
        return False

    rows = zip(segment.table.rows(), checks_of_vectors(segment.vectors), *segment.can_be(), strict=True)
    return [(bool(fits) and reads(row), bool(whole) and vector == row[-1]) for row, vector, fits, whole in rows]


def check_folder(folder: Path) -> None:
    """Refuse a folder without a catalogue (BundleError), or one that this user may not write (StorageError)."""
    if not is_catalogue(folder):
        raise NoCatalogueError(
            f"{folder} holds no catalogue: check the path, or make one with  xcrossrec catalog build MODEL ITEMS "
            f"--out {folder}"
        )
    files.check_access(folder)


@contextmanager
def held(folder: Path, *, overwrite: bool) -> Iterator[None]:
    """Refuse (BundleError) to replace anything but a catalogue that is not open, and that only with ``overwrite``.

    Within the block nobody can open the catalogue, whose new writes would be lost.
    """
    with ExitStack() as stack:
        if not check_vacant(folder, overwrite=overwrite):
            if not is_catalogue(folder):
                raise BundleError(f"{folder} exists and is no catalogue: it is not replaced, choose another place")
            files.check_access(folder)
            try:
                stack.enter_context(closing(Rows(folder / DATABASE)))
            except InUseError:
                raise
            except BundleError as error:
                log.warning("%s is replaced: %s", folder, error)
        yield
