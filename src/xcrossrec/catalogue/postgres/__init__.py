"""A catalogue on PostgreSQL with pgvector, for services of several processes; needs the extra ``postgres``."""

from xcrossrec.extras import require

require("postgres")

from xcrossrec.catalogue.postgres.catalogue import PostgresCatalogue  # noqa: E402 - what is missing is said first

__all__ = ["PostgresCatalogue"]
