"""Which interactions count: the user's conditions, and the detection of views and returns among purchases."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

import polars as pl

from xcrossrec.data.readers.columns import VOCABULARY, check_choices
from xcrossrec.data.text import ABSENT, unaccented
from xcrossrec.data.times import instants
from xcrossrec.exceptions import ConfigError, DataError

_COLUMNS, _VALUES = (
    {kind: re.compile(unaccented("|".join(words)), re.IGNORECASE) for kind, words in VOCABULARY[part].items()}
    for part in ("columns", "values")
)
_SIZES = {"quantities": ("0 or less", ">0"), "amounts": ("less than 0", ">=0")}  # not a purchase, a purchase
MANY_EVENTS = 50  # a column with more values has no kinds of events
_PARTS = re.compile(r"(.+?)\s*(!=|>=|<=|=|>|<)\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Condition:
    """What one column of an interaction must be."""

    column: str
    relation: Literal["=", "!=", "<", "<=", ">", ">="]
    value: str

    def __post_init__(self) -> None:
        check_choices(self)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``event_type=purchase``, ``status!=cancelled`` or ``qty>0`` (ConfigError: another form)."""
        found = _PARTS.fullmatch(text.strip())
        if found is None:
            raise ConfigError(f"--where {text!r} is not a condition: give COLUMN=VALUE, COLUMN!=VALUE or COLUMN>NUMBER")
        return cls(*cast("tuple[str, Any, str]", found.groups()))

    def holds(self, dtype: pl.DataType) -> pl.Expr:
        """The condition as an expression, never null; numbers and times are compared as such.

        ConfigError: ``<`` or ``>`` with any other value.
        """
        given, measured = pl.Series([self.value]), self.relation not in ("=", "!=")
        number, moment = given.cast(pl.Float64, strict=False)[0], instants(given)[0]
        column, value = _said(self.column, nothing=not self.value), pl.lit(self.value)
        if number is not None and (measured or dtype.is_numeric()):
            column, value = pl.col(self.column).cast(pl.Float64, strict=False), pl.lit(number)
        elif moment is not None and (measured or dtype.is_temporal()):
            column, value = pl.col(self.column).map_batches(instants, return_dtype=pl.Int64), pl.lit(moment)
        elif measured:
            raise ConfigError(
                f"--where {str(self)!r} compares with {self.value!r}: give a number, or a time (2026-01-31)"
            )
        elif self.value.lower() in ("true", "false"):
            column, value = column.str.to_lowercase(), pl.lit(self.value.lower())
        relations = {
            "=": column == value, "!=": column.ne_missing(value), "<": column < value, "<=": column <= value,
            ">": column > value, ">=": column >= value,
        }  # fmt: skip
        return relations[self.relation].fill_null(False)

    def __str__(self) -> str:
        return f"{self.column}{self.relation}{self.value}"


def all_hold(conditions: Sequence[Condition], types: Mapping[str, pl.DataType], path: str) -> pl.Expr:
    """Join conditions: any of those with ``=`` on one column, and all others (DataError: no such column)."""
    groups: dict[str | Condition, list[pl.Expr]] = {}
    for condition in conditions:
        if condition.column not in types:
            raise DataError(
                f"{path} has no column {condition.column!r} (--where {str(condition)!r}), it has "
                f"{', '.join(map(repr, types))}: name the right column"
            )
        if types[condition.column].is_nested():
            raise DataError(f"{path}: {condition.column!r} has lists or objects (--where): name one of single values")
        group = condition.column if condition.relation == "=" else condition
        groups.setdefault(group, []).append(condition.holds(types[condition.column]))
    return pl.all_horizontal(pl.lit(True), *(pl.any_horizontal(group) for group in groups.values()))


def event_columns(names: Sequence[str], conditions: Sequence[Condition]) -> dict[str, pl.Expr]:
    """Find columns without a condition that show whether a row is a purchase, and the values to count of each.

    These are kinds of events, states of orders, flags (``returned``), quantities, times and reasons of returns.
    """
    free = [name for name in names if name not in {condition.column for condition in conditions}]
    found = {name: pl.col(name).cast(pl.String) for name in free if _is(name, "events", "states", "yes", "no")}
    for kind, enough in zip(_SIZES, (pl.Expr.gt, pl.Expr.ge), strict=True):
        sizes = {name: pl.col(name).cast(pl.Float64, strict=False) for name in free if _is(name, kind)}
        found |= {name: enough(size, 0).cast(pl.String) for name, size in sizes.items()}
    undone = [name for name in free if _is(name, "undone")]
    return found | {name: (~_said(name, nothing=True).is_in(["", "0"])).cast(pl.String) for name in undone}


def _said(name: str, *, nothing: bool) -> pl.Expr:
    """A cell's text, trimmed; empty if it is null or, with ``nothing``, a word for a missing value."""
    text = pl.col(name).cast(pl.String).str.strip_chars().fill_null("")
    return pl.when(text.str.to_lowercase().is_in(ABSENT)).then(pl.lit("")).otherwise(text) if nothing else text


def _is(name: str, *kinds: str) -> bool:
    """Whether a column, or the last part of its dotted name, has a usual name of one of these kinds."""
    parts = (unaccented(part).casefold() for part in (name, name.rpartition(".")[2]))
    plain = ["".join(char for char in part if unicodedata.category(char)[0] in "LM") for part in parts]
    return any(_COLUMNS[kind].fullmatch(part) for kind in kinds for part in plain)


def refuse_views(path: str, column: str, counts: Mapping[str, int]) -> str | None:
    """Raise DataError if views, carts, returns or unknown events would be imported as purchases.

    Returns a remark on the column's other values, if there is one.
    """
    if len(counts) > MANY_EVENTS:
        return None
    shown = ", ".join(
        f"{value!r} ({count:,})" for value, count in sorted(counts.items(), key=lambda pair: -pair[1])[:8]
    )
    yes = [value for value in counts if value.strip().lower() in ("1", "1.0", "true", "t", "yes", "y")]
    others = [value for value in counts if _VALUES["not_bought"].search(unaccented(value))]
    bought = [value for value in counts if _VALUES["bought"].search(unaccented(value)) and value not in others]
    known = len(bought) + len(others) == len(counts) or not _is(column, "states")
    lines = [f"{column}={value}" for value in bought if known] or [f"{column}!={value}" for value in others]
    if kind := next((kind for kind in _SIZES if _is(column, kind)), ""):
        others, lines = [value for value in counts if value == "false"], [f"{column}{_SIZES[kind][1]}"]
        shown = f"{_SIZES[kind][0]} ({counts.get('false', 0):,})"
    elif _is(column, "undone"):
        others, lines = [value for value in counts if value == "true"], [f"{column}="]
        shown = f"an entry in {counts.get('true', 0):,} rows"
    elif _is(column, "yes") and yes:
        others, lines = [value for value in counts if value not in yes], [f"{column}={value}" for value in yes]
    elif _is(column, "no"):
        others, lines = yes, [f"{column}!={value}" for value in yes]
    elif _is(column, "events") and not others and len(counts) > 1 and len(bought) < len(counts):
        others, lines = [value for value in counts if value not in bought], lines or [f"{column}=VALUE"]
    if others:
        raise DataError(
            f"{path} has a column {column!r} with {shown}: not all of these are purchases; say what counts with "
            + " ".join(f'--where "{line}"' for line in lines)
            + (" (any of these values)" if len(lines) > 1 and "!=" not in lines[0] else "")
        )
    if len(counts) > 1 and _is(column, "states"):
        return (
            f'{path}: rows of every {column} are taken ({shown}); choose with --where "{column}={next(iter(counts))}"'
        )
    return None
