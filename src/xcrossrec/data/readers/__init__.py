"""Readers for each format of interactions and items, and the import that makes a domain of them.

>>> sorted(FORMATS)
['amazon2014', 'amazon2018', 'amazon2023', 'csv', 'jsonl', 'parquet', 'recbole']
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.data.given import Table, as_frame
from xcrossrec.data.readers.amazon import AMAZON
from xcrossrec.data.readers.blocks import Blocks, by_file
from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.conditions import Condition
from xcrossrec.data.readers.frames import Inputs
from xcrossrec.data.readers.importing import Recipe, make_domain
from xcrossrec.data.readers.sources import Form, Paths
from xcrossrec.data.readers.tables import Plan, read_bought, read_tables, reading_of
from xcrossrec.data.store import MANIFEST, read_domain
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.replacing import scratch_folder
from xcrossrec.types import POSITION, TIMESTAMP

__all__ = ["FORMATS", "Columns", "Condition", "Inputs", "Recipe", "by_file", "import_domain", "read_interactions"]

FORMATS: Mapping[str, Plan] = {**AMAZON, **{form: Plan(form) for form in get_args(Form)}}


def import_domain(
    name: str, form: str | None, inputs: Inputs, recipe: Recipe | None = None, blocks: Blocks | None = None
) -> Domain:
    """Read a source and make a domain of it (write it with `xcrossrec.data.write_domain`).

    Args:
        form: a key of ``FORMATS``; None detects the format of each file, which may differ.
        recipe: filters and split; by default all interactions, split leave-last-out or as the source is split.
        blocks: from :func:`by_file`, to read the files with an engine; None reads them in this process.

    Raises:
        ConfigError: an unknown format, or files that do not fit it.
        DataError: files that cannot be read, or have no valid data.
    """
    if form is not None and form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}: choose one of {', '.join(FORMATS)}")
    with scratch_folder() as folder:
        files = _in_files(inputs, folder)
        try:
            raw = read_tables(Plan() if form is None else FORMATS[form], files, blocks)
        except DataError as error:
            raise DataError(
                re.sub(rf"{re.escape(str(folder))}/(\w+)\.parquet", r"the table of \1", str(error))
            ) from error
        given = tuple(path for path in raw.sources if not path.is_relative_to(folder))
        return make_domain(name, replace(raw, sources=given), recipe or Recipe())


def read_interactions(inputs: Inputs) -> pl.DataFrame:
    """Read only interactions, from tables and domains' folders.

    Returns:
        ``user_id``, ``item_id``, and a time or position if there is one; see :class:`RawDomain`.

    Raises:
        DataError: files that cannot be read, a missing column, or incomplete rows.
    """
    with scratch_folder() as folder:
        files = _in_files(inputs, folder)
        files = replace(files, interactions=_without_domains(files.interactions, folder))
        try:
            return read_bought(Plan(), files, reading_of(Plan(), files, folder), [], None, empty=True)[0]
        except DataError as error:
            if not (lacking := dict.fromkeys(re.findall(r"--(?!column)[a-z]+", str(error)))):
                raise
            raise DataError(
                f"{error}; but {', '.join(lacking)} is for 'xcrossrec data import': correct the file, or import it "
                "(with its items, --split none) and give that folder"
            ) from error


def _without_domains(given: Paths, folder: Path) -> Paths:
    """Replace domains' folders by files of their purchases."""
    files: list[str | Path] = []
    for path in [given] if isinstance(given, str | Path) else given:
        file = path
        if (Path(path) / MANIFEST).is_file():
            bought, file = read_domain(path).purchases, folder / f"{len(files)}.parquet"
            bought.drop(POSITION if TIMESTAMP in bought.columns else ()).write_parquet(file)
        files.append(file)
    return files


def _in_files(inputs: Inputs, folder: Path) -> Inputs:
    """Write tables to files, which are read like any other."""

    def file(what: str, given: Paths | Table) -> Paths:
        parts = [given] if given is None or isinstance(given, str | Path) else given
        if isinstance(parts, Sequence) and all(isinstance(part, str | Path | None) for part in parts):
            return given
        as_frame(what, given).write_parquet(folder / f"{what}.parquet")
        return folder / f"{what}.parquet"

    splits = {split: file(split, given) for split, given in inputs.splits.items()}
    interactions, items = file("interactions", inputs.interactions), file("items", inputs.items)
    return replace(inputs, splits=splits, interactions=interactions, items=items)
