"""Items of a catalogue from a domain's folder or from a table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.data.interactions import check_columns, is_empty_title
from xcrossrec.data.store import read_domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TITLE

_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0")
_OWN = (ITEM, TITLE, "category", "in_stock", "price")


def read_items(source: Path | str) -> list[StoredItem]:
    """Read the items of a domain's folder, or of a CSV or Parquet table.

    A table has the columns ``item_id`` and ``title`` and may have ``category``, ``in_stock`` and ``price``; every
    other column becomes a key of the item's metadata. An empty cell is unknown: ``in_stock`` is then true.

    Args:
        source: a folder that ``xcrossrec data`` wrote, or a file named ``.csv`` or ``.parquet``.

    Raises:
        DataError: not there, of another kind, without a column, or with a value that no item may have.
    """
    source = Path(source)
    if source.is_dir():
        return [_item(row, source) for row in read_domain(source).items.iter_rows(named=True)]
    table = _read_table(source)
    check_columns(str(source), table.columns, (ITEM, TITLE))
    empty = table.filter(is_empty_title())
    if empty.height:
        raise DataError(
            f"{empty.height} items of {source} have a title that is NaN or empty (first: {empty[ITEM][0]!r}): drop "
            "them, or give them one"
        )
    return [_item(row, source) for row in table.iter_rows(named=True)]


def _read_table(source: Path) -> pl.DataFrame:
    if not source.exists():
        raise DataError(f"{source} does not exist: give a domain's folder, a .csv or a .parquet file")
    try:
        if source.suffix == ".csv":
            table = pl.read_csv(source, infer_schema=False)
        elif source.suffix == ".parquet":
            table = pl.read_parquet(source)
        else:
            raise DataError(f"{source} ends in {source.suffix!r}: give a domain's folder, a .csv or a .parquet file")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{source} cannot be read ({' '.join(str(error).split())}): write it again") from error
    texts = [name for name in (ITEM, TITLE, "category") if name in table.columns]
    return table.with_columns(pl.col(texts).cast(pl.String))


def _item(row: Mapping[str, Any], source: Path) -> StoredItem:
    item_id = row[ITEM]
    if item_id is None:
        raise DataError(f"{source} has a row without {ITEM}: give each item an id")
    return StoredItem(
        item_id,
        row[TITLE] or "",
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
