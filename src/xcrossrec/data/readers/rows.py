"""Read interactions file by file: columns, conditions, ids, times, and counts of the rows that are left out."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl

from xcrossrec.data.readers.columns import Columns, Role, candidates, is_dated
from xcrossrec.data.readers.conditions import MANY_EVENTS, all_hold, event_columns, refuse_views
from xcrossrec.data.readers.frames import Inputs, filled, ids, without_fractions
from xcrossrec.data.readers.histories import HISTORY
from xcrossrec.data.readers.sources import Source
from xcrossrec.data.times import TimeUnit, faults, is_buddhist, on_a_day, times, unit_of, whole_numbers
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, POSITION, TIMESTAMP, USER

_KEPT, _EVENT, _ANY, _ASKED = "__kept", "__event", "__any", "__asked"
_CELL = r"""\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,\[\]\"'][^,\[\]\"']*"""
_SHORTENED = r"^\d[.,]\d+E\+\d+$"
_LIKELY_S = 10**8
_NO_TIMES = (pl.Duration, pl.Time, pl.Boolean, pl.Binary)
_LACKING = {USER: "a user", ITEM: "an item", TIMESTAMP: "a time", POSITION: "a position"}
_LOG = logging.getLogger(__name__)

Check = Callable[[pl.DataFrame, str, int], None]
"""Raises for a bad batch, given the file and the number of the batch's first row."""


@dataclass
class Tally:
    """Counts of the rows of some files, and what messages need."""

    read: int = 0
    where: int = 0
    incomplete: int = 0
    example: str = ""
    first: str = ""
    lacking: Counter[str] = field(default_factory=Counter)
    asked: Counter[str] = field(default_factory=Counter)
    events: dict[str, Counter[str]] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Add the counts of another file, whose counters may be plain mappings (from JSON)."""
        self.read, self.where = self.read + other.read, self.where + other.where
        self.incomplete, self.example = self.incomplete + other.incomplete, self.example or other.example
        self.first = self.first or other.first
        self.asked.update(other.asked)
        self.lacking.update(other.lacking)
        self.instead |= other.instead
        for column, counts in other.events.items():
            self.events.setdefault(column, Counter()).update(counts)

    def rows(self, inputs: Inputs) -> dict[str, int]:
        """The counts that are not 0.

        DataError: incomplete rows that are not to be dropped, no row that meets ``where``, or views among purchases.
        """
        for column, counted in self.events.items():
            if said := refuse_views(self.first, column, counted):
                _LOG.info("%s", said)
        if self.read and self.where == self.read:
            shown = ", ".join(f"{value!r} ({count:,})" for value, count in self.asked.most_common(8))
            asked = " ".join(f'--where "{condition}"' for condition in inputs.where)
            raise DataError(f"no row has {asked}: in {self.first}, {inputs.where[0].column} has {shown}")
        if self.read and inputs.where and not self.where:
            _LOG.info("--where leaves nothing out: every row is so (%s)", ", ".join(map(str, inputs.where)))
        lost = self.read == self.where + self.incomplete
        if self.incomplete and (lost or inputs.incomplete == "error"):
            lacking = ", ".join(f"{_LACKING[name]} ({count:,})" for name, count in self.lacking.items())
            others = ", ".join(f"--column {said}" for name, said in self.instead.items() if name in self.lacking)
            remedy = "name other columns (--column ROLE=NAME)" if lost else "leave them out (--incomplete drop)"
            raise DataError(
                f"{self.incomplete:,} of {self.read:,} rows of interactions lack {lacking}; first {self.example}: "
                f"complete them, {f'take another column ({others}), ' if others else ''}or {remedy}"
            )
        counts = {"read": self.read, "where": self.where, "incomplete": self.incomplete}
        return {name: count for name, count in counts.items() if count}


@dataclass(frozen=True)
class _Job:
    """How the batches of one file become interactions."""

    source: Source
    unit: TimeUnit | None
    events: Sequence[str]
    remedy: str
    check: Check | None
    instead: str
    date: str

    def table(self, batches: Iterator[pl.DataFrame]) -> tuple[pl.DataFrame, Tally]:
        """Collect the rows that count, and count the others."""
        tally, unit, parts = Tally(first=self.source.shown), self.unit, []
        for whole in batches:
            batch = whole.filter(_ANY) if self.source.form != "parquet" and not whole[_ANY].all() else whole
            batch = _a_row_an_item(batch, self.source, tally.read)
            first, tally.read = tally.read, tally.read + batch.height
            batch = batch.with_row_index("__row", offset=first + 1)
            if not batch[_KEPT].all():
                tally.asked.update(dict(batch[_ASKED].fill_null("").value_counts(sort=True).head(8).iter_rows()))
                kept = batch.filter(_KEPT)
                tally.where, batch = tally.where + batch.height - kept.height, kept
            for name in self.events:
                events = tally.events.setdefault(name, Counter())
                if len(events) <= MANY_EVENTS:
                    events.update(dict(batch[_EVENT + name].fill_null("").value_counts().iter_rows()))
            batch = self._complete(batch, tally)
            if batch.height and TIMESTAMP in batch.columns and unit is None:
                unit = unit_of(batch[TIMESTAMP], dated=is_dated(self.date))
                if unit == "days":
                    told = f"{self.date} has dates as a spreadsheet numbers them"
                    self.source.reading.say(told, self.source.shown)
                if is_buddhist(batch[TIMESTAMP]):
                    self.source.reading.say(
                        "years are of the Buddhist calendar: 2568 is read as 2025", self.source.shown
                    )
            if batch.height and self.check is not None:
                self.check(batch, self.source.shown, batch["__row"][0])
            parts.append(self._typed(batch, unit))
        return pl.concat(parts, rechunk=True) if parts else pl.DataFrame(), tally

    def _complete(self, batch: pl.DataFrame, tally: Tally) -> pl.DataFrame:
        names = [name for name in _LACKING if name in batch.columns and batch[name].null_count()]
        if not names:
            return batch
        tally.lacking.update({name: batch[name].null_count() for name in names})
        lacks = pl.any_horizontal(pl.col(name).is_null() for name in names)
        lost = batch.filter(lacks)
        tally.incomplete += lost.height
        tally.example = tally.example or f"{self.source.shown}, row {lost['__row'][0]}"
        return batch.filter(~lacks)

    def _typed(self, batch: pl.DataFrame, unit: TimeUnit | None) -> pl.DataFrame:
        columns = [batch[USER], batch[ITEM]]
        for name in (USER, ITEM):
            nested = batch[name].head(1).cast(pl.String).str.contains(r"(?s)^(\[.*\]|\{.*\})$")
            self._refuse(batch, nested, name, "is a list or an object: name a value in it (--column user=customer.id)")
            if batch[name].unique().cast(pl.String).str.contains(_SHORTENED).any():
                spoiled = batch[name].cast(pl.String).str.contains(_SHORTENED)
                self._refuse(
                    batch, spoiled, name, "was shortened by a spreadsheet: make its column text there, export again"
                )
        if TIMESTAMP in batch.columns:
            moments = times(batch[TIMESTAMP], unit or "s")
            for bad, message in faults(batch[TIMESTAMP], moments, unit or "s", self.remedy):
                self._refuse(batch, bad, TIMESTAMP, message + self.instead)
            if unit == "s" and batch.height and moments[TIMESTAMP].max() < _LIKELY_S:  # type: ignore[operator]
                said = f"{self.date} is before 1973, if it counts seconds: of minutes, hours or days write dates"
                self.source.reading.say(said, self.source.shown)
            columns += moments.get_columns()
        if POSITION in batch.columns:
            places = whole_numbers(batch[POSITION])
            self._refuse(batch, places.is_null(), POSITION, "is not a whole number: correct it")
            columns.append(places.alias(POSITION))
        return pl.DataFrame([*columns, *([batch[HISTORY]] if HISTORY in batch.columns else [])])

    def _refuse(self, batch: pl.DataFrame, bad: pl.Series, name: str, message: str) -> None:
        if bad.any():
            row = bad.arg_true()[0]
            raise DataError(f"{self.source.shown}, row {batch['__row'][row]}: {name} {batch[name][row]!r} {message}")


def interactions_of(
    source: Source, columns: Columns, inputs: Inputs, tally: Tally, *, remedy: str, check: Check | None = None
) -> pl.DataFrame:
    """Read the interactions of one file; ``remedy`` is for times in another unit than the first one.

    DataError: missing columns, invalid ids, times or positions, or views among the purchases.
    """
    present = source.types
    path, hint, elsewhere = source.shown, source.hint(), bool(inputs.items)
    optional: tuple[Role, ...] = ("time", "clock", "position", "history")
    named = columns.found_in(path, source.listed, ("user", "item"), optional, hint, elsewhere=elsewhere)
    named = named if columns.time else named.with_clock(source.listed)
    if named.user == named.item:
        raise DataError(f"{path}: {named.user!r} is named for the user and for the item: name two columns")
    roles = {TIMESTAMP: named.time, POSITION: named.position, HISTORY: named.history}
    order = {role: name for role, name in roles.items() if name is not None}
    for role, name in {USER: str(named.user), **order}.items():
        if (present[name].is_nested() and role == USER) or (present[name] in _NO_TIMES and role == TIMESTAMP):
            raise DataError(
                f"{path}: {name!r} is of type {present[name]} and no {_LACKING[role][2:]}: name another column "
                f"(--column {role.partition('_')[0].replace(TIMESTAMP, 'time')}=NAME)"
            )
    events = event_columns(list(present), inputs.where)
    taken: Mapping[str, tuple[Role, str | None]]
    taken = {USER: ("user", named.user), ITEM: ("item", named.item), TIMESTAMP: ("time", named.time)}
    for key, (role, own) in taken.items():
        others = [name for name in candidates(role, source.listed) if name not in (own, named.clock)]
        tally.instead |= {key: f"{role}={others[0]}"} if others else {}
    if named.time and named.clock:
        source.reading.say(f"a time is {named.time!r} and {named.clock!r} together", path)
    ordered = [_ordered(role, name, present[name], named.clock) for role, name in order.items()]
    selected = _selected(present, str(named.user), str(named.item), ordered, inputs, path)
    selected += [counted.alias(_EVENT + name) for name, counted in events.items()]
    asked = [condition.column for condition in inputs.where]
    clock = [named.clock] if named.clock else []
    wanted = [str(named.user), str(named.item), *order.values(), *clock, *asked, *events, *source.every]
    other = f"time={named.time}" if clock else tally.instead.get(TIMESTAMP)
    instead = f"; or take another column (--column {other})" if other else ""
    job = _Job(source, columns.time_unit, list(events), remedy, check, instead, named.time or "")
    table, told = source.read(list(dict.fromkeys(wanted)), job.table, selected)
    tally.add(told)
    return table.with_columns(without_fractions(table[name]) for name in (USER, ITEM)) if table.height else table


def _selected(
    types: Mapping[str, pl.DataType], user: str, item: str, ordered: Sequence[pl.Expr], inputs: Inputs, path: str
) -> list[pl.Expr]:
    listed = types[item].is_nested()
    return [
        ids(user, types[user]).cast(pl.Categorical).alias(USER),
        (pl.col(item) if listed else ids(item, types[item]).cast(pl.Categorical)).alias(ITEM),
        *ordered,
        all_hold(inputs.where, types, path).alias(_KEPT),
        pl.any_horizontal(pl.all().is_not_null()).alias(_ANY),
        *([pl.col(inputs.where[0].column).cast(pl.String).alias(_ASKED)] if inputs.where else []),
    ]


def _ordered(role: str, name: str, dtype: pl.DataType, clock: str | None) -> pl.Expr:
    if role == TIMESTAMP and clock is not None:
        day, hours = (filled(pl.col(each).cast(pl.String).str.strip_chars()) for each in (name, clock))
        return on_a_day(day, hours).alias(role)
    return (filled(pl.col(name)) if dtype == pl.String and role != HISTORY else pl.col(name)).alias(role)


def _a_row_an_item(batch: pl.DataFrame, source: Source, first: int) -> pl.DataFrame:
    """Make a row of each item that a cell lists, with its time or position if these are listed too."""
    order = [name for name in (TIMESTAMP, POSITION) if name in batch.columns]
    listed = [name for name in (ITEM, *order) if batch.schema[name].is_nested() or _begins_list(batch[name])]
    if ITEM not in listed:
        if not order and HISTORY not in batch.columns:
            raise DataError(
                f"{source.shown} has no column for time or position, it has {', '.join(map(repr, source.types))}, so "
                "the order is unknown: name the column with --column time=NAME or --column position=NAME"
            )
        return batch
    texts = [name for name in listed if not batch.schema[name].is_nested()]
    try:
        rows = batch.with_columns(pl.col(texts).cast(pl.String).str.extract_all(_CELL)).explode(listed)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"{source.shown}: {' and '.join(listed)} are lists of different lengths: give both a value an item"
        ) from error
    plain = filled(pl.col(listed).cast(pl.String).str.strip_chars("\"' "))
    number = [] if order else [pl.int_range(first, first + rows.height).alias(POSITION)]
    return rows.with_columns(plain, *number).with_columns(pl.col(ITEM).cast(pl.Categorical))


def _begins_list(values: pl.Series) -> bool:
    text = values.dtype in (pl.String, pl.Categorical)
    return text and bool(values.head(1).cast(pl.String).str.contains(r"(?s)^\[.*\]\s*$").any())
