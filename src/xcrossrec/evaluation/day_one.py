"""The first day: each customer's first purchase is the target, and nothing that she bought here is known."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import USER, Split


def first_day(domain: Domain, split: Split) -> Domain:
    """Move the first purchase of each user of a split behind the others, so that it is the target of the protocol.

    Users of the train split are left out: models know their first purchases.

    Args:
        domain: imported with ``--split by-user`` or ``temporal``, so that it has others.
        split: whose users.

    Raises:
        DataError: all of them are in the train split, too, or none has two purchases.
    """
    if split == "train":
        raise DataError("models know the first purchases of the train split: rank the users of another one")
    known = domain.interactions["train"].select(USER).unique() if "train" in domain.splits else None
    frame = domain.frame(split)
    frame = frame if known is None else frame.join(known, on=USER, how="anti", maintain_order="left")
    user = pl.col(USER)  # each one's rows stand together
    moved = frame.sort(user.rle_id(), user.is_first_distinct(), maintain_order=True)
    if not domain.frame(split).is_empty() and moved.is_empty():
        raise DataError(
            f"all users of {split!r} of domain {domain.name!r} are in its train split, too, so their first purchases "
            "are known: import it with --split by-user"
        )
    manifest = {name: value for name, value in domain.manifest.items() if name != "fingerprint"}
    return replace(domain, interactions={**domain.interactions, split: moved}, manifest=manifest)
