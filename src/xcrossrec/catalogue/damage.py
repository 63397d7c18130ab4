"""Find what is damaged in a catalogue on disk, and make a catalogue from the rest.

A damaged vector is encoded again from its item. An item with a damaged title, id or price is lost, and reported; so is
a damaged purchase.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool

from xcrossrec.catalogue.base import Encode
from xcrossrec.catalogue.files import check_file, read_table, read_version
from xcrossrec.catalogue.fingerprint import check_fingerprint
from xcrossrec.catalogue.purchases import PurchaseLog, as_table
from xcrossrec.catalogue.rows import DATABASE, DamagedError, Rows, SegmentRecord
from xcrossrec.catalogue.segment import Segment
from xcrossrec.catalogue.snapshot import merge_parts
from xcrossrec.catalogue.sqlite import SqliteCatalogue, are_sound, check_folder, read_parts
from xcrossrec.data.text import ItemText
from xcrossrec.exceptions import BundleError
from xcrossrec.types import ITEM, USER

T = TypeVar("T")

_HEADER = 128
"""Bytes that numpy writes before the values of a vectors' file."""


@dataclass(frozen=True)
class Examination:
    """What a catalogue's folder holds, and what is damaged.

    Attributes:
        fingerprint: of the model that made the vectors.
        text: what that model reads of an item.
        version: of the last write that was acknowledged, or of the last that is there.
        findings: sentences on what is damaged, except single items.
        items: all that were not deleted, in the catalogue's order.
        unreadable: items with damaged values.
        unfit: items with a damaged vector.
        bought: intact purchases, and forgotten customers.
    """

    fingerprint: str
    text: ItemText
    version: int
    findings: tuple[str, ...]
    items: Segment
    unreadable: Bool[np.ndarray, " item"]
    unfit: Bool[np.ndarray, " item"]
    bought: PurchaseLog

    def sentences(self) -> list[str]:
        """All that is damaged, one line each."""
        table, found = self.items.table, list(self.findings)
        for what, rows in (("id, title or another value", self.unreadable), ("vector", self.unfit & ~self.unreadable)):
            for row in np.flatnonzero(rows).tolist():
                found.append(
                    f"item {table['item_id'][row]!r} ({str(table['title'][row])[:60]!r}): its {what} is damaged"
                )
        return found


def examine(folder: Path | str) -> Examination:
    """Find what is damaged; changes nothing, except that an interrupted write is rolled back.

    Raises:
        BundleError: no catalogue, open in another process, or too damaged to list its items.
        StorageError: this user may not read or write it.
    """
    folder = Path(folder)
    check_folder(folder)
    findings: list[str] = []
    try:
        with closing(Rows.open(folder / DATABASE)) as rows:
            rows.read_damaged_texts()
            rows.check_sum("segments")
            items = _items(folder, rows, findings)
            with _noted(findings):
                rows.check()
            bought = PurchaseLog(_purchases(rows, findings), rows.forgotten)
            version = acknowledged = rows.facts["version"]
    except DamagedError as error:
        raise BundleError(
            f"{error.path} is damaged ({error.what}), so that the items cannot be listed: restore a copy, or build the "
            "catalogue again"
        ) from error
    with _noted(findings):
        acknowledged = read_version(folder)
    if acknowledged > version:
        findings.append(f"taken back to version {version}, {acknowledged - version} writes lost")
    sound = np.array(are_sound(items), dtype=np.bool_).reshape(len(items), 2)
    facts = rows.facts["fingerprint"], ItemText(rows.facts["text"]), max(version, acknowledged)
    return Examination(*facts, tuple(dict.fromkeys(findings)), items, ~sound[:, 0], ~sound[:, 1], bought)


def repair(folder: Path | str, *, fingerprint: str, encode: Encode) -> tuple[Examination, SqliteCatalogue]:
    """Replace a damaged catalogue by one with all items whose values are intact.

    Args:
        folder: of the damaged one.
        fingerprint: of the model that made its vectors (else BundleError, as for :func:`examine`).
        encode: encodes items with that model.

    Returns:
        what was found, and the new catalogue, whose version is higher than any that was acknowledged.
    """
    folder = Path(folder)
    found = examine(folder)
    check_fingerprint(str(folder), found.fingerprint, fingerprint)
    kept = np.flatnonzero(~found.unreadable).tolist()
    vectors = found.items.vectors.numpy()[kept]
    items = [found.items.item(row) for row in kept]
    anew = np.flatnonzero(found.unfit[kept])
    if len(anew) == len(items):  # their size may be damaged, too
        vectors = encode(items)
    elif len(anew):
        vectors[anew] = encode([items[row] for row in anew])
    made = SqliteCatalogue.create(
        folder,
        items,
        vectors,
        fingerprint=fingerprint,
        text=found.text,
        overwrite=True,
        version=found.version + 1,
        bought=found.bought,
    )
    return found, made


@contextmanager
def _noted(findings: list[str]) -> Iterator[None]:
    try:
        yield
    except DamagedError as error:
        findings.append(f"{error.path} is damaged ({error.what})")


def _purchases(rows: Rows, findings: list[str]) -> pl.DataFrame:
    """Read the intact purchases; where a page of the database is damaged, from both ends up to it."""
    with _noted(findings):
        rows.check_sum("purchases")
    try:
        parts, total = list(rows.purchases()), ""
    except DamagedError:
        first, last = (_until_damaged(rows.purchases(at_once=1, newest_first=newest)) for newest in (False, True))
        parts, total = first + last[::-1], "an unknown number of"
        with suppress(DamagedError):
            total = str(rows.count_purchases())
    findings += dict.fromkeys(sentence for _, damaged in parts for sentence in damaged)
    intact = as_table([values for sound, _ in parts for values in sound])
    intact = intact.unique([USER, ITEM], keep="first", maintain_order=True)
    if total:
        findings.append(f"of {total} purchases {intact.height} can be read: the others are lost")
    return intact


def _until_damaged(parts: Iterator[T]) -> list[T]:
    found = list[T]()
    with suppress(DamagedError):
        found.extend(parts)  # what came before the damage stays
    return found


def _items(folder: Path, rows: Rows, findings: list[str]) -> Segment:
    """Read all items that were not deleted, by place, whatever their files' checksums."""

    def read(record: SegmentRecord) -> Segment:
        """Read a segment as it is; missing vectors become zeros."""
        for path, expected in record.files(folder):
            with _noted(findings):
                check_file(path, expected)
        table, dim = read_table(folder, record), rows.facts["dim"]
        place, size = folder / f"vectors-{record.number}.npy", 4 * record.rows * dim
        content = place.read_bytes()[_HEADER : _HEADER + size] if place.is_file() else b""
        vectors = np.frombuffer(bytearray(content.ljust(size, b"\0")), dtype=np.float32)
        return Segment(table, torch.from_numpy(vectors.reshape(record.rows, dim)))

    return merge_parts(read_parts(rows, read))
