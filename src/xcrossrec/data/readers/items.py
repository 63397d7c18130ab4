"""Items of one file after another: ids, titles and what else a catalogue tells, one row an item."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from xcrossrec.data.readers.columns import FIELDS, Columns, Role
from xcrossrec.data.readers.frames import Inputs, ids, item_field, without_fractions
from xcrossrec.data.readers.sources import BATCH_ROWS, Source
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TITLE

_BOUNDS = ("__least_title", "__most_title")
_ID, _HASH = "__id", "__hash"
_EXAMPLES = 5
_NO_TEXT = (pl.Binary, pl.Duration, pl.Object)
Expression = Callable[[pl.Expr], pl.Expr]


@dataclass
class _Job:
    """What is taken from the batches of one file; rows of one item are joined when many have come."""

    keep: pl.Series | None
    among_interactions: bool
    own: Sequence[str] = ()
    selected: Sequence[pl.Expr] = ()
    lacking: int = 0
    read: int = 0
    parts: list[pl.DataFrame] = field(default_factory=list)
    joined: int = 0

    def table(self, batches: Iterator[pl.DataFrame]) -> pl.DataFrame:
        """Take the rows with an id, and count the others."""
        self.lacking, self.read, self.joined, self.parts = 0, 0, 0, []
        seen = pl.DataFrame(schema={_HASH: pl.UInt64})
        for batch in batches:
            kept = batch.filter(pl.col(_ID).is_not_null())
            if kept.height < batch.height:
                blank = batch.select(pl.all_horizontal(pl.all().is_null()).sum()).item()
                self.lacking += batch.height - kept.height - blank
                self.read -= blank
            self.read += batch.height
            if self.keep is not None:
                kept = kept.filter(pl.col(_ID).cast(pl.Categorical).is_in(self.keep.implode()))
            if self.among_interactions:  # mostly the same rows again
                kept = kept.with_columns(pl.struct(_ID, *self.own).hash().alias(_HASH))
                kept = kept.unique(_HASH, keep="first", maintain_order=True)
                kept = kept.join(seen, on=_HASH, how="anti", maintain_order="left")
                seen = pl.concat([seen, kept.select(_HASH)])
            self.parts.append(kept.select(self.selected))
            if sum(part.height for part in self.parts) > 2 * self.joined + 4 * BATCH_ROWS:
                self.parts = [one_row_an_item(self.parts)]
                self.joined = self.parts[0].height
        return one_row_an_item(self.parts)


@dataclass
class ItemRows:
    """The items of some files, a table a file; how many rows lack an id, and the first file with such rows."""

    parts: list[pl.DataFrame] = field(default_factory=list)
    lacking: int = 0
    read: int = 0
    place: str = ""

    def add(self, other: ItemRows) -> None:
        """Add the items of other files."""
        self.parts += other.parts
        self.lacking, self.read = self.lacking + other.lacking, self.read + other.read
        self.place = self.place or other.place

    def joined(self, inputs: Inputs) -> tuple[pl.DataFrame, dict[str, object]]:
        """All items, one row each, and what the manifest states of conflicting titles.

        Raises:
            DataError: items without an id.
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
        told: dict[str, object] = {"items_without_id": lacking} if lacking else {}
        return items.drop(_BOUNDS).with_columns(without_fractions(items[ITEM])), told | _conflicts(items)


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
    """Read the items of some files.

    Args:
        others: whether further columns are kept, as text.
        keep: take these item ids only (Categorical), so that a large catalogue is never held; None takes all.

    Raises:
        DataError: missing columns.
    """
    job, rows = _Job(keep, not inputs.items), ItemRows()
    for source in sources:
        name, job.own, job.selected = _selected(source, columns, needed, others, mend)
        identity = ids(name, source.types[name]).alias(_ID)
        wanted = list(dict.fromkeys([*job.own, *source.every]))
        table = source.read(wanted, job.table, [pl.all(), identity])
        rows.add(ItemRows([table], job.lacking, job.read, source.shown if job.lacking else ""))
    return rows


def _selected(
    source: Source, columns: Columns, needed: Sequence[Role], others: bool, mend: Expression | None
) -> tuple[str, list[str], list[pl.Expr]]:
    present = source.types
    if "title" not in needed:  # published metadata, some without these columns
        columns = replace(columns, **{role: None for role in FIELDS if getattr(columns, role) not in present})
    optional: list[Role] = [role for role in ("title", *FIELDS) if role not in needed]
    named = columns.found_in(source.shown, source.listed, needed, optional, source.hint(), elsewhere=bool(others))
    title = pl.lit(None, pl.String) if named.title is None else pl.col(named.title).cast(pl.String).str.strip_chars()
    title = title.fill_null("")
    selected = [pl.col(_ID).alias(ITEM), (title if mend is None else mend(title)).alias(TITLE)]
    fields = {role: name for role in FIELDS if (name := getattr(named, role)) is not None}
    selected += [item_field(role, name, present[name]) for role, name in fields.items()]
    wanted = [name for name in (named.item, named.title, *fields.values()) if name is not None]
    if others:
        taken = {*wanted, ITEM, TITLE, *FIELDS}
        left = {name: dtype for name, dtype in present.items() if name not in taken}
        further = [name for name, dtype in left.items() if not dtype.is_nested() and dtype not in _NO_TEXT]
        selected += [pl.col(name).cast(pl.String) for name in further]
        wanted += further
    return str(named.item), list(dict.fromkeys(wanted)), selected


def one_row_an_item(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Join the rows of an item: of every column the first value that is not empty; the least and the greatest title."""
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
