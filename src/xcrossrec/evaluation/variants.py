"""A domain asked otherwise: on the first day, or without a field of its items' texts."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, USER, Split


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


def without_field(domain: Domain, field: str) -> Domain:
    """Give every item an empty field, so that it vanishes from the texts of whatever reads it.

    Args:
        domain: stays as it is.
        field: a column of its items.

    Raises:
        DataError: the items have no such column.
    """
    columns = [column for column in domain.items.columns if column != ITEM]
    if field not in columns:
        raise DataError(
            f"the items of domain {domain.name!r} have no column {field!r}, they have {', '.join(columns)}: give one "
            "of these, or import the column"
        )
    kind = domain.items.schema[field]
    empty = pl.lit("" if kind == pl.String else None, dtype=kind).alias(field)
    return replace(domain, items=domain.items.with_columns(empty), manifest={})
