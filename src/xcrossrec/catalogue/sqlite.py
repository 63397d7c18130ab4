"""A catalogue in a folder: items and vectors that outlive a crash.

A write is one transaction of a SQLite database (:mod:`xcrossrec.catalogue.rows`); most items stand in files beside it,
which are written once and mapped when the catalogue opens (:mod:`xcrossrec.catalogue.files`).

Legend: ``item`` = one item, ``dim`` = vector size.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32

from xcrossrec._version import __version__
from xcrossrec.catalogue.base import Catalogue, check_vectors
from xcrossrec.catalogue.files import read_segment, remove_segments, write_segment
from xcrossrec.catalogue.rows import DATABASE, Rows
from xcrossrec.catalogue.segment import Segment, table_of_rows
from xcrossrec.catalogue.snapshot import Part, Snapshot
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import BundleError
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.bundle import replacing

FORMAT_VERSION = 2


def is_catalogue(folder: Path | str) -> bool:
    """Whether a folder holds a catalogue that :meth:`SqliteCatalogue.create` made."""
    return (Path(folder) / DATABASE).is_file()


def recorded_fingerprint(folder: Path) -> str | None:
    """Whose vectors a catalogue holds; None for one that is damaged, or open already."""
    try:
        with closing(Rows.open(folder / DATABASE)) as rows:
            return str(rows.facts().get("fingerprint"))
    except BundleError:
        return None


class SqliteCatalogue(Catalogue):
    """A catalogue in a folder; one process at a time has it open. Make one with :meth:`create` or :meth:`open`."""

    folder: Path

    def __init__(self, folder: Path, rows: Rows, fingerprint: str, snapshot: Snapshot) -> None:
        super().__init__(folder, fingerprint, snapshot)
        self._rows = rows
        self._next_number = 1 + max(_numbers(snapshot), default=0)

    @classmethod
    def create(
        cls,
        folder: Path | str,
        items: Sequence[StoredItem],
        vectors: Float32[np.ndarray, "item dim"],
        *,
        fingerprint: str,
        overwrite: bool = False,
    ) -> Self:
        """Make a catalogue beside its place, rename it into place, and open it.

        Args:
            folder: to make; the others are those of :meth:`in_memory`.
            overwrite: replace a catalogue that is already there, and not open.

        Raises:
            BundleError: the folder exists and may not be replaced.
            DataError: an id twice, or vectors that do not fit.
            StorageError: the disk refuses.
        """
        folder = Path(folder)
        segment = Segment.of(items, check_vectors(items, vectors, vectors.shape[1]))
        if overwrite and folder.exists() and not is_catalogue(folder):
            raise BundleError(f"{folder} exists and is no catalogue: it is not replaced, choose another place")
        with replacing(folder, overwrite=overwrite) as temporary:
            dim = vectors.shape[1]
            facts = {"format_version": FORMAT_VERSION, "fingerprint": fingerprint, "dim": dim, "version": 1}
            written = [write_segment(temporary, 1, segment)] if items else []
            Rows.create(temporary / DATABASE, facts, written).close()
            manifest = {"kind": "catalogue", "xcrossrec_version": __version__, "created": datetime.now(UTC).isoformat()}
            (temporary / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
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
            snapshot = _read(folder, rows, facts)
        except BaseException:
            rows.close()
            raise
        return cls(folder, rows, facts["fingerprint"], snapshot)

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

    def _keep_merged(self, merged: Segment) -> Segment:
        if not len(merged):
            return merged
        number, self._next_number = self._next_number, self._next_number + 1
        return read_segment(self.folder, write_segment(self.folder, number, merged), merged.vectors.shape[1])

    def _keep_instead(
        self, merged: Segment, instead_of: Collection[Segment], since: Collection[str], facts: Mapping[str, Any]
    ) -> None:
        """Switch in one transaction, then remove the files that no longer count."""
        keep = _numbers(self._snapshot)
        added = [merged.record] if merged.record else []
        removed = {each.record.number for each in instead_of if each.record}
        dead = [(record.number, row) for record in added for row in merged.rows_of(since)]
        try:
            self._rows.replace_segments(added, removed, dead=dead, still_recent=since, facts=facts)
            keep = (keep - removed) | {record.number for record in added}
        finally:
            remove_segments(self.folder, keep=keep)

    def _successor(self, fingerprint: str, snapshot: Snapshot) -> Self:
        return type(self)(self.folder, self._rows, fingerprint, snapshot)

    def _let_go(self) -> None:
        self._rows.close()


def _numbers(snapshot: Snapshot) -> set[int]:
    return {part.segment.record.number for part in snapshot.parts if part.segment.record}


def _read(folder: Path, rows: Rows, facts: dict[str, Any]) -> Snapshot:
    """Read what a folder holds, and remove files that belong to no segment."""
    dim, records = facts["dim"], rows.segments()
    parts = {record.number: Part.whole(read_segment(folder, record, dim)) for record in records}
    for number, row in rows.dead():
        parts[number].alive[row] = False
    table, vectors = rows.recent(dim)
    recent = Part.whole(Segment.build(table_of_rows(table), torch.from_numpy(vectors)))
    remove_segments(folder, keep=parts)
    return Snapshot(facts["version"], (*parts.values(), recent))


def _check_facts(folder: Path, facts: dict[str, Any], fingerprint: str | None) -> dict[str, Any]:
    if lost := [name for name in ("format_version", "fingerprint", "dim", "version") if name not in facts]:
        raise BundleError(f"the catalogue {folder} does not say its {lost[0]!r}: it is damaged; build it again")
    if facts["format_version"] != FORMAT_VERSION:
        raise BundleError(
            f"the catalogue {folder} has format version {facts['format_version']!r}, this release reads "
            f"{FORMAT_VERSION}: remove it and build it again"
        )
    if fingerprint is not None:
        check_fingerprint(str(folder), facts["fingerprint"], fingerprint)
    return facts


def check_fingerprint(catalogue: str, found: str, wanted: str) -> None:
    """Refuse a catalogue of another model's vectors.

    Raises:
        BundleError: names the command that encodes the titles again.
    """
    if found != wanted:
        raise BundleError(
            f"the catalogue {catalogue} holds another model's vectors (fingerprint {found[:12]}, this model's is "
            f"{wanted[:12]}): encode its titles again with  xcrossrec catalog embed MODEL {catalogue}"
        )
