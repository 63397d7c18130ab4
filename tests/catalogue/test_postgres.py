"""A catalogue on PostgreSQL does what every catalogue does, held by each process or searched in the database."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from catalogue_contract import CatalogueContract, MergingContract
from catalogue_parts import DIM, MODEL, OTHER, best, encode, encode_items, item, unit
from xcrossrec.catalogue import Catalogue, CatalogueReplacedError, Forgotten, Purchase, StoredItem, base
from xcrossrec.catalogue.kept import check_place
from xcrossrec.catalogue.purchases import PurchaseLog
from xcrossrec.copurchase import user_hash
from xcrossrec.exceptions import BundleError, ConfigError, DataError, UnavailableError

pytest.importorskip("psycopg", reason="POSTGRES ABSENT: pip install 'xcrossrec[postgres]'; nothing was checked")


from xcrossrec.catalogue.postgres import PostgresCatalogue, connections, tables
from xcrossrec.catalogue.postgres import catalogue as module
from xcrossrec.catalogue.postgres.connections import Database
from xcrossrec.catalogue.postgres.generations import NextGeneration
from xcrossrec.catalogue.postgres.snapshot import SearchedSnapshot


class OnPostgres:
    """How such a catalogue is made."""

    @pytest.fixture(autouse=True)
    def _url(self, postgres: str) -> None:
        self.url = postgres

    def make(self, folder: Path, dim: int, items: Sequence[StoredItem], vectors: np.ndarray) -> Catalogue:
        return PostgresCatalogue.create(self.url, items, vectors, fingerprint=MODEL)

    def reopened(self, store: Catalogue) -> Catalogue:
        store.close()
        return PostgresCatalogue.open(self.url, fingerprint=store.fingerprint)

    def last_look(self, store: Catalogue) -> tuple[object, str]:
        return NextGeneration, "written_since"


class TestHeld(OnPostgres, MergingContract):
    """Few items: every process holds them."""


class TestSearched(OnPostgres, CatalogueContract):
    """Many items, so to say: the database searches."""

    @pytest.fixture(autouse=True)
    def _searched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "must_index", lambda items, dim: dim > 0)


# ---- one database, many processes


@pytest.fixture
def two(postgres: str) -> Iterator[tuple[PostgresCatalogue, PostgresCatalogue]]:
    """The same catalogue, opened twice."""
    with (
        PostgresCatalogue.create(postgres, [item(0), item(1)], unit(0, 1), fingerprint=MODEL) as one,
        PostgresCatalogue.open(postgres, fingerprint=MODEL) as other,
    ):
        yield one, other


def test_what_one_writes_the_other_sees(two: tuple[PostgresCatalogue, PostgresCatalogue]) -> None:
    one, other = two
    one.upsert([item(0, title="Anew"), item(2)], unit(0, 2))
    one.delete(["i1"])
    assert list(other.snapshot()) == [item(0, title="Anew"), item(2)]
    other.upsert([item(3)], unit(3))
    assert [found.item_id for found in one.snapshot()] == ["i0", "i2", "i3"]
    one.add_purchases([Purchase("anna", "i0"), Purchase("bo", "i2", 7)])
    assert (len(other.snapshot()), list(other.purchases_after(0))) == (
        3,
        [Purchase("anna", "i0"), Purchase("bo", "i2", 7)],
    )
    assert other.add_purchases([Purchase("bo", "i2", 9)]) == []
    assert other.forget("anna") == 1
    one.snapshot()
    assert list(one.purchases_after(0)) == [None, Purchase("bo", "i2", 7), Forgotten(user_hash("anna"))]
    assert one.version == other.version
    with pickle.loads(pickle.dumps(one.elsewhere()))() as third:
        assert list(third.snapshot()) == list(one.snapshot())


def test_who_was_away_for_long_reads_all_items_again(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Former rows of items are gone by then."""
    monkeypatch.setattr(tables, "KEPT_MIN", 0)
    one, other = two
    one.delete(["i0"])
    one.upsert([item(1, title="Anew")], unit(1))
    one.upsert([item(2)], unit(2))
    assert one._tables.state().purged > 1
    assert list(other.snapshot()) == [item(1, title="Anew"), item(2)]


def test_the_other_goes_on_with_the_former_vectors_until_it_takes_the_new_ones(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    new = one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items, model=Path("model"))
    assert (best(other, 1), other.replaced_by, new.replaced_by) == (["i1", "i0"], str(Path("model").absolute()), None)
    with pytest.raises(CatalogueReplacedError, match="write to the catalogue that replaced this one"):
        other.upsert([item(5)], unit(5))
    assert other.successor("c" * 64) is None
    taken = other.successor(OTHER)
    assert taken is not None
    np.testing.assert_array_equal(taken.snapshot().vectors(["i0"]), encode(["Item 0"]))
    monkeypatch.setattr(tables, "_FORMER_H", 0)
    last = new.embed_again(fingerprint=MODEL, dim=DIM, encode=lambda items: unit(*range(len(items))))
    assert list(taken.snapshot()) == [item(0), item(1)]
    last.upsert([item(7)], unit(7))
    with pytest.raises(CatalogueReplacedError, match="now holds another model's vectors"):
        list(SearchedSnapshot(last._tables, 2, 99, DIM, 0))  # the generation before is gone


def test_who_missed_two_models_still_answers_with_the_vectors_it_has(
    two: tuple[PostgresCatalogue, PostgresCatalogue],
) -> None:
    """Its generation is gone: that is no catalogue that is missing."""
    one, other = two
    one.upsert([item(2)], unit(2))
    new = one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
    new.embed_again(fingerprint=MODEL, dim=DIM, encode=lambda items: unit(*range(len(items))))
    assert list(other.snapshot()) == [item(0), item(1)]
    taken = other.successor(MODEL)
    assert taken is not None
    assert list(taken.snapshot()) == [item(0), item(1), item(2)]


def test_items_that_are_read_again_while_others_are_merged_count_once(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    one.upsert([item(2)], unit(2))
    assert len(other.snapshot()) == 3
    merge = base.merge_parts

    def slowly(parts: Any) -> Any:
        monkeypatch.setattr(base, "merge_parts", merge)
        monkeypatch.setattr(tables, "KEPT_MIN", 0)
        one.delete(["i0"])
        one.upsert([item(3)], unit(3))
        assert list(other.snapshot()) == [item(1), item(2), item(3)]
        return merge(parts)

    monkeypatch.setattr(base, "merge_parts", slowly)
    other.compact()
    assert list(other.snapshot()) == [item(1), item(2), item(3)]


def test_a_customer_whose_id_the_database_cannot_hold_is_forgotten(
    two: tuple[PostgresCatalogue, PostgresCatalogue],
) -> None:
    one, _ = two
    assert one.forget("an\0na") == 0
    assert list(one.purchases_after(0)) == [Forgotten(user_hash("an\0na"))]


def test_what_is_deleted_while_another_model_embeds_stays_deleted(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: the row that says when it was deleted is removed meanwhile."""
    monkeypatch.setattr(tables, "KEPT_MIN", 0)
    one, other = two

    def slowly(items: Sequence[StoredItem]) -> np.ndarray:
        if other.delete(["i1"]):
            other.upsert([item(5)], unit(5))
            other.upsert([item(6)], unit(6))
        return encode_items(items)

    new = one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=slowly)
    assert (list(new.snapshot()), new.check()) == ([item(0), item(5), item(6)], [])


def test_a_connection_lost_after_the_switch_takes_no_items_along(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _ = two
    change, name = Database.change, one.name

    def lost(self: Database, work: Any) -> Any:
        done = change(self, work)
        if one._tables.state().fingerprint == OTHER and self is one._tables.database:
            monkeypatch.setattr(Database, "change", change)
            raise UnavailableError(f"the database {name} was lost at the end of a write")
        return done

    monkeypatch.setattr(Database, "change", lost)
    with pytest.raises(UnavailableError, match="lost at the end of a write"):
        one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
    taken = one.successor(OTHER)
    assert taken is not None
    assert list(taken.snapshot()) == [item(0), item(1)]


def all_opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The connections that are opened from now on."""
    opened, connect = list[Any](), Database.connect

    def seen(self: Database) -> Any:
        opened.append(connect(self))
        return opened[-1]

    monkeypatch.setattr(Database, "connect", seen)
    return opened


def test_who_lost_the_lock_writes_no_vectors(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two

    def broken(items: Sequence[StoredItem]) -> np.ndarray:
        opened[0].close()
        return encode_items(items)

    opened = all_opened(monkeypatch)
    with pytest.raises(UnavailableError, match="embedding was lost: the present vectors stay"):
        one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=broken)
    assert (list(other.snapshot()), other.replaced_by) == ([item(0), item(1)], None)


def test_an_overwritten_catalogues_purchases_are_counted_once(
    two: tuple[PostgresCatalogue, PostgresCatalogue], postgres: str
) -> None:
    one, _ = two
    one.add_purchases([Purchase("anna", "i0"), Purchase("bo", "i1")])
    one.forget("cy")
    kept = PurchaseLog(one.purchases().filter(pl.col("user_id") == "anna"), [user_hash("cy"), user_hash("dan")])
    PostgresCatalogue.create(postgres, [item(0)], unit(0), fingerprint=MODEL, overwrite=True, bought=kept).close()
    taken = one.successor(MODEL)
    assert taken is not None
    assert taken.purchases().rows() == [("anna", "i0", None)]
    assert list(taken.purchases_after(0)) == [Forgotten(user_hash("cy")), Forgotten(user_hash("dan"))]


def test_who_embeds_gets_its_own_models_catalogue_though_another_follows_at_once(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    alone = Database.alone

    @contextmanager
    def followed(self: Database, **options: Any) -> Iterator[Any]:
        with alone(self, **options) as connection:
            yield connection
        monkeypatch.setattr(Database, "alone", alone)
        own = other.successor(OTHER)
        assert own is not None
        own.embed_again(fingerprint=MODEL, dim=DIM, encode=lambda items: unit(*range(len(items))))

    monkeypatch.setattr(Database, "alone", followed)
    new = one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
    assert (new.fingerprint, new.snapshot().dim, new.replaced_by) == (OTHER, DIM + 1, "")


def test_two_that_change_to_the_same_model_encode_once(postgres: str) -> None:
    with (
        PostgresCatalogue.create(postgres, [item(0)], unit(0), fingerprint=MODEL) as one,
        PostgresCatalogue.open(postgres, fingerprint=MODEL) as other,
    ):
        one.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)
        same = other.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=lambda _: pytest.fail("encoded"))
        assert (same.fingerprint, same.version) == (OTHER, one._tables.state().version)


# ---- what is refused


def test_what_is_not_there_or_of_another_model_is_a_sentence(postgres: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        BundleError, match=r"holds no catalogue: check the URL, or make one with  xcrossrec catalog build"
    ):
        PostgresCatalogue.open(postgres, fingerprint=MODEL)
    PostgresCatalogue.create(postgres, [item(0)], unit(0), fingerprint=MODEL).close()
    with pytest.raises(BundleError, match=r"another model's vectors.*xcrossrec catalog embed MODEL postgresql://"):
        PostgresCatalogue.open(postgres, fingerprint=OTHER)
    with pytest.raises(BundleError, match=r"holds a catalogue: choose another schema \(after #\)"):
        PostgresCatalogue.create(postgres, [], unit(), fingerprint=OTHER)
    with pytest.raises(BundleError, match=r"holds a catalogue: choose another schema \(after #\)"):
        check_place(postgres, overwrite=False)
    check_place(postgres, overwrite=True)
    check_place(f"{postgres}x", overwrite=False)
    monkeypatch.setattr(tables, "FORMAT", 3)
    for overwrite in (False, True):
        with pytest.raises(BundleError, match="is a catalogue of format 2, this release reads 3: use the release that"):
            check_place(postgres, overwrite=overwrite)
    monkeypatch.undo()
    with PostgresCatalogue.open(postgres, fingerprint=MODEL) as store:
        store.add_purchases([Purchase("anna", "i0")])
        with PostgresCatalogue.create(postgres, [item(5)], unit(5), fingerprint=OTHER, overwrite=True) as new:
            assert (list(new.snapshot()), new.purchases().height, new.check()) == ([item(5)], 1, [])
        with pytest.raises(CatalogueReplacedError):
            store.delete(["i0"])
        with pytest.raises(DataError, match=r"'a\\x00b' has a zero character, which PostgreSQL cannot keep"):
            new.upsert([StoredItem("a\0b", "A")], unit(0))
    assert PostgresCatalogue.open(postgres, fingerprint=None).snapshot().get(["a\0b"]) == [None]


def test_where_another_server_took_over_the_next_write_goes_there(
    two: tuple[PostgresCatalogue, PostgresCatalogue], postgres: str
) -> None:
    """What a kept connection leads to may only read by then; it was asked again and again, and said to be full."""
    one, _ = two
    database = one._tables.database
    assert database._idle
    for connection in database._idle:
        connection.execute("SET default_transaction_read_only = on")
    one.upsert([item(7)], unit(7))
    assert one.delete(["i7"]) == 1
    place, _, schema = postgres.partition("#")
    mark = "&" if "?" in place else "?"
    url = f"{place}{mark}options=-c%20default_transaction_read_only%3Don#{schema}"
    reads = PostgresCatalogue.open(url, fingerprint=None)
    assert list(reads.snapshot()) == [item(0), item(1)]
    with pytest.raises(UnavailableError, match=r"read-only transaction\): nothing was changed; ask again"):
        reads.delete(["i1"])


def test_a_server_that_stops_while_another_process_is_waited_for_is_a_sentence(
    two: tuple[PostgresCatalogue, PostgresCatalogue], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    with one._tables.database.alone():
        opened = all_opened(monkeypatch)
        monkeypatch.setattr(connections, "sleep", lambda seconds: opened[-1].close())
        with pytest.raises(UnavailableError, match=r"the database .* was lost \(.*\): nothing was changed; ask again"):
            other.embed_again(fingerprint=OTHER, dim=DIM + 1, encode=encode_items)


def test_a_database_that_is_away_is_a_sentence_without_the_password() -> None:
    with pytest.raises(
        UnavailableError, match=r"postgresql://anna@localhost:1/shop cannot be reached .*start it"
    ) as raised:
        PostgresCatalogue.open("postgresql://anna:secret@localhost:1/shop", fingerprint=None)
    assert "secret" not in str(raised.value)
    with pytest.raises(ConfigError, match="schema of a database, what stands after #, is not made of a-z, 0-9 and _"):
        PostgresCatalogue.open("postgresql://localhost/shop#Not one", fingerprint=None)
    for url in ("u:p%zzsecret@h/shop", "u:sec ret@h/shop", "u:secret@[::1/shop", "u:secret#x@h/shop", "..."):
        with pytest.raises((ConfigError, UnavailableError)) as refused:
            PostgresCatalogue.open(f"postgresql://{url}", fingerprint=None)
        assert "sec" not in str(refused.value), url
