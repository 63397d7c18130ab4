"""Items with their vectors, in columns that never change once made: what a search reads.

Legend: ``item`` = one item of the segment, ``slot`` = one query vector, ``dim`` = vector size.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor

from xcrossrec.catalogue.codes import Codes
from xcrossrec.catalogue.filters import Filters
from xcrossrec.catalogue.item_index import ItemIndex
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.prompts import clean_title

PLACE = "place"
COLUMNS = pl.Schema(
    {
        PLACE: pl.Int64,
        "item_id": pl.String,
        "title": pl.String,
        "category": pl.String,
        "in_stock": pl.Boolean,
        "price": pl.Float64,
        "metadata": pl.String,
    }
)
"""Of a segment's table: the item's place in the whole catalogue, and what a :class:`StoredItem` has."""


class Segment:
    """Some of a catalogue's items, in the catalogue's order. Indexes of ids and titles are made when first needed.

    Args:
        table: of :data:`COLUMNS`, each id once, places rising; places decide between equal scores.
        vectors: one an item, finite; with no columns where the model has none.
        codes: the same vectors as integers, if a search shall read those first.
    """

    def __init__(self, table: pl.DataFrame, vectors: Float32[Tensor, "item dim"], codes: Codes | None = None) -> None:
        self.table = table
        self.vectors = vectors
        self.index = ItemIndex(vectors, codes) if len(vectors) and vectors.shape[1] else None

    def __len__(self) -> int:
        return self.table.height

    @classmethod
    def build(cls, table: pl.DataFrame, vectors: Float32[Tensor, "item dim"]) -> Segment:
        """Make a segment, with integers where they pay."""
        segment = cls(table, vectors)
        if segment.index is not None:
            segment.index = ItemIndex.build(vectors)
        return segment

    @classmethod
    def empty(cls, dim: int) -> Segment:
        """A segment without items."""
        return cls(pl.DataFrame(schema=COLUMNS), torch.empty(0, dim))

    @classmethod
    def merge(cls, parts: Sequence[tuple[Segment, Bool[np.ndarray, " item"]]]) -> Segment:
        """Put the marked rows of several segments into one.

        Args:
            parts: segments, and which of their rows to take; no item twice.
        """
        table = pl.concat([part.table.filter(pl.Series(mask, dtype=pl.Boolean)) for part, mask in parts])
        vectors = torch.cat([part.vectors[torch.from_numpy(np.flatnonzero(mask))] for part, mask in parts])
        order = np.argsort(table[PLACE].to_numpy(), kind="stable")
        if not np.array_equal(order, np.arange(len(order))):
            table, vectors = table[order], vectors[torch.from_numpy(order)]
        return cls.build(table, vectors)

    # ---- look-up

    def item(self, row: int) -> StoredItem:
        """Make the item of a row."""
        return StoredItem.restore(*self.table.row(row)[1:])

    @cached_property
    def places(self) -> Int64[np.ndarray, " item"]:
        """Where each item stands in the whole catalogue."""
        return self.table[PLACE].to_numpy()

    @cached_property
    def titled(self) -> Bool[np.ndarray, " item"]:
        """Which items have a title."""
        return (self.table["title"].str.len_bytes() > 0).to_numpy()

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        return {item_id: row for row, item_id in enumerate(self.table["item_id"].to_list())}

    def rows_of(self, item_ids: Collection[str]) -> list[int]:
        """Find the rows of those ids that are here."""
        if not item_ids or not len(self):
            return []
        row_of = self.row_of
        return [row_of[item_id] for item_id in item_ids if item_id in row_of]

    def rows_of_title(self, title: str) -> list[int]:
        """Find the rows whose title reads the same to the model; none for an empty one."""
        title = clean_title(title)
        row = self._last_row_of_title.get(title) if title else None
        if row is None:
            return []
        return self._rows_of_shared_title.get(title, [row])

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
    def _last_row_of_title(self) -> dict[str, int]:
        return {title: row for row, title in enumerate(self.table["title"].to_list())}

    @cached_property
    def _rows_of_shared_title(self) -> dict[str, list[int]]:
        """The rows of each title that several items have."""
        rows: dict[str, list[int]] = {}
        titles = self.table["title"]
        for row in np.flatnonzero(titles.is_duplicated().to_numpy()).tolist():
            rows.setdefault(titles[row], []).append(row)
        return rows

    @cached_property
    def _folded_titles(self) -> tuple[str, list[int]]:
        r"""All titles as one text, each after ``\n``, and where each starts; a search of it is one search of memory."""
        folded = ["\n" + fold(title) for title in self.table["title"].to_list()]
        lengths = np.fromiter(map(len, folded), dtype=np.int64, count=len(folded))
        return "".join(folded), (np.cumsum(lengths) - lengths).tolist()

    # ---- filters

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

    @cached_property
    def _category_codes(self) -> dict[str, int]:
        return {name: code for code, name in enumerate(self.table["category"].drop_nulls().unique().to_list())}

    @cached_property
    def _categories(self) -> Int64[np.ndarray, " item"]:
        """A number for each category; -1 for none."""
        codes = self._category_codes
        numbers = self.table["category"].replace_strict(
            list(codes), list(codes.values()), default=-1, return_dtype=pl.Int64
        )
        return numbers.to_numpy()

    @cached_property
    def _in_stock(self) -> Bool[np.ndarray, " item"]:
        return self.table["in_stock"].to_numpy()

    @cached_property
    def _prices(self) -> Float64[np.ndarray, " item"]:
        """The prices; an unknown one is NaN, which is neither above nor below anything."""
        return self.table["price"].fill_null(float("nan")).to_numpy()


def table_of(items: Sequence[StoredItem], places: Sequence[int]) -> pl.DataFrame:
    """Set items out in columns, in the order of their places."""
    rows = sorted(((place, *item.values) for place, item in zip(places, items, strict=True)), key=lambda row: row[0])
    return table_of_rows(rows)


def table_of_rows(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Set rows out in columns.

    Args:
        rows: the values of :data:`COLUMNS`, places rising.
    """
    columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    return pl.DataFrame(
        [pl.Series(name, column, dtype=kind) for (name, kind), column in zip(COLUMNS.items(), columns, strict=True)]
    )


def fold(text: str) -> str:
    """Make texts alike that differ in case, in white space or in how Unicode writes them."""
    return clean_title(unicodedata.normalize("NFKC", text).casefold())
