"""RecBole atomic files: .inter and .item, tab-separated, with a header of ``name:type``."""

from __future__ import annotations

from pathlib import Path

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import ONE_UNIT, RawDomain, interactions_frame, items_frame
from xcrossrec.data.readers.records import atomic_header, atomic_records


def read_recbole(interactions: Path, items: Path, columns: Columns | None = None) -> RawDomain:
    """Read a pair of atomic files.

    Args:
        interactions: the .inter file (user_id:token, item_id:token, timestamp:float).
        items: the .item file (item_id:token and title or name, token_seq).
        columns: column names (without their types), where they are not found by themselves.

    Raises:
        DataError: missing or malformed files, missing columns, times in several units.
    """
    columns = columns or Columns()
    bought = columns.found_in(interactions, atomic_header(interactions), ("user", "item", "time"))
    records = atomic_records(interactions, [str(bought.user), str(bought.item), str(bought.time)])
    table = interactions_frame(records, interactions, bought, remedy=ONE_UNIT)
    sold = columns.found_in(items, atomic_header(items), ("item", "title"))
    titles = items_frame(atomic_records(items, [str(sold.item), str(sold.title)]), items, sold)
    return RawDomain(titles, table, (interactions, items))
