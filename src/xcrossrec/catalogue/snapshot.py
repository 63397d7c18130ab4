"""A catalogue at one moment: every answer comes from one version, whatever is written meanwhile.

Legend: ``item`` = one item of the catalogue or of a segment, ``slot`` = one query vector (a history's item),
``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import merge
from itertools import islice

import numpy as np
import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from xcrossrec.catalogue.filters import Filters
from xcrossrec.catalogue.pooling import Pool
from xcrossrec.catalogue.segment import Segment, fold
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import ConfigError, DataError


@dataclass(frozen=True)
class Part:
    """A segment and which of its rows still count: the others were deleted, or stand anew in a later part."""

    segment: Segment
    alive: Bool[np.ndarray, " item"]

    @classmethod
    def whole(cls, segment: Segment) -> Part:
        """All rows of a segment."""
        return cls(segment, np.ones(len(segment), dtype=np.bool_))

    def without(self, item_ids: Collection[str]) -> Part:
        """The same without some items."""
        rows = [self.segment.row_of[item_id] for item_id in item_ids if item_id in self.segment.row_of]
        if not rows:
            return self
        alive = self.alive.copy()
        alive[rows] = False
        return Part(self.segment, alive)

    def row(self, item_id: str) -> int | None:
        """The row of an item, if it counts."""
        row = self.segment.row_of.get(item_id)
        return row if row is not None and self.alive[row] else None


@dataclass(frozen=True)
class Snapshot:
    """What a catalogue holds at one version; safe to read from any thread, for as long as it is kept.

    Attributes:
        version: grows with every write.
        base: most items.
        recent: those written since the base was made; few, so that a write copies little.
    """

    version: int
    base: Part
    recent: Part

    @property
    def parts(self) -> tuple[Part, Part]:
        """Both parts; no item counts in both."""
        return self.base, self.recent

    @property
    def dim(self) -> int:
        """Vector size; 0 where the model has no vectors."""
        return int(self.base.segment.vectors.shape[1])

    def __len__(self) -> int:
        return sum(int(part.alive.sum()) for part in self.parts)

    def __iter__(self) -> Iterator[StoredItem]:
        """Give all items in the catalogue's order: by when an id came first."""
        streams = [
            [
                (int(part.segment.places[row]), row, part.segment.items[row])
                for row in np.flatnonzero(part.alive).tolist()
            ]
            for part in self.parts
        ]
        return (item for _, _, item in merge(*streams, key=lambda entry: entry[0]))

    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; None for an unknown id."""
        found = [self._where(item_id) for item_id in item_ids]
        return [None if where is None else where[0].segment.items[where[1]] for where in found]

    def with_title(self, title: str) -> list[StoredItem]:
        """Find the items of exactly this title (white space aside), in the catalogue's order."""
        found = [
            (int(part.segment.places[row]), part.segment.items[row])
            for part in self.parts
            for row in part.segment.rows_of_title(title)
            if part.alive[row]
        ]
        return [item for _, item in sorted(found, key=lambda entry: entry[0])]

    def vectors(self, item_ids: Sequence[str]) -> Float32[Tensor, "item dim"]:
        """Gather the vectors of items.

        Raises:
            DataError: an unknown id.
        """
        rows = []
        for item_id in item_ids:
            part, row = self._known(item_id)
            rows.append(part.segment.vectors[row])
        return torch.stack(rows) if rows else torch.empty(0, self.dim)

    def select(
        self, *, filters: Filters | None = None, exclude: Collection[str] = (), among: Collection[str] | None = None
    ) -> list[StoredItem]:
        """Give the items that :meth:`search` may find, in the catalogue's order; the arguments are its own."""
        streams = []
        for part in self.parts:
            rows = np.flatnonzero(_allowed(part, filters, exclude, among)).tolist()
            streams.append([(int(part.segment.places[row]), row, part.segment.items[row]) for row in rows])
        return [item for _, _, item in merge(*streams, key=lambda entry: entry[0])]

    def search_titles(self, text: str, limit: int) -> list[StoredItem]:
        """Find items by a part of their title, whatever its case: titles that start with it first, then words that do.

        After those come titles that hold the text anywhere, then those that hold all its words in any order.

        Args:
            text: an empty one finds the catalogue's first items.
            limit: how many at most.
        """
        wanted = fold(text)
        if not wanted:
            return [item for item in islice(self, limit) if item.title]
        found: dict[str, StoredItem] = {}
        for pattern in (f"\n{wanted}", f" {wanted}", wanted):
            self._collect_titles(pattern, [], found, limit)
        words = sorted(wanted.split(), key=len)
        self._collect_titles(words[-1], words[:-1], found, limit)
        return list(found.values())

    def search(
        self,
        slots: Float32[Tensor, "slot dim"] | Float32[np.ndarray, "slot dim"],
        k: int,
        *,
        pool: Pool,
        filters: Filters | None = None,
        exclude: Collection[str] = (),
        among: Collection[str] | None = None,
        products: Sequence[Float32[Tensor, "slot _"] | None] = (None, None),
    ) -> list[tuple[StoredItem, float]]:
        """Find the items with the highest scores; exact.

        Args:
            slots: the history's vectors, oldest first, or the one vector of a prompt.
            k: how many at most.
            pool: how the slots' products make a score (:func:`xcrossrec.catalogue.history_pool`).
            filters: conditions on every item found.
            exclude: ids to leave out; unknown ones are no error.
            among: ids to choose among, those without a title too; None chooses among all that have one.
            products: the slots' rows of what :meth:`products` gave for many searches, one a part.

        Returns:
            best first, equal scores in the catalogue's order; ``k`` items if ``k`` may be found.

        Raises:
            ConfigError: ``k`` below 1, or a catalogue without vectors.
            DataError: vectors of another size, or an unknown id among the candidates.
        """
        queries = torch.as_tensor(slots)
        self._check_search(queries, k)
        for item_id in among or ():
            self._known(item_id)
        found: list[tuple[float, int, StoredItem]] = []
        for part, known in zip(self.parts, products, strict=True):
            if part.segment.index is None:
                continue
            allowed = _allowed(part, filters, exclude, among)
            best = part.segment.index.search(queries, k, pool=pool, allowed=allowed, products=known)
            items, places = part.segment.items, part.segment.places
            found += [(-float(score), int(places[row]), items[row]) for row, score in zip(*best, strict=True)]
        found.sort(key=lambda entry: entry[:2])
        return [(item, -score) for score, _, item in found[:k]]

    def products(self, slots: Float32[Tensor, "slot dim"]) -> list[Float32[Tensor, "slot _"] | None]:
        """Multiply many searches' slots with the vectors of each part; see :meth:`ItemIndex.products`."""
        indexes = [part.segment.index for part in self.parts]
        return [None if index is None else index.products(slots) for index in indexes]

    def changed(self, version: int, written: Segment | None = None, deleted: Collection[str] = ()) -> Snapshot:
        """The next version: some items written anew, some deleted."""
        gone = [*deleted, *(written.row_of if written else ())]
        base, recent = self.base.without(gone), self.recent.without(gone)
        if written:
            recent = Part.whole(
                Segment.merge([(recent.segment, recent.alive), (written, np.ones(len(written), np.bool_))])
            )
        return Snapshot(version, base, recent)

    def merged(self) -> Segment:
        """All items that count, as one segment."""
        return Segment.merge([(part.segment, part.alive) for part in self.parts])

    def rebased(self, base: Segment, since: Collection[str]) -> Snapshot:
        """The same items on another base.

        Args:
            base: what :meth:`merged` gave for an earlier version.
            since: ids that were written or deleted after that version.
        """
        segment = self.recent.segment
        kept = np.array([item.item_id in since for item in segment.items], dtype=np.bool_) & self.recent.alive
        recent = Part.whole(Segment.merge([(segment, kept)]))
        return Snapshot(self.version, Part.whole(base).without(since), recent)

    def _where(self, item_id: str) -> tuple[Part, int] | None:
        for part in self.parts:
            if (row := part.row(item_id)) is not None:
                return part, row
        return None

    def _known(self, item_id: str) -> tuple[Part, int]:
        where = self._where(item_id)
        if where is None:
            raise DataError(
                f"unknown item id {item_id!r} in the catalogue of {len(self)} items: give an id that it holds"
            )
        return where

    def _check_search(self, queries: Tensor, k: int) -> None:
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1 recommendation")
        if not self.dim:
            raise ConfigError("a pair model's catalogue has no vectors to search: name the candidates")
        if queries.shape[1] != self.dim:
            raise DataError(
                f"the query has {queries.shape[1]} dimensions, the catalogue {self.dim}: encode both with one model"
            )

    def _collect_titles(self, pattern: str, others: Sequence[str], found: dict[str, StoredItem], limit: int) -> None:
        streams = [islice(_titles(part, pattern, others, found), limit - len(found)) for part in self.parts]
        for _, item in islice(merge(*streams, key=lambda entry: entry[0]), limit - len(found)):
            found[item.item_id] = item


def _titles(
    part: Part, pattern: str, others: Sequence[str], known: Collection[str]
) -> Iterator[tuple[int, StoredItem]]:
    """Give place and item of the titles that hold a pattern and all other words, but for the known ones."""
    for row in part.segment.find_titles(pattern):
        item = part.segment.items[row]
        if part.alive[row] and item.title and item.item_id not in known and _holds_all(item.title, others):
            yield int(part.segment.places[row]), item


def _holds_all(title: str, words: Sequence[str]) -> bool:
    if not words:
        return True
    folded = fold(title)
    return all(word in folded for word in words)


def _allowed(
    part: Part, filters: Filters | None, exclude: Collection[str], among: Collection[str] | None
) -> Bool[np.ndarray, " item"]:
    """Mark the rows that a search may find."""
    row_of: Mapping[str, int] = part.segment.row_of
    allowed: Bool[np.ndarray, " item"]
    if among is None:
        allowed = part.alive & part.segment.titled
    else:
        allowed = np.zeros(len(part.segment), dtype=np.bool_)
        allowed[[row_of[item_id] for item_id in among if item_id in row_of]] = True
        allowed &= part.alive
    if filters is not None:
        allowed &= part.segment.meet(filters)
    allowed[[row_of[item_id] for item_id in exclude if item_id in row_of]] = False
    return allowed
