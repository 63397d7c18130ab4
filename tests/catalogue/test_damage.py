"""Damage of a catalogue on disk: refused before anything is served, listed item by item, mended from the titles."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest

from catalogue_parts import MODEL, OTHER, unit
from damaged_catalogue import ITEMS, LOG, encode_items, flip, is_whole, mended, opened, run, written
from xcrossrec.catalogue import SqliteCatalogue, examine, repair
from xcrossrec.catalogue.rows import DATABASE
from xcrossrec.cli.checks import check_catalogue
from xcrossrec.exceptions import BundleError, StorageError


def test_no_flipped_bit_is_served(images: tuple[Path, Path], tmp_path: Path) -> None:
    """xcrossrec_lab.faults.catalogue does it with hundreds, and repairs what is refused."""
    draw, refused = random.Random(0), list[str]()
    names = sorted(path.name for path in images[0].iterdir())
    assert names == [DATABASE, "catalogue.version", "codes-1.npy", "items-1.arrow", "scales-1.npy", "vectors-1.npy"]
    for number in range(30):
        image, name = (images[0], names[number % 6]) if number < 24 else (images[1], LOG)
        folder = shutil.copytree(image, tmp_path / str(number))
        flip(folder / name, draw.randrange(8 * (folder / name).stat().st_size))
        try:
            with opened(folder) as store:
                assert (is_whole(store), store.version) == (True, 3), name
        except BundleError as error:
            refused.append(str(error))
    assert len(refused) > 20
    assert [said for said in refused if str(tmp_path) not in said or "xcrossrec catalog repair" not in said] == []


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-1500])])
@pytest.mark.parametrize("name", ["vectors-1.npy", "codes-1.npy", "scales-1.npy"])
def test_damaged_vectors_are_encoded_again(closed: Path, name: str, damage: Callable[[Path], object]) -> None:
    damage(closed / name)
    with pytest.raises(BundleError, match=rf"{name} is damaged .*catalog check .*catalog repair MODEL"):
        opened(closed)
    said, made = mended(closed)
    with made:
        assert is_whole(made)
        assert made.version == 4
    assert any(f"{name} is damaged" in line for line in said)
    assert examine(closed).sentences() == []
    assert [path.name for path in closed.parent.iterdir()] == [closed.name]


def test_a_vector_that_is_not_finite_is_named(closed: Path) -> None:
    vectors = np.load(closed / "vectors-1.npy")
    vectors[4, 3] = np.nan
    np.save(closed / "vectors-1.npy", vectors)
    with pytest.raises(BundleError, match=r"vectors-1\.npy is damaged .its checksum differs"):
        opened(closed)
    said, made = mended(closed)
    with made:
        assert is_whole(made)
    assert "item 'i4' ('Item 4'): its vector is damaged" in said


def test_a_damaged_title_is_named_and_its_item_left_out(closed: Path) -> None:
    path = closed / "items-1.arrow"
    path.write_bytes(path.read_bytes().replace(b"Item 5", b"Itam 5"))
    said, made = mended(closed)
    with made:
        assert is_whole(made, [each for each in ITEMS[1:] if each.item_id != "i5"])
    assert "item 'i5' ('Itam 5'): its id, title or another value is damaged" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("UPDATE recent SET vector = zeroblob(64) WHERE place = 21", "item 'i21' ('Item 21'): its vector is damaged"),
        ("UPDATE recent SET vector = x'00' WHERE place = 21", "item 'i21' ('Item 21'): its vector is damaged"),
        (
            "UPDATE recent SET title = 'X' WHERE place = 21",
            "item 'i21' ('X'): its id, title or another value",
        ),
        (
            "UPDATE recent SET price = 9 WHERE place = 21",
            "item 'i21' ('Item 21'): its id, title or another value",
        ),
        ("UPDATE recent SET title = x'58' WHERE place = 21", "item 'i21' ('None'): its id, title or another value"),
        (
            "UPDATE recent SET title = CAST(x'58ff' AS TEXT) WHERE place = 21",
            "item 'i21' ('X\ufffd'): its id, title or",
        ),
        ("UPDATE recent SET item_id = x'58' WHERE place = 21", "item None ('Item 21'): its id, title or another value"),
        ("UPDATE recent SET price = 'X' WHERE place = 21", "item 'i21' ('Item 21'): its id, title or another value"),
        (
            "UPDATE recent SET item_check = 'X' WHERE place = 21",
            "item 'i21' ('Item 21'): its id, title or another value",
        ),
        ("UPDATE recent SET vector = 'X' WHERE place = 21", "item 'i21' ('Item 21'): its vector is damaged"),
        ("DELETE FROM recent WHERE place = 21", "the rows of recent are not those that were written"),
    ],
)
def test_damaged_recent_items_are_named(closed: Path, change: str, said: str) -> None:
    run(change)(closed / DATABASE)
    with pytest.raises(
        BundleError, match=r"(checksum of item ('i21'|None) differs|the rows of recent|decode to UTF-8)"
    ):
        opened(closed)
    sentences, made = mended(closed)
    with made:
        kept = ITEMS[1:] if "vector" in said else [each for each in ITEMS[1:] if each.item_id != "i21"]
        assert is_whole(made, kept)
    assert any(said in line for line in sentences)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"not a database, but long enough to be one" * 100),
        lambda path: path.write_bytes(path.read_bytes()[: 3 * 4096]),
        lambda path: path.write_bytes(b""),
        Path.unlink,
        run("DELETE FROM dead"),
        run("UPDATE segments SET rows = 19"),
        run("UPDATE facts SET value = replace(value, '16', '17')"),
        run("DELETE FROM facts"),
        run("DROP TABLE dead"),
    ],
)
def test_where_the_items_cannot_be_told_a_copy_must_be_restored(closed: Path, damage: Callable[[Path], None]) -> None:
    damage(closed / DATABASE)
    with pytest.raises(BundleError, match=r"catalogue\.sqlite is damaged .*xcrossrec catalog check"):
        opened(closed)
    with pytest.raises(BundleError, match="so that the items cannot be listed: restore a copy, or build"):
        mended(closed)


def test_a_damaged_name_in_the_schema_leaves_the_catalogue_closed(closed: Path) -> None:
    content = (closed / DATABASE).read_bytes()
    (closed / DATABASE).write_bytes(content.replace(b"autoindex_purchases", b"auto\xeendex_purchases", 1))
    with pytest.raises(BundleError, match=r"catalogue\.sqlite is damaged .'utf-8' codec"):
        opened(closed)
    with pytest.raises(BundleError, match="so that the items cannot be listed"):  # and not: open in another process
        examine(closed)


def test_an_unreadable_file_of_items_is_a_sentence(closed: Path) -> None:
    (closed / "items-1.arrow").write_bytes(b"ARROW1 but no more")
    with pytest.raises(BundleError, match=r"items-1\.arrow is damaged .*restore a copy, or build the catalogue again"):
        examine(closed)


@pytest.mark.parametrize("name", [DATABASE, "catalogue.version", "items-1.arrow", "vectors-1.npy", "codes-1.npy"])
def test_what_is_no_file_is_damage_and_not_waited_for(closed: Path, name: str) -> None:
    path = closed / name
    for why, put in (
        ("it is no file", os.mkfifo),
        ("it is no file", os.mkdir),
        ("it is missing", lambda path: path.symlink_to("nowhere")),
        ("it is missing", lambda path: None),
    ):
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        put(path)
        check_catalogue(closed)  # the command line takes it for one still
        with pytest.raises(BundleError, match=rf"{re.escape(name)} is damaged \({why}\)"):
            opened(closed)
        if name in (DATABASE, "items-1.arrow"):
            with pytest.raises(BundleError, match=r"so that the items cannot be listed: restore a copy"):
                examine(closed)
        else:
            assert f"{path} is damaged ({why})" in examine(closed).findings


@pytest.mark.parametrize("name", ["catalogue.sqlite-wal", "catalogue.sqlite-journal"])
def test_a_log_that_is_no_file_is_not_waited_for(closed: Path, name: str) -> None:
    os.mkfifo(closed / name)
    with pytest.raises(BundleError, match=rf"{name} is damaged \(it is no file\)"):
        opened(closed)
    with pytest.raises(BundleError, match=rf"{name} is damaged \(it is no file\), so that the items cannot be listed"):
        examine(closed)


# ---- what a crash took back


def test_a_kill_loses_nothing(crashed: Path) -> None:
    with opened(crashed) as store:
        assert (is_whole(store), store.version) == (True, 3)


def test_what_the_log_lost_is_said_and_the_version_goes_on(crashed: Path) -> None:
    log = crashed / LOG
    flip(log, 8 * (log.stat().st_size - 4000))
    lost = r"was taken back to version 2, 1 writes lost: version 3 had been acknowledged.*catalog repair MODEL"
    for _ in range(2):
        with pytest.raises(BundleError, match=lost):
            opened(crashed)
    said, made = mended(crashed)
    assert said == ["taken back to version 2, 1 writes lost"]
    with made:
        assert is_whole(made, ITEMS[1:20])
        assert made.version == 4
    opened(crashed).close()


def test_a_log_that_is_gone_is_noticed(crashed: Path) -> None:
    (crashed / LOG).unlink()
    with pytest.raises(BundleError, match="was taken back to version 1, 2 writes lost"):
        opened(crashed)


def test_a_crash_between_a_write_and_its_acknowledgement_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = written(tmp_path / "c")
    monkeypatch.setattr("xcrossrec.catalogue.files.write_version", lambda *_: None)
    store.delete(["i2"])
    store.close()
    monkeypatch.undo()
    for _ in range(2):
        with opened(tmp_path / "c") as store:
            assert store.version == 4


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: flip(path, 8 * 19), lambda path: path.write_text("3")])
def test_a_damaged_version_is_refused_and_mended(closed: Path, damage: Callable[[Path], object]) -> None:
    damage(closed / "catalogue.version")
    with pytest.raises(BundleError, match=r"catalogue\.version is damaged .*xcrossrec catalog repair MODEL"):
        opened(closed)
    _, made = mended(closed)
    with made:
        assert is_whole(made)


def test_damage_to_the_log_does_not_bring_back_what_was_merged(tmp_path: Path) -> None:
    with written(tmp_path / "c") as store:
        store.compact()
        assert (tmp_path / "c" / LOG).stat().st_size == 0


# ---- what is no damage


def test_a_newer_format_is_named_as_such(closed: Path) -> None:
    run("PRAGMA user_version = 6")(closed / DATABASE)
    with pytest.raises(BundleError, match=r"format 6 of a newer release, this one reads 5: nothing is wrong with it"):
        opened(closed)
    run("PRAGMA user_version = 0")(closed / DATABASE)
    with pytest.raises(BundleError, match=r"format 0 of an older release, this one reads 5: install that release, or"):
        opened(closed)


def as_another_user(action: Callable[[], object]) -> str:
    """What an action says to a user who owns nothing: a child of this process, if this one is root."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        said = "nothing"
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(writer, said.encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as file:
        return file.read()


@pytest.mark.parametrize(
    ("error", "lack"),
    [(OSError(errno.EMFILE, "Too many open files"), "ulimit -n"), (MemoryError("no room"), "memory is used up")],
)
def test_a_lack_of_descriptors_or_memory_is_no_damage(
    closed: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, lack: str
) -> None:
    said = rf"items-1\.arrow could not be read .*{lack}.*; nothing is damaged"
    monkeypatch.setattr(pl, "read_ipc", Mock(side_effect=error))
    for look in (opened, examine, mended):
        with pytest.raises(StorageError, match=said):
            look(closed)
    monkeypatch.undo()
    assert len(opened(closed)) == 24 - 1


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("name", "mode", "right"),
    [(".", 0o555, "written"), (".", 0o000, "read"), (DATABASE, 0o444, "written"), ("vectors-1.npy", 0o000, "read")],
)
def test_a_lack_of_rights_is_no_damage(
    images: tuple[Path, Path], name: str, mode: int, right: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Path("/tmp") / f"xcrossrec-{os.getpid()}"  # pytest's own folders are for this user alone
    folder = shutil.copytree(images[0], place)
    try:
        for path in (folder, *folder.iterdir()):
            path.chmod(0o777 if path.is_dir() else 0o666)
        (folder / name).chmod(mode)
        said = as_another_user(lambda: opened(folder))
        assert said.startswith("StorageError")
        assert f"may not be {right} by this user (uid " in said
        assert said.endswith("nothing is damaged")
    finally:
        folder.chmod(0o777)
        shutil.rmtree(folder)


def test_a_full_disk_keeps_the_write_though_its_loss_would_not_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no space left")

    with written(tmp_path / "c") as store:
        with monkeypatch.context() as patch:
            patch.setattr("xcrossrec.catalogue.files.write_version", refuse)
            store.delete(["i2"])
        assert "version 4 is stored, but its loss would not be noticed (no space left)" in caplog.text
    with opened(tmp_path / "c") as store:
        assert store.version == 4


def test_another_models_catalogue_is_not_repaired(closed: Path) -> None:
    with pytest.raises(BundleError, match="holds another model's vectors"):
        repair(closed, fingerprint=OTHER, encode=encode_items)


def test_an_open_catalogue_is_neither_replaced_nor_repaired(tmp_path: Path) -> None:
    with written(tmp_path / "c") as store:
        for action in (
            lambda: SqliteCatalogue.create(tmp_path / "c", [], unit(), fingerprint=MODEL, overwrite=True),
            lambda: mended(tmp_path / "c"),
        ):
            with pytest.raises(BundleError, match="is open in another process"):
                action()
        assert is_whole(store)


def test_a_damaged_catalogue_may_be_replaced(closed: Path) -> None:
    (closed / DATABASE).write_bytes(b"nothing of it is left" * 1000)
    with SqliteCatalogue.create(closed, [], unit(), fingerprint=MODEL, overwrite=True) as made:
        assert len(made) == 0
