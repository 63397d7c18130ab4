"""One reader for each form that interactions and titles come in, and the way from there to a domain.

>>> sorted(FORMATS)
['amazon2014', 'amazon2018', 'amazon2023', 'csv', 'jsonl', 'parquet', 'recbole']
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from xcrossrec.data.domain import Domain
from xcrossrec.data.readers.amazon import Release, read_amazon
from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import RawDomain
from xcrossrec.data.readers.importing import Recipe, make_domain
from xcrossrec.data.readers.recbole import read_recbole
from xcrossrec.data.readers.tables import TableForm, read_given, read_tables
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import Split

__all__ = [
    "FORMATS",
    "Columns",
    "Inputs",
    "RawDomain",
    "Recipe",
    "form_of",
    "import_domain",
    "make_domain",
    "read_amazon",
    "read_given",
    "read_recbole",
    "read_tables",
]


@dataclass(frozen=True)
class Inputs:
    """The files of one source.

    Args:
        interactions: all interactions in one file.
        items: the catalogue with titles.
        splits: interactions that come split, one file a split; instead of ``interactions``.
        columns: what the columns of own tables and RecBole files are called.
    """

    interactions: Path | None = None
    items: Path | None = None
    splits: Mapping[Split, Path] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)


def form_of(inputs: Inputs) -> str:
    """Tell the format by the end of a file's name: Parquet, JSON Lines or RecBole; anything else is CSV."""
    paths = [path for path in (inputs.interactions, *inputs.splits.values(), inputs.items) if path is not None]
    name = paths[0].name.lower().removesuffix(".gz") if paths else ""
    return _FORM_OF_SUFFIX.get(Path(name).suffix, "csv")


def import_domain(name: str, form: str | None, inputs: Inputs, recipe: Recipe | None = None) -> Domain:
    """Read one source and make a domain of it (write it with `xcrossrec.data.write_domain`).

    Args:
        name: of the domain.
        form: a key of ``FORMATS``; None takes `form_of`.
        inputs: the source's files.
        recipe: filters and split; by default all interactions, split leave-last-out or as they come.

    Raises:
        ConfigError: an unknown format, or files that do not belong to it.
        DataError: files that cannot be read, or hold no valid domain.
    """
    form = form_of(inputs) if form is None else form
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}: choose one of {', '.join(FORMATS)}")
    return make_domain(name, FORMATS[form](inputs), recipe or Recipe())


def _amazon(release: Release, inputs: Inputs) -> RawDomain:
    return read_amazon(release, *_both(release, inputs))


def _recbole(inputs: Inputs) -> RawDomain:
    return read_recbole(*_both("recbole", inputs), inputs.columns)


def _table(form: TableForm, inputs: Inputs) -> RawDomain:
    if (inputs.interactions is None) == (not inputs.splits):
        raise ConfigError(
            f"format {form} takes either one file of interactions or files that come split (train, "
            "validation, test): give one of the two"
        )
    if inputs.interactions is not None:
        return read_tables(form, inputs.interactions, inputs.items, inputs.columns)
    if inputs.items is None or "train" not in inputs.splits:
        raise ConfigError("files that come split need the items (with titles) and at least train: give both")
    return read_given(form, inputs.splits, inputs.items, inputs.columns)


def _both(form: str, inputs: Inputs) -> tuple[Path, Path]:
    if inputs.interactions is None or inputs.items is None or inputs.splits:
        raise ConfigError(
            f"format {form} takes a file of interactions and a file of items (for the titles): give both, "
            "and no files that come split"
        )
    return inputs.interactions, inputs.items


_FORM_OF_SUFFIX = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".inter": "recbole"}

FORMATS: Mapping[str, Callable[[Inputs], RawDomain]] = {
    "amazon2014": partial(_amazon, "amazon2014"),
    "amazon2018": partial(_amazon, "amazon2018"),
    "amazon2023": partial(_amazon, "amazon2023"),
    "recbole": _recbole,
    "csv": partial(_table, "csv"),
    "parquet": partial(_table, "parquet"),
    "jsonl": partial(_table, "jsonl"),
}
