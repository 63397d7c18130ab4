"""Items with their vectors, in columns that never change once made: what a search reads."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from time import monotonic
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from torch import Tensor

from xcrossrec.catalogue import scan
from xcrossrec.catalogue.rows import SegmentRecord
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.data.text import unaccented
from xcrossrec.exceptions import DataError
from xcrossrec.filters import Filters
from xcrossrec.prompts import clean_title

PLACE = "place"
_ITEMS_KEPT = 16_384
"""Items of a segment that are kept as objects, some hundred bytes each."""

COLUMNS = pl.Schema(
    {
        PLACE: pl.Int64,
        "item_id": pl.String,
        "title": pl.String,
        "category": pl.String,
        "in_stock": pl.Boolean,
        "price": pl.Float64,
        "metadata": pl.String,
        "item_check": pl.UInt32,
        "vector_check": pl.UInt32,
    }
)
"""Of a segment's table: the item's place in the whole catalogue, what a :class:`StoredItem` has, and checksums (CRC-32)
of these and of the vector, which stay with the item wherever it is copied."""


@dataclass(eq=False)
class Segment:
    """Some of a catalogue's items, in the catalogue's order. Indexes of ids and titles are made when first needed.

    Attributes:
        table: of :data:`COLUMNS`, each id once, places rising; places decide between equal scores.
        vectors: one an item, finite; with no columns where the model has none.
        codes: the same vectors as integers, if a search shall read those first.
        record: what the database says of its files, where it is on disk.
        folded: the titles as a search of titles reads them, once there was one.
    """

    table: pl.DataFrame
    vectors: Float32[Tensor, "item dim"]
    codes: scan.Codes | None = None
    record: SegmentRecord | None = None
    folded: pl.Series | None = None

    def __len__(self) -> int:
        return self.table.height

    @classmethod
    def build(cls, table: pl.DataFrame, vectors: Float32[Tensor, "item dim"]) -> Segment:
        """Make a segment, with integers where they pay."""
        use_codes = scan.worth_quantising(vectors) and scan.processor_multiplies_integers()
        return cls(table, vectors, scan.quantise(vectors) if use_codes else None)

    @classmethod
    def of(cls, items: Sequence[StoredItem], vectors: Float32[Tensor, "item dim"]) -> Segment:
        """Make a segment of a catalogue's first items."""
        return cls.build(table_of(items, range(len(items)), vectors), vectors)

    @classmethod
    def empty(cls, dim: int) -> Segment:
        """A segment without items."""
        return cls(pl.DataFrame(schema=COLUMNS), torch.empty(0, dim))

    # ---- search

    @torch.inference_mode()
    def search(
        self,
        slots: Float32[Tensor, "slot dim"],
        k: int,
        *,
        pool: scan.Pool,
        allowed: Bool[np.ndarray, " item"],
        products: Float32[Tensor, "slot item"] | None = None,
        added: Float64[np.ndarray, " item"] | None = None,
    ) -> tuple[Int64[np.ndarray, " found"], Float32[np.ndarray, " found"]]:
        """Find the rows of the allowed items with the highest scores; exact, up to rounding.

        Args:
            slots: query vectors that ``pool`` makes one score of.
            k: how many at most, 1 or more.
            products: what :meth:`products` gave, these slots' rows.
            added: to the items' scores besides, finite; None for nothing.

        Returns:
            rows and scores, best first; equal scores in the segment's order.
        """
        rows = scan.shortlist(
            self.vectors, self.codes, slots, k, pool=pool, allowed=allowed, products=products, added=added
        )
        scores = scan.exact_scores(self.vectors, slots, rows, pool)
        if added is not None:
            scores = (scores + added[rows]).astype(np.float32)
        best = scan.best_rows(rows, scores, k)
        return rows[best], scores[best]

    @torch.inference_mode()
    def products(self, slots: Float32[Tensor, "slot dim"]) -> Float32[Tensor, "slot item"] | None:
        """Multiply many searches' slots with all vectors at once, which costs far less than search by search.

        One row a slot; None where integers are read, which each search multiplies by itself.
        """
        return None if self.codes else slots @ self.vectors.t()

    # ---- what may come from anybody

    def can_be(self) -> tuple[Bool[np.ndarray, " item"], Bool[np.ndarray, " item"]]:
        """Mark the items whose values, and those whose vectors, are of the kind that is written, whatever their
        checksums say."""
        needed = [pl.col(name).is_not_null() for name in (PLACE, "in_stock", "item_check", "vector_check")]
        texts = [pl.col("item_id").str.len_bytes() > 0, pl.col("title").is_not_null()]
        price = pl.col("price").is_null() | pl.col("price").is_between(0, np.finfo(np.float64).max)
        fits = pl.all_horizontal(*needed, *texts, price, pl.col("item_id").is_first_distinct())
        finite = self.vectors.sum(1).isfinite()  # a sum is quicker than a look at every number, and tells as much
        return self.table.select(fits.fill_null(False)).to_series().to_numpy(), finite.numpy()

    # ---- look-up

    @cached_property
    def item(self) -> Callable[[int], StoredItem]:
        """The item of a row; those asked for last are kept."""
        table = self.table
        return lru_cache(_ITEMS_KEPT)(lambda row: StoredItem.restore(*table.row(row)[1:-2]))

    @cached_property
    def places(self) -> Int64[np.ndarray, " item"]:
        """Where each item stands in the whole catalogue."""
        return self.table[PLACE].to_numpy()

    @cached_property
    def titled(self) -> Bool[np.ndarray, " item"]:
        """Which items have a title."""
        return (self.table["title"].str.len_bytes() > 0).to_numpy()

    @cached_property
    def ids(self) -> list[str]:
        """The id of each row."""
        return self.table["item_id"].to_list()

    @cached_property
    def row_of(self) -> dict[str, int]:
        """The row of each id."""
        return {item_id: row for row, item_id in enumerate(self.ids)}

    def rows_of(self, item_ids: Collection[str]) -> list[int]:
        """Find the rows of those ids that are here."""
        if not item_ids:
            return []
        row_of = self.row_of
        return [row_of[item_id] for item_id in item_ids if item_id in row_of]

    def rows_of_title(self, title: str) -> list[int]:
        """Find the rows whose title reads the same to the model; none for an empty one."""
        title = clean_title(title)
        row = self._last_row_of_title.get(title) if title else None
        return [] if row is None else self._rows_of_shared_title.get(title, [row])

    def find_titles(self, wanted: str, until: float) -> tuple[Int64[np.ndarray, " found"], Int64[np.ndarray, " found"]]:
        """Find the rows whose title holds all words of a text that :func:`fold` made, which is not empty.

        Args:
            until: when to stop (TimeoutError), in seconds of the monotonic clock.

        Returns:
            the rows, rising, and a rank each: 0 where the title starts with the text, 1 where a word of it does,
            2 where it holds the text anywhere, else 3.
        """
        titles, rows = self.folded_titles(), np.arange(len(self))
        for word in sorted(set(wanted.split()), key=len, reverse=True):
            if monotonic() >= until:
                raise TimeoutError
            held = titles.str.contains(word, literal=True)
            titles, rows = titles.filter(held), rows[held.to_numpy()]
        starts, holds = titles.str.starts_with(wanted), titles.str.contains(wanted, literal=True)
        ranked = (starts, titles.str.contains(f" {wanted}", literal=True), holds)
        return rows, np.select([each.to_numpy() for each in ranked], [0, 1, 2], default=3)

    def folded_titles(self) -> pl.Series:
        """All titles as :func:`fold` makes them; made once, and taken along where segments are merged."""
        if self.folded is None:
            titles = (title.lower() if title.isascii() else fold(title) for title in self.table["title"].to_list())
            self.folded = pl.Series(list(titles), dtype=pl.String)
        return self.folded

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

    # ---- filters

    def meet(self, filters: Filters) -> Bool[np.ndarray, " item"]:
        """Mark the items that meet all conditions; an unknown value meets none."""
        met = pl.Series([True]).new_from_index(0, len(self))
        if filters.category is not None:
            met &= self._categories.is_in(list(filters.category))
        if filters.in_stock is not None:
            met &= self.table["in_stock"] == filters.in_stock
        if filters.price_min is not None:
            met &= self.table["price"] >= filters.price_min
        if filters.price_max is not None:
            met &= self.table["price"] <= filters.price_max
        return met.fill_null(False).to_numpy()

    @cached_property
    def _categories(self) -> pl.Series:
        """As numbers, which are compared sooner than texts."""
        return self.table["category"].cast(pl.Categorical)


def table_of(items: Sequence[StoredItem], places: Iterable[int], vectors: Float32[Tensor, "item dim"]) -> pl.DataFrame:
    """Set items out in columns; their places rise."""
    rows = [(place, *item.values) for place, item in zip(places, items, strict=True)]
    checks = zip(rows, map(check_of_item, rows), checks_of_vectors(vectors), strict=True)
    return table_of_rows([(*row, item, vector) for row, item, vector in checks])


def check_of_item(row: Sequence[Any]) -> int:
    """The checksum of a row's place and values."""
    return crc32(json.dumps(row).encode())


def checks_of_vectors(vectors: Float32[Tensor, "item dim"]) -> list[int]:
    """The checksum of each vector."""
    return [crc32(vector) for vector in np.ascontiguousarray(vectors)]


def table_of_rows(rows: Sequence[Sequence[Any]]) -> pl.DataFrame:
    """Set rows of the values of :data:`COLUMNS` out in columns; places rise. What a column cannot hold is null there,
    so that its row's checksum tells."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in COLUMNS)
    kinds = zip(COLUMNS.items(), columns, strict=True)
    return pl.DataFrame([pl.Series(name, column, dtype=kind, strict=False) for (name, kind), column in kinds])


def fold(text: str) -> str:
    """Make texts alike that differ in case, accents, white space or in how Unicode writes them."""
    return clean_title(unaccented(text).casefold())


def check_vectors(
    items: Sequence[StoredItem], vectors: Float[np.ndarray, "given dim"] | Float[Tensor, "given dim"], dim: int
) -> Float32[Tensor, "item dim"]:
    """Refuse (DataError) ids that come twice, and vectors of another number or size, or not finite."""
    ids = Counter(item.item_id for item in items)
    if len(ids) < len(items):
        raise DataError(f"item id {ids.most_common(1)[0][0]!r} comes twice in one write: send it once")
    if tuple(vectors.shape) != (len(items), dim):
        raise DataError(
            f"{len(items)} items came with vectors of shape {tuple(vectors.shape)}, expected {(len(items), dim)}: "
            "encode them with the catalogue's model"
        )
    given = torch.as_tensor(vectors, dtype=torch.float32).detach().cpu().contiguous()
    bad = (~given.isfinite().all(1)).nonzero()
    if len(bad):
        raise DataError(f"the vector of item {items[int(bad[0])].item_id!r} is not finite: encode it again")
    return given
