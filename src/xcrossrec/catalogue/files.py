"""A catalogue's files next to its database.

A large segment has two or four, written once, and mapped or read when the catalogue opens: ``items-N.arrow`` with the
items in columns, ``vectors-N.npy`` with their vectors (float32, one row per item); where it pays, ``codes-N.npy`` and
``scales-N.npy`` with the vectors as integers (:mod:`xcrossrec.catalogue.scan`). The database alone records which files
belong to the catalogue, and their checksums (:mod:`xcrossrec.catalogue.rows`).

``catalogue.version`` has the version of the last acknowledged write: where the database's log is damaged, SQLite drops
the writes after the damage silently, and this file shows it.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Collection
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from zlib import crc32

import numpy as np
import polars as pl
import torch
from torch import Tensor

from xcrossrec.catalogue.rows import DATABASE, LAST_VERSION, DamagedError, SegmentRecord, check_is_file
from xcrossrec.catalogue.scan import Codes, processor_multiplies_integers, quantise, worth_quantising
from xcrossrec.catalogue.segment import COLUMNS, Segment
from xcrossrec.data.store import is_panic
from xcrossrec.exceptions import StorageError, not_read
from xcrossrec.replacing import refused
from xcrossrec.system import force_to_disk

VERSION = "catalogue.version"

_NAME = re.compile(r"(?:items|vectors|codes|scales)-(\d+)\.(?:arrow|npy)")
_CHUNK = 1 << 20


def write_segment(folder: Path, number: int, segment: Segment) -> SegmentRecord:
    """Write the files of a segment with at least one item, and force them to disk; no other segment had the number.

    StorageError where the disk refuses: no file is left.
    """
    codes = segment.codes or (quantise(segment.vectors) if worth_quantising(segment.vectors) else None)
    table = BytesIO()
    segment.table.write_ipc(table, compression="uncompressed")
    try:
        items = _write(folder / f"items-{number}.arrow", table.getbuffer())
        vectors = _write(folder / f"vectors-{number}.npy", segment.vectors)
        values = _write(folder / f"codes-{number}.npy", codes.values) if codes else None
        scales = _write(folder / f"scales-{number}.npy", codes.scale) if codes else None
        force_to_disk(folder)
    except OSError as error:
        for path in folder.glob(f"*-{number}.*"):
            path.unlink()
        raise refused(folder, error) from error
    bounds = (codes.error, codes.length) if codes else (None, None)
    return SegmentRecord(number, len(segment), items, vectors, values, scales, *bounds)


def read_segment(folder: Path, record: SegmentRecord, dim: int) -> Segment:
    """Read a segment's items and map its vectors; BundleError where a file is missing, or has another checksum."""
    for path, expected in record.files(folder):
        check_file(path, expected)
    table, shape = read_table(folder, record), (record.rows, dim)
    vectors = _map(folder / f"vectors-{record.number}.npy", np.float32, shape)
    codes = None
    if record.codes is not None and processor_multiplies_integers():
        values = _map(folder / f"codes-{record.number}.npy", np.int8, shape)
        scale = _map(folder / f"scales-{record.number}.npy", np.float32, shape[:1])
        bounds = [each for each in (record.error, record.length) if isinstance(each, float) and 0 <= each < math.inf]
        if len(bounds) < 2 or not scale.isfinite().all():
            raise DamagedError(folder / f"codes-{record.number}.npy", "its scales or bounds are not finite")
        codes = Codes(values, scale, *bounds)
    return Segment(table, vectors, codes, record)


def read_table(folder: Path, record: SegmentRecord) -> pl.DataFrame:
    """Read a segment's items without checking their file's checksum (BundleError: other columns or rows)."""
    check_is_file(path := folder / f"items-{record.number}.arrow")
    try:
        table = pl.read_ipc(path.read_bytes())
        if table.schema != COLUMNS or table.height != record.rows:
            raise ValueError("its columns or rows are not those that were written")
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise not_read(path, error) or DamagedError(path, error) from error
    return table


def remove_segments(folder: Path, *, keep: Collection[int]) -> list[str]:
    """Remove the files of all segments but some, and return their names; a mapped file stays readable."""
    removed = []
    for path in sorted(folder.iterdir()):
        if (name := _NAME.fullmatch(path.name)) and int(name[1]) not in keep:
            with suppress(OSError):  # the next opening removes it
                path.unlink()
                removed.append(path.name)
    return removed


def write_version(folder: Path, version: int) -> None:
    """Record the version of a write that is about to be acknowledged (OSError: the disk refuses).

    It is not forced to disk, which would make every write wait twice: it survives a crash of the process, but a power
    cut only after about half a minute. A version that is too low does no harm.
    """
    text = f"{version:020d}"
    handle = os.open(folder / VERSION, os.O_WRONLY | os.O_CREAT, 0o666)
    try:
        os.pwrite(handle, f"{text} {crc32(text.encode()):08x}\n".encode(), 0)  # in one step
    finally:
        os.close(handle)


def read_version(folder: Path) -> int:
    """The version of the last write that was acknowledged; BundleError where the file is missing or damaged."""
    check_is_file(folder / VERSION)
    try:
        text, _, check = (folder / VERSION).read_text(encoding="ascii").removesuffix("\n").partition(" ")
        if check != f"{crc32(text.encode()):08x}":
            raise ValueError("its checksum differs")
        if not 0 <= (version := int(text)) <= LAST_VERSION:
            raise ValueError(f"no catalogue has the version {version}")
        return version
    except (OSError, ValueError) as error:
        raise not_read(folder / VERSION, error) or DamagedError(folder / VERSION, error) from error


def check_access(folder: Path) -> None:
    """Raise StorageError where this user may not read or write a catalogue's files, which is no damage."""
    try:
        for path in (folder, *folder.iterdir()):
            wanted = os.R_OK | (os.W_OK if path == folder or path.name.startswith((DATABASE, VERSION)) else 0)
            if not os.access(path, wanted) and path.exists():  # a link to nowhere is damage
                raise PermissionError(path)
    except PermissionError as error:
        place = Path(str(error.filename or error))
        right = "written" if os.access(place, os.R_OK) else "read"
        raise StorageError(
            f"{place} may not be {right} by this user (uid {os.geteuid()}): give it the rights to the catalogue's "
            "folder and all files in it (chown, chmod), or copy it to where it may be written; nothing is damaged"
        ) from None


def check_file(path: Path, expected: int) -> None:
    """Compare a file with its checksum (DamagedError: it is missing, or not what was written)."""
    check_is_file(path)
    try:
        found = _checksum(path)
    except OSError as error:
        raise not_read(path, error) or DamagedError(path, error) from error
    if found != expected:
        raise DamagedError(path, "its checksum differs")


def _checksum(path: Path) -> int:
    found = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found = crc32(chunk, found)
    return found


def _write(path: Path, content: Tensor | memoryview) -> int:
    """Write a file, force it to disk, and return its checksum."""
    with path.open("wb") as file:
        if isinstance(content, Tensor):
            np.save(file, content.numpy(), allow_pickle=False)
        else:
            file.write(content)
    force_to_disk(path)
    return _checksum(path)


def _map(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> Tensor:
    """Map an array, copy on write."""
    try:
        array = np.lib.format.open_memmap(path, mode="c")
        if array.dtype != kind or array.shape != shape:
            raise ValueError(f"its values are {array.dtype} of the shape {array.shape}, not {kind.__name__} of {shape}")
    except (OSError, ValueError, EOFError) as error:
        raise not_read(path, error) or DamagedError(path, error) from error
    return torch.from_numpy(array)
