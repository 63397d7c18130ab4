"""Read a domain's tables as they are, without refusing what is broken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.data.readers.sources import Reading, Source, sources_in
from xcrossrec.data.store import AGAIN, MANIFEST, read_domain, read_manifest, read_parquet
from xcrossrec.data.text import BRAND, CATEGORY, DESCRIPTION, IN_STOCK, PRICE, ItemText, clean_text
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.replacing import scratch_folder, state_of
from xcrossrec.types import ITEM, POSITION, SPLITS, TIMESTAMP, TITLE, USER, Split

TAG = r"</?[A-Za-z][^<>]*>|/>"
SUFFIXES = (".parquet", ".csv.gz", ".csv")
_SINGLE = (USER, ITEM, TITLE, POSITION, TIMESTAMP)
NEEDED: Mapping[str, tuple[str, ...]] = {"items": (ITEM, TITLE), **dict.fromkeys(SPLITS, (USER, ITEM))}


@dataclass(frozen=True, eq=False)
class Tables:
    """A domain's raw tables, and views of them that the checks share.

    Attributes:
        name: from the manifest, otherwise the folder's name.
        raw: ``items`` and the existing splits, with their original types.
        manifest: empty if there is none.
        sorted_by_contract: whether the rows must be in order (CSV files are sorted at import).
        mismatch: why `read_domain` refuses the folder although it has a manifest.
    """

    name: str
    raw: Mapping[str, pl.DataFrame]
    manifest: Mapping[str, Any]
    sorted_by_contract: bool
    mismatch: str | None = None

    @property
    def filters(self) -> Mapping[str, Any]:
        """What the import did, as the manifest states it."""
        return self.manifest.get("filters") or {}

    @cached_property
    def items(self) -> pl.DataFrame:
        """``item_id`` and ``title`` as text; empty if a column is missing."""
        frame = self.raw["items"]
        if not set(NEEDED["items"]) <= set(frame.columns):
            return pl.DataFrame(schema={ITEM: pl.String, TITLE: pl.String})
        text = frame.select(pl.col(ITEM).cast(pl.String), pl.col(TITLE).cast(pl.String).fill_null(""))
        return text.filter(~is_blank(ITEM))

    @cached_property
    def text(self) -> ItemText | None:
        """The template of the item text, as the manifest states it."""
        try:
            return ItemText(self.manifest["text"]) if "text" in self.manifest else None
        except ConfigError:
            return None

    def fields(self) -> dict[str, pl.Series]:
        """Title, brand, category, description and the item text's columns, if they exist, as models read them.

        Rows are those of ``items``.
        """
        frame = self.raw["items"]
        if not set(NEEDED["items"]) <= set(frame.columns):
            return {}
        names = dict.fromkeys((TITLE, BRAND, CATEGORY, DESCRIPTION, *(self.text.fields if self.text else ())))
        usual = [name for name in names if name in frame.columns and name not in (PRICE, IN_STOCK)]
        rows = frame.filter(~is_blank(ITEM))
        return {name: clean_text(rows[name], title=name == TITLE) for name in usual}

    @cached_property
    def splits(self) -> dict[Split, pl.DataFrame]:
        """For each split ids as text, ``position`` and perhaps ``timestamp`` as float64; unusable rows are left out."""
        usable = {s: f for s in SPLITS if (f := self.raw.get(s)) is not None and set(NEEDED[s]) <= set(f.columns)}
        return {split: _usable_rows(frame) for split, frame in usable.items()}

    @cached_property
    def sequences(self) -> dict[Split, pl.DataFrame]:
        """For each split one row per user: ``user_id`` and the list ``items``, oldest first."""
        return {
            split: frame.sort(POSITION, maintain_order=True)
            .group_by(USER, maintain_order=True)
            .agg(pl.col(ITEM).alias("items"))
            for split, frame in self.splits.items()
        }

    def ids(self, column: str) -> set[str]:
        """All ids of one column in the splits; those of items also in the catalogue."""
        frames = [*self.splits.values(), *([self.items] if column == ITEM else [])]
        return {value for frame in frames for value in frame[column].unique()}


def is_blank(column: str) -> pl.Expr:
    """An expression: whether a text column is null or blank."""
    return pl.col(column).cast(pl.String).fill_null("").str.strip_chars() == ""


def load_tables(source: Domain | Path | str) -> Tables:
    """The tables of a domain in memory or in a folder (DataError: it cannot be read, or has no catalogue)."""
    if isinstance(source, Domain):
        raw: dict[str, pl.DataFrame] = {"items": source.items}
        raw.update((split, source.interactions[split]) for split in source.splits)
        return Tables(source.name, raw, {**source.manifest, "text": source.text.template}, sorted_by_contract=True)
    path = Path(source)
    if not path.is_dir():
        raise DataError(f"no folder at {path} (it {state_of(path)}): give an imported domain, or one of CSV files")
    named = [(stem, path / f"{stem}{suffix}") for stem in NEEDED for suffix in reversed(SUFFIXES)]
    files = {stem: file for stem, file in named if file.is_file()}  # if there are several, the first suffix counts
    if "items" not in files:
        raise DataError(f"{path} has no catalogue: expected items.parquet, .csv.gz or .csv, and train likewise")
    manifest, mismatch = dict[str, Any](), None
    if (path / MANIFEST).exists():
        try:
            manifest = read_manifest(path)
            read_domain(path)
        except DataError as error:
            mismatch = str(error)
    raw = {stem: _read(file) for stem, file in files.items()}
    parquet = files["items"].suffix == ".parquet"
    return Tables(str(manifest.get("name", path.resolve().name)), raw, manifest, parquet, mismatch)


def _read(file: Path) -> pl.DataFrame:
    """Read a file; all columns of CSV as text, which keeps ids as they are written."""
    if file.suffix == ".parquet":
        frame = read_parquet(file, remedy=AGAIN)
        for name, dtype in frame.schema.items():
            if name in _SINGLE and (dtype.is_nested() or dtype == pl.Binary):
                raise DataError(f"{file} has {name} of type {dtype}, expected text or numbers: write one value a row")
        return frame
    with scratch_folder() as folder:
        tables = [_texts(source) for source in sources_in(file, "csv", Reading(folder))]
    return pl.concat([pl.DataFrame(), *tables], how="diagonal")


def _texts(source: Source) -> pl.DataFrame:
    none = pl.DataFrame(schema=dict.fromkeys(source.every, pl.String()))
    return source.read(source.every, lambda batches: pl.concat([none, *batches]), [pl.all()])


def _usable_rows(frame: pl.DataFrame) -> pl.DataFrame:
    """Convert ids to text and times to numbers; without a position, rows are numbered."""
    positions = [] if POSITION in frame.columns else [pl.int_range(pl.len()).alias(POSITION)]
    frame = frame.with_columns(positions).filter(~is_blank(USER), ~is_blank(ITEM))
    numbers = [column for column in (POSITION, TIMESTAMP) if column in frame.columns]
    return frame.select(
        pl.col(USER, ITEM).cast(pl.String), pl.col(numbers).cast(pl.Float64, strict=False).fill_nan(None)
    ).filter(pl.col(POSITION).is_not_null())
