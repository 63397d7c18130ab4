"""Values as files have them to the types of the two tables that every format ends in: ids, times, prices, ..."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from xcrossrec.data.given import Table
from xcrossrec.data.interactions import SUBSECOND
from xcrossrec.data.readers.columns import Columns, TimeUnit
from xcrossrec.data.readers.conditions import Condition
from xcrossrec.data.readers.sources import Paths
from xcrossrec.types import TIMESTAMP, Incomplete, Split

PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
SPLIT = "split"
PATH_NAMES = 2  # of a path of categories so many last names are taken
_NANO = 10**9
_ISO = r"^\d{4}[-/]\d\d[-/]\d\d"
_OFFSET = r"(Z|[+-]\d\d:?\d\d)$"
_NOTHING = (
    "",
    "null",
    "Null",
    "NULL",
    "nan",
    "NaN",
    "None",
    "none",
    "n/a",
    "N/A",
    "\\N",
)  # as databases and pandas write it
_LIST_ENDS, _LIST_COMMA = r"""^\[+\s*["']?|["']?\s*\]+$""", r"""["'][\s\]]*,[\s\[]*["']"""

# Seconds of the years 2000 to 5138. In a finer unit the same number is a day of 1970 (up to 1973): the unit
# is then wrong.
EARLIEST_S, LATEST_S = 946_684_800, 99_999_999_999


@dataclass(frozen=True)
class Inputs:
    """The files of one source, each a path, a folder, a pattern, or several of these; or a table of any library.

    Args:
        items: the catalogue with titles; none where the titles stand among the interactions.
        splits: interactions that come split; instead of ``interactions``.
        columns: what the columns of own tables and RecBole files are called.
        separator: between the values of a table of text; None finds it.
        encoding: of text; None finds it.
        where: which interactions count; of several conditions with ``=`` on one column any, otherwise all.
        incomplete: what to do with interactions without user, item or time, and with items without an id.
    """

    interactions: Paths | Table = ()
    items: Paths | Table = ()
    splits: Mapping[Split, Paths | Table] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)
    separator: str | None = None
    encoding: str | None = None
    where: Sequence[Condition] = ()
    incomplete: Incomplete = "error"


@dataclass(frozen=True)
class RawDomain:
    """What a reader gives: the two tables, the files they came from, and what became of their rows.

    Args:
        items: columns item_id, title (an empty title where the source has none), then those of brand, category,
            description (text), price (Float64) and in_stock (Boolean) that the source has, then others as text; one
            row an item.
        interactions: columns user_id, item_id, and timestamp (seconds) or position or both; also ``subsecond``
            (nanoseconds) where times have fractions, and ``split`` (train, validation, test) where the source comes
            split.
        rows: how many interactions were read and, a reason each, left out.
        filters: what else the manifest states: conflicting titles.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    sources: tuple[Path, ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    filters: Mapping[str, object] = field(default_factory=dict)


def ids(name: str, dtype: pl.DataType) -> pl.Expr:
    """Give ids as text without blanks around them, whole numbers without ``.0``; null where there is none."""
    column = pl.col(name)
    if dtype.is_float():  # pandas makes whole numbers of it where one is missing
        whole = column.cast(pl.Int64, strict=False)
        column = pl.when(whole == column).then(whole.cast(pl.String)).otherwise(column.fill_nan(None).cast(pl.String))
    return filled(column.cast(pl.String).str.strip_chars())


def filled(text: pl.Expr) -> pl.Expr:
    """Make null of text that says that there is nothing."""
    return pl.when(~text.is_in(_NOTHING)).then(text)


def unit_of(values: pl.Series) -> TimeUnit:
    """Tell the unit of times by the first that is there: text that is no number is ISO 8601.

    Of numbers, those below 10^11 are seconds (until the year 5138), others milliseconds below 10^14, and so on.
    """
    first = values.drop_nulls().head(1).cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    if first.null_count():
        return "iso"
    size = abs(float(first.max() or 0))  # type: ignore[arg-type]
    return next((unit for unit, scale in PER_SECOND.items() if size <= LATEST_S * scale), "ns")


def times(values: pl.Series, unit: TimeUnit) -> pl.DataFrame:
    """Give times as integer seconds since 1970 and the nanoseconds beside them; null where a value is no time."""
    if isinstance(values.dtype, pl.Datetime):
        return _parts(values.to_physical(), PER_SECOND[values.dtype.time_unit])
    if values.dtype == pl.Date:
        return _parts(values.to_physical().cast(pl.Int64) * 86_400, 1)
    return _iso(values.cast(pl.String).str.strip_chars()) if unit == "iso" else _numbers(values, PER_SECOND[unit])


def _parts(numbers: pl.Series, per: int) -> pl.DataFrame:
    return numbers.to_frame("n").select(
        (pl.col("n") // per).cast(pl.Int64).alias(TIMESTAMP),
        (pl.col("n") % per * (_NANO // per)).cast(pl.Int32).alias(SUBSECOND),
    )


def _numbers(values: pl.Series, per: int) -> pl.DataFrame:
    """Take numbers apart; exactly where they are whole or decimal text, else as floats, to the microsecond."""
    whole = values.cast(pl.Int64, strict=False)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = whole.set(whole.cast(values.dtype) != values, None)
    parts = _parts(whole, per)
    rest = (whole.is_null() & values.is_not_null()).arg_true()
    if rest.is_empty():
        return parts
    text = values.gather(rest).cast(pl.String).str.strip_chars()
    rough = text.cast(pl.Float64, strict=False)
    units = (
        text.str.extract(r"^([+-]?\d+)(?:\.\d*)?$").cast(pl.Int64).fill_null(rough.floor().cast(pl.Int64, strict=False))
    )
    digits = text.str.extract(r"^[+-]?\d+\.(\d*)$").str.pad_end(9, "0").str.head(9).cast(pl.Int64)
    below = digits.fill_null(((rough - rough.floor()) * 1e6).round().cast(pl.Int64) * 1000)
    exact = _parts(units, per).with_columns((pl.col(SUBSECOND) + below // per).cast(pl.Int32))
    return parts.with_columns(parts[name].scatter(rest, exact[name]) for name in parts.columns)


def _iso(text: pl.Series) -> pl.DataFrame:
    """Read ISO 8601: at once where the first value tells the form of all, the others one by one."""
    first = text.drop_nulls().head(1)
    moments = pl.Series([None] * len(text), dtype=pl.Datetime("ns"))
    if first.str.contains(_ISO).any():
        zone = "UTC" if first.str.contains(_OFFSET).any() else None
        with suppress(pl.exceptions.PolarsError):
            moments = text.str.to_datetime(time_unit="ns", time_zone=zone, strict=False)
    parts = _parts(moments.to_physical(), _NANO)
    rest = (moments.is_null() & text.is_not_null()).arg_true()
    if rest.is_empty():
        return parts
    odd = text.gather(rest)
    known = {value: _moment(value) for value in odd.unique()}
    single = pl.DataFrame([known[value] for value in odd], schema=parts.schema, orient="row")
    return parts.with_columns(parts[name].scatter(rest, single[name]) for name in parts.columns)


def _moment(text: str) -> tuple[int | None, int | None]:
    """Read one time: ISO 8601, also ``... UTC`` and ``... +0100`` as databases and shops write it."""
    head, _, zone = text.replace("/", "-").rpartition(" ")
    if zone in ("UTC", "GMT", "Z") or zone[:1] in ("+", "-"):
        text = head + ("Z" if zone[0] in "UGZ" else zone)
    try:
        moment = datetime.fromisoformat(text.replace("/", "-"))
    except ValueError:
        return None, None
    stamp = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(stamp.timestamp() // 1), stamp.microsecond * 1000


def item_field(role: str, name: str, dtype: pl.DataType) -> pl.Expr:
    """Give a column of items its type: price a number, in_stock yes or no, anything else text."""
    column = pl.col(name)
    if role == "in_stock":
        column = column if dtype == pl.Boolean else _in_stock(column)
    elif role == "price":
        column = (column.cast(pl.Float64) if dtype.is_numeric() else _price(column)).fill_nan(None)
    else:
        column = _text(column, dtype, PATH_NAMES if role == "category" else None)
    return column.alias(role)


def _text(column: pl.Expr, dtype: pl.DataType, last: int | None) -> pl.Expr:
    """Give text; of a list its parts, of a path its ``last`` names, joined."""
    joint = " " if last is None else ", "
    if isinstance(dtype, pl.List):
        if isinstance(dtype.inner, pl.List):
            column, dtype = column.list.last(), dtype.inner
        names = column.cast(pl.List(pl.String))
        return (names if last is None else names.list.tail(last)).list.drop_nulls().list.join(joint)
    plain = column.cast(pl.String).str.strip_chars()
    names = plain.str.replace_all(_LIST_ENDS, "").str.replace_all(_LIST_COMMA, "\n").str.replace_all(r"\\[ntr]", " ")
    joined = (
        names.str.replace_all("\n", joint) if last is None else names.str.split("\n").list.tail(last).list.join(joint)
    )
    return pl.when(plain.str.starts_with("[")).then(joined.str.replace_all(r"\\(.)", "$1")).otherwise(plain)


def _price(column: pl.Expr) -> pl.Expr:
    """Read the first number of a text: ``$1,234.50``, ``1.234,50 €``, ``from 12,99``."""
    number = (
        column.cast(pl.String)
        .str.replace_all("\u00a0", "", literal=True)
        .str.extract(r"([0-9][0-9.,' ]*)")
        .str.replace_all(r"[' ]|[.,]$", "")
    )
    comma = number.str.replace_all(r"\.", "").str.replace(",", ".")
    plain = pl.when(number.str.contains(r",[0-9]{1,2}$")).then(comma).otherwise(number.str.replace_all(",", ""))
    return plain.cast(pl.Float64, strict=False)


def _in_stock(column: pl.Expr) -> pl.Expr:
    text = column.cast(pl.String).str.strip_chars().str.to_lowercase()
    number = text.cast(pl.Float64, strict=False)
    yes = text.is_in(["true", "t", "yes", "y", "in stock", "in_stock", "instock", "available"])
    no = text.is_in(["false", "f", "no", "n", "out of stock", "out_of_stock", "outofstock", "sold out", "unavailable"])
    return pl.when(number.is_not_null()).then(number > 0).when(yes).then(True).when(no).then(False)


def whole_numbers(values: pl.Series) -> pl.Series:
    """Give whole numbers, null where a value is none."""
    numbers = values.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    exact = values.cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    return exact.fill_null(numbers.set(numbers != numbers.floor(), None).cast(pl.Int64, strict=False))


def without_fractions(values: pl.Series) -> pl.Series:
    """Take ``.0`` from ids if every one of them ends so: whole numbers that were written as fractions."""
    if not values.head(1).cast(pl.String).str.ends_with(".0").any():
        return values
    whole = values.unique().cast(pl.String).str.contains(r"^\d+\.0$").all()
    return values.cast(pl.String).str.head(-2).cast(values.dtype) if whole else values
