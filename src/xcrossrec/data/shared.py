"""Users that a domain shares with others, and what they bought there: all that is known on their first day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from xcrossrec.arguments import checked
from xcrossrec.data.domain import DOMAIN, OTHER_SCHEMA, TEXT, Domain
from xcrossrec.data.store import manifest_of
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TIMESTAMP, USER


@checked
def with_shared_users(domain: Domain, others: Sequence[Domain]) -> Domain:
    """Add to a domain what its users bought in other domains; users are identified by their ids.

    Args:
        domain: the new category; histories from other domains that it already has are replaced.
        others: established categories with different names. All of their splits count.

    Raises:
        DataError: no other domain, two with the same name, or one without common users.
    """
    if not others:
        raise DataError("no other domain was given: name at least one whose users this one shares")
    names = [domain.name, *(other.name for other in others)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"two of the domains are called {twice!r}: import one under another name (--domain NAME)")
    users = pl.concat([frame.select(USER) for frame in domain.interactions.values()]).unique()
    tables = [_bought(other, users) for other in others]
    for other, table in zip(others, tables, strict=True):
        if table.is_empty():
            both = f"{domain.name!r} and {other.name!r}"
            raise DataError(
                f"domains {both} share no user: each must call a customer by one id; leave it out otherwise"
            )
    timed = all(TIMESTAMP in table.columns for table in tables)
    kept = pl.concat([table if timed else table.drop(TIMESTAMP, strict=False) for table in tables])
    kept = kept.sort([USER, TIMESTAMP] if timed else [USER], maintain_order=True)
    stated = [
        {
            "domain": one.name,
            "fingerprint": one.fingerprint,
            "users": rows[USER].n_unique(),
            "interactions": rows.height,
        }
        for one, rows in zip(others, tables, strict=True)
    ]
    made = replace(domain, other=kept, manifest={**domain.manifest, "shared_users": stated})
    return made.with_manifest(manifest_of(made))


def _bought(other: Domain, users: pl.DataFrame) -> pl.DataFrame:
    """What these users bought in another domain, each purchase once, oldest first."""
    mine = other.purchases.join(users, on=USER, how="semi", maintain_order="left")
    texts = other.items.select(ITEM).with_columns(pl.Series(TEXT, other.texts, dtype=pl.String))
    read = mine.join(texts, on=ITEM, how="left", maintain_order="left").with_columns(pl.lit(other.name).alias(DOMAIN))
    return read.filter(pl.col(TEXT) != "").select(*OTHER_SCHEMA, *({TIMESTAMP} & set(read.columns)))
