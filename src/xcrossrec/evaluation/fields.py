"""What a field of the items' texts is worth: the same method on the same users, with the field and without."""

from __future__ import annotations

from dataclasses import replace

import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM


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
