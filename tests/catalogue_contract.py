"""What every catalogue does, wherever it is kept; each kind's tests inherit these."""
# ruff: noqa: RUF001

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from catalogue_parts import DIM, OTHER, best, encode, encode_items, item, search, unit
from purchases_contract import PurchasesContract
from xcrossrec.catalogue import (
    Catalogue,
    CatalogueReplacedError,
    Filters,
    Purchase,
    StoredItem,
)
from xcrossrec.catalogue import base as base_module
from xcrossrec.exceptions import ConfigError, DataError


class CatalogueContract(PurchasesContract):
    """Inherit it, and say how a catalogue is made."""

    def make(self, folder: Path, dim: int, items: Sequence[StoredItem], vectors: np.ndarray) -> Catalogue:
        raise NotImplementedError

    def reopened(self, store: Catalogue) -> Catalogue:
        """The same catalogue, opened again where it can be."""
        return store

    def last_look(self, store: Catalogue) -> tuple[object, str]:
        """Whose method looks, while another model encodes, for what was written meanwhile, and its name."""
        return store, "_changed_since"

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        return tmp_path / "catalogue"

    @pytest.fixture
    def store(self, folder: Path) -> Iterator[Catalogue]:
        with self.make(folder, DIM, [], unit()) as store:
            yield store

    # ---- what is written is there

    def test_everything_about_an_item_is_there_after_opening_again(self, store: Catalogue) -> None:
        items = [
            item(
                0, category="Toys & games", in_stock=False, price=12.5, metadata={"colour": "röd", "sizes": [1, None]}
            ),
            item(1, title="  Salt &amp; pepper\n mill "),
            StoredItem("id with spaces, ünïcode and 🙂", "🙂", price=0),
        ]
        assert store.upsert(items, unit(0, 1, 2)) == 3
        again = self.reopened(store)
        assert list(again.snapshot()) == items == list(store.snapshot())
        assert again.snapshot().get(["i1"])[0] == StoredItem("i1", "Salt & pepper mill")
        np.testing.assert_array_equal(again.snapshot().vectors([i.item_id for i in items]), unit(0, 1, 2))
        again.close()

    def test_a_written_item_is_found_at_once_and_a_deleted_one_no_longer(self, store: Catalogue) -> None:
        store.upsert([item(0), item(80)], unit(0, 80))
        assert best(store, 1) == ["i80", "i0"]
        store.upsert([item(0, title="Better")], 9 * unit(80))
        assert best(store, 1) == ["i0", "i80"]
        assert store.snapshot().get(["i0", "i7"]) == [item(0, title="Better"), None]
        assert store.delete(["i0", "unknown", "i0"]) == 1
        assert best(store, 1) == ["i80"]
        assert best(self.reopened(store), 1) == ["i80"]

    def test_an_item_written_anew_keeps_its_place_and_a_new_one_comes_last(self, store: Catalogue) -> None:
        store.upsert([item(2), item(0), item(1)], unit(5, 5, 5))
        store.upsert([item(0, title="Anew")], unit(5))
        assert best(store, 5) == ["i2", "i0", "i1"]
        store.delete(["i2"])
        store.upsert([item(2)], unit(5))
        assert best(store, 5) == ["i0", "i1", "i2"]
        store.compact()
        store.upsert([item(0, title="Once more")], unit(5))
        assert best(store, 5) == ["i0", "i1", "i2"]
        assert [i.item_id for i in self.reopened(store).snapshot()] == ["i0", "i1", "i2"]

    def test_the_version_grows_with_every_write_and_outlives_it(self, store: Catalogue) -> None:
        seen = [store.version]
        store.upsert([item(0)], unit(0))
        seen.append(store.version)
        store.upsert([], unit())
        store.delete(["unknown"])
        assert store.version == seen[-1]
        store.delete(["i0"])
        seen.append(store.version)
        assert seen == sorted(set(seen))
        assert self.reopened(store).version == seen[-1]

    def test_another_process_opens_the_same(self, store: Catalogue) -> None:
        store.upsert([item(9), item(8)], unit(9, 8))
        store.delete(["i8"])
        store.add_purchases([Purchase("u1", "i9", 5)])
        with pickle.loads(pickle.dumps(store.elsewhere()))() as other:
            assert (other.fingerprint, other.text, len(other)) == (store.fingerprint, store.text, len(store))
            assert list(other.snapshot()) == list(store.snapshot())
            assert other.purchases().equals(store.purchases())
            assert best(other, 9) == best(store, 9)

    @pytest.mark.parametrize(
        ("method", "given", "said"),
        [
            ("delete", "i0", "item_ids is 'i0': expected a list; put it into one"),
            ("delete", None, "item_ids is None: expected a list"),
            ("delete", {"i0": 1}, "item_ids is a dict: expected a list"),
            ("delete", ["i0", 7], r"item_ids\[1\] is 7: expected a text"),
            ("add_purchases", "u1", "purchases is 'u1': expected a list"),
            ("add_purchases", [("u1", "i0")], r"purchases\[0\] is a tuple: expected Purchase"),
            ("forget", 5, "user_id is 5: expected a text"),
        ],
    )
    def test_an_argument_of_another_kind_is_named(
        self, store: Catalogue, method: str, given: object, said: str
    ) -> None:
        store.upsert([item(0)], unit(0))
        before = store.version
        with pytest.raises(ConfigError, match=said):
            getattr(store, method)(given)
        assert (store.version, store.delete({"i0"})) == (before, 1)

    def test_vectors_of_double_precision_are_kept_in_single_precision(self, store: Catalogue) -> None:
        store.upsert([item(0)], unit(0).astype(np.float64))
        again = self.reopened(store)
        assert np.array_equal(again.snapshot().vectors(["i0"]).numpy(), unit(0))

    def test_a_snapshot_stays_as_it_was(self, store: Catalogue) -> None:
        store.upsert([item(n) for n in range(5)], unit(*range(5)))
        before = store.snapshot()
        expected = best(before, 40, 9)
        store.upsert([item(1, title="Other"), item(70)], unit(1, 70))
        store.delete(["i4"])
        store.compact()
        store.close()
        assert best(before, 40, 9) == expected
        assert (len(before), [i.title for i in before]) == (5, [f"Item {n}" for n in range(5)])

    def test_an_empty_catalogue_answers(self, store: Catalogue) -> None:
        assert (len(store), list(store.snapshot()), best(store, 0), store.snapshot().search_titles("x", 5)) == (
            0,
            [],
            [],
            [],
        )
        assert store.snapshot().vectors([]).shape == (0, DIM)
        assert len(self.reopened(store)) == 0

    def test_a_catalogue_without_vectors_keeps_items_for_a_pair_model(self, folder: Path) -> None:
        with self.make(folder, 0, [], np.empty((0, 0), dtype=np.float32)) as store:
            store.upsert([item(0)], np.empty((1, 0), dtype=np.float32))
            with pytest.raises(ConfigError, match="has no vectors to search: name the candidates"):
                store.snapshot().search(search(unit(0)), 1)
            assert self.reopened(store).snapshot().get(["i0"]) == [item(0)]

    @pytest.mark.parametrize(
        ("items", "vectors", "message"),
        [
            ([item(0), item(0)], unit(0, 1), "item id 'i0' comes twice"),
            ([item(0)], unit(0, 1), r"1 items came with vectors of shape \(2, 4\), expected \(1, 4\)"),
            ([item(0)], np.ones((1, 3), dtype=np.float32), r"shape \(1, 3\), expected \(1, 4\)"),
            ([item(0), item(1)], np.full((2, DIM), np.nan, dtype=np.float32), "vector of item 'i0' is not finite"),
        ],
    )
    def test_a_bad_write_is_refused_whole(
        self, store: Catalogue, items: Sequence[StoredItem], vectors: np.ndarray, message: str
    ) -> None:
        store.upsert([item(9)], unit(9))
        with pytest.raises(DataError, match=message):
            store.upsert(items, vectors)
        assert (list(store.snapshot()), store.version) == ([item(9)], 2)
        assert list(self.reopened(store).snapshot()) == [item(9)]

    def test_an_item_without_a_title_is_kept_but_found_only_where_it_is_named(self, folder: Path) -> None:
        items = [item(0), StoredItem("untitled", "")]
        with self.make(folder, DIM, items, unit(0, 80)) as store:
            assert (list(store.snapshot()), best(store, 1)) == (items, ["i0"])
            assert best(store, 1, among=["untitled", "i0"]) == ["untitled", "i0"]
            assert store.snapshot().search_titles("", 9) == [item(0)]
            assert store.snapshot().first_titled([""]) == [None]
            store.upsert([StoredItem("later", " \n")], unit(80))
            assert best(store, 1) == ["i0"]
            assert best(store, 1, among=["later", "i0"]) == ["later", "i0"]
            store.upsert([item(5)], unit(5))
            assert store.snapshot().search_titles("", 2) == [item(0), item(5)]

    def test_readers_see_whole_writes_only(self, store: Catalogue) -> None:
        """Each write gives all items one and the same price; no search may ever see two prices."""
        vectors = unit(*range(20))
        store.upsert([item(n, price=0) for n in range(20)], vectors)
        done = Event()
        prices: list[set[float | None]] = []

        def read() -> None:
            while not done.is_set():
                prices.append({found.price for found, _ in store.snapshot().search(search(unit(7)), 20)})

        readers = [Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        for price in range(1, 40):
            store.upsert([item(n, price=price) for n in range(20)], vectors)
            if price % 10 == 0:
                store.compact()
        done.set()
        for reader in readers:
            reader.join()
        assert len(prices) > 3
        assert all(len(seen) == 1 for seen in prices)

    # ---- what was bought

    def test_another_models_vectors_take_the_place_while_the_old_store_still_answers(self, store: Catalogue) -> None:
        store.upsert([item(0, metadata={"a": 1}), item(80)], unit(0, 80))
        new = store.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
        assert (best(store, 1), list(store.snapshot())) == (["i80", "i0"], list(new.snapshot()))
        assert new.version > store.version
        with pytest.raises(CatalogueReplacedError, match=r"another model's vectors \(fingerprint bbbb"):
            store.upsert([item(1)], unit(1))
        with pytest.raises(CatalogueReplacedError, match="write to the catalogue that replaced this one"):
            store.delete(["i0"])
        with pytest.raises(CatalogueReplacedError):
            store.embed_again(fingerprint=OTHER, dim=DIM, encode=encode_items)
        store.close()
        new.upsert([item(5)], np.ones((1, DIM + 1), dtype=np.float32))
        again = self.reopened(new)
        assert [i.item_id for i in again.snapshot()] == ["i0", "i80", "i5"]
        np.testing.assert_array_equal(again.snapshot().vectors(["i0", "i80"]), encode(["Item 0", "Item 80"]))
        again.close()

    def test_writes_go_on_while_titles_are_encoded_and_none_is_lost(self, store: Catalogue) -> None:
        store.upsert([item(n) for n in range(70)], unit(*range(70)))
        calls = []

        def encode_slowly(items: Sequence[StoredItem]) -> np.ndarray:
            calls.append(len(items))
            if len(calls) == 1:  # as another thread would
                store.upsert([item(n, title=f"Changed {n}") for n in range(66)], unit(*range(66)))
                store.delete(["i66"])
            if len(calls) == 2:
                store.upsert([item(0, title="Last"), item(75)], unit(0, 75))
            return encode_items(items)

        new = store.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_slowly)
        assert calls == [70, 66, 2]
        titles = ["Last", *(f"Changed {n}" for n in range(1, 66)), "Item 67", "Item 68", "Item 69", "Item 75"]
        assert [i.title for i in new.snapshot()] == titles
        ids = [i.item_id for i in new.snapshot()]
        np.testing.assert_array_equal(new.snapshot().vectors(ids), encode(titles))
        assert [i.title for i in self.reopened(new).snapshot()] == titles

    def test_a_write_at_the_last_moment_is_not_lost(self, store: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        store.upsert([item(0), item(1)], unit(0, 1))
        place, name = self.last_look(store)
        changed, late = getattr(place, name), [item(1, title="At the last moment"), item(2)]

        def then_write(*of: object) -> object:
            found = changed(*of)
            if late:
                store.upsert([late.pop(), late.pop()], unit(2, 1))
            return found

        monkeypatch.setattr(place, name, then_write)
        new = store.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
        titles = ["Item 0", "At the last moment", "Item 2"]
        assert [i.title for i in new.snapshot()] == titles
        np.testing.assert_array_equal(new.snapshot().vectors(["i0", "i1", "i2"]), encode(titles))

    def test_an_empty_catalogue_changes_its_model_without_encoding(self, store: Catalogue) -> None:
        new = store.embed_again(fingerprint=OTHER, dim=2, encode=lambda titles: pytest.fail("encoded"))
        new.upsert([item(0)], np.ones((1, 2), dtype=np.float32))
        again = self.reopened(new)
        assert (again.snapshot().dim, len(again), again.fingerprint) == (2, 1, OTHER)
        again.close()

    def test_a_model_that_cannot_encode_leaves_the_catalogue_as_it_was(self, store: Catalogue) -> None:
        store.upsert([item(0)], unit(0))
        with pytest.raises(DataError, match=r"shape \(1, 5\), expected \(1, 3\)"):
            store.embed_again(fingerprint=OTHER, dim=3, encode=encode_items)
        store.upsert([item(1)], unit(1))
        assert best(self.reopened(store), 0) == ["i1", "i0"]

    # ---- search

    def test_filters_hold_inside_the_search(self, store: Catalogue) -> None:
        items = [item(n, category="even" if n % 2 == 0 else "odd", price=n, in_stock=n >= 40) for n in range(80)]
        store.upsert(items, unit(*range(80)))
        store.upsert([item(80)], unit(80))
        options = {"filters": Filters(category=["even"], in_stock=True, price_max=60), "exclude": ["i42", "i0", "?"]}
        found = best(store, 80, 99, **options)
        assert set(found) == {f"i{n}" for n in range(40, 61, 2) if n != 42}
        assert best(store, 80, 4, **options) == found[:4]
        assert best(store, 80, 9, filters=Filters(category=["none"])) == []
        assert "i80" not in best(store, 80, 99, filters=Filters(price_min=0))

    @pytest.mark.parametrize(
        ("slots", "k", "options", "error", "message"),
        [
            (unit(0), 0, {}, ConfigError, "k is 0: ask for at least 1"),
            (np.ones((1, 3), np.float32), 1, {}, DataError, "query has 3 dimensions, the catalogue 4"),
            (unit(0), 1, {"among": ["i0", "nope"]}, DataError, "unknown item id 'nope' in the catalogue of 1 items"),
        ],
    )
    def test_a_bad_search_is_refused(
        self, store: Catalogue, slots: np.ndarray, k: int, options: Any, error: type[Exception], message: str
    ) -> None:
        store.upsert([item(0)], unit(0))
        with pytest.raises(error, match=message):
            store.snapshot().search(search(slots, **options), k)
        with pytest.raises(DataError, match="unknown item id 'gone'"):
            store.snapshot().vectors(["gone"])

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ("tra", [2, 4, 0, 5]),
            ("TRAIN", [2, 4, 0]),
            ("train wood", [0, 4]),
            ("  wooden   Train ", [0]),
            ("STRASSE", [6]),
            ("ﬁne", [7]),
            ("absent", []),
            ("train absent", []),
            ("cay xanh", [8]),
            ("IŞIKLI ince", [9]),
            ("水壶", [10]),
            ("ﾊﾟｿｺﾝ", [11]),
            ("ΠΟΤΙΣΤΗΡΙ", [12]),
            ("ابريق", [13]),
            ("", [0, 1, 2, 4]),
        ],
    )
    def test_titles_are_found_by_their_start_then_words_then_parts_then_all_words(
        self, store: Catalogue, text: str, found: list[int]
    ) -> None:
        titles = [
            "Wooden train",
            "Drill",
            "Train track",
            "deleted train",
            "train of wood",
            "Extra",
            "Große Straße",
            "Fine",
            "Cây xanh",
            "İNCE ışıklı",
            "不锈钢水壶",
            "パソコン台",
            "Ποτιστήρι",
            "إبريق",
        ]
        items = [item(n, title=title) for n, title in enumerate(titles)]
        store.upsert(items[:3] + items[4:5], unit(*[1] * 4))
        store.compact()
        store.upsert([items[3], *items[5:]], unit(*[1] * (len(items) - 4)))
        store.delete(["i3"])
        assert [i.item_id for i in store.snapshot().search_titles(text, 4)] == [f"i{n}" for n in found]
        assert [i.item_id for i in store.snapshot().search_titles(text, 1)] == [f"i{n}" for n in found[:1]]

    def test_items_of_one_title_are_found_together(self, store: Catalogue) -> None:
        store.upsert([item(0, title="Same"), item(1), item(2, title="Same")], unit(0, 1, 2))
        store.compact()
        store.upsert([item(3, title="Same"), item(2, title="Other")], unit(0, 1))
        assert store.snapshot().first_titled([" Same ", "Gone", "Other"]) == [
            item(0, title="Same"),
            None,
            item(2, title="Other"),
        ]
        store.delete(["i0"])
        assert store.snapshot().first_titled(["Same", "Same"]) == [item(3, title="Same")] * 2
        assert store.snapshot().sharing_title([item(0, title="Same")]) >= {"i0", "i3"}


class MergingContract(CatalogueContract):
    """The same of one that holds its items, and merges what was written last."""

    def test_many_small_writes_are_merged(self, store: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(base_module, "_RECENT_LEAST", 8)
        for number in range(60):
            store.upsert([item(number)], unit(number))
            if store._merger is not None:  # else a busy machine merges once, too early
                store._merger.join()
        store.delete(["i3"])
        store.close()
        *large, recent = (len(part.segment) for part in store.snapshot().parts)
        assert sum(large) >= 30
        assert recent < 30
        assert len(large) <= 4  # each about twice as large as the next
        assert [i.item_id for i in store.snapshot()] == [f"i{n}" for n in range(60) if n != 3]

    def test_writes_leave_no_pieces(self, store: Catalogue) -> None:
        """Else each write would take longer than the one before, as long as the process lives."""
        store.upsert([item(0)], unit(0))
        store.snapshot().search_titles("a", 1)
        for number in range(1, 12):
            store.upsert([item(number)], unit(number))
            store.delete([f"i{number}"])
        recent = store._snapshot.recent.segment  # type: ignore[attr-defined]
        assert recent.table["title"].n_chunks() == recent.folded_titles().n_chunks() == 1

    def test_what_is_written_while_the_base_is_made_is_not_lost(
        self, store: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.upsert([item(n) for n in range(6)], unit(*range(6)))
        merging, written = Event(), Event()
        merge = base_module.merge_parts

        def slow(parts: Any) -> Any:
            merging.set()
            assert written.wait(60)
            return merge(parts)

        monkeypatch.setattr(base_module, "merge_parts", slow)
        thread = Thread(target=store.compact)
        thread.start()
        assert merging.wait(60)
        store.upsert([item(1, title="While"), item(50)], unit(1, 50))
        store.delete(["i2", "i50"])
        store.upsert([item(51), item(52)], unit(51, 52))
        store.delete(["i52"])
        during = list(store.snapshot())
        written.set()
        thread.join(60)
        expected = [item(0), item(1, title="While"), item(3), item(4), item(5), item(51)]
        assert list(store.snapshot()) == during == expected
        assert list(self.reopened(store).snapshot()) == expected
