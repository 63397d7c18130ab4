"""Readers, checks, splits, candidates and the store; works without torch."""

import os

# Arrow and pandas name zones by their offset, "+05:30"; Polars takes such a name only if it is told not to look it up.
os.environ.setdefault("POLARS_IGNORE_TIMEZONE_PARSE_ERROR", "1")

from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.data.interactions import build_domain
from xcrossrec.data.shared import with_shared_users
from xcrossrec.data.store import read_domain, write_domain

__all__ = ["Domain", "Sequences", "build_domain", "read_domain", "with_shared_users", "write_domain"]
