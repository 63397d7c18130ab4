"""A source's two tables, whatever the format: interactions in one or split, and the items."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl

from xcrossrec.data.interactions import SUBSECOND
from xcrossrec.data.readers.columns import Columns, Role
from xcrossrec.data.readers.frames import Inputs, RawDomain, item_field
from xcrossrec.data.readers.histories import HISTORY, with_histories
from xcrossrec.data.readers.items import Expression, items_of
from xcrossrec.data.readers.rows import Check, Tally, interactions_of
from xcrossrec.data.readers.sources import Form, Paths, Reading, Source, open_sources, original_files
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import ITEM, SPLITS, TITLE

ONE_UNIT = "the file's first time is; give all of them in one unit"


@dataclass(frozen=True)
class Plan:
    """How one format is read.

    Args:
        form: of the interactions; None tells by each file's contents.
        columns: of the interactions and of the items; None takes the user's.
        names: of the columns of interactions without a header.
        loose: items may be Python literals.
        needed: columns that items must have.
        others: whether further columns of items are kept.
        remedy: what to do when times are in two units.
        only_bought: leave out items without interactions.
        mend: applied to titles.
        check_file: looks at every file of interactions.
        check: looks at every batch of them.
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


def read_tables(form: Form | None, inputs: Inputs) -> RawDomain:
    """Read own tables: interactions in one or one set a split, and titles from tables of items or the same tables.

    Args:
        form: what the interactions are; None tells by each file's contents.
        inputs: the files.

    Raises:
        ConfigError: inputs that leave out what is needed, or give both ways.
        DataError: missing or malformed files, missing columns, times in several units, rows that lack something.
    """
    if bool(inputs.interactions) == bool(inputs.splits):
        raise ConfigError(
            f"format {form or 'csv'} takes either interactions in one (--interactions) or files that come split "
            "(--train, --validation, --test): give one of the two"
        )
    if inputs.splits and ("train" not in inputs.splits or not inputs.items):
        raise ConfigError("files that come split need the items with titles (--items) and at least --train: give both")
    return read_planned(Plan(form), inputs)


def read_item_file(path: Path) -> pl.DataFrame:
    """Read the items of one file, whatever its form, packing and names of columns.

    A CSV or Parquet file with ``item_id`` and ``title`` keeps its columns as they are; of text, prices and stock are
    understood.

    Raises:
        DataError: no such file, no table, or none of items.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty: give a table with {ITEM} and {TITLE}")
    with suppress(pl.exceptions.PolarsError, OSError, UnicodeDecodeError):
        exact = pl.read_parquet(path, glob=False) if path.suffix == ".parquet" else _text_table(path)
        if {ITEM, TITLE} <= set(exact.columns):
            return exact
    with TemporaryDirectory(prefix="xcrossrec-") as folder:
        inputs = Inputs(items=path)
        try:
            return items_of(open_sources(path, None, Reading(Path(folder))), inputs.columns, inputs, others=True)[0]
        except DataError as error:
            said, _, remedy = str(error).rpartition(": ")
            raise DataError(f"{said}: call its columns {ITEM} and {TITLE}" if "--" in remedy else str(error)) from error


def _text_table(path: Path) -> pl.DataFrame:
    table = pl.read_csv(path, infer_schema=False, glob=False)
    read = [role for role in ("price", "in_stock") if role in table.columns]
    parsed = [pl.coalesce(item_field(role, role, pl.String()).cast(pl.String), role).alias(role) for role in read]
    return table.with_columns(parsed)


def read_planned(plan: Plan, inputs: Inputs) -> RawDomain:
    """Read the two tables as a format has them.

    Raises:
        DataError: as for `read_tables`.
    """
    with TemporaryDirectory(prefix="xcrossrec-") as folder:
        numbered = inputs.columns.numbered
        stated = Reading(Path(folder), inputs.separator, inputs.encoding, numbered, loose=plan.loose)
        opened: list[Source] = []
        table, tally, told = _interactions(plan, inputs, stated, opened)
        sources = open_sources(inputs.items, None, stated) if inputs.items else opened
        items, conflicts = items_of(
            sources,
            plan.columns[1] if plan.columns else inputs.columns,
            inputs,
            needed=plan.needed,
            others=plan.others and bool(inputs.items),
            keep=table[ITEM].unique() if plan.only_bought else None,
            mend=plan.mend,
        )
    given = [*(inputs.splits.values() if inputs.splits else [inputs.interactions]), inputs.items]
    files = [file for paths in given if paths for file in original_files(paths)]
    return RawDomain(items, table, tuple(dict.fromkeys(files)), tally.rows(inputs), {**told, **conflicts})


def read_alone(inputs: Inputs) -> pl.DataFrame:
    """Read interactions without any items, whatever the form of their files.

    Raises:
        DataError: as for `read_tables`.
    """
    with TemporaryDirectory(prefix="xcrossrec-") as folder:
        stated = Reading(Path(folder), inputs.separator, inputs.encoding, inputs.columns.numbered)
        return _interactions(Plan(), inputs, stated, [])[0]


def _interactions(
    plan: Plan, inputs: Inputs, stated: Reading, opened: list[Source]
) -> tuple[pl.DataFrame, Tally, Mapping[str, object]]:
    tally = Tally()
    reading = replace(stated, names=plan.names)
    columns = plan.columns[0] if plan.columns else inputs.columns

    def table(paths: Paths) -> pl.DataFrame:
        sources = open_sources(paths, plan.form, reading)
        opened.extend(sources)
        parts = []
        for source in sources:
            if plan.check_file is not None:
                plan.check_file(source)
            parts.append(interactions_of(source, columns, inputs, tally, remedy=plan.remedy, check=plan.check))
        return _joined([part for part in parts if part.width], ", ".join(source.shown for source in sources))

    if not inputs.splits:
        whole = table(inputs.interactions)
        tally.rows(inputs)
        _refuse_empty(whole, inputs.interactions)
        return _plain(whole), tally, {}
    tables = {split: table(inputs.splits[split]) for split in SPLITS if split in inputs.splits}
    tally.rows(inputs)
    for split, part in tables.items():
        _refuse_empty(part, inputs.splits[split])
    if not any(HISTORY in part.columns for part in tables.values()):
        _refuse_mixture(list(tables.values()), ", ".join(str(paths) for paths in inputs.splits.values()))
    filled, told = with_histories(tables)
    return _plain(pl.concat(filled)), tally, told


def _joined(tables: Sequence[pl.DataFrame], paths: str) -> pl.DataFrame:
    _refuse_mixture(tables, paths)
    return pl.concat(tables, rechunk=True) if tables else pl.DataFrame()


def _refuse_mixture(tables: Sequence[pl.DataFrame], paths: str) -> None:
    if len({tuple(table.columns) for table in tables}) > 1:
        raise DataError(
            f"{paths} have different columns: give all of them a position, or all of them a time (--column time=NAME)"
        )


def _refuse_empty(table: pl.DataFrame, paths: Paths) -> None:
    if table.is_empty():
        raise DataError(f"{paths} holds no interactions: the domain would be empty; give the right file")


def _plain(table: pl.DataFrame) -> pl.DataFrame:
    """Leave out what tells nothing: fractions of a second that are all 0, histories of one table."""
    idle = [SUBSECOND] if SUBSECOND in table.columns and not (table[SUBSECOND] != 0).any() else []
    return table.drop([*idle, HISTORY], strict=False)
