"""Bytes of a file, plain or gzip, in blocks of whole lines: no file is ever held whole.

A thread reads and unpacks the next blocks while the caller parses this one.
"""

from __future__ import annotations

import gzip
import logging
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from xcrossrec.exceptions import DataError

GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 4 << 20
BLOCKS_AHEAD = 2  # unpacked while the caller is at work
LONGEST_LINE_BYTES = 64 << 20
PROGRESS_BYTES = 256 << 20
_LINE_END = 10

_LOG = logging.getLogger(__name__)

_GZIP_FAULTS: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
_open_gzip: Callable[[Path, str], Any] = gzip.open
try:
    from isal import igzip, isal_zlib
except ImportError:  # no wheel for this machine: the standard library does the same, three times slower
    pass
else:
    _open_gzip, _GZIP_FAULTS = igzip.open, (*_GZIP_FAULTS, cast(type[Exception], isal_zlib.error))


class Block(NamedTuple):
    """Whole lines of a file: the number of the first (from 1), how many line ends, and the bytes."""

    first: int
    ends: int
    data: bytes


def open_stream(path: Path) -> BinaryIO:
    """Open a file for reading, decompressing it if its first bytes say gzip, whatever its name.

    Raises:
        DataError: no such file, or a folder.
    """
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"cannot read {path}: it {state}; give the path of a file, plain or gzip")
    with path.open("rb") as probe:
        packed = probe.read(2) == GZIP_MAGIC
    return cast(BinaryIO, _open_gzip(path, "rb")) if packed else path.open("rb")


def read_bytes(stream: BinaryIO, path: Path, size: int) -> bytes:
    """Read up to ``size`` bytes.

    Raises:
        DataError: the gzip stream ends early or is corrupt.
    """
    try:
        return stream.read(size)
    except _GZIP_FAULTS as error:
        raise _damaged(path, error) from error


def first_byte(path: Path) -> bytes:
    """Give the first byte that is neither blank nor a byte order mark; empty for an empty file."""
    with open_stream(path) as stream:
        return read_bytes(stream, path, 4096).removeprefix(UTF8_MARK).lstrip()[:1]


def line_blocks(path: Path, block_bytes: int | None = None) -> Iterator[Block]:
    """Give blocks of whole lines, each with the number of its first line (from 1).

    Args:
        path: a file, plain or gzip.
        block_bytes: about how much to hold at a time; ``BLOCK_BYTES`` if None.

    Raises:
        DataError: missing, truncated or corrupt file, or a line longer than 64 MiB.
    """
    with (
        closing(_blocks(path, block_bytes or BLOCK_BYTES)) as blocks,
        ThreadPoolExecutor(1, "xcrossrec-read") as reader,
    ):
        coming = deque(reader.submit(next, blocks, None) for _ in range(BLOCKS_AHEAD))
        while block := coming.popleft().result():
            coming.append(reader.submit(next, blocks, None))
            yield block


def _blocks(path: Path, size: int) -> Generator[Block]:
    line, rest, total = 1, b"", 0
    with open_stream(path) as stream:
        while chunk := read_bytes(stream, path, size):
            fresh = chunk if total else chunk.removeprefix(UTF8_MARK)
            total += len(chunk)
            if total // PROGRESS_BYTES > (total - len(chunk)) // PROGRESS_BYTES:
                _LOG.info("%s: %d MiB read, line %d", path, total >> 20, line)
            end = fresh.rfind(b"\n") + 1
            if not end:
                rest += fresh
            else:
                data, rest = b"".join((rest, memoryview(fresh)[:end])), fresh[end:]
                del chunk, fresh  # before the next is unpacked: freed memory is used again, not asked for anew
                ends = _line_ends(data)
                yield Block(line, ends, data)
                line += ends
            _check_line_length(rest, path, line)
    if rest:
        yield Block(line, 0, rest)


def _line_ends(data: bytes) -> int:
    """Count line ends, five times faster than ``bytes.count``."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == _LINE_END))


def decode(data: bytes, path: Path, first_line: int) -> str:
    """Decode UTF-8.

    Raises:
        DataError: other bytes, with file and line.
    """
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}, line {line}: byte {data[error.start]:#04x} is not UTF-8: convert the file to UTF-8"
        ) from error


def _damaged(path: Path, error: Exception) -> DataError:
    """Say what is wrong with a gzip file, in the standard library's words whoever found it."""
    try:
        with gzip.open(path, "rb") as stream:
            while stream.read(BLOCK_BYTES):
                pass
    except (EOFError, gzip.BadGzipFile, zlib.error) as known:
        error = known
    if isinstance(error, EOFError):
        return DataError(f"{path} is a truncated gzip file: fetch or compress it again")
    return DataError(f"{path} is a corrupt gzip file ({error}): fetch or compress it again")


def _check_line_length(rest: bytes, path: Path, line: int) -> None:
    if len(rest) > LONGEST_LINE_BYTES:
        raise DataError(
            f"{path}, line {line} is longer than {LONGEST_LINE_BYTES >> 20} MiB: expected one record a line "
            "(a JSON array is not JSON Lines; write one object a line)"
        )
