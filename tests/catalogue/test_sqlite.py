"""A catalogue in a folder: durable, refused when it is damaged or another model's, its files kept in order."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from catalogue_contract import MergingContract
from catalogue_parts import MODEL, OTHER, best, item, search, unit
from xcrossrec.catalogue import Catalogue, Purchase, SqliteCatalogue, StoredItem, is_catalogue, sqlite
from xcrossrec.catalogue import scan as scan_module
from xcrossrec.catalogue.rows import Rows
from xcrossrec.catalogue.scan import processor_multiplies_integers
from xcrossrec.exceptions import BundleError, ConfigError, DataError, StorageError
from xcrossrec.replacing import refused


class TestSqlite(MergingContract):
    def make(self, folder: Path, dim: int, items: Sequence[StoredItem], vectors: np.ndarray) -> Catalogue:
        return SqliteCatalogue.create(folder, items, vectors, fingerprint=MODEL)

    def reopened(self, store: Catalogue) -> Catalogue:
        assert isinstance(store, SqliteCatalogue)
        return reopened(store)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "catalogue"


@pytest.fixture
def store(folder: Path) -> Iterator[SqliteCatalogue]:
    with SqliteCatalogue.create(folder, [], unit(), fingerprint=MODEL) as store:
        yield store


def reopened(store: SqliteCatalogue) -> SqliteCatalogue:
    store.close()
    return SqliteCatalogue.open(store.folder, fingerprint=store.fingerprint)


def files(store: SqliteCatalogue) -> list[str]:
    return sorted(path.name for path in store.folder.glob("*-*.*") if "sqlite" not in path.name)


def test_nobody_opens_what_is_being_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made() -> SqliteCatalogue:
        return SqliteCatalogue.create(tmp_path / "c", [item(0)], unit(0), fingerprint=MODEL, overwrite=True)

    made().close()
    write, asked = sqlite.files.write_segment, []

    def meanwhile(*given: Any) -> Any:
        with pytest.raises(BundleError, match="is open in another process"):
            SqliteCatalogue.open(tmp_path / "c", fingerprint=MODEL)
        asked.append(given)
        return write(*given)

    monkeypatch.setattr(sqlite.files, "write_segment", meanwhile)
    with made() as store:
        assert (len(store), len(asked)) == (1, 1)


def test_a_write_that_the_disk_refuses_changes_nothing_and_the_next_one_succeeds(
    store: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert([item(0)], unit(0))
    version = store.version

    def refuse(facts: Any) -> None:
        raise sqlite3.OperationalError("disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(store._rows, "_set", refuse)
        with pytest.raises(StorageError, match=r"could not be written \(disk is full\): nothing was changed; free"):
            store.upsert([item(0, title="Lost"), item(1)], unit(1, 1))
        with pytest.raises(StorageError, match="disk is full"):
            store.delete(["i0"])
        with pytest.raises(StorageError, match="disk is full"):
            store.add_purchases([Purchase("anna", "i0")])
    assert (list(store.snapshot()), store.version) == ([item(0)], version)
    assert store.purchases().is_empty()
    assert len(store.add_purchases([Purchase("anna", "i0")])) == 1
    store.upsert([item(1)], unit(1))
    assert list(reopened(store).snapshot()) == [item(0), item(1)]


def test_nothing_of_who_is_forgotten_stays_on_disk(store: SqliteCatalogue, tmp_path: Path) -> None:
    """Not in the free space of the database, whose pages divide as it grows, nor in its log; and a crash brings nothing
    back."""
    draw = random.Random(0)
    bought = [Purchase(f"customer-{draw.randrange(10**6):06}", f"i{n}") for n in range(2000)]
    hers = [Purchase("anna-of-the-test", f"i{n}") for n in range(90)]
    store._rows._connection.execute("PRAGMA secure_delete = OFF")  # not every build of SQLite has it on
    for start in range(0, 2000, 500):
        store.add_purchases([*bought[start : start + 500], *hers[start // 20 : start // 20 + 22]])
    assert any(b"anna-of-the-test" in path.read_bytes() for path in store.folder.iterdir())
    assert store.forget("anna-of-the-test") == 81
    assert not [path.name for path in store.folder.iterdir() if b"anna-of-the-test" in path.read_bytes()]
    shutil.copytree(store.folder, tmp_path / "crashed")
    with SqliteCatalogue.open(tmp_path / "crashed", fingerprint=None) as again:
        assert again.purchases().rows() == [each.values for each in bought]


def test_what_cannot_be_wiped_is_said(store: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add_purchases([Purchase("anna", "i0")])
    query, full = store._rows._all, refused(store.folder, "disk full")
    monkeypatch.setattr(
        store._rows, "_all", lambda text, *given: query(text, *given) if text != "VACUUM" else throw(full)
    )
    with pytest.raises(StorageError, match=r"are deleted, but what is left of them .* could not be overwritten: free"):
        store.forget("anna")
    assert store.purchases().is_empty()
    monkeypatch.undo()
    assert store.forget("anna") == 0  # and tries again
    assert not [path.name for path in store.folder.iterdir() if b"anna" in path.read_bytes()]


def test_who_was_being_forgotten_when_the_process_died_is_wiped_when_the_catalogue_opens_again(
    store: SqliteCatalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store._rows._connection.execute("PRAGMA secure_delete = OFF")
    store.add_purchases([Purchase("anna-of-the-test", f"i{n}") for n in range(90)])
    monkeypatch.setattr(store._rows, "wipe", lambda: throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.forget("anna-of-the-test")

    def rest(folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir() if b"anna-of-the-test" in path.read_bytes()]

    crashed = shutil.copytree(store.folder, tmp_path / "crashed")
    assert rest(crashed)
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "wipe", lambda _: throw(refused(crashed, "disk full")))
        SqliteCatalogue.open(crashed, fingerprint=None).close()
    assert "crashed could not be written (disk full)" in caplog.text
    with SqliteCatalogue.open(crashed, fingerprint=None) as again:
        assert not rest(crashed)
        assert again.purchases().is_empty()
        again.upsert([item(0)], unit(0))
    caplog.clear()
    monkeypatch.setattr(Rows, "wipe", lambda _: throw(AssertionError("not twice")))
    SqliteCatalogue.open(crashed, fingerprint=None).close()


def throw(error: BaseException) -> None:
    raise error


def test_vectors_of_another_model_are_refused_with_the_command_that_encodes_again(store: SqliteCatalogue) -> None:
    store.close()
    message = "another model's vectors.*aaaaaaaaaaaa.*bbbbbbbbbbbb.*xcrossrec catalog embed MODEL .*catalogue"
    with pytest.raises(BundleError, match=message):
        SqliteCatalogue.open(store.folder, fingerprint=OTHER)
    assert SqliteCatalogue.open(store.folder, fingerprint=None).fingerprint == MODEL


def test_a_catalogue_is_open_once(store: SqliteCatalogue) -> None:
    with pytest.raises(BundleError, match=r"open in another process: stop that one, or .*PUT /v1/items"):
        SqliteCatalogue.open(store.folder, fingerprint=MODEL)
    store.upsert([item(0)], unit(0))
    store.close()
    store.close()
    with pytest.raises(ConfigError, match="is closed: open it again"):
        store.upsert([item(1)], unit(1))
    with pytest.raises(ConfigError, match="is closed"):
        store.delete(["i0"])
    assert best(store, 0) == ["i0"]


def test_a_commit_is_forced_to_disk(store: SqliteCatalogue) -> None:
    """No test can cut the power; xcrossrec_lab.service.compare_stores counts the system calls."""
    facts = [
        store._rows._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode")
    ]
    assert facts == [2, "wal"]  # 2 is FULL: the log is synced at every commit


def test_a_taken_folder_is_replaced_only_if_it_is_a_catalogue_and_that_is_wanted(store: SqliteCatalogue) -> None:
    store.upsert([item(0)], unit(0))
    store.close()
    with pytest.raises(BundleError, match="exists: choose another place"):
        SqliteCatalogue.create(store.folder, [], unit(), fingerprint=MODEL)
    with SqliteCatalogue.create(store.folder, [], unit(), fingerprint=OTHER, overwrite=True) as new:
        assert (len(new), new.fingerprint) == (0, OTHER)
    assert [path.name for path in store.folder.parent.iterdir()] == ["catalogue"]
    model = store.folder.parent / "model"
    model.mkdir()
    (model / "xcrossrec.json").write_text("{}")
    with pytest.raises(BundleError, match="is no catalogue: it is not replaced"):
        SqliteCatalogue.create(model, [], unit(), fingerprint=MODEL, overwrite=True)


def test_nothing_is_written_to_a_catalogue_that_took_the_place_or_to_none(
    store: SqliteCatalogue, folder: Path, tmp_path: Path
) -> None:
    """What was acknowledged would be lost with the files, and the other's files be removed by the next merge."""
    store.upsert([item(0)], unit(0))
    folder.rename(tmp_path / "aside")
    other = SqliteCatalogue.create(folder, [item(n) for n in range(3)], unit(0, 1, 2), fingerprint=MODEL)
    other.close()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    gone = r"catalogue\.sqlite is not the file any more that was opened: its folder was moved, replaced or deleted"

    def writes_nothing() -> None:
        write: Callable[[], object]
        for write in (
            lambda: store.upsert([item(1)], unit(1)),
            lambda: store.delete(["i0"]),
            lambda: store.add_purchases([Purchase("anna", "i0")]),
            lambda: store.forget("anna"),
            store.compact,
            lambda: store.embed_again(
                fingerprint=OTHER, dim=2, encode=lambda items: np.ones((len(items), 2), np.float32)
            ),
        ):
            with pytest.raises(StorageError, match=gone):
                write()

    writes_nothing()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    shutil.rmtree(folder)
    writes_nothing()
    assert best(store, 0) == ["i0"]
    (tmp_path / "aside").rename(folder)
    store.upsert([item(1)], unit(1))
    assert len(reopened(store)) == 2


def test_a_failed_creation_leaves_nothing(folder: Path) -> None:
    with pytest.raises(DataError, match="twice"):
        SqliteCatalogue.create(folder, [item(0), item(0)], unit(0, 0), fingerprint=MODEL)
    assert list(folder.parent.iterdir()) == []


def test_what_is_no_catalogue_is_a_sentence(folder: Path) -> None:
    with pytest.raises(BundleError, match=r"holds no catalogue: check the path, or .* xcrossrec catalog build MODEL"):
        SqliteCatalogue.open(folder, fingerprint=MODEL)
    assert not is_catalogue(folder)


# ---- files


def test_vectors_are_mapped_and_integers_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_module, "QUANTISE_FROM", 8)
    vectors = np.random.default_rng(0).standard_normal((9, 16)).astype(np.float32)
    with SqliteCatalogue.create(folder, [item(n) for n in range(9)], vectors, fingerprint=MODEL) as store:
        assert files(store) == ["codes-1.npy", "items-1.arrow", "scales-1.npy", "vectors-1.npy"]
        assert (store.snapshot().parts[0].segment.codes is not None) == processor_multiplies_integers()
        if (maps := Path("/proc/self/maps")).exists():  # on Linux
            assert str(folder / "vectors-1.npy") in maps.read_text(encoding="utf-8")
        found = store.snapshot().search(search(vectors[:1]), 3)
    plain = Catalogue.in_memory([item(n) for n in range(9)], vectors, MODEL)
    assert found == plain.snapshot().search(search(vectors[:1]), 3)


def test_files_that_belong_to_no_segment_are_removed(store: SqliteCatalogue, caplog: pytest.LogCaptureFixture) -> None:
    store.upsert([item(0)], unit(0))
    store.compact()
    store.close()
    (store.folder / "vectors-7.npy").write_bytes(b"left by an interrupted write")
    with SqliteCatalogue.open(store.folder, fingerprint=MODEL) as again:
        assert files(again) == ["items-1.arrow", "vectors-1.npy"]
        assert "vectors-7.npy were removed: an interrupted write had left them" in caplog.text
        again.upsert([item(n) for n in range(1, 5)], unit(1, 2, 3, 4))
        before = again.snapshot()
        again.compact()
        assert files(again) == ["items-2.arrow", "vectors-2.npy"]
        assert best(before, 0, 9) == best(again, 0, 9)


def test_a_merge_that_the_disk_refuses_changes_nothing(store: SqliteCatalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    store.upsert([item(0), item(1)], unit(0, 1))

    def refuse(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("xcrossrec.catalogue.files.force_to_disk", refuse)
        with pytest.raises(StorageError, match=r"could not be written .no space left.: nothing was changed"):
            store.compact()
    with monkeypatch.context() as patch:
        patch.setattr(store._rows, "_set", lambda facts: refuse())
        with pytest.raises(OSError, match="no space left"):
            store.compact()
    assert files(store) == []
    assert best(store, 1) == ["i1", "i0"]
    assert list(reopened(store).snapshot()) == [item(0), item(1)]


def test_dead_rows_stay_dead_after_opening_again(store: SqliteCatalogue) -> None:
    store.upsert([item(n) for n in range(9)], unit(*range(9)))
    store.compact()
    store.upsert([item(3, title="Anew")], unit(80))
    store.delete(["i4", "i0"])
    expected = [item(1), item(2), item(3, title="Anew"), *(item(n) for n in range(5, 9))]
    again = reopened(store)
    assert list(again.snapshot()) == expected
    again.upsert([item(4)], unit(4))
    again.compact()
    assert list(reopened(again).snapshot()) == [*expected, item(4)]


def test_ids_of_any_text_are_written_anew_and_deleted(store: SqliteCatalogue) -> None:
    ids = ["a\0b", "a", "a\0", "\0", "\x1a\x9b}", "'\"\\", "é\r\n"]
    assert len(store.add_purchases([Purchase(each, each) for each in [*ids, *ids]])) == 7
    items = [StoredItem(each, "First") for each in ids]
    store.upsert(items, unit(*range(7)))
    store.upsert([StoredItem(each, "Second") for each in ids], unit(*range(7)))
    store.delete(ids[:4])
    again = reopened(store)
    assert [(each.item_id, each.title) for each in again.snapshot()] == [(each, "Second") for each in ids[4:]]
    again.upsert(items[:2], unit(0, 1))
    again.compact()
    again.upsert(items[2:4], unit(2, 3))
    with reopened(again) as last:
        assert {each.item_id for each in last.snapshot()} == set(ids)
        assert last.purchases().rows() == [(each, each, None) for each in ids]
