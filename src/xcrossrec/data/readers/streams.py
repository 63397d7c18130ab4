"""Bytes of a file, plain or gzip, in blocks of whole lines: no file is ever held whole."""

from __future__ import annotations

import gzip
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from xcrossrec.exceptions import DataError

GZIP_MAGIC = b"\x1f\x8b"
UTF8_MARK = b"\xef\xbb\xbf"
BLOCK_BYTES = 4 << 20
LONGEST_LINE_BYTES = 64 << 20
PROGRESS_BYTES = 256 << 20

_LOG = logging.getLogger(__name__)


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
    return cast(BinaryIO, gzip.open(path, "rb")) if packed else path.open("rb")


def read_bytes(stream: BinaryIO, path: Path, size: int) -> bytes:
    """Read up to ``size`` bytes.

    Raises:
        DataError: the gzip stream ends early or is corrupt.
    """
    try:
        return stream.read(size)
    except EOFError as error:
        raise DataError(f"{path} is a truncated gzip file: fetch or compress it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is a corrupt gzip file ({error}): fetch or compress it again") from error


def first_byte(path: Path) -> bytes:
    """Give the first byte that is neither blank nor a byte order mark; empty for an empty file."""
    with open_stream(path) as stream:
        return read_bytes(stream, path, 4096).removeprefix(UTF8_MARK).lstrip()[:1]


def line_blocks(path: Path, block_bytes: int | None = None) -> Iterator[tuple[int, bytes]]:
    """Give blocks of whole lines, each with the number of its first line (from 1).

    Args:
        path: a file, plain or gzip.
        block_bytes: about how much to hold at a time; ``BLOCK_BYTES`` if None.

    Raises:
        DataError: missing, truncated or corrupt file, or a line longer than 64 MiB.
    """
    size = block_bytes or BLOCK_BYTES
    line, rest, total = 1, b"", 0
    with open_stream(path) as stream:
        while chunk := read_bytes(stream, path, size):
            rest += chunk if total else chunk.removeprefix(UTF8_MARK)
            total += len(chunk)
            if total // PROGRESS_BYTES > (total - len(chunk)) // PROGRESS_BYTES:
                _LOG.info("%s: %d MiB read, line %d", path, total >> 20, line)
            end = rest.rfind(b"\n") + 1
            if end:
                yield line, rest[:end]
                line += rest.count(b"\n", 0, end)
                rest = rest[end:]
            _check_line_length(rest, path, line)
    if rest:
        yield line, rest


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


def _check_line_length(rest: bytes, path: Path, line: int) -> None:
    if len(rest) > LONGEST_LINE_BYTES:
        raise DataError(
            f"{path}, line {line} is longer than {LONGEST_LINE_BYTES >> 20} MiB: expected one record a line "
            "(a JSON array is not JSON Lines; write one object a line)"
        )
