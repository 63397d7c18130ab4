"""A user's own tables: CSV, Parquet, JSON Lines or RecBole's atomic files, with a mapping of the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeAlias

import polars as pl

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import ONE_UNIT, SPLIT, Inputs, RawDomain, interactions_frame, items_frame
from xcrossrec.data.readers.records import (
    atomic_header,
    atomic_records,
    csv_header,
    csv_records,
    json_keys,
    json_records,
    parquet_columns,
    parquet_records,
)
from xcrossrec.exceptions import ConfigError, DataError

TableForm: TypeAlias = Literal["csv", "parquet", "jsonl", "recbole"]


class _Records(Protocol):
    def __call__(
        self, path: Path, columns: Sequence[str], *, optional: Sequence[str] = ()
    ) -> Iterator[pl.DataFrame]: ...


class _Form(NamedTuple):
    records: _Records
    present: Callable[[Path], list[str]]


_FORMS: Mapping[TableForm, _Form] = {
    "csv": _Form(csv_records, csv_header),
    "parquet": _Form(parquet_records, parquet_columns),
    "jsonl": _Form(json_records, json_keys),
    "recbole": _Form(atomic_records, atomic_header),
}


def read_tables(form: TableForm, inputs: Inputs) -> RawDomain:
    """Read interactions from one table or one a split, and the titles from a table of items or from the one table.

    Raises:
        ConfigError: inputs that leave out what is needed, or give both ways.
        DataError: missing or malformed files, missing columns, times in several units.
    """
    if (inputs.interactions is None) == (not inputs.splits):
        raise ConfigError(
            f"format {form} takes either one file of interactions or files that come split (train, "
            "validation, test): give one of the two"
        )
    titled = inputs.items or inputs.interactions
    if titled is None or (inputs.splits and "train" not in inputs.splits):
        raise ConfigError("files that come split need the items (with titles) and at least train: give both")
    columns = inputs.columns
    if inputs.interactions is not None:
        bought, table = [inputs.interactions], _interactions(form, inputs.interactions, columns)
    else:
        bought, table = list(inputs.splits.values()), _given(form, inputs)
    return RawDomain(_items(form, titled, columns), table, tuple(dict.fromkeys([*bought, titled])))


def _given(form: TableForm, inputs: Inputs) -> pl.DataFrame:
    """Read interactions that come already split, one file a split."""
    splits = inputs.splits
    tables = [
        _interactions(form, path, inputs.columns).with_columns(pl.lit(split).alias(SPLIT))
        for split, path in splits.items()
    ]
    if len({tuple(table.columns) for table in tables}) > 1:
        raise DataError(
            f"{', '.join(map(str, splits.values()))} have different columns: give all of them a "
            "position, or all of them a time"
        )
    return pl.concat(tables)


def _interactions(form: TableForm, path: Path, columns: Columns) -> pl.DataFrame:
    present = _FORMS[form].present(path)
    named = columns.found_in(path, present, ("user", "item"), ("time", "position"))
    order = [name for name in (named.time, named.position) if name]
    if not order:
        raise DataError(
            f"{path} has no column for time or position, it has {', '.join(map(repr, present))}, so its order is "
            "unknown: name the column with --column time=NAME or --column position=NAME"
        )
    records = _FORMS[form].records(path, [str(named.user), str(named.item), *order])
    return interactions_frame(records, path, named, remedy=ONE_UNIT)


def _items(form: TableForm, path: Path, columns: Columns) -> pl.DataFrame:
    named = columns.found_in(path, _FORMS[form].present(path), ("item", "title"))
    return items_frame(_FORMS[form].records(path, [str(named.item)], optional=[str(named.title)]), path, named)
