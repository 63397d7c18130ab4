"""Build a domain from raw tables: check, deduplicate, filter by k-core, sort, and clean titles."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from xcrossrec.arguments import checked
from xcrossrec.data.domain import Domain
from xcrossrec.data.given import Table, as_frame
from xcrossrec.data.store import manifest_of
from xcrossrec.data.text import ABSENT, CANONICAL, PRICE, ItemText, clean_titles, has_entity, is_empty_title, plain
from xcrossrec.data.times import SUBSECOND, faults, times, unit_of, whole_numbers
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, POSITION, SPLITS, TIMESTAMP, TITLE, USER, Split

HEAVY = "each ten times as many as 95% of all users: guests under one id, dealers, robots? Leave them out (--where)"
EXAMPLES = 5  # values that a message or a manifest shows
_BOOLEANS = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}
_ROW = "__row"
_SEVERAL = re.compile(r"\s*[,;|]\s*")
_LARGEST = 2**62


def deduplicate(interactions: pl.DataFrame, *, first_purchase_only: bool = False) -> pl.DataFrame:
    """Drop exact repeats: same user, same item, same time. The rows keep their order.

    Args:
        interactions: ``user_id``, ``item_id`` and ``timestamp`` or ``position`` (if both exist, the timestamp counts;
            without either, any second purchase of an item is a repeat).
        first_purchase_only: keep only a user's first purchase of each item.
    """
    time = _time_columns(interactions)
    if not first_purchase_only:
        same = [USER, ITEM, *([column for column in time if column != POSITION] or time)]
        return _without_repeats(interactions, same)
    return (
        interactions.with_row_index(_ROW)
        .sort([*time, _ROW])
        .unique([USER, ITEM], keep="first", maintain_order=True)
        .sort(_ROW)
        .drop(_ROW)
    )


def k_core(interactions: pl.DataFrame, least: int) -> pl.DataFrame:
    """Drop users and items with fewer than ``least`` interactions until nothing changes; DataError if none remains."""
    rows = np.arange(interactions.height)
    users, items = numbers_of(interactions[USER]), numbers_of(interactions[ITEM])
    while True:
        enough = (np.bincount(users) >= least)[users] & (np.bincount(items) >= least)[items]
        if enough.all():
            break
        rows, users, items = rows[enough], users[enough], items[enough]
    kept = interactions if len(rows) == interactions.height else interactions[pl.Series(rows, dtype=pl.UInt32)]
    if kept.is_empty():
        raise DataError(f"the k-core of {least} interactions a user and an item is empty: lower the threshold")
    return kept


def as_categories(interactions: pl.DataFrame) -> pl.DataFrame:
    """Make ids categorical, which the following steps compare faster; `as_text` undoes it."""
    return interactions.with_columns(pl.col(USER, ITEM).cast(pl.Categorical))


def as_text(interactions: pl.DataFrame) -> pl.DataFrame:
    """Make ids text."""
    return interactions.with_columns(pl.col(USER, ITEM).cast(pl.String))


def numbers_of(ids: pl.Series) -> Int64[np.ndarray, " row"]:
    """Number ids from 1, equal ones alike; missing ids are 0."""
    categories = ids if ids.dtype == pl.Categorical else ids.cast(pl.String).cast(pl.Categorical)
    return (categories.to_physical().cast(pl.Int64).fill_null(-1) + 1).to_numpy()


def order(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort into canonical order and number each user's interactions 0, 1, 2, ... as ``position``.

    Users are in the order of their first row; a user's rows are sorted by ``timestamp``, then ``position``, if these
    columns exist, and otherwise keep their order.
    """
    ordered = _sort_by_user(interactions, _time_columns(interactions))
    users = numbers_of(ordered[USER])
    starts = np.flatnonzero(np.diff(users, prepend=-1))  # each user's rows are adjacent
    numbers = np.arange(len(users)) - np.repeat(starts, np.diff(starts, append=len(users)))
    return ordered.with_columns(pl.Series(POSITION, numbers))


@checked
def build_domain(
    name: str,
    items: Table,
    interactions: Mapping[Split, Table],
    *,
    text: str | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Domain:
    """Check raw tables and build a domain from them. Ids become text, interactions are sorted.

    A table is a polars, pandas or Arrow one, a list of mappings or a mapping of columns. Interactions are sorted by
    ``position`` if there is one, otherwise by ``timestamp``, otherwise they keep the order of the rows.

    Args:
        items: ``item_id`` and ``title``, and perhaps ``brand``, ``category``, ``description``, ``price``, ``in_stock``
            and further columns, which are kept as text; duplicate rows are dropped.
        interactions: for each split ``user_id``, ``item_id`` and perhaps ``position`` and ``timestamp`` (seconds or
            finer since 1970, ISO 8601, or datetimes).
        text: template of the item text that models read (:class:`xcrossrec.data.text.ItemText`); None takes those of
            title, brand and category that the items have.
        manifest: further entries of the manifest: ``simulated``, ``sources``, ``filters``, ``seed``.

    Raises:
        DataError: a missing column, no items, no train split, an empty split, a missing id, a position that is not a
            whole number, an item with two titles, a price that is not a number, an interaction with an item that is
            not in the catalogue, or a text with a column that the items lack.
        ConfigError: an invalid template.
    """
    if other := [str(split) for split in interactions if split not in SPLITS]:
        raise DataError(f"domain {name!r} has splits {', '.join(other)}: call them {', '.join(SPLITS)}")
    if "train" not in interactions:
        raise DataError(f"domain {name!r} has no train split, got {', '.join(interactions) or 'none'}: give one")
    catalogue = _catalogue(name, as_frame("the items", items))
    tables = {split: as_frame(split, interactions[split]) for split in SPLITS if split in interactions}
    splits = {split: _interactions(name, split, frame) for split, frame in tables.items()}
    bought = pl.concat([frame.select(ITEM) for frame in splits.values()])
    unknown = bought.join(catalogue, on=ITEM, how="anti", maintain_order="left")
    if catalogue.height and unknown.height:
        refuse_unknown(name, unknown[ITEM], catalogue[ITEM])
    return checked_domain(name, catalogue, splits, manifest or {}, text)


def checked_domain(
    name: str,
    items: pl.DataFrame,
    splits: Mapping[Split, pl.DataFrame],
    manifest: Mapping[str, Any],
    text: str | None = None,
) -> Domain:
    """Make a domain of checked tables, with one row for each item and interactions sorted by `canonical`.

    Items without a title are kept, with an empty text, and counted in the manifest's ``filters``. DataError: no name,
    no items, an empty split, or a text with a column that the items lack.
    """
    if not isinstance(name, str) or not name.strip():
        raise DataError(f"a domain needs a name, got {name!r}: give --domain NAME")
    if items.is_empty():
        raise DataError(f"domain {name!r} is empty: its catalogue has no items; give a file with at least one")
    for split, frame in splits.items():
        if frame.is_empty():
            raise DataError(f"domain {name!r} has an empty {split} split, without any interaction: check the ids")
    read = ItemText.default(items) if text is None else ItemText(text)
    read.check(f"the item table of domain {name!r}", items.columns)
    filters = dict(manifest.get("filters", {}))
    if (escaped := items.filter(has_entity())[TITLE]).len():
        filters["html_entities"] = {"items": escaped.len(), "examples": escaped.head(EXAMPLES).to_list()}
    catalogue = clean_titles(items)
    if (empty := catalogue.filter(is_empty_title())).height:
        filters["empty_titles"] = {"items": empty.height, "examples": empty[ITEM].head(EXAMPLES).to_list()}
        blank = pl.when(is_empty_title()).then(pl.lit("")).otherwise(TITLE).alias(TITLE)
        catalogue = catalogue.with_columns(blank)
    if cut := read.cut(catalogue):
        filters["text_cut"] = cut
    domain = Domain(name, catalogue, splits, {**manifest, "filters": filters}, read)
    return domain.with_manifest(manifest_of(domain))


def canonical(interactions: pl.DataFrame) -> pl.DataFrame:
    """Sort checked interactions into canonical order; they are numbered if they have no ``position``."""
    ordered = _sort_by_user(interactions, [POSITION]) if POSITION in interactions.columns else order(interactions)
    return ordered.select(USER, ITEM, POSITION, *([TIMESTAMP] if TIMESTAMP in ordered.columns else []))


def check_columns(what: str, found: Sequence[str], needed: Sequence[str]) -> None:
    """Refuse (DataError) a table that lacks a column; the message lists the missing and the existing columns."""
    missing = [column for column in needed if column not in found]
    if missing:
        raise DataError(
            f"{what} lacks the column {', '.join(map(repr, missing))}; it has {', '.join(found) or 'none'}: "
            "rename a column"
        )


def _time_columns(interactions: pl.DataFrame) -> list[str]:
    """The columns of time and order, the most important one first."""
    return [column for column in (TIMESTAMP, SUBSECOND, POSITION) if column in interactions.columns]


def _without_repeats(interactions: pl.DataFrame, same: list[str]) -> pl.DataFrame:
    """Keep the first of rows that agree in some columns; only a user's repeats of an item are compared."""
    pairs = pl.Series(numbers_of(interactions[USER]) << 32 | numbers_of(interactions[ITEM]))
    again = pairs.is_duplicated()
    if not again.any():
        return interactions
    suspects = again.arg_true()
    kept = interactions[suspects].select(same).with_row_index(_ROW).unique(same, keep="first")[_ROW]
    return interactions.filter((~again).scatter(suspects.gather(kept), True))


def _sort_by_user(interactions: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """Sort by the user's first row, then ``by`` (whole numbers), then as the rows stand: all of it as one number."""
    if interactions.is_empty():
        return interactions
    users = numbers_of(interactions[USER])
    first = np.zeros(users.max() + 1, dtype=np.int64)
    first[users[::-1]] = np.arange(len(users) - 1, -1, -1)  # of equal places the last one written stays
    starts = np.zeros(len(users), dtype=bool)
    starts[first[users]] = True
    key = (np.cumsum(starts) - 1)[first[users]]
    for name in by:
        values = interactions[name].to_numpy().astype(np.int64)
        values //= max(int(np.gcd.reduce(values)), 1) if name == SUBSECOND else 1  # milliseconds, say
        if _span(key) * _span(values) > _LARGEST:
            key, values = (pl.Series(each).rank("dense").cast(pl.Int64).to_numpy() for each in (key, values))
        key = key * _span(values) + (values - values.min())
    return interactions[pl.Series(_ROW, key).to_frame().select(pl.arg_sort_by(_ROW, maintain_order=True)).to_series()]


def _span(numbers: Int64[np.ndarray, " row"]) -> int:
    """How many whole numbers there are from the least to the greatest."""
    return int(numbers.max()) - int(numbers.min()) + 1


def _catalogue(name: str, items: pl.DataFrame) -> pl.DataFrame:
    what = f"the items of domain {name!r}"
    check_columns(what, items.columns, (ITEM, TITLE))
    raw = text_ids(what, _typed(what, items), ITEM).unique(maintain_order=True)
    twice = raw.filter(pl.col(ITEM).is_duplicated())[ITEM].unique(maintain_order=True)
    if twice.len():
        raise DataError(f"{what} give {twice.len()} ids more than one title ({_examples(twice)}): keep one row an item")
    return raw


def _typed(what: str, items: pl.DataFrame) -> pl.DataFrame:
    """Order the columns (id, title, canonical ones, others) and convert them: canonical types, otherwise text."""
    known = [name for name in CANONICAL if name in items.columns]
    for name, dtype in items.schema.items():
        if dtype in (pl.Binary, pl.Duration, pl.Object):
            raise DataError(f"{what} have {name} of type {dtype}: make it text, or leave it out")
    columns = {name: plain(items[name]) for name in items.columns if name != ITEM}
    for name in [name for name in known if CANONICAL[name] != pl.String]:
        given = columns[name].str.strip_chars().str.to_lowercase()
        given = given.set(given.is_in(["", *ABSENT]), None)
        prices = given.cast(pl.Float64, strict=False)
        values = (
            prices.set(prices.is_infinite(), None) if name == PRICE else given.replace_strict(_BOOLEANS, default=None)
        )
        expected = "a number" if name == PRICE else "true or false"
        _refuse(what, given, values.is_null() & given.is_not_null(), f"write {expected}, or nothing")
        columns[name] = values.cast(CANONICAL[name])
    order = dict.fromkeys([TITLE, *known, *columns])
    return pl.DataFrame([items[ITEM], *(columns[name].alias(name) for name in order)])


def _interactions(name: str, split: Split, frame: pl.DataFrame) -> pl.DataFrame:
    """Check the interactions of one split and sort them."""
    what = f"the {split} interactions of domain {name!r}"
    check_columns(what, frame.columns, (USER, ITEM))
    time = _time_columns(frame)
    frame = text_ids(what, frame.select(USER, ITEM, *time), USER, ITEM)
    frame = _timed(what, frame) if TIMESTAMP in time else frame
    frame = _placed(what, frame) if POSITION in time else order(frame)  # also by fractions of a second
    return canonical(frame)


def _timed(what: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Convert times to whole seconds and nanoseconds."""
    given = frame[TIMESTAMP]
    if given.dtype.is_nested() or given.dtype in (pl.Boolean, pl.Duration, pl.Time, pl.Binary, pl.Object):
        raise DataError(f"{what} have {TIMESTAMP} of type {given.dtype}, expected seconds, ISO 8601 or datetimes")
    unit = unit_of(given)
    moments = times(given, unit)
    for bad, message in faults(given, moments, unit):
        _refuse(what, given, bad, f"it {message}")
    return frame.with_columns(moments)


def _refuse(what: str, given: pl.Series, bad: pl.Series, remedy: str) -> None:
    if bad.any():
        row = bad.arg_true()[0]
        value = f"{given.name} {given[row]!r} in row {row} (from 0; {bad.sum()} rows in all)"
        raise DataError(f"{what} have {value}: {remedy}")


def text_ids(what: str, frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    """Convert ids to text; refuse missing ids, and fractions, whose text form is ambiguous."""
    for column in columns:
        dtype = frame.schema[column]
        if not (dtype.is_integer() or dtype in (pl.String, pl.Null, pl.Categorical, pl.Enum)):
            raise DataError(f"{what} have {column} of type {dtype}, expected text or integers: read ids as text")
        frame = frame.with_columns(pl.col(column).cast(pl.String))
        missing = frame[column].fill_null("").str.strip_chars() == ""
        if missing.any():
            raise DataError(
                f"{what} lack {column} in {missing.sum()} rows (first: row {missing.arg_max()}, from 0): "
                "remove or complete these rows"
            )
    return frame


def _placed(what: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Convert positions to int64; refuse what is not a whole number."""
    given = frame[POSITION]
    whole = whole_numbers(given) if given.dtype.is_numeric() or given.dtype == pl.String else given.clear(len(given))
    _refuse(what, given, whole.is_null(), "write a whole number, or remove these rows")
    return frame.with_columns(whole.alias(POSITION))


def refuse_unknown(name: str, items: pl.Series, catalogue: pl.Series, *, every: bool = False) -> None:
    """Raise DataError for interactions with items that are not in the catalogue; ``every`` if none of them is."""
    ids = items.unique(maintain_order=True)
    several = [each for each in ids.head(EXAMPLES) if _SEVERAL.search(each)]
    listed = [each for each in several if pl.Series(_SEVERAL.split(each)).is_in(catalogue.implode()).all()]
    alike = written_otherwise(ids, catalogue)
    remedy = "complete the catalogue, or leave them out (data import --unknown-items drop)"
    if listed:
        remedy = f"{listed[0]!r} lists several items: write a row, or an entry of a list (JSON), for each of them"
    elif alike:
        pairs = ", ".join(f"{own!r} is {there!r}" for own, there in list(alike.items())[:2])
        remedy = f"{len(alike):,} of these are there, but written differently ({pairs}): write ids alike in both tables"
    elif every and catalogue.len():
        remedy = (
            f"these are all, and there ids are like {_examples(catalogue)}; name the column that both tables have "
            "(--column item=NAME, once for each where the names differ)"
        )
    raise DataError(
        f"domain {name!r} has {items.len():,} interactions with {ids.len():,} items that its "
        f"catalogue lacks ({_examples(ids)}): {remedy}"
    )


def written_otherwise(ids: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Match ids that differ only as exports change them: case, width, blanks, leading zeros, ``.0``, commas."""

    def plain(text: str) -> str:
        return re.sub(r"[\s,]|\.0+$", "", unicodedata.normalize("NFKC", text)).lstrip("0").casefold()

    forms = {plain(each): each for each in others}
    return {each: form for each in ids if (form := forms.get(plain(each))) is not None}


def _examples(values: pl.Series) -> str:
    shown = ", ".join(repr(value) for value in values.head(EXAMPLES))
    return shown + (", ..." if values.len() > EXAMPLES else "")
