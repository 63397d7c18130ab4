"""Catalogues: items with one model's vectors, searched exactly while they change; in memory, or on disk with SQLite.

:func:`open_catalogue` is the door. A :class:`Catalogue` gives a :class:`Snapshot`, which answers everything.
"""

from xcrossrec.catalogue.base import Catalogue, CatalogueReplacedError
from xcrossrec.catalogue.embedding import embed_again, encode_items, fingerprint_of
from xcrossrec.catalogue.filters import Filters
from xcrossrec.catalogue.fingerprint import vector_fingerprint
from xcrossrec.catalogue.item_index import Found, ItemIndex, best_rows
from xcrossrec.catalogue.items import ItemSource, read_items
from xcrossrec.catalogue.memory import MemoryCatalogue
from xcrossrec.catalogue.opening import build_catalogue, open_catalogue
from xcrossrec.catalogue.pooling import Pool, history_pool, only_slot
from xcrossrec.catalogue.snapshot import Snapshot
from xcrossrec.catalogue.sqlite import SqliteCatalogue, is_catalogue
from xcrossrec.catalogue.stored_item import StoredItem

__all__ = [
    "Catalogue",
    "CatalogueReplacedError",
    "Filters",
    "Found",
    "ItemIndex",
    "ItemSource",
    "MemoryCatalogue",
    "Pool",
    "Snapshot",
    "SqliteCatalogue",
    "StoredItem",
    "best_rows",
    "build_catalogue",
    "embed_again",
    "encode_items",
    "fingerprint_of",
    "history_pool",
    "is_catalogue",
    "only_slot",
    "open_catalogue",
    "read_items",
    "vector_fingerprint",
]
