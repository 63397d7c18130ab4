"""Any sequence of writes, searches, merges and restarts gives what a dictionary and a loop give."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from jaxtyping import Float
from torch import Tensor

from catalogue_parts import meets, only_slot, search
from xcrossrec.catalogue import Filters, Pool, SqliteCatalogue, StoredItem

DIM = 3
WORDS = ("red", "Blue", "train", "TRACK", "drill")
IDS = st.sampled_from([f"i{number}" for number in range(8)])
VECTOR = st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM)  # small integers: sums are exact, ties are ties
PRICES = st.none() | st.integers(0, 4).map(float)
CATEGORIES = st.sampled_from(["toys", "tools", "garden"])


@st.composite
def stored_items(draw: st.DrawFn) -> StoredItem:
    return StoredItem(
        draw(IDS),
        " ".join(draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3))),
        draw(st.none() | CATEGORIES),
        draw(st.booleans()),
        draw(PRICES),
        draw(st.none() | st.dictionaries(st.text(max_size=2), st.integers(), max_size=1)),
    )


@st.composite
def filters(draw: st.DrawFn) -> Filters:
    low, high = sorted((draw(st.integers(0, 4)), draw(st.integers(0, 4))))
    return Filters(
        draw(st.none() | st.lists(CATEGORIES, min_size=1)),
        draw(st.none() | st.booleans()),
        draw(st.none() | st.just(low)),
        draw(st.none() | st.just(high)),
    )


def largest(products: Float[Tensor, "slot part"]) -> Float[Tensor, " part"]:
    return products.amax(0)


class StoreAgainstModel(RuleBasedStateMachine):
    """``rows`` is the model: id to item and vector, in the catalogue's order."""

    def __init__(self) -> None:
        super().__init__()
        self.place = tempfile.TemporaryDirectory(prefix="xcrossrec-")
        self.fingerprint = "0" * 64
        none = np.empty((0, DIM), dtype=np.float32)
        self.store = SqliteCatalogue.create(Path(self.place.name) / "c", [], none, fingerprint=self.fingerprint)
        self.rows: dict[str, tuple[StoredItem, list[int]]] = {}

    def teardown(self) -> None:
        self.store.close()
        self.place.cleanup()

    @rule(batch=st.lists(st.tuples(stored_items(), VECTOR), max_size=4, unique_by=lambda entry: entry[0].item_id))
    def upsert(self, batch: list[tuple[StoredItem, list[int]]]) -> None:
        vectors = np.array([vector for _, vector in batch], dtype=np.float32).reshape(len(batch), DIM)
        assert self.store.upsert([item for item, _ in batch], vectors) == len(batch)
        self.rows.update({item.item_id: (item, vector) for item, vector in batch})

    @rule(ids=st.lists(IDS, max_size=3))
    def delete(self, ids: list[str]) -> None:
        known = {item_id for item_id in ids if item_id in self.rows}
        assert self.store.delete(ids) == len(known)
        for item_id in known:
            del self.rows[item_id]

    @rule()
    def merge(self) -> None:
        self.store.compact()

    @rule()
    def restart(self) -> None:
        version = self.store.version
        self.store.close()
        self.store = SqliteCatalogue.open(self.store.folder, fingerprint=self.fingerprint)
        assert self.store.version == version

    @rule(shift=st.integers(-1, 1))
    def change_model(self, shift: int) -> None:
        shifted = {i.item_id: (i, [number + shift for number in vector]) for i, vector in self.rows.values()}
        titles = [item.title for item, _ in self.rows.values()]

        def encode(asked: Any) -> np.ndarray:
            assert [item.title for item in asked] == titles
            return np.array([vector for _, vector in shifted.values()], dtype=np.float32).reshape(len(titles), DIM)

        self.fingerprint = f"{int(self.fingerprint) + 1:064}"
        old, self.store = self.store, self.store.embed_again(fingerprint=self.fingerprint, dim=DIM, encode=encode)
        old.close()
        self.rows = shifted

    @precondition(lambda self: self.rows)
    @rule(
        slots=st.lists(VECTOR, min_size=1, max_size=3),
        k=st.integers(1, 9),
        condition=st.none() | filters(),
        exclude=st.lists(IDS, max_size=3),
        among=st.none() | st.lists(IDS, max_size=6),
    )
    def search(
        self,
        slots: list[list[int]],
        k: int,
        condition: Filters | None,
        exclude: list[str],
        among: list[str] | None,
    ) -> None:
        named = None if among is None else [item_id for item_id in among if item_id in self.rows]
        pool: Pool = only_slot if len(slots) == 1 else largest
        wanted = search(np.array(slots, dtype=np.float32), pool, filters=condition, exclude=exclude, among=named)
        found = self.store.snapshot().search(wanted, k)
        allowed: Callable[[StoredItem], bool] = lambda item: (  # noqa: E731
            (condition is None or meets(item, condition))
            and item.item_id not in exclude
            and (named is None or item.item_id in named)
        )
        scores = [
            (item, float(max(sum(a * b for a, b in zip(slot, vector, strict=True)) for slot in slots)))
            for item, vector in self.rows.values()
            if allowed(item)
        ]
        assert found == sorted(scores, key=lambda entry: -entry[1])[:k]
        selected = self.store.snapshot().select(condition, named)
        assert [item for item in selected if item.item_id not in exclude] == [item for item, _ in scores]

    @rule(words=st.lists(st.sampled_from([*WORDS, "r", "tra"]), max_size=2), limit=st.integers(1, 5))
    def search_titles(self, words: list[str], limit: int) -> None:
        text = " ".join(words).lower()
        rank = []
        for item, _ in self.rows.values():
            title = item.title.lower()
            tests = [title.startswith(text), f" {text}" in title, text in title, all(w in title for w in text.split())]
            if any(tests):
                rank.append((tests.index(True), item))
        expected = [item for _, item in sorted(rank, key=lambda entry: entry[0])][:limit]
        assert self.store.snapshot().search_titles(" ".join(words), limit) == expected

    @invariant()
    def holds_what_was_written(self) -> None:
        items = [item for item, _ in self.rows.values()]
        assert list(self.store.snapshot()) == items
        assert len(self.store) == len(items)
        ids = [item.item_id for item in items]
        assert self.store.snapshot().get([*ids, "unknown"]) == [*items, None]
        vectors = np.array([vector for _, vector in self.rows.values()], dtype=np.float32).reshape(len(items), DIM)
        np.testing.assert_array_equal(self.store.snapshot().vectors(ids), vectors)


TestStoreAgainstModel = StoreAgainstModel.TestCase
TestStoreAgainstModel.settings = settings(max_examples=40, stateful_step_count=25, deadline=None, derandomize=True)
