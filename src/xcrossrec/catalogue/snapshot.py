"""A catalogue in memory at one version, whatever is written meanwhile."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import merge
from itertools import islice, repeat
from operator import itemgetter
from time import monotonic

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from xcrossrec.catalogue.segment import PLACE, Segment, fold
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.catalogue.view import Search, Snapshot
from xcrossrec.filters import Filters


@dataclass(frozen=True)
class Part:
    """A segment and its living rows; the others were deleted, or replaced in a later part."""

    segment: Segment
    alive: Bool[np.ndarray, " item"]

    @classmethod
    def whole(cls, segment: Segment) -> Part:
        """All rows of a segment."""
        return cls(segment, np.ones(len(segment), dtype=np.bool_))

    def without(self, item_ids: Collection[str]) -> Part:
        """The same without some items."""
        rows = self.segment.rows_of(item_ids)
        if not rows:
            return self
        alive = self.alive.copy()
        alive[rows] = False
        return Part(self.segment, alive)

    def row(self, item_id: str) -> int | None:
        """The row of an item, if it is alive."""
        row = self.segment.row_of.get(item_id)
        return row if row is not None and self.alive[row] else None

    def rows_of_title(self, title: str) -> Iterator[int]:
        """The living rows of a title, rising."""
        return (row for row in self.segment.rows_of_title(title) if self.alive[row])


@dataclass(frozen=True)
class HeldSnapshot(Snapshot):
    """All items in memory, searched exactly.

    Attributes:
        version: grows with every write.
        parts: most items are in few large segments; the last part has the few that were written most recently, so that
            a write copies little. No item is alive in two.
    """

    version: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, version: int, segment: Segment) -> HeldSnapshot:
        """A snapshot of one segment, without recent items."""
        recent = Segment.empty(segment.vectors.shape[1])
        return cls(version, tuple(Part.whole(each) for each in ([segment, recent] if len(segment) else [recent])))

    @property
    def recent(self) -> Part:
        """The items that were written most recently."""
        return self.parts[-1]

    @property
    def dim(self) -> int:
        """Vector size; 0 where the model has no vectors."""
        return int(self.recent.segment.vectors.shape[1])

    @property
    def next_place(self) -> int:
        """After all places."""
        return max((int(part.segment.places[-1]) + 1 for part in self.parts if len(part.segment)), default=0)

    def __len__(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(int(part.alive.sum()) for part in self.parts)

    def __iter__(self) -> Iterator[StoredItem]:
        """Yield all items in the order in which their ids were first written."""
        return _in_order([(part, np.flatnonzero(part.alive).tolist()) for part in self.parts])

    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; None for an unknown id."""
        found = [self._where(item_id) for item_id in item_ids]
        return [None if where is None else where[0].segment.item(where[1]) for where in found]

    def lacking(self, item_ids: Iterable[str]) -> list[str]:
        """Give those ids that are unknown, each once."""
        return [item_id for item_id in dict.fromkeys(item_ids) if self._where(item_id) is None]

    def place(self, item_id: str) -> int | None:
        """The place of an item in the catalogue's order; None for an unknown id."""
        where = self._where(item_id)
        return None if where is None else int(where[0].segment.places[where[1]])

    def first_titled(self, titles: Sequence[str]) -> list[StoredItem | None]:
        """Find the first item of each title; thousands may share one."""
        every = ([(part, part.rows_of_title(title)) for part in self.parts] for title in titles)
        return [next(_in_order(rows), None) for rows in every]

    def sharing_title(self, items: Iterable[StoredItem]) -> set[str]:
        """Find the ids of items that share a title."""
        titles = {item.item_id: item.title for item in items}
        found = set(titles)
        for segment in [part.segment for part in self.parts if len(part.segment)]:
            found.update(segment.ids[row] for title in titles.values() for row in segment.rows_of_title(title))
        return found

    def vectors(self, item_ids: Sequence[str]) -> Float32[Tensor, "item dim"]:
        """Gather the vectors of items."""
        known = [self._known(item_id) for item_id in item_ids]
        return torch.stack([part.segment.vectors[row] for part, row in known]) if known else torch.empty(0, self.dim)

    def select(self, filters: Filters | None = None, among: Collection[str] | None = None) -> list[StoredItem]:
        """Give the items that a search may find."""
        rows = [np.flatnonzero(_allowed(part, filters, (), among)).tolist() for part in self.parts]
        return list(_in_order(zip(self.parts, rows, strict=True)))

    def search_titles(self, text: str, limit: int, *, within_s: float = math.inf) -> list[StoredItem]:
        """Find items by a part of their title."""
        if not (wanted := fold(text)):
            return list(islice((item for item in self if item.title), limit))
        until, found = monotonic() + within_s, []
        for part in self.parts:
            rows, ranks = part.segment.find_titles(wanted, until)
            counts = part.alive[rows]
            rows, ranks = rows[counts], ranks[counts]
            for place in np.argsort(ranks, kind="stable")[:limit].tolist():
                row = int(rows[place])
                found.append((int(ranks[place]), int(part.segment.places[row]), row, part.segment))
        return [segment.item(row) for _, _, row, segment in sorted(found, key=lambda each: each[:2])[:limit]]

    def search(self, wanted: Search, k: int) -> list[tuple[StoredItem, float]]:
        """Find the items with the highest scores; exact."""
        queries = self.check_search(wanted, k)
        for item_id in wanted.among or ():
            self._known(item_id)
        found: list[tuple[float, int, Segment, int]] = []
        for part, products in zip(self.parts, wanted.products or [None] * len(self.parts), strict=True):
            segment = part.segment
            if not len(segment):
                continue
            allowed = _allowed(part, wanted.filters, wanted.exclude, wanted.among)
            added = _added(wanted, segment)
            rows, scores = segment.search(queries, k, pool=wanted.pool, allowed=allowed, products=products, added=added)
            found += zip(
                (-scores).tolist(), segment.places[rows].tolist(), repeat(segment), rows.tolist(), strict=False
            )
        found.sort(key=itemgetter(0, 1))
        return [(segment.item(row), -score) for score, _, segment, row in found[:k]]

    def products(self, slots: Float32[Tensor, "slot dim"]) -> list[Float32[Tensor, "slot _"] | None]:
        """Multiply many searches' slots with the vectors of each part; see :meth:`Segment.products`."""
        return [part.segment.products(slots) for part in self.parts]

    def changed(self, version: int, written: Segment, deleted: Collection[str]) -> HeldSnapshot:
        """The next version, with some items written and some deleted."""
        gone = [*deleted, *written.row_of]
        *older, recent = [part.without(gone) for part in self.parts]
        if len(written):
            recent = Part.whole(merge_parts([recent, Part.whole(written)]))
        return HeldSnapshot(version, (*older, recent))

    def to_merge(self) -> tuple[Part, ...]:
        """Choose the parts to merge: the recent one, and from the smallest on those that it has outgrown.

        So each item is copied about once each time that the catalogue doubles. A part with more dead rows than living
        ones is merged, too.
        """
        older = sorted(self.parts[:-1], key=lambda part: int(part.alive.sum()))
        chosen, count = [self.recent], int(self.recent.alive.sum())
        for part in older:
            alive = int(part.alive.sum())
            if alive <= 2 * count or 2 * alive < len(part.segment):
                chosen.append(part)
                count += alive
        return tuple(chosen)

    def rebased(self, merged: Segment, instead_of: Collection[Segment], since: Collection[str]) -> HeldSnapshot:
        """The same items, with a segment in place of those that were merged into it in an earlier version.

        ``since`` are the ids that were written or deleted after that version.
        """
        kept = [part for part in self.parts[:-1] if part.segment not in instead_of]
        fresh = self.recent.segment.table["item_id"].is_in(list(since)).to_numpy() & self.recent.alive
        recent = Part.whole(merge_parts([Part(self.recent.segment, fresh)]))
        return HeldSnapshot(self.version, (*kept, Part.whole(merged).without(since), recent))

    def _where(self, item_id: str) -> tuple[Part, int] | None:
        for part in self.parts:
            if (row := part.row(item_id)) is not None:
                return part, row
        return None

    def _known(self, item_id: str) -> tuple[Part, int]:
        where = self._where(item_id)
        if where is None:
            raise self.unknown(item_id)
        return where


def merge_parts(parts: Sequence[Part]) -> Segment:
    """Merge the living rows into one segment."""
    tables = [part.segment.table.filter(pl.Series(part.alive, dtype=pl.Boolean)) for part in parts]
    table = pl.concat(tables, rechunk=True)  # else every write adds a chunk
    vectors = torch.cat([part.segment.vectors[torch.from_numpy(np.flatnonzero(part.alive))] for part in parts])
    folded = None
    if any(part.segment.folded is not None for part in parts):
        titles = [part.segment.folded_titles().filter(pl.Series(part.alive)) for part in parts]
        folded = pl.concat(titles, rechunk=True)
    order = np.argsort(table[PLACE].to_numpy(), kind="stable")
    if not np.array_equal(order, np.arange(len(order))):
        table, vectors = table[order], vectors[torch.from_numpy(order)]
        folded = None if folded is None else folded[order]
    merged = Segment.build(table, vectors)
    merged.folded = folded
    return merged


def _added(wanted: Search, segment: Segment) -> Float64[np.ndarray, " item"] | None:
    """What is added to the scores of a segment's items, if anything."""
    if wanted.everywhere is not None:
        added = wanted.everywhere(segment.ids, segment.vectors, segment)
    elif wanted.bonus:
        added = np.zeros(len(segment))
    else:
        return None
    for item_id, more in wanted.bonus.items():
        if (row := segment.row_of.get(item_id)) is not None:
            added[row] += more
    return added


def _in_order(chosen: Iterable[tuple[Part, Iterable[int]]]) -> Iterator[StoredItem]:
    """Yield the items of some rows of each part, which rise, in the catalogue's order."""
    streams = [_placed(part.segment, rows) for part, rows in chosen]
    return (segment.item(row) for _, row, segment in merge(*streams, key=lambda entry: entry[0]))


def _placed(segment: Segment, rows: Iterable[int]) -> Iterator[tuple[int, int, Segment]]:
    for row in rows:
        yield int(segment.places[row]), row, segment


def _allowed(
    part: Part, filters: Filters | None, exclude: Collection[str], among: Collection[str] | None
) -> Bool[np.ndarray, " item"]:
    """Mark the rows that a search may find."""
    segment = part.segment
    allowed: Bool[np.ndarray, " item"]
    if among is None:
        allowed = part.alive & segment.titled
    else:
        allowed = np.zeros(len(segment), dtype=np.bool_)
        allowed[segment.rows_of(among)] = True
        allowed &= part.alive
    if filters is not None:
        allowed &= segment.meet(filters)
    allowed[segment.rows_of(exclude)] = False
    return allowed
