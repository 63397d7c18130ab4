"""The two tables of a source in any format: interactions, all in one or split, and items."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.data.readers.blocks import Blocks
from xcrossrec.data.readers.columns import Columns, Role, candidates
from xcrossrec.data.readers.frames import Inputs, RawDomain, ids
from xcrossrec.data.readers.histories import HISTORY, with_histories
from xcrossrec.data.readers.items import Expression, ItemRows, item_rows
from xcrossrec.data.readers.rows import Check, Tally, interactions_of
from xcrossrec.data.readers.sources import Form, Paths, Reading, Source, open_sources, original_files, sources_in
from xcrossrec.data.times import ONE_UNIT, SUBSECOND
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.replacing import scratch_folder
from xcrossrec.types import ITEM, SPLITS, TITLE, Split

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """How one format is read.

    Args:
        form: of the interactions; None detects it for each file.
        columns: of the interactions and of the items; None takes the user's.
        names: of the columns of interactions without a header.
        loose: items may be Python literals.
        only_bought: leave out items without interactions.
        check_file: called with every file of interactions; ``check`` with every batch.
    """

    form: Form | None = None
    columns: tuple[Columns, Columns] | None = None
    names: Sequence[str] | None = None
    loose: bool = False
    needed: Sequence[Role] = ("item", "title")
    others: bool = True
    remedy: str = ONE_UNIT
    only_bought: bool = False
    mend: Expression | None = None
    check_file: Callable[[Source], None] | None = None
    check: Check | None = None


def read_item_file(path: Path) -> pl.DataFrame:
    """Read the items of one file of any format, compression and column names, as an import does.

    A Parquet file with ``item_id`` and ``title`` keeps its columns and types. DataError: no such file, not a table, or
    no items in it.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty: give a table with {ITEM} and {TITLE}")
    if path.suffix == ".parquet":
        with suppress(pl.exceptions.PolarsError, OSError):
            exact = pl.read_parquet(path, glob=False)
            if {ITEM, TITLE} <= set(exact.columns):
                return exact
    with scratch_folder() as folder:
        inputs = Inputs(items=path)
        try:
            rows = item_rows(open_sources(path, None, Reading(folder)), inputs.columns, inputs, others=True)
            items, told = rows.joined(inputs)
        except DataError as error:
            said, _, remedy = str(error).removesuffix(", or leave them out (--incomplete drop)").rpartition(": ")
            own = f"call its columns {ITEM} and {TITLE}, and write it as CSV in UTF-8, every row of equal width"
            raise DataError(f"{said}: {own if '--' in remedy else remedy}") from error
    for role, said in told.get("not_understood", {}).items():
        _LOG.warning("%s: %s: %s", path, role, said)
    if two := told.get("conflicting_titles"):
        _LOG.warning("%s: %d items have several titles, the first is taken: %s", path, two["items"], two["examples"][0])
    return items


def read_tables(plan: Plan, inputs: Inputs, blocks: Blocks | None = None) -> RawDomain:
    """Read interactions, all in one or split, and items, from tables of their own or from the same tables.

    ConfigError: inputs that leave out what is needed, or give both ways. DataError: missing or malformed files, missing
    columns, times in several units, incomplete rows.
    """
    if bool(inputs.interactions) == bool(inputs.splits):
        raise ConfigError("give purchases once: with --interactions, or already split with --train, --test")
    if (plan.only_bought and not inputs.items) or (inputs.splits and not ("train" in inputs.splits and inputs.items)):
        what = "published reviews" if plan.only_bought else "files that come split"
        raise ConfigError(f"{what} need the items with titles (--items), and parts at least --train: give both")
    with scratch_folder() as folder:
        opened: list[Source] = []
        reading = reading_of(plan, inputs, folder)
        if inputs.items and not plan.columns:
            plan = replace(plan, columns=_joined_columns(plan, inputs, reading))
        table, counted, told = read_bought(plan, inputs, reading, opened, blocks)
        bought = list(inputs.splits.values()) or [inputs.interactions]
        files = [file for paths in bought for file in original_files(paths)]
        keep = table[ITEM].unique() if plan.only_bought else None
        if blocks is None:
            sources = open_sources(inputs.items, None, replace(reading, names=None)) if inputs.items else opened
            rows = _items(plan, inputs, keep, sources)
        else:
            rows, states = ItemRows(), [blocks.state(file) for file in files] if plan.only_bought else []
            of_items = original_files(inputs.items) if inputs.items else files
            for parts, facts in blocks.read(of_items, partial(_items_of_file, plan, inputs, keep), "items", states):
                rows.add(ItemRows(list(parts), **facts))
        items, conflicts = rows.joined(inputs)
    files += original_files(inputs.items) if inputs.items else []
    return RawDomain(items, table, tuple(dict.fromkeys(files)), counted, {**told, **conflicts})


def reading_of(plan: Plan, inputs: Inputs, folder: Path) -> Reading:
    """How the text of interactions is read."""
    return Reading(folder, inputs.separator, inputs.encoding, inputs.columns.numbered, plan.names, plan.loose)


def _joined_columns(plan: Plan, inputs: Inputs, reading: Reading) -> tuple[Columns, Columns] | None:
    sources = []
    for paths, form in ((inputs.splits.get("train", inputs.interactions), plan.form), (inputs.items, None)):
        first = [file for file in original_files(paths) if file.stat().st_size][:1]
        sources.append(open_sources(first or paths, form, reading)[0])
    bought, items = (source.listed for source in sources)
    if not (inputs.columns.user or candidates("user", bought)) and candidates("user", items):
        raise DataError(f"{sources[1].shown} has customers and {sources[0].shown} none: exchange the two files")
    return _item_columns(inputs.columns, *sources)


def _item_columns(columns: Columns, bought: Source, items: Source) -> tuple[Columns, Columns] | None:
    """Choose the item columns of interactions and items that share most values in their first rows.

    Returns the columns of both; None if there is no choice, or no common value.
    """
    sides = [_possible(columns, bought, products=False), _possible(columns, items, products=True)]
    if max(map(len, sides)) < 2 or not all(sides):
        return None
    ours, theirs = _values(bought, sides[0]), _values(items, sides[1])
    shared = {
        (one, other): int(values.is_in(known.implode()).sum()) ** 2 / max(values.len(), 1)
        for one, values in ours.items()
        for other, known in theirs.items()
    }
    one, other = max(shared, key=lambda pair: shared[pair])
    if not shared[one, other]:
        return None
    _LOG.info("the item is %r in %s and %r in %s, which share most values", one, bought.shown, other, items.shown)
    return replace(columns, item=one), replace(columns, item=other)


def _possible(columns: Columns, source: Source, *, products: bool) -> list[str]:
    stated = [name for name in (columns.item or "").split("\n") if name in source.types]
    names = stated[:1] or candidates("item", source.listed, products=products)
    return [name for name in names if not source.types[name].is_nested()]


def _values(source: Source, names: list[str]) -> Mapping[str, pl.Series]:
    selected = [ids(name, source.types[name]).alias(name) for name in names]
    none = pl.DataFrame(schema=dict.fromkeys(names, pl.String()))
    first = source.read(list(dict.fromkeys([*names, *source.every])), lambda batches: next(batches, none), selected)
    return {name: first[name].drop_nulls().unique() for name in names}


def read_bought(
    plan: Plan, inputs: Inputs, reading: Reading, opened: list[Source], blocks: Blocks | None, *, empty: bool = False
) -> tuple[pl.DataFrame, Mapping[str, int], Mapping[str, object]]:
    """Read the interactions; also returns counts of rows and filters, and adds the files to ``opened``."""
    tally = Tally()

    def table(paths: Paths) -> pl.DataFrame:
        if blocks is None:
            sources = open_sources(paths, plan.form, reading)
            opened.extend(sources)
            parts, shown = _bought(plan, inputs, sources, tally), [source.shown for source in sources]
        else:
            files = original_files(paths)
            parts, shown = [], list(map(str, files))
            for tables, told in blocks.read(files, partial(_bought_of_file, plan, inputs), "bought", plan.columns):
                tally.add(Tally(**told))
                parts += tables
        found = [part for part in parts if part.width]
        _refuse_mixture(found, ", ".join(shown))
        return pl.concat(found, rechunk=True) if found else pl.DataFrame()

    given: Mapping[Split, Any] = inputs.splits or {"train": inputs.interactions}
    tables = {split: table(given[split]) for split in SPLITS if split in given}
    counted = tally.rows(inputs)
    for split, part in tables.items():
        if part.is_empty() and not empty:
            shown = given[split] if isinstance(given[split], str | Path) else ", ".join(map(str, given[split]))
            raise DataError(f"{shown} holds no interactions: the domain would be empty; give the right file")
    if not inputs.splits:
        return _plain(tables["train"]), counted, {}
    if not any(HISTORY in part.columns for part in tables.values()):
        _refuse_mixture(list(tables.values()), ", ".join(str(paths) for paths in inputs.splits.values()))
    filled, told = with_histories(tables)
    return _plain(pl.concat(filled)), counted, told


# ---- work on one file, in this process or by an engine


def _bought(plan: Plan, inputs: Inputs, sources: Sequence[Source], tally: Tally) -> list[pl.DataFrame]:
    """Read interactions, one table per file, and count their rows."""
    parts = []
    for source in sources:
        if plan.check_file is not None:
            plan.check_file(source)
        columns = plan.columns[0] if plan.columns else inputs.columns
        parts.append(interactions_of(source, columns, inputs, tally, remedy=plan.remedy, check=plan.check))
    return parts


def _items(plan: Plan, inputs: Inputs, keep: pl.Series | None, sources: Sequence[Source]) -> ItemRows:
    columns, others = plan.columns[1] if plan.columns else inputs.columns, plan.others and bool(inputs.items)
    return item_rows(sources, columns, inputs, needed=plan.needed, others=others, keep=keep, mend=plan.mend)


def _bought_of_file(plan: Plan, inputs: Inputs, file: Path) -> tuple[list[pl.DataFrame], Mapping[str, Any]]:
    with scratch_folder() as folder:
        tally, sources = Tally(), sources_in(file, plan.form, reading_of(plan, inputs, folder))
        return [part for part in _bought(plan, inputs, sources, tally) if part.width], vars(tally)


def _items_of_file(
    plan: Plan, inputs: Inputs, keep: pl.Series | None, file: Path
) -> tuple[list[pl.DataFrame], Mapping[str, Any]]:
    with scratch_folder() as folder:
        if inputs.items:
            plan = replace(plan, form=None, names=None)
        rows = _items(plan, inputs, keep, sources_in(file, plan.form, reading_of(plan, inputs, folder)))
        return rows.parts, {name: value for name, value in vars(rows).items() if name != "parts"}


def _refuse_mixture(tables: Sequence[pl.DataFrame], paths: str) -> None:
    if len({tuple(table.columns) for table in tables}) > 1:
        raise DataError(f"{paths} have different columns: give all a position, or all a time (--column time=NAME)")


def _plain(table: pl.DataFrame) -> pl.DataFrame:
    """Drop columns without information: fractions of a second that are all 0, and used histories."""
    idle = [SUBSECOND] if SUBSECOND in table.columns and not (table[SUBSECOND] != 0).any() else []
    return table.drop([*idle, HISTORY], strict=False)
