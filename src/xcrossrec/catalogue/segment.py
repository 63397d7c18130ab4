"""Items with their vectors in memory, never changed once made: what a search reads.

Legend: ``item`` = one item of the segment, ``slot`` = one query vector, ``dim`` = vector size.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from xcrossrec.catalogue.filters import Filters
from xcrossrec.catalogue.item_index import ItemIndex
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.prompts import clean_title


class Segment:
    """Some of a catalogue's items, in the catalogue's order.

    Args:
        items: each id once.
        places: of each item in the whole catalogue, rising; they decide between equal scores.
        vectors: one an item, finite; with no columns where the model has none.
    """

    def __init__(
        self,
        items: Sequence[StoredItem],
        places: Int64[np.ndarray, " item"],
        vectors: Float32[Tensor, "item dim"],
    ) -> None:
        self.items = items
        self.places = places
        self.vectors = vectors
        self.row_of = {item.item_id: row for row, item in enumerate(items)}
        self.titled: Bool[np.ndarray, " item"] = np.array([bool(item.title) for item in items], dtype=np.bool_)
        self.index = ItemIndex.build(vectors) if items and vectors.shape[1] else None

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def empty(cls, dim: int) -> Segment:
        """A segment without items."""
        return cls([], np.empty(0, dtype=np.int64), torch.empty(0, dim))

    @classmethod
    def merge(cls, parts: Sequence[tuple[Segment, Bool[np.ndarray, " item"]]]) -> Segment:
        """Put the marked rows of several segments into one.

        Args:
            parts: segments, and which of their rows to take; no item twice.
        """
        chosen = [(part, np.flatnonzero(mask)) for part, mask in parts]
        places = np.concatenate([part.places[rows] for part, rows in chosen])
        items = [part.items[row] for part, rows in chosen for row in rows.tolist()]
        vectors = torch.cat([part.vectors[torch.from_numpy(rows)] for part, rows in chosen])
        order = np.argsort(places, kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            items = [items[number] for number in order.tolist()]
            vectors = vectors[torch.from_numpy(order)]
        return cls(items, places[order], vectors)

    def meet(self, filters: Filters) -> Bool[np.ndarray, " item"]:
        """Mark the items that meet all conditions."""
        met = np.ones(len(self), dtype=np.bool_)
        if filters.category is not None:
            codes = [self._category_codes[name] for name in filters.category if name in self._category_codes]
            met &= np.isin(self._categories, codes)
        if filters.in_stock is not None:
            met &= self._in_stock == filters.in_stock
        if filters.price_min is not None:
            met &= self._prices >= filters.price_min
        if filters.price_max is not None:
            met &= self._prices <= filters.price_max
        return met

    def rows_of_title(self, title: str) -> list[int]:
        """Find the rows whose title reads the same to the model; none for an empty one."""
        return self._rows_of_title.get(clean_title(title), [])

    def find_titles(self, text: str) -> Iterator[int]:
        """Give the rows whose title holds a text that :func:`fold` made, each once, in order."""
        folded, starts = self._folded_titles
        at = folded.find(text)
        while at >= 0:
            row = bisect_right(starts, at) - 1
            yield row
            if row + 1 == len(starts):
                return
            at = folded.find(text, starts[row + 1])

    @cached_property
    def _rows_of_title(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.items):
            if item.title:
                rows.setdefault(item.title, []).append(row)
        return rows

    @cached_property
    def _folded_titles(self) -> tuple[str, list[int]]:
        r"""All titles as one text, each after ``\n``, and where each starts; a search of it is one search of memory."""
        folded = ["\n" + fold(item.title) for item in self.items]
        lengths = np.fromiter(map(len, folded), dtype=np.int64, count=len(folded))
        return "".join(folded), (np.cumsum(lengths) - lengths).tolist()

    @cached_property
    def _category_codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate({i.category for i in self.items if i.category is not None})}

    @cached_property
    def _categories(self) -> Int64[np.ndarray, " item"]:
        codes = self._category_codes
        return np.array([-1 if i.category is None else codes[i.category] for i in self.items], dtype=np.int64)

    @cached_property
    def _in_stock(self) -> Bool[np.ndarray, " item"]:
        return np.array([item.in_stock for item in self.items], dtype=np.bool_)

    @cached_property
    def _prices(self) -> Float64[np.ndarray, " item"]:
        """The prices; an unknown one is NaN, which is neither above nor below anything."""
        return np.array([np.nan if item.price is None else item.price for item in self.items], dtype=np.float64)


def fold(text: str) -> str:
    """Make texts alike that differ in case, in white space or in how Unicode writes them."""
    return clean_title(unicodedata.normalize("NFKC", text).casefold())
