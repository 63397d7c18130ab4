"""Which column two tables share where several may be the item: the one whose values are the same on both sides."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

import polars as pl

from xcrossrec.data.readers.columns import Columns, candidates
from xcrossrec.data.readers.frames import ids
from xcrossrec.data.readers.sources import Source

_LOG = logging.getLogger(__name__)


def joined_columns(columns: Columns, bought: Source, items: Source) -> tuple[Columns, Columns] | None:
    """Settle the item's column of interactions and of items by their first rows; gives the columns of both.

    None where there is nothing to settle: no choice, or no value that both have.
    """
    sides = [_possible(columns, bought, products=False), _possible(columns, items, products=True)]
    if max(map(len, sides)) < 2 or not all(sides):
        return None
    ours, theirs = _values(bought, sides[0]), _values(items, sides[1])
    shared = {
        (one, other): int(values.is_in(known.implode()).sum()) ** 2 / max(values.len(), 1)
        for one, values in ours.items()
        for other, known in theirs.items()
    }
    one, other = max(shared, key=lambda pair: shared[pair])
    if not shared[one, other]:
        return None
    _LOG.info("the item is %r in %s and %r in %s, which share most values", one, bought.shown, other, items.shown)
    return replace(columns, item=one), replace(columns, item=other)


def _possible(columns: Columns, source: Source, *, products: bool) -> list[str]:
    stated = [name for name in (columns.item or "").split("\n") if name in source.types]
    names = stated[:1] or candidates("item", source.listed, products=products)
    return [name for name in names if not source.types[name].is_nested()]


def _values(source: Source, names: list[str]) -> Mapping[str, pl.Series]:
    selected = [ids(name, source.types[name]).alias(name) for name in names]
    none = pl.DataFrame(schema=dict.fromkeys(names, pl.String()))
    first = source.read(list(dict.fromkeys([*names, *source.every])), lambda batches: next(batches, none), selected)
    return {name: first[name].drop_nulls().unique() for name in names}
