"""Conversion of values in files to the types of the two tables that all readers return: ids, prices, ..."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from xcrossrec.data.given import Table
from xcrossrec.data.readers.columns import VOCABULARY, Columns, check_choices
from xcrossrec.data.readers.conditions import Condition
from xcrossrec.data.readers.sources import Paths
from xcrossrec.data.text import ABSENT, plain_numbers, unaccented
from xcrossrec.types import Incomplete, Split

SPLIT = "split"
PATH_NAMES = 2  # names that are taken from the end of a path of categories
_EDGES = string.whitespace + "\x00\x85\xa0\u2000\u2009\u200a\u200b\u2028\u202f\u2060\u3000\ufeff"
"""Stripped from ids: blanks and invisible characters, such as byte order marks of joined files, and padding."""
_NO_DATE = ("0000-00-00", "0000-00-00 00:00:00")  # MySQL's
_FORMS = (form for word in ABSENT for form in (word, word.upper(), word.title()))
_NOTHING = ("", "NaN", "NaT", "NA", *_NO_DATE, *_FORMS)
_COMMAS, _TIMES = (f"(?i)(?:{'|'.join(VOCABULARY['price'][kind])})" for kind in ("commas", "times"))
_UNITS = unaccented("|".join(VOCABULARY["stock"]["units"]))
_COUNTED = rf"^(?:[^\d:]*: *|> *)?(\d+(?:\.\d+)?)(?: *(?:\+|{_UNITS}))?$"
_LIST_BEGINS, _LIST_ENDS, _LIST_COMMA = r"""^\[+\s*["']?""", r"""["']?\s*\]+$""", r"""["'][\s\]]*,[\s\[]*["']"""


@dataclass(frozen=True)
class Inputs:
    """The files of one source, each a path, a folder, a pattern, or several of these; or a table of any library.

    Args:
        items: the catalogue with titles; none if the interactions have the titles.
        splits: interactions that come split, instead of ``interactions``.
        columns: names of the columns of own tables and RecBole files.
        where: which interactions count: those that meet all conditions, but only one of those with ``=`` on a column.
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

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass(frozen=True)
class RawDomain:
    """The two tables that a reader returns, their files, and counts of their rows.

    Args:
        items: columns item_id, title (empty if the source has none), then those of brand, category, description (text),
            price (Float64) and in_stock (Boolean) that the source has, then others as text; one row per item.
        interactions: columns user_id, item_id, and timestamp (seconds) or position or both; also ``subsecond``
            (nanoseconds) if times have fractions, and ``split`` (train, validation, test) if the source comes split.
        rows: number of interactions read and, for each reason, left out.
        filters: further entries of the manifest's ``filters``.
    """

    items: pl.DataFrame
    interactions: pl.DataFrame
    sources: tuple[Path, ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    filters: Mapping[str, object] = field(default_factory=dict)


def ids(name: str, dtype: pl.DataType) -> pl.Expr:
    """Ids as text without surrounding blanks; whole numbers without ``.0``, null if missing."""
    column = pl.col(name)
    if dtype.is_float() or dtype.is_decimal():  # pandas does so to integers if one is missing
        whole, number = column.cast(pl.Int64, strict=False), column.cast(pl.Float64)
        column = pl.when(whole == column).then(whole.cast(pl.String)).otherwise(number.fill_nan(None).cast(pl.String))
    elif dtype == pl.Binary:
        column = column.map_batches(_readable, return_dtype=pl.String)
    return filled(column.cast(pl.String).str.strip_chars(_EDGES))


def _readable(values: pl.Series) -> pl.Series:
    """Decode UTF-8 bytes; others, such as UUIDs, become hexadecimal digits."""
    try:
        return values.cast(pl.String)
    except pl.exceptions.PolarsError:
        return values.bin.encode("hex")


def filled(text: pl.Expr) -> pl.Expr:
    """Replace words for a missing value by null."""
    return pl.when(~text.is_in(_NOTHING)).then(text)


def item_field(role: str, name: str, dtype: pl.DataType) -> pl.Expr:
    """Convert a column of items: price to a number, in_stock to a boolean, others to text."""
    column = pl.col(name)
    if role == "in_stock":
        column = column if dtype == pl.Boolean else _each_once(_in_stock, column, pl.Boolean())
    elif role == "price":
        column = column.cast(pl.Float64) if dtype.is_numeric() else _each_once(_price, column, pl.Float64())
        column = pl.when(column.is_finite() & (column >= 0)).then(column)
    else:
        column = _text(column, dtype, PATH_NAMES if role == "category" else None)
    return column.alias(role)


def not_understood(role: str, name: str, dtype: pl.DataType) -> pl.Expr:
    """The values of a column of items that `item_field` cannot convert."""
    said = pl.when(item_field(role, name, dtype).is_null()).then(pl.col(name))
    return filled(said.cast(pl.String).str.strip_chars())


def _text(column: pl.Expr, dtype: pl.DataType, last: int | None) -> pl.Expr:
    """Convert to text; lists are joined, of a path only its ``last`` names."""
    joint = " " if last is None else ", "
    if isinstance(dtype, pl.List):
        if isinstance(dtype.inner, pl.List):
            column, dtype = column.list.last(), dtype.inner
        names = column.cast(pl.List(pl.String))
        return (names if last is None else names.list.tail(last)).list.drop_nulls().list.join(joint)
    plain = column.cast(pl.String).str.strip_chars()
    within = plain.str.replace(_LIST_BEGINS, "").str.replace(_LIST_ENDS, "")
    names = within.str.replace_all(_LIST_COMMA, "\n").str.replace_all(r"\\[ntr]", " ")
    joined = (
        names.str.replace_all("\n", joint) if last is None else names.str.split("\n").list.tail(last).list.join(joint)
    )
    return pl.when(plain.str.starts_with("[")).then(joined.str.replace_all(r"\\(.)", "$1")).otherwise(plain)


def _each_once(read: Callable[[pl.Expr], pl.Expr], column: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """Convert a column with few distinct texts, each of them once."""

    def known(texts: pl.Series) -> pl.Series:
        different = texts.unique()
        values = plain_numbers(different).alias("text").to_frame().select(read(pl.col("text"))).to_series()
        return texts.replace_strict(different, values, return_dtype=dtype)

    return column.cast(pl.String).map_batches(known, return_dtype=dtype)


def _price(column: pl.Expr) -> pl.Expr:
    """Read the first number of a text: ``$1,234.50``, ``1.234,50 €``, ``from 12,99``; others decide on ``1.234``."""
    text = column.cast(pl.String).str.replace_all("([0-9])[\\s'\u2019`]+([0-9])", "$1$2")
    number = text.str.extract(r"([0-9][0-9.,]*)").str.replace(r"[.,]+$", "")
    comma = number.str.contains(r",[0-9]{1,2}$")
    known = comma.any() | number.str.contains(r"(\.[0-9]{3}){2}$").any() | text.str.contains(_COMMAS)
    points = number.str.contains(r"^[0-9]{1,3}(\.[0-9]{3})+$") & known
    european = number.str.replace_all(r"\.", "").str.replace(",", ".")
    plain = pl.when(comma | points).then(european).otherwise(number.str.replace_all(",", ""))
    whole = pl.when(~points).then(column.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False))
    return pl.when(~text.str.contains(_TIMES)).then(pl.coalesce(whole, plain.cast(pl.Float64, strict=False)))


def _in_stock(column: pl.Expr) -> pl.Expr:
    text = column.str.strip_chars().map_elements(unaccented, return_dtype=pl.String).str.to_lowercase()
    number = text.str.replace(_COUNTED, "$1").cast(pl.Float64, strict=False).fill_nan(None)
    word = text.str.replace(r"^https?:.*/", "").str.replace_all(r"[\s_-]", "")
    yes, no = (word.is_in(unaccented(VOCABULARY["stock"][kind]).split()) for kind in ("yes", "no"))
    return pl.when(number.is_not_null()).then(number > 0).when(yes).then(True).when(no).then(False)


def without_fractions(values: pl.Series) -> pl.Series:
    """Remove ``.0`` from ids if all of them end in it: whole numbers that were written as floats."""
    if not values.head(1).cast(pl.String).str.ends_with(".0").any():
        return values
    whole = values.unique().cast(pl.String).str.contains(r"^\d+\.0$").all()
    return values.cast(pl.String).str.head(-2).cast(values.dtype) if whole else values
