"""Items of whatever names them: a domain, its folder, a table, or a catalogue on disk."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from xcrossrec.catalogue.sqlite import SqliteCatalogue, is_catalogue
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.data.domain import Domain
from xcrossrec.data.given import Table, as_frame
from xcrossrec.data.interactions import check_columns, is_empty_title
from xcrossrec.data.readers.tables import read_item_file
from xcrossrec.data.store import read_domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TITLE

log = logging.getLogger(__name__)

ItemSource: TypeAlias = Sequence[StoredItem] | Domain | Table | Path | str
"""Items, or what names them: a domain or its folder, a table (:data:`xcrossrec.data.given.Table`), a ``.csv`` or
``.parquet`` file, a catalogue's folder."""

_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")
_OWN = (ITEM, TITLE, "category", "in_stock", "price")


def read_items(source: ItemSource) -> list[StoredItem]:
    """Read items.

    A table has the columns ``item_id`` and ``title`` and may have ``category``, ``in_stock`` and ``price``; every
    other column becomes a key of the item's metadata. An empty cell is unknown: ``in_stock`` is then true. An item
    without a title is kept; it is recommended only where it is named as a candidate.

    Args:
        source: items, a domain, a table, or where one lies: a folder that ``xcrossrec data`` or ``xcrossrec catalog``
            wrote, or a file of any form that ``xcrossrec data import`` takes.

    Raises:
        DataError: not there, of another kind, without a column, without items, with an id twice, or with a value that
            no item may have.
        BundleError: a catalogue's folder that is damaged, or open in another process.
    """
    name = "the catalogue"
    if isinstance(source, Domain):
        name, source = f"the domain {source.name!r}", source.items
    elif isinstance(source, (Path, str)):
        name, source = str(source), _read(Path(source))
    if not (isinstance(source, Sequence) and all(isinstance(item, StoredItem) for item in source)):
        source = _items(as_frame(name, source), name)
    items = list(source)
    if not items:
        raise DataError(f"{name} has no items: give at least one")
    if len(items) > len(ids := Counter(item.item_id for item in items)):
        raise DataError(f"{name} has the item id {ids.most_common(1)[0][0]!r} twice: keep one row an item")
    if not any(item.title for item in items):
        log.warning("no item of %s has a title: each is recommended only where it is named as a candidate", name)
    return items


def _items(table: pl.DataFrame, name: str) -> list[StoredItem]:
    check_columns(name, table.columns, (ITEM, TITLE))
    kind, missing = table.schema[ITEM], table[ITEM].null_count()
    if missing:
        raise DataError(f"{name} has a row without {ITEM}: give each item an id")
    if not (kind.is_integer() or kind in (pl.String, pl.Categorical) or table.is_empty()):
        raise DataError(f"{ITEM} of {name} is of type {kind}, expected text or integers: read ids as text")
    texts = [column for column in (ITEM, TITLE, "category") if column in table.columns]
    table = table.with_columns(pl.col(texts).cast(pl.String))
    titled = table.with_columns(pl.when(is_empty_title()).then(pl.lit("")).otherwise(TITLE).alias(TITLE))
    return [_item(row) for row in titled.iter_rows(named=True)]


def _read(source: Path) -> pl.DataFrame | list[StoredItem]:
    kinds = "a domain's folder, a table of items, or what 'xcrossrec catalog build' made"
    if is_catalogue(source):
        with SqliteCatalogue.open(source, fingerprint=None) as catalogue:
            return list(catalogue.snapshot())
    if source.is_dir():
        return read_domain(source).items
    if not source.exists():
        raise DataError(f"{source} does not exist: give {kinds}")
    return read_item_file(source)


def _item(row: Mapping[str, Any]) -> StoredItem:
    item_id = row[ITEM]
    return StoredItem(
        item_id,
        row[TITLE],
        category=row.get("category") or None,
        in_stock=_in_stock(item_id, row.get("in_stock")),
        price=_price(item_id, row.get("price")),
        metadata=_metadata({name: value for name, value in row.items() if name not in _OWN and value is not None}),
    )


def _in_stock(item_id: str, value: Any) -> bool:
    text = "" if value is None else str(value).strip().lower()
    if text in _TRUE or not text:
        return True
    if text not in _FALSE:
        raise DataError(f"in_stock of item {item_id!r} is {value!r}: write true or false")
    return False


def _price(item_id: str, value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise DataError(f"the price of item {item_id!r} is {value!r}: write a number, or nothing") from None


def _metadata(values: dict[str, Any]) -> dict[str, Any] | None:
    """Keep what JSON can hold as it is, and the rest (times, decimals) as text."""
    return json.loads(json.dumps(values, default=str)) if values else None
