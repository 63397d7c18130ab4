"""Items of whatever names them: a domain, its folder, a table, or a catalogue on disk."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from xcrossrec.catalogue.kept import is_catalogue, open_kept, shown
from xcrossrec.catalogue.stored_item import OWN, StoredItem
from xcrossrec.data.domain import Domain
from xcrossrec.data.given import Table, as_frame
from xcrossrec.data.interactions import check_columns, text_ids
from xcrossrec.data.readers.items import understood
from xcrossrec.data.readers.tables import read_item_file
from xcrossrec.data.store import read_domain
from xcrossrec.data.text import DESCRIPTION, ItemText, clean_text, is_empty_title, plain
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TITLE, is_url

log = logging.getLogger(__name__)

ItemSource: TypeAlias = Sequence[StoredItem] | Domain | Table | Path | str
"""Items, or what names them: a domain or its folder, a table (:data:`xcrossrec.data.given.Table`), a file of any form
that ``xcrossrec data import`` takes, a catalogue's folder or its database's URL."""

_LONGEST_CELL = 4_000
"""Characters of a text that are kept beside an item of a table; models read fewer."""


def read_items(source: ItemSource, text: ItemText | None = None) -> list[StoredItem]:
    """Read items.

    A table has the columns ``item_id`` and ``title`` and may have ``category``, ``in_stock`` and ``price``; every
    other column becomes a key of the item's metadata, of long texts the first 4,000 characters, of a domain its
    ``description`` only where it is read. Prices and stock are read as an import reads them; what is not understood is
    unknown, as an empty cell is: ``in_stock`` is then true. An item without a title is kept; it is recommended only
    where it is named as a candidate.

    Args:
        source: items, a domain, a table, or where one lies: a folder that ``xcrossrec data`` or ``xcrossrec catalog``
            wrote, or a file of any form that ``xcrossrec data import`` takes.
        text: what a model will read of them.

    Raises:
        DataError: not there, of another kind, without a column or a field of the text, without items, or with an id
            twice.
        BundleError: a catalogue's folder that is damaged, or open in another process.
    """
    name = "the catalogue"
    if isinstance(source, (Path, str)):
        name, source = shown(source), _read(source if is_url(source) else Path(source))
    if isinstance(source, Domain):
        name = f"the domain {source.name!r}" if name == "the catalogue" else name
        unread = () if text is not None and DESCRIPTION in text.fields else (DESCRIPTION,)
        source = source.items.drop(unread, strict=False)
    if isinstance(source, Sequence) and all(isinstance(item, StoredItem) for item in source):
        items = [item for item in source if isinstance(item, StoredItem)]
        if text is not None:
            check_fields(items, text, name)
    else:
        items = _items(as_frame(name, source), name, text)
    if not items:
        raise DataError(f"{name} has no items: give at least one")
    if len(items) > len(ids := Counter(item.item_id for item in items)):
        raise DataError(f"{name} has the item id {ids.most_common(1)[0][0]!r} twice: keep one row an item")
    if not any(item.title for item in items):
        log.warning("no item of %s has a title: each is recommended only where it is named as a candidate", name)
    return items


def check_fields(items: Iterable[StoredItem], text: ItemText, name: str) -> None:
    """Refuse (DataError) items of which none has a field that a model reads: then it is not kept with them."""
    lost = [field for field in text.fields if field != TITLE and not any(item.has(field) for item in items)]
    if lost:
        raise DataError(
            f"no item of {name} has a {lost[0]!r}, which the model reads as part of its item text {text.template!r}: "
            "build the catalogue from a table that has the column, or write the items with it (what is no attribute of "
            "an item, as a key of its metadata)"
        )


def _items(table: pl.DataFrame, name: str, text: ItemText | None) -> list[StoredItem]:
    check_columns(name, table.columns, (ITEM, TITLE))
    if text is not None:
        text.check(name, table.columns)
    table = text_ids(f"the items of {name}", table, ITEM)
    if unread := [column for column in OWN if table.schema.get(column) == pl.Binary]:
        raise DataError(f"{name} has {unread[0]} of type Binary: make it text, or leave it out")
    table, odd = understood(table)
    for role, said in odd.items():
        log.warning("%s: %s: %s", name, role, said)
    read = [plain(table[column]) for column in (TITLE, "category") if column in table.columns]
    table = table.with_columns(read)
    titled = table.with_columns(pl.when(is_empty_title()).then(pl.lit("")).otherwise(TITLE).alias(TITLE))
    texts = [column for column, dtype in titled.schema.items() if dtype == pl.String and column not in OWN]
    long = [titled[column] for column in texts if (titled[column].str.len_chars() > _LONGEST_CELL).any()]
    titled = titled.with_columns(clean_text(column, title=True).str.head(_LONGEST_CELL) for column in long)
    return [_item(row) for row in titled.iter_rows(named=True)]


def _read(source: Path | str) -> Domain | pl.DataFrame | list[StoredItem]:
    kinds = "a domain's folder, a table of items, or what 'xcrossrec catalog build' made"
    if is_catalogue(source):
        with open_kept(source, fingerprint=None) as catalogue:
            return list(catalogue.snapshot())
    source = Path(source)
    if source.is_dir():
        return read_domain(source)
    if not source.exists():
        raise DataError(f"{source} does not exist: give {kinds}")
    return read_item_file(source)


def _item(row: Mapping[str, Any]) -> StoredItem:
    more = {name: value for name, value in row.items() if name not in OWN and value is not None}
    return StoredItem(
        row[ITEM],
        row[TITLE],
        category=row.get("category") or None,
        in_stock=row.get("in_stock") is not False,
        price=row.get("price"),
        metadata=json.loads(json.dumps(more, default=str)) if more else None,  # times and decimals as text
    )
