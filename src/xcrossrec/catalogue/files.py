"""A catalogue's large segments on disk: four files each, written once, mapped or read when the catalogue opens.

``items-N.arrow`` has the items in columns, ``vectors-N.npy`` their vectors (float32, a row an item); a segment that is
worth it has ``codes-N.npy`` and ``scales-N.npy`` too, its vectors as integers (:mod:`xcrossrec.catalogue.scan`). Which
of them belong to a catalogue is said by its database alone (:mod:`xcrossrec.catalogue.rows`).

Legend: ``item`` = one item of the segment, ``dim`` = vector size.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Collection
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xcrossrec.catalogue.rows import SegmentRecord
from xcrossrec.catalogue.scan import Codes, processor_multiplies_integers, quantise, worth_quantising
from xcrossrec.catalogue.segment import COLUMNS, Segment
from xcrossrec.exceptions import BundleError
from xcrossrec.replacing import force_to_disk, refused

_NAME = re.compile(r"(?:items|vectors|codes|scales)-(\d+)\.(?:arrow|npy)")


def write_segment(folder: Path, number: int, segment: Segment) -> SegmentRecord:
    """Write a segment's files; all of them are on disk when this returns.

    Args:
        folder: of the catalogue.
        number: that no other segment there had.
        segment: at least one item.

    Raises:
        StorageError: the disk refuses; nothing of them stays.
    """
    codes = segment.codes or (quantise(segment.vectors) if worth_quantising(segment.vectors) else None)
    table = BytesIO()
    segment.table.write_ipc(table, compression="uncompressed")
    try:
        _write(folder / f"items-{number}.arrow", table.getbuffer())
        _write(folder / f"vectors-{number}.npy", segment.vectors)
        if codes:
            _write(folder / f"codes-{number}.npy", codes.values)
            _write(folder / f"scales-{number}.npy", codes.scale)
        force_to_disk(folder)
    except OSError as error:
        for path in folder.glob(f"*-{number}.*"):
            path.unlink()
        raise refused(folder, error) from error
    crc = zlib.crc32(table.getbuffer())
    return SegmentRecord(number, len(segment), crc, codes.error if codes else None, codes.length if codes else None)


def read_segment(folder: Path, record: SegmentRecord, dim: int) -> Segment:
    """Read a segment's items, and map its vectors: they are read when they are searched.

    Raises:
        BundleError: a file is missing, cut short or of other contents.
    """
    items = folder / f"items-{record.number}.arrow"
    try:
        content = items.read_bytes()
        if zlib.crc32(content) != record.crc:
            raise ValueError("its checksum differs")
        table = pl.read_ipc(content)
    except (OSError, ValueError, pl.exceptions.PolarsError) as error:
        raise _damaged(items, error) from error
    assert table.schema == COLUMNS, table.schema
    vectors = _map(folder / f"vectors-{record.number}.npy", (record.rows, dim), np.float32)
    codes = None
    if record.error is not None and record.length is not None:
        values = _map(folder / f"codes-{record.number}.npy", (record.rows, dim), np.int8)
        scale = _map(folder / f"scales-{record.number}.npy", (record.rows,), np.float32)
        codes = Codes(values, scale, record.error, record.length) if processor_multiplies_integers() else None
    return Segment(table, vectors, codes, record)


def remove_segments(folder: Path, *, keep: Collection[int]) -> None:
    """Remove the files of all segments but some; who has them mapped can read them still."""
    for path in folder.iterdir():
        if (name := _NAME.fullmatch(path.name)) and int(name[1]) not in keep:
            with suppress(OSError):  # what stays is removed when the catalogue opens next
                path.unlink()


def _write(path: Path, content: Tensor | memoryview) -> None:
    with path.open("wb") as file:
        if isinstance(content, Tensor):
            np.save(file, content.numpy(), allow_pickle=False)
        else:
            file.write(content)
    force_to_disk(path)


def _map(path: Path, shape: tuple[int, ...], kind: type[np.generic]) -> Tensor:
    """Map an array; no write to it would reach the file."""
    if 0 in shape:
        return torch.from_numpy(np.empty(shape, kind))
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(path, error) from error
    if array.shape != shape or array.dtype != kind:
        raise _damaged(path, f"it holds {array.dtype} of shape {array.shape}, expected {kind.__name__} of {shape}")
    return torch.from_numpy(array)


def _damaged(path: Path, what: object) -> BundleError:
    return BundleError(f"{path} is damaged ({what}): restore a copy of the catalogue, or build it again")
