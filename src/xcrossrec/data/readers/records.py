"""Records of a file as batches of the columns asked for, each with its line number.

Text formats give every value as text; Parquet gives its own types.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.data.readers.streams import Block, decode, line_blocks
from xcrossrec.data.store import readable
from xcrossrec.exceptions import DataError

LINE = "__line"
BATCH_ROWS = 200_000
_AGAIN = "write it again"
PARSERS = 2  # threads that parse JSON beside the one that unpacks

SEPARATORS = ",;\t"  # the one that the first line has most of

Row = tuple[int, list[str]]


def csv_records(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), names: Sequence[str] | None = None
) -> Iterator[pl.DataFrame]:
    """Read values separated by commas, semicolons or tabs; quoted fields may hold commas and line ends.

    Args:
        path: the file, plain or gzip, UTF-8.
        columns: columns that must be there.
        optional: columns to take if they are there.
        names: the columns' names, for a file without a header; None reads the first row as header.

    Raises:
        DataError: missing file or column, or a malformed row (with file and line).
    """
    return _table_records(path, _csv_rows(path), columns, optional, names, str)


def atomic_records(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """Read a RecBole atomic file: tab-separated, unquoted, a header of ``name:type``.

    Raises:
        DataError: missing file or column, or a malformed row (with file and line).
    """
    return _table_records(path, _tab_rows(path), columns, optional, None, lambda name: name.split(":")[0])


def csv_header(path: Path) -> list[str]:
    """Give the first row of a CSV file, or nothing for an empty one."""
    return [name.strip() for name in next((row for _, row in _csv_rows(path)), [])]


def atomic_header(path: Path) -> list[str]:
    """Give the column names of a RecBole atomic file, without their types."""
    return [name.strip().split(":")[0] for name in next((row for _, row in _tab_rows(path)), [])]


def json_records(
    path: Path, columns: Sequence[str], *, optional: Sequence[str] = (), loose: bool = False
) -> Iterator[pl.DataFrame]:
    """Read JSON Lines, block by block.

    Args:
        path: the file, plain or gzip, UTF-8.
        columns: keys that every line must have.
        optional: keys to take where they are there.
        loose: lines may also be Python dict literals, as in Amazon's 2014 metadata.

    Raises:
        DataError: missing file or key, or a malformed line (with file and line).
    """
    literal = False

    def parse(block: Block) -> pl.DataFrame | None:
        return None if literal else _fast_json(block, columns, optional)

    for block, batch in _parsed(line_blocks(path), parse):
        if literal or batch is None:
            batch, literal = _slow_json(block, path, columns, optional, loose)
        yield batch


def parquet_records(path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()) -> Iterator[pl.DataFrame]:
    """Read the columns of a Parquet file, a slice at a time; the line number is the row's, from 1.

    Raises:
        DataError: missing file or column, or not a Parquet file.
    """
    table = _parquet(path)
    wanted = wanted_columns(path, table.collect_schema().names(), columns, optional)
    with readable(path, _AGAIN):
        rows = table.select(pl.len()).collect().item()
        for start in range(0, rows, BATCH_ROWS):
            part = table.select(wanted).slice(start, BATCH_ROWS).collect()
            yield part.with_row_index(LINE, offset=start + 1)


def json_keys(path: Path) -> list[str]:
    """Give the keys of the first record of a JSON Lines file, or nothing for an empty one.

    Raises:
        DataError: missing file, or a first line that is no JSON object.
    """
    for first, _, data in line_blocks(path):
        for number, text in enumerate(decode(data, path, first).split("\n"), first):
            if text.strip():
                return list(_parse_line(text, path, number, loose=False)[0])
    return []


def parquet_columns(path: Path) -> list[str]:
    """Give the column names of a Parquet file.

    Raises:
        DataError: missing file, or not a Parquet file.
    """
    return _parquet(path).collect_schema().names()


def _parquet(path: Path) -> pl.LazyFrame:
    if not path.is_file():
        raise DataError(f"cannot read {path}: it does not exist; give the path of a Parquet file")
    with readable(path, _AGAIN):
        table = pl.scan_parquet(path, glob=False, hive_partitioning=False)
        table.collect_schema()
        return table


def wanted_columns(
    path: Path, present: Sequence[str], columns: Sequence[str], optional: Sequence[str] = ()
) -> list[str]:
    """Choose the columns to read; refuse a file that lacks one, or has it twice."""
    for name in columns:
        if name not in present:
            raise DataError(
                f"{path} has no column {name!r}, it has {', '.join(map(repr, present)) or 'none'}: "
                "name the right column, or choose the format that the file has"
            )
    wanted = list(dict.fromkeys([*columns, *(name for name in optional if name in present)]))
    for name in wanted:
        if list(present).count(name) > 1:
            raise DataError(f"{path} has {list(present).count(name)} columns {name!r}: rename all but one")
    return wanted


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = _lines(path)
    header = next(lines, "")
    separator = max(SEPARATORS, key=header.count)
    reader = csv.reader(chain([header], lines), strict=True, delimiter=separator)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: not a CSV row ({error}): mend its quotes") from error


def _tab_rows(path: Path) -> Iterator[Row]:
    for number, text in enumerate(_lines(path), 1):
        if stripped := text.rstrip("\r\n"):
            yield number, stripped.split("\t")


def _lines(path: Path) -> Iterator[str]:
    for first, _, data in line_blocks(path):
        yield from io.StringIO(decode(data, path, first), newline="\n")


def _table_records(
    path: Path,
    rows: Iterator[Row],
    columns: Sequence[str],
    optional: Sequence[str],
    names: Sequence[str] | None,
    clean: Callable[[str], str],
) -> Iterator[pl.DataFrame]:
    if names is None:
        _, header = next(rows, (0, []))
        if not header:
            raise DataError(f"{path} is empty: expected a header row and records")
        names = [clean(name.strip()) for name in header]
    wanted = wanted_columns(path, names, columns, optional)
    places = [names.index(name) for name in wanted]
    kept: list[tuple[int | str, ...]] = []
    for line, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{path}, line {line}: {len(row)} fields where {len(names)} are expected "
                f"({', '.join(names)}): mend the row, or choose the format that the file has"
            )
        kept.append((line, *(row[place] for place in places)))
        if len(kept) >= BATCH_ROWS:
            yield _text_frame(kept, wanted)
            kept = []
    yield _text_frame(kept, wanted)


def _text_frame(rows: Iterable[Sequence[Any]], columns: Sequence[str]) -> pl.DataFrame:
    schema = {LINE: pl.Int64, **dict.fromkeys(columns, pl.String)}
    return pl.DataFrame(list(rows), schema=schema, orient="row")


def _parsed(
    blocks: Iterator[Block], parse: Callable[[Block], pl.DataFrame | None]
) -> Iterator[tuple[Block, pl.DataFrame | None]]:
    """Parse blocks in threads, a few ahead; they come in their order, and a broken file's end comes last."""
    waiting: deque[tuple[Block, Future[pl.DataFrame | None]]] = deque()
    failure: DataError | None = None
    with ThreadPoolExecutor(PARSERS, "xcrossrec-parse") as pool:
        while failure is None:
            try:
                block = next(blocks, None)
            except DataError as error:
                failure, block = error, None
            if block is None:
                break
            waiting.append((block, pool.submit(parse, block)))
            if len(waiting) > PARSERS:
                first, frame = waiting.popleft()
                yield first, frame.result()
        for first, frame in waiting:
            yield first, frame.result()
    if failure is not None:
        raise failure


def _fast_json(block: Block, columns: Sequence[str], optional: Sequence[str]) -> pl.DataFrame | None:
    """Parse a block of clean lines; None where anything needs a closer look."""
    schema = dict.fromkeys([*columns, *optional], pl.String)
    try:
        frame = pl.read_ndjson(block.data, schema=schema)
    except pl.exceptions.PolarsError:
        return None
    if frame.height != block.ends + (not block.data.endswith(b"\n")):
        return None
    if any(_lacks_or_nests(frame[name]) for name in columns):
        return None
    lines = pl.int_range(block.first, block.first + frame.height, eager=True).alias(LINE)
    return frame.insert_column(0, lines)


def _lacks_or_nests(values: pl.Series) -> bool:
    """Tell whether any value is missing, or a list or an object written as text."""
    return values.null_count() > 0 or bool((values.str.starts_with("[") | values.str.starts_with("{")).any())


def _slow_json(
    block: Block, path: Path, columns: Sequence[str], optional: Sequence[str], loose: bool
) -> tuple[pl.DataFrame, bool]:
    """Parse line by line; also say whether any line was a Python literal."""
    rows: list[list[Any]] = []
    literal = False
    for number, text in enumerate(decode(block.data, path, block.first).split("\n"), block.first):
        if not text.strip():
            continue
        record, was_literal = _parse_line(text, path, number, loose)
        literal = literal or was_literal
        required = [_required(record, name, path, number) for name in columns]
        rows.append([number, *required, *(_text(record.get(name)) for name in optional)])
    return _text_frame(rows, list(dict.fromkeys([*columns, *optional]))), literal


def _parse_line(text: str, path: Path, line: int, loose: bool) -> tuple[dict[str, Any], bool]:
    literal, record = False, None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        if loose:
            record, literal = _literal(text), True
    if not isinstance(record, dict):
        expected = "a JSON object or a Python dict" if loose else "a JSON object"
        raise DataError(f"{path}, line {line}: {text[:60]!r} is not {expected}: mend or remove the line")
    return record, literal


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return None


def _required(record: dict[str, Any], name: str, path: Path, line: int) -> str:
    if name not in record:
        raise DataError(
            f"{path}, line {line}: has no column {name!r}, it has {', '.join(map(repr, record)) or 'none'}: "
            "name the right column, or choose the format that the file has"
        )
    value = record[name]
    if isinstance(value, (list, dict)):
        raise DataError(f"{path}, line {line}: {name} is a {type(value).__name__}, expected text or a number")
    return _text(value) or ""


def _text(value: object) -> str | None:
    """Write a JSON value as text, as polars does; NaN and null are no value."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, dict | list) else str(value)
