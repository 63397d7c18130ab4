"""Read items file by file: ids, titles and further columns, one row per item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.data.readers.columns import FIELDS, Columns, Role
from xcrossrec.data.readers.frames import Inputs, filled, ids, item_field, not_understood, without_fractions
from xcrossrec.data.readers.sources import BATCH_ROWS, NAMELESS, Source
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TITLE

_BOUNDS = ("__least_title", "__most_title")
_ID, _HASH = "__id", "__hash"
_ODD: Mapping[Role, str] = {"price": "__odd_price", "in_stock": "__odd_in_stock"}
_EXAMPLES = 5
_NO_TEXT = (pl.Binary, pl.Duration, pl.Object)
Expression = Callable[[pl.Expr], pl.Expr]


@dataclass
class ItemRows:
    """The items of some files, one table per file; how many rows lack an id, and the first file with such rows."""

    parts: list[pl.DataFrame] = field(default_factory=list)
    lacking: int = 0
    read: int = 0
    place: str = ""

    def add(self, other: ItemRows) -> None:
        """Add the items of other files."""
        self.parts += other.parts
        self.lacking, self.read = self.lacking + other.lacking, self.read + other.read
        self.place = self.place or other.place

    def joined(self, inputs: Inputs) -> tuple[pl.DataFrame, dict[str, Any]]:
        """All items, one row each, and the manifest's entries on conflicting titles and values not understood.

        DataError: items without an id, or no items.
        """
        lacking = self.lacking if inputs.items else 0
        if lacking and inputs.incomplete == "error":
            raise DataError(
                f"{lacking:,} of {self.read:,} rows of items have no id, the first in {self.place}: complete them, or "
                "leave them out (--incomplete drop)"
            )
        items = one_row_an_item(self.parts)
        if items.is_empty() and inputs.items:
            shown = [inputs.items] if isinstance(inputs.items, str | Path) else inputs.items
            raise DataError(f"{', '.join(map(str, shown))} holds no items: give the table of products")
        told: dict[str, Any] = {"items_without_id": lacking} if lacking else {}
        odd = _odd(items)
        told |= _conflicts(items) | ({"not_understood": odd} if odd else {})
        return items.drop(*_BOUNDS, *_ODD.values(), strict=False).with_columns(without_fractions(items[ITEM])), told


def understood(items: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, str]]:
    """Convert a table's prices and stock; also returns, by column, a sentence on values that were not understood."""
    fields = {role: items.schema[role] for role in _ODD if role in items.columns and not items.schema[role].is_nested()}
    odd = [not_understood(role, role, dtype).alias(_ODD[role]) for role, dtype in fields.items()]
    read = items.with_columns(*(item_field(role, role, dtype) for role, dtype in fields.items()), *odd)
    return read.select(items.columns), _odd(read)


def item_rows(
    sources: Sequence[Source],
    columns: Columns,
    inputs: Inputs,
    *,
    needed: Sequence[Role] = ("item", "title"),
    others: bool,
    keep: pl.Series | None = None,
    mend: Expression | None = None,
) -> ItemRows:
    """Read the items of some files (DataError: a column is missing).

    Args:
        others: keep further columns, as text.
        keep: read only these item ids (Categorical), so that a large catalogue is never in memory; None reads all.
    """
    rows = ItemRows()
    for source in sources:
        name, own, selected = _selected(source, columns, needed, others, mend)
        identity = ids(name, source.types[name]).alias(_ID)
        taken = partial(_taken, keep=keep, again=() if inputs.items else own, selected=selected)
        found = source.read(list(dict.fromkeys([*own, *source.every])), taken, [pl.all(), identity])
        found.place = source.shown if found.lacking else ""
        rows.add(found)
    return rows


def _taken(
    batches: Iterator[pl.DataFrame], keep: pl.Series | None, again: Sequence[str], selected: Sequence[pl.Expr]
) -> ItemRows:
    """Collect a file's rows with an id, and count the others; from time to time rows of the same item are joined.

    Rows that repeat earlier values of the columns ``again`` are skipped: among interactions, most do.
    """
    rows, joined = ItemRows(), 0
    seen = pl.DataFrame(schema={_HASH: pl.UInt64})
    for batch in batches:
        kept = batch.filter(pl.col(_ID).is_not_null())
        if kept.height < batch.height:
            blank = batch.select(pl.all_horizontal(pl.all().is_null()).sum()).item()
            rows.lacking += batch.height - kept.height - blank
            rows.read -= blank
        rows.read += batch.height
        if keep is not None:
            kept = kept.filter(pl.col(_ID).cast(pl.Categorical).is_in(keep.implode()))
        if again:
            kept = kept.with_columns(pl.struct(_ID, *again).hash().alias(_HASH))
            kept = kept.unique(_HASH, keep="first", maintain_order=True)
            kept = kept.join(seen, on=_HASH, how="anti", maintain_order="left")
            seen = pl.concat([seen, kept.select(_HASH)])
        rows.parts.append(kept.select(selected))
        if sum(part.height for part in rows.parts) > 2 * joined + 4 * BATCH_ROWS:
            rows.parts = [one_row_an_item(rows.parts)]
            joined = rows.parts[0].height
    rows.parts = [one_row_an_item(rows.parts)]
    return rows


def _selected(
    source: Source, columns: Columns, needed: Sequence[Role], others: bool, mend: Expression | None
) -> tuple[str, list[str], list[pl.Expr]]:
    present = source.types
    if "title" not in needed:  # published metadata, some without these columns
        columns = replace(columns, **{role: None for role in FIELDS if getattr(columns, role) not in present})
    optional: list[Role] = [role for role in ("title", *FIELDS) if role not in needed]
    named = columns.found_in(
        source.shown, source.listed, needed, optional, source.hint(), elsewhere=bool(others), products=bool(others)
    )
    title = pl.lit(None, pl.String) if named.title is None else pl.col(named.title).cast(pl.String).str.strip_chars()
    title = filled(title).fill_null("")
    selected = [pl.col(_ID).alias(ITEM), (title if mend is None else mend(title)).alias(TITLE)]
    fields = {role: name for role in FIELDS if (name := getattr(named, role)) is not None}
    selected += [item_field(role, name, present[name]) for role, name in fields.items()]
    read = [(role, fields[role]) for role in _ODD if role in fields]
    selected += [not_understood(role, name, present[name]).alias(_ODD[role]) for role, name in read]
    wanted = [name for name in (named.item, named.title, *fields.values()) if name is not None]
    if others:
        taken = {*wanted, ITEM, TITLE, *FIELDS}
        left = {name: dtype for name, dtype in present.items() if name not in taken and not NAMELESS(name)}
        further = [name for name, dtype in left.items() if not dtype.is_nested() and dtype not in _NO_TEXT]
        selected += [pl.col(name).cast(pl.String) for name in further]
        wanted += further
    return str(named.item), list(dict.fromkeys(wanted)), selected


def one_row_an_item(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Join the rows of an item: the first value of each column that is not empty, and its least and greatest title."""
    items = pl.concat([pl.DataFrame(schema={ITEM: pl.String, TITLE: pl.String}), *parts], how="diagonal")
    least, most = _BOUNDS
    if least not in items.columns:
        title = pl.when(pl.col(TITLE) != "").then(pl.col(TITLE))
        items = items.with_columns(title.alias(least), title.alias(most))
    elif items[least].null_count():
        items = items.with_columns(
            pl.coalesce(name, pl.when(pl.col(TITLE) != "").then(TITLE)).alias(name) for name in _BOUNDS
        )
    if not items[ITEM].is_duplicated().any():
        return items
    firsts = [
        pl.col(name).filter((pl.col(name) != "") if dtype == pl.String else pl.col(name).is_not_null()).first()
        for name, dtype in items.schema.items()
        if name not in (ITEM, *_BOUNDS)
    ]
    joined = items.group_by(ITEM, maintain_order=True).agg(*firsts, pl.col(least).min(), pl.col(most).max())
    return joined.with_columns(pl.col(TITLE).fill_null(""))


def _conflicts(items: pl.DataFrame) -> dict[str, object]:
    least, most = _BOUNDS
    two = items.filter(pl.col(least) != pl.col(most))
    other = pl.when(pl.col(TITLE) != pl.col(least)).then(least).otherwise(most)
    told = two.select(ITEM, TITLE, other.alias("other")).head(_EXAMPLES).iter_rows()
    examples = [f"{item}: {taken!r}, {another!r}" for item, taken, another in told]
    return {"conflicting_titles": {"items": two.height, "examples": examples}} if examples else {}


def _odd(items: pl.DataFrame) -> dict[str, str]:
    found = dict[str, str]()
    for role, name in _ODD.items():
        if name in items.columns and (odd := items.filter(pl.col(role).is_null())[name].drop_nulls()).len():
            shown = ", ".join(map(repr, odd.unique(maintain_order=True).head(2)))
            every = odd.len() + items[role].count()
            found[role] = f"{odd.len():,} of {every:,} not understood, for example {shown}; left empty"
    return found
