"""Catalogues: items with one model's vectors, searched while they change; in memory, on SQLite, or on PostgreSQL.

:func:`open_catalogue` opens or makes one. All questions go to a :class:`Snapshot` of a :class:`Catalogue`.

Legend of all shapes here: ``item`` = one item of a catalogue, or of a segment, ``slot`` = one query vector (a history's
item), ``dim`` = vector size.
"""

from xcrossrec.catalogue.base import Catalogue, CatalogueReplacedError
from xcrossrec.catalogue.damage import examine, repair
from xcrossrec.catalogue.encoding import BlockEncoder, in_blocks
from xcrossrec.catalogue.fingerprint import fingerprint_of
from xcrossrec.catalogue.items import ItemSource, read_items
from xcrossrec.catalogue.kept import is_catalogue, open_kept, recorded_purchases
from xcrossrec.catalogue.opening import build_catalogue, embed_again, encode_items, open_catalogue
from xcrossrec.catalogue.purchases import Forgotten, Purchase
from xcrossrec.catalogue.scan import Pool, best_rows, history_pool
from xcrossrec.catalogue.sqlite import SqliteCatalogue
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.catalogue.view import Search, Snapshot
from xcrossrec.filters import Filters

__all__ = [
    "BlockEncoder",
    "Catalogue",
    "CatalogueReplacedError",
    "Filters",
    "Forgotten",
    "ItemSource",
    "Pool",
    "Purchase",
    "Search",
    "Snapshot",
    "SqliteCatalogue",
    "StoredItem",
    "best_rows",
    "build_catalogue",
    "embed_again",
    "encode_items",
    "examine",
    "fingerprint_of",
    "history_pool",
    "in_blocks",
    "is_catalogue",
    "open_catalogue",
    "open_kept",
    "read_items",
    "recorded_purchases",
    "repair",
]
