"""Batches of records to the two tables that every format ends in, with every value checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from xcrossrec.data.readers.columns import Columns, TimeUnit
from xcrossrec.data.readers.records import LINE
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, POSITION, TIMESTAMP, TITLE, USER, Split

PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SPLIT = "split"
ONE_UNIT = "the file's first time is; give all of them in one unit"

# Seconds of the years 2000 to 5138. In a finer unit the same number is a day of 1970 (up to 1973): the unit
# is then wrong.
EARLIEST_S, LATEST_S = 946_684_800, 99_999_999_999


@dataclass(frozen=True)
class Inputs:
    """The files of one source.

    Args:
        interactions: all interactions in one file.
        items: the catalogue with titles.
        splits: interactions that come split, one file a split; instead of ``interactions``.
        columns: what the columns of own tables and RecBole files are called.
    """

    interactions: Path | None = None
    items: Path | None = None
    splits: Mapping[Split, Path] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)


@dataclass(frozen=True)
class RawDomain:
    """What a reader gives: the two tables, and the files they came from.

    Args:
        items: columns item_id, title (an empty title where the source has none), one row an item.
        interactions: columns user_id, item_id, and timestamp (seconds) or position or both; also
            ``split`` (train, validation, test) where the source comes split.
        sources: the files read.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    sources: tuple[Path, ...]


def interactions_frame(batches: Iterable[pl.DataFrame], path: Path, columns: Columns, *, remedy: str) -> pl.DataFrame:
    """Check and rename batches of interactions.

    Args:
        batches: records with a line number, as `records` gives them.
        path: the file, for messages.
        columns: its column names; time and position are taken where a batch has them.
        remedy: what to do when a time is in another unit than ``columns.time_unit`` or the first one.

    Raises:
        DataError: no interactions, an empty id, a time or a position that is no number, times in another
            unit.
    """
    parts: list[pl.DataFrame] = []
    for batch in batches:
        if columns.time in batch.columns and columns.time_unit is None and batch.height:
            columns = replace(columns, time_unit=unit_of(batch[str(columns.time)]))
        parts.append(_interactions(batch, path, columns, remedy))
    table = pl.concat(parts, rechunk=True) if parts else pl.DataFrame()
    if table.is_empty():
        raise DataError(f"{path} holds no interactions: the domain would be empty; give the right file")
    return table


def items_frame(
    batches: Iterable[pl.DataFrame], path: Path, columns: Columns, *, keep: Collection[str] | None = None
) -> pl.DataFrame:
    """Check batches of items; an item that comes twice keeps its first title that is not empty.

    Args:
        batches: records with a line number, as `records` gives them.
        path: the file, for messages.
        columns: its column names.
        keep: take these item ids only, so that a large catalogue is never held; None takes all.

    Raises:
        DataError: an empty item id.
    """
    parts = [_items(batch, path, columns, keep) for batch in batches]
    table = pl.concat(parts) if parts else pl.DataFrame(schema={ITEM: pl.String, TITLE: pl.String})
    named = pl.col(TITLE).filter(pl.col(TITLE) != "").first().fill_null("")
    return table.group_by(ITEM, maintain_order=True).agg(named)


def seconds(values: pl.Series, unit: TimeUnit) -> pl.Series:
    """Give times as integer seconds since 1970; null where a value is no time."""
    if values.dtype.is_temporal():
        return values.cast(pl.Datetime("us")).dt.epoch("s")
    if unit == "iso":
        stamps = [_iso_seconds(value) for value in values.cast(pl.String)]
        return pl.Series(values.name, stamps, dtype=pl.Int64)
    return _whole(values) // PER_SECOND[unit]


def unit_of(values: pl.Series) -> TimeUnit:
    """Tell the unit of times by the first that is there: text that is no number is ISO 8601.

    Of numbers, those below 10^11 are seconds (until the year 5138), others milliseconds below 10^14, and so on.
    """
    first = values.drop_nulls().head(1)
    numbers = _whole(first)
    if numbers.null_count():
        return "iso"
    size = abs(int(numbers.max() or 0))  # type: ignore[arg-type]
    return next((unit for unit, scale in PER_SECOND.items() if size <= LATEST_S * scale), "ns")


def _interactions(batch: pl.DataFrame, path: Path, columns: Columns, remedy: str) -> pl.DataFrame:
    series = [
        _ids(batch, str(columns.user), path).alias(USER),
        _ids(batch, str(columns.item), path).alias(ITEM),
    ]
    if columns.time in batch.columns:
        series.append(_times(batch, str(columns.time), path, columns.time_unit or "s", remedy))
    if columns.position in batch.columns:
        series.append(_positions(batch, str(columns.position), path))
    return pl.DataFrame(series)


def _items(batch: pl.DataFrame, path: Path, columns: Columns, keep: Collection[str] | None) -> pl.DataFrame:
    ids = _ids(batch, str(columns.item), path).alias(ITEM)
    if columns.title in batch.columns:
        titles = batch[str(columns.title)].cast(pl.String).fill_null("").alias(TITLE)
    else:
        titles = pl.Series(TITLE, [""] * batch.height, dtype=pl.String)
    frame = pl.DataFrame([ids, titles])
    return frame if keep is None else frame.filter(pl.Series([item in keep for item in ids], dtype=pl.Boolean))


def _ids(batch: pl.DataFrame, name: str, path: Path) -> pl.Series:
    values = batch[name]
    if values.dtype.is_float():
        raise DataError(
            f"{path}: {name} holds numbers with a decimal point ({values.drop_nulls().head(1).to_list()}), "
            "not ids (some were missing when it was written?): store the ids as text or whole numbers"
        )
    texts = values.cast(pl.String).str.strip_chars()
    if texts.null_count() or texts.str.len_bytes().min() == 0:
        _refuse_first(batch, texts.fill_null("") == "", path, f"{name} is empty: give every row an id")
    return texts


def _times(batch: pl.DataFrame, name: str, path: Path, unit: TimeUnit, remedy: str) -> pl.Series:
    stamps = seconds(batch[name], unit).alias(TIMESTAMP)
    expected = "an ISO 8601 time" if unit == "iso" else f"a number of {unit} since 1970"
    _refuse_first(
        batch, stamps.is_null(), path, f"{name} is not {expected}: mend it, all times of a file are in one unit", name
    )
    if batch[name].dtype.is_temporal() or unit == "iso":
        return stamps
    numbers = stamps if unit == "s" else _whole(batch[name])
    fine = stamps > LATEST_S
    coarse = numbers.is_between(EARLIEST_S, LATEST_S) & (unit != "s")
    told = f"{name} is not in {unit} since 1970"
    _refuse_first(batch, fine | coarse, path, f"{told}: {remedy}", name)
    return stamps


def _positions(batch: pl.DataFrame, name: str, path: Path) -> pl.Series:
    places = _whole(batch[name]).alias(POSITION)
    broken = places.is_null() | (batch[name].cast(pl.Float64, strict=False) != places)
    _refuse_first(batch, broken, path, f"{name} is not a whole number: mend it", name)
    return places


def _whole(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    exact = values.cast(pl.Int64, strict=False)
    if exact.null_count() == 0:
        return exact
    return exact.fill_null(values.cast(pl.Float64, strict=False).floor().cast(pl.Int64, strict=False))


def _iso_seconds(text: str | None) -> int | None:
    try:
        moment = datetime.fromisoformat((text or "").strip())
    except ValueError:
        return None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() // 1)


def _refuse_first(batch: pl.DataFrame, bad: pl.Series, path: Path, message: str, column: str | None = None) -> None:
    if bad.any():
        row = bad.arg_true()[0]
        value = "" if column is None else f" {batch[column][row]!r} in"
        raise DataError(f"{path}, line {batch[LINE][row]}:{value} {message}")
