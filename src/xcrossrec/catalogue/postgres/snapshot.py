"""A large catalogue at one moment, searched in the database.

The database finds candidates: all items that meet narrow filters, and else, by its index of vectors (HNSW), the nearest
of each item of the history, with those that are bought together with it and those that are bought most. Their vectors
come here, where the same code scores and sorts them as in memory. Under narrow filters that is exact.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import nlargest
from typing import Any

import torch
from jaxtyping import Float32
from psycopg import sql
from psycopg.errors import QueryCanceled
from torch import Tensor

from xcrossrec.catalogue.base import CatalogueReplacedError
from xcrossrec.catalogue.postgres.tables import VISIBLE, Tables, askable, received, segment_of
from xcrossrec.catalogue.segment import fold
from xcrossrec.catalogue.snapshot import HeldSnapshot
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.catalogue.view import Search, Snapshot
from xcrossrec.exceptions import NoCatalogueError, StorageError
from xcrossrec.filters import Filters
from xcrossrec.prompts import clean_title

FEW = 2000
"""Items left by filters that are all scored."""

SEARCHED = 20
"""Items of a history, the newest, whose nearest are looked for; all of them count in the scores."""

_LEAST, _EACH = 50, 4
"""Nearest items of each, at least, and for each item that is asked for."""

_BY_BONUS = 1000
_PAGE = 1000


@dataclass(frozen=True)
class SearchedSnapshot(Snapshot):
    """What the tables hold at one version, of one generation of vectors."""

    tables: Tables
    generation: int
    version: int
    size: int
    count: int

    @property
    def dim(self) -> int:
        """Vector size; 0 where the model has no vectors."""
        return self.size

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[StoredItem]:
        return (item for page in self.pages(_PAGE) for _, item in page)

    def pages(self, size: int) -> Iterator[list[tuple[int, StoredItem]]]:
        """All items with their places, so many at a time."""
        last, condition = -1, "place > %(last)s ORDER BY place LIMIT %(size)s"
        while rows := self._read("place, {item}", condition, last=last, size=size):
            yield [(row[0], StoredItem.restore(*row[1:])) for row in rows]
            last = rows[-1][0]

    def held(
        self, condition: str = "true", setting: sql.Composed | None = None, given: Mapping[str, Any] | None = None
    ) -> HeldSnapshot:
        """Read the items that meet a condition, to be searched in memory."""
        rows = self._read("{columns}", condition + " ORDER BY place", setting, **(given or {}))
        return HeldSnapshot.of(self.version, segment_of(rows, self.dim))

    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; None for an unknown id."""
        found = {item.item_id: item for item in self._items("item_id = ANY(%(ids)s)", ids=askable(item_ids))}
        return [found.get(item_id) for item_id in item_ids]

    def lacking(self, item_ids: Iterable[str]) -> list[str]:
        """Give those ids that are unknown, each once."""
        if not (wanted := list(dict.fromkeys(item_ids))):
            return []
        found = {row[0] for row in self._read("item_id", "item_id = ANY(%(ids)s)", ids=askable(wanted))}
        return [item_id for item_id in wanted if item_id not in found]

    def first_titled(self, titles: Sequence[str]) -> list[StoredItem | None]:
        """Find the first item of each title."""
        asked = [clean_title(title) for title in titles]
        condition, wanted = "title = ANY(%(wanted)s) ORDER BY title, place", askable(filter(None, asked))
        rows = self._read("DISTINCT ON (title) {item}", condition, wanted=wanted)
        found = {item.title: item for item in (StoredItem.restore(*row) for row in rows)}
        return [found.get(title) for title in asked]

    def sharing_title(self, items: Iterable[StoredItem]) -> set[str]:
        """Find the ids of items that share a title."""
        titles = {item.item_id: item.title for item in items}
        if not (wanted := askable(title for title in titles.values() if title)):
            return set(titles)
        return set(titles).union(row[0] for row in self._read("item_id", "title = ANY(%(wanted)s)", wanted=wanted))

    def vectors(self, item_ids: Sequence[str]) -> Float32[Tensor, "item dim"]:
        """Gather the vectors of items."""
        if not item_ids:
            return torch.empty(0, self.dim)
        found = dict(self._read("item_id, vector_send(vector)", "item_id = ANY(%(ids)s)", ids=askable(item_ids)))
        for item_id in item_ids:
            if item_id not in found:
                raise self.unknown(item_id)
        return received([found[item_id] for item_id in item_ids])

    def select(self, filters: Filters | None = None, among: Collection[str] | None = None) -> list[StoredItem]:
        """Give the items that a search may find."""
        condition, given = _allowed(filters, (), among)
        return self._items(condition + " ORDER BY place", **given)

    def search_titles(self, text: str, limit: int, *, within_s: float = math.inf) -> list[StoredItem]:
        """Find items by a part of their title."""
        words = sorted(set((wanted := fold(text)).split()), key=len, reverse=True)
        if "\0" in wanted:
            return []
        given = {"limit": limit, "wanted": wanted, **{f"word{n}": word for n, word in enumerate(words)}}
        held = "".join(f" AND position(%(word{n})s in folded) > 0" for n in range(len(words)))
        rank = (
            "CASE WHEN starts_with(folded, %(wanted)s) THEN 0 WHEN position(' ' || %(wanted)s in folded) > 0 THEN 1 "
            "WHEN position(%(wanted)s in folded) > 0 THEN 2 ELSE 3 END, "
        )
        condition = f"title <> ''{held} ORDER BY {rank if words else ''}place LIMIT %(limit)s"
        most = 0 if math.isinf(within_s) else max(1, int(within_s * 1000))
        setting = sql.SQL("SET LOCAL statement_timeout = {}").format(most)
        try:
            return self._items(condition, setting, **given)
        except StorageError as error:
            if isinstance(error.__cause__, QueryCanceled):
                raise TimeoutError from error
            raise

    def search(self, wanted: Search, k: int) -> list[tuple[StoredItem, float]]:
        """Find candidates in the database, and score them; exact where so few are left by filters or named."""
        queries, bonus = self.check_search(wanted, k), wanted.bonus
        for item_id in self.lacking(wanted.among or ()):
            raise self.unknown(item_id)
        condition, given = _allowed(wanted.filters, wanted.exclude, wanted.among)
        setting = None
        if wanted.among is None and not (wanted.filters is not None and self._are_few(condition, given)):
            near, likely = queries[-SEARCHED:], nlargest(_BY_BONUS, bonus, key=bonus.__getitem__)
            if wanted.everywhere is not None:
                popular, leads = wanted.everywhere.likely(_BY_BONUS)
                likely += popular
                near = near if leads is None else torch.cat([near, leads.float()])
            condition, given = self._candidates(near, k, condition, {**given, "likely": askable(likely)})
            setting = sql.SQL("SET LOCAL hnsw.ef_search = {}").format(ef_search(self.count))
        held = self.held(condition, setting, given)
        among = None if wanted.among is None else held.parts[0].segment.ids
        return held.search(replace(wanted, filters=None, exclude=(), among=among, products=None), k)

    def _candidates(
        self, near: Float32[Tensor, "_ dim"], k: int, allowed: str, given: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any]]:
        """A condition on the places of the nearest of each vector, of what is likely, and of the catalogue's first."""
        vectors = [f"[{','.join(map(repr, vector.tolist()))}]" for vector in near if vector.any()]
        found = {**given, "k": k, "most": max(_LEAST, _EACH * k)}
        found |= {f"near{number}": vector for number, vector in enumerate(vectors)}
        visible = f"SELECT place FROM {{items}} WHERE {VISIBLE} AND {allowed}"
        parts = [f"({visible} ORDER BY place LIMIT %(k)s)", f"({visible} AND item_id = ANY(%(likely)s))"]
        parts += [
            f"({visible} ORDER BY vector <#> %(near{number})s::vector LIMIT %(most)s)" for number in range(len(vectors))
        ]
        return f"place IN ({' UNION '.join(parts)})", found

    def _are_few(self, allowed: str, given: Mapping[str, Any]) -> bool:
        asked = f"SELECT count(*) FROM (SELECT 1 FROM {{items}} WHERE {VISIBLE} AND {allowed} LIMIT %(few)s) found"
        query = self.tables.query(asked, self.generation)
        ((count,),) = self._ask(query, {**given, "few": FEW + 1})
        return bool(count <= FEW)

    def _items(self, condition: str, setting: sql.Composed | None = None, **given: Any) -> list[StoredItem]:
        return [StoredItem.restore(*row) for row in self._read("{item}", condition, setting, **given)]

    def _read(
        self, what: str, condition: str, setting: sql.Composed | None = None, **given: Any
    ) -> list[tuple[Any, ...]]:
        return self._ask(self.tables.visible(self.generation, what, condition), given, setting)

    def _ask(
        self, query: sql.Composed, given: Mapping[str, Any], setting: sql.Composed | None = None
    ) -> list[tuple[Any, ...]]:
        try:
            return self.tables.database.read(query, {**given, "version": self.version}, setting)
        except NoCatalogueError:  # these vectors were dropped, or all of the catalogue
            raise CatalogueReplacedError.of(
                self.tables.database.name,
                self.tables.state().fingerprint,
                "the former ones are kept for an hour; load the model that made these, and open the catalogue with it, "
                "a service by its reload",
            ) from None


def ef_search(items: int) -> int:
    """How many vectors the index keeps in view while it searches so many items; 1,000 is pgvector's most.

    With 200 it finds 99 of 100 of the ten best of 200,000, and 76 of a million (lab/log, 2026-11-29).
    """
    return min(max(200, items // 1000), 1000)


def _allowed(
    filters: Filters | None, exclude: Collection[str], among: Collection[str] | None
) -> tuple[str, dict[str, Any]]:
    """The condition on rows that a search may find, and its values; an unknown value meets none."""
    conditions, given, filters = ["title <> ''"], dict[str, Any](), filters or Filters()
    if among is not None:
        conditions, given["among"] = ["item_id = ANY(%(among)s)"], askable(among)
    if exclude:
        conditions.append("item_id <> ALL(%(exclude)s)")
        given["exclude"] = askable(exclude)
    if filters.category is not None:
        conditions.append("category = ANY(%(category)s)")
        given["category"] = askable(filters.category)
    if filters.in_stock is not None:
        conditions.append("in_stock = %(in_stock)s")
        given["in_stock"] = filters.in_stock
    for name, sign in (("price_min", ">="), ("price_max", "<=")):
        if (bound := getattr(filters, name)) is not None:
            conditions.append(f"price {sign} %({name})s")
            given[name] = float(bound)
    return " AND ".join(conditions), given
