"""Readers, checks, splits, candidates and the store; works without torch."""

from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.data.store import read_domain, write_domain

__all__ = ["Domain", "Sequences", "read_domain", "write_domain"]
