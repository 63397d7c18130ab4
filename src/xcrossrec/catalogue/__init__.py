"""Search of a whole catalogue's vectors: exact, in memory or reopened from disk."""

from xcrossrec.catalogue.fingerprint import catalogue_fingerprint, vector_fingerprint
from xcrossrec.catalogue.item_index import Found, ItemIndex, best_rows
from xcrossrec.catalogue.pooling import Pool, history_pool

__all__ = ["Found", "ItemIndex", "Pool", "best_rows", "catalogue_fingerprint", "history_pool", "vector_fingerprint"]
