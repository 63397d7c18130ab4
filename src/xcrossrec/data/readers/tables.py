"""A user's own tables: CSV, Parquet or JSON Lines, with a mapping of the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

import polars as pl

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import ONE_UNIT, SPLIT, RawDomain, interactions_frame, items_frame
from xcrossrec.data.readers.records import (
    csv_header,
    csv_records,
    json_keys,
    json_records,
    parquet_columns,
    parquet_records,
)
from xcrossrec.exceptions import DataError
from xcrossrec.types import Split

TableForm: TypeAlias = Literal["csv", "parquet", "jsonl"]


class _Records(Protocol):
    def __call__(
        self, path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]: ...


_RECORDS: Mapping[TableForm, _Records] = {
    "csv": csv_records,
    "parquet": parquet_records,
    "jsonl": json_records,
}
_PRESENT: Mapping[TableForm, Callable[[Path], list[str]]] = {
    "csv": csv_header,
    "parquet": parquet_columns,
    "jsonl": json_keys,
}


def read_tables(form: TableForm, interactions: Path, items: Path | None, columns: Columns) -> RawDomain:
    """Read one table of interactions, and the titles from a table of items or from the same table.

    Args:
        form: how the files are written.
        interactions: user, item, and time or position (and title, where ``items`` is None).
        items: item and title.
        columns: the column names, where they are not found by themselves.

    Raises:
        DataError: missing or malformed files, missing columns, times in several units.
    """
    table = _interactions(form, interactions, columns)
    titled = interactions if items is None else items
    return RawDomain(_items(form, titled, columns), table, tuple(dict.fromkeys([interactions, titled])))


def read_given(form: TableForm, splits: Mapping[Split, Path], items: Path, columns: Columns) -> RawDomain:
    """Read interactions that come already split, one file a split.

    Raises:
        DataError: missing or malformed files, missing columns, times in several units.
    """
    tables = [
        _interactions(form, path, columns).with_columns(pl.lit(split).alias(SPLIT)) for split, path in splits.items()
    ]
    if len({tuple(table.columns) for table in tables}) > 1:
        raise DataError(
            f"{', '.join(map(str, splits.values()))} have different columns: give all of them a "
            "position, or all of them a time"
        )
    return RawDomain(_items(form, items, columns), pl.concat(tables), (*splits.values(), items))


def _interactions(form: TableForm, path: Path, columns: Columns) -> pl.DataFrame:
    present = _PRESENT[form](path)
    named = columns.found_in(path, present, ("user", "item"), ("time", "position"))
    order = [name for name in (named.time, named.position) if name]
    if not order:
        raise DataError(
            f"{path} has no column for time or position, it has {', '.join(map(repr, present))}, so its order is "
            "unknown: name the column with --column time=NAME or --column position=NAME"
        )
    records = _RECORDS[form](path, [str(named.user), str(named.item), *order])
    return interactions_frame(records, path, named, remedy=ONE_UNIT)


def _items(form: TableForm, path: Path, columns: Columns) -> pl.DataFrame:
    named = columns.found_in(path, _PRESENT[form](path), ("item", "title"))
    return items_frame(_RECORDS[form](path, [str(named.item)], optional=[str(named.title)]), path, named)
