"""RecBole atomic files: .inter and .item, tab-separated, with a header of ``name:type``."""

from __future__ import annotations

from pathlib import Path

from xcrossrec.data.readers.frames import (
    Columns,
    RawDomain,
    TimeUnit,
    interactions_frame,
    items_frame,
)
from xcrossrec.data.readers.records import atomic_header, atomic_records
from xcrossrec.exceptions import DataError
from xcrossrec.types import TITLE

TITLE_COLUMNS = (TITLE, "name", "item_name", "movie_title")


def read_recbole(interactions: Path, items: Path, columns: Columns | None = None) -> RawDomain:
    """Read a pair of atomic files.

    Args:
        interactions: the .inter file (user_id:token, item_id:token, timestamp:float).
        items: the .item file (item_id:token and title or name, token_seq).
        columns: other column names (without their types) or another time unit.

    Raises:
        DataError: missing or malformed files, missing columns, times in another unit.
    """
    columns = columns or Columns()
    named = Columns(
        columns.user,
        columns.item,
        columns.time or "timestamp",
        None,
        _title_column(items, columns.title),
        columns.time_unit,
    )
    records = atomic_records(interactions, [named.user, named.item, str(named.time)])
    table = interactions_frame(records, interactions, named, remedy=unit_remedy(named.time_unit))
    titles = items_frame(atomic_records(items, [named.item, named.title]), items, named)
    return RawDomain(titles, table, (interactions, items))


def unit_remedy(unit: TimeUnit) -> str:
    """Say which option states the unit of times that are not in ``unit``."""
    return f"pass --time-unit {'ms' if unit == 's' else 's'} or what the file has"


def _title_column(items: Path, wanted: str) -> str:
    present = atomic_header(items)
    if wanted in present or wanted != TITLE:
        return wanted
    for name in TITLE_COLUMNS:
        if name in present:
            return name
    raise DataError(
        f"{items} has no title column ({' or '.join(TITLE_COLUMNS)}), it has {', '.join(present) or 'none'}: "
        "name it with --title-column"
    )
