"""Search of a whole catalogue's vectors: exact, in memory or reopened from disk."""

from xcrossrec.index.fingerprint import catalogue_fingerprint, vector_fingerprint
from xcrossrec.index.item_index import Found, ItemIndex
from xcrossrec.index.pooling import Pool, history_pool

__all__ = ["Found", "ItemIndex", "Pool", "catalogue_fingerprint", "history_pool", "vector_fingerprint"]
