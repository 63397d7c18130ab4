"""A catalogue on PostgreSQL that is searched in the database, by its index."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from catalogue_parts import DIM, MODEL, OTHER, best, encode_items, item, search, unit
from xcrossrec.catalogue import Catalogue, CatalogueReplacedError, Filters
from xcrossrec.catalogue.scan import history_pool
from xcrossrec.catalogue.snapshot import HeldSnapshot
from xcrossrec.models.day_one import Everywhere
from xcrossrec.models.heads import HistoryMatcher

pytest.importorskip("psycopg", reason="POSTGRES ABSENT: pip install 'xcrossrec[postgres]'; nothing was checked")

from psycopg import sql

from xcrossrec.catalogue.postgres import PostgresCatalogue, connections, tables
from xcrossrec.catalogue.postgres import catalogue as module
from xcrossrec.catalogue.postgres.connections import Database
from xcrossrec.catalogue.postgres.snapshot import SearchedSnapshot, ef_search


class Popular(Everywhere):
    """What is added to all items: much to some far ones."""

    def __init__(self) -> None:
        pass

    def __call__(self, ids: Sequence[str], vectors: torch.Tensor, whole: object) -> np.ndarray:
        return np.array([5.0 if item_id in ("i2900", "i2901") else 0.0 for item_id in ids])

    def likely(self, most: int) -> tuple[Sequence[str], torch.Tensor | None]:
        return ["i2900", "i2901", "unknown"], None


@pytest.fixture(scope="module")
def many(postgres_server: str) -> Iterator[tuple[PostgresCatalogue, Catalogue, np.ndarray]]:
    """3,000 items in a database that searches them, and in memory; and vectors to ask with."""
    draw = np.random.default_rng(0)
    vectors = draw.standard_normal((3020, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    items = [item(n, category="rare" if n % 200 == 7 else "usual", price=n % 50) for n in range(3000)]
    url = f"{postgres_server}#test_many_{os.getpid()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXACT_UNTIL", 100)
        with PostgresCatalogue.create(url, items, vectors[:3000], fingerprint=MODEL, overwrite=True) as store:
            yield store, Catalogue.in_memory(items, vectors[:3000], MODEL), vectors[3000:]
            store._tables.database.change(lambda c: c.execute(f"DROP SCHEMA test_many_{os.getpid()} CASCADE") and None)


def found(store: Catalogue, slots: np.ndarray, k: int = 10, **options: Any) -> list[tuple[str, float]]:
    pool = history_pool(HistoryMatcher(), len(slots))
    return [(each.item_id, score) for each, score in store.snapshot().search(search(slots, pool, **options), k)]


def test_the_index_finds_nearly_all_of_the_best(many: tuple[PostgresCatalogue, Catalogue, np.ndarray]) -> None:
    store, memory, asked = many
    assert isinstance(store.snapshot(), SearchedSnapshot)
    hits = [len({*found(store, asked[n : n + 4])} & {*found(memory, asked[n : n + 4])}) for n in range(16)]
    assert sum(hits) >= 0.95 * 160


def test_as_many_as_are_asked_for_come_back_under_narrow_filters(
    many: tuple[PostgresCatalogue, Catalogue, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """15 of 3,000 items meet the filter: all of them are scored; and the index gives as many where they are not few."""
    store, memory, asked = many
    rare = Filters(category=["rare"])
    for n in range(8):
        assert found(store, asked[n : n + 2], 15, filters=rare) == found(memory, asked[n : n + 2], 15, filters=rare)
    monkeypatch.setattr("xcrossrec.catalogue.postgres.snapshot.FEW", -1)
    monkeypatch.setattr("xcrossrec.catalogue.postgres.snapshot._LEAST", 15)
    monkeypatch.setitem(connections._SETTINGS, "enable_sort", "off")  # of so few items the server would rather sort all
    store._tables.database.close()
    questions, read = [], Database.read
    monkeypatch.setattr(Database, "read", lambda *each: questions.append(each) or read(*each))
    for n in range(8):
        assert found(store, asked[n : n + 2], 15, filters=rare) == found(memory, asked[n : n + 2], 15, filters=rare)
    database, query, given, setting = questions[-1]
    assert setting.as_string() == "SET LOCAL hnsw.ef_search = 200"
    assert [ef_search(n) for n in (3000, 200_000, 600_000, 5_000_000)] == [200, 200, 600, 1000]
    plan = read(database, sql.SQL("EXPLAIN ") + query, given)
    assert sum("Index Scan using items_1_hnsw" in line for (line,) in plan) == 2, plan
    store._tables.database.close()


@pytest.mark.parametrize("options", [{"bonus": {"i2000": 2.0, "i2001": 1.5, "gone": 9.0}}, {"everywhere": Popular()}])
def test_what_is_bought_together_or_most_is_found_however_far(
    many: tuple[PostgresCatalogue, Catalogue, np.ndarray], options: Any
) -> None:
    store, memory, asked = many
    here, there = found(store, asked[:1], 5, **options), found(memory, asked[:1], 5, **options)
    assert here == there
    assert {each for each, _ in here[:2]} in ({"i2000", "i2001"}, {"i2900", "i2901"})
    nothing = np.zeros((1, 16), np.float32)
    assert found(store, nothing, 5, **options)[:2] == found(memory, nothing, 5, **options)[:2]
    assert len(found(store, nothing, 5, **options)) == 5


def test_a_catalogue_that_grows_is_indexed_while_it_answers(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_UNTIL", 50)
    with PostgresCatalogue.create(postgres, [item(0)], unit(0), fingerprint=MODEL) as store:
        assert isinstance(store.snapshot(), HeldSnapshot)
        store.upsert([item(n) for n in range(80)], unit(*range(80)))
        assert store._indexer is not None
        store._indexer.join()
        before = best(store, 40, 9)
        assert isinstance(store.snapshot(), SearchedSnapshot)
        assert best(store, 40, 9) == before
        store.upsert([item(80)], unit(80))
        assert best(store, 80, 1) == ["i80"]


def test_who_searches_vectors_that_are_gone_is_told_to_load_the_model_that_counts(
    postgres: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that cannot follow has an hour; then no catalogue is missing, but a model."""
    monkeypatch.setattr(module, "must_index", lambda items, dim: dim > 0)
    monkeypatch.setattr(tables, "_FORMER_H", 0)
    with (
        PostgresCatalogue.create(postgres, [item(0), item(1)], unit(0, 1), fingerprint=MODEL) as one,
        PostgresCatalogue.open(postgres, fingerprint=MODEL) as other,
    ):
        new = one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
        assert best(other, 1)
        new.upsert([item(7)], np.ones((1, DIM + 1), dtype=np.float32))
        said = rf"now holds another model's vectors \(fingerprint {OTHER[:12]}\): .* load the model that made these"
        for ask in (
            lambda: best(other, 1),
            lambda: list(other.snapshot()),
            lambda: other.snapshot().get(["i0"]),
            lambda: other.snapshot().search_titles("item", 1),
            lambda: other.snapshot().select(Filters(in_stock=True)),
        ):
            with pytest.raises(CatalogueReplacedError, match=said):
                ask()
