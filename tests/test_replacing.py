from __future__ import annotations

import errno
import os
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import Mock

import pytest

from xcrossrec import replacing
from xcrossrec.exceptions import BundleError, DataError, ModelError, StorageError
from xcrossrec.replacing import (
    changing,
    check_folder,
    check_vacant,
    claimed,
    holds,
    leftovers,
    needing_room,
    replacing_file,
    replacing_folder,
    scratch_folder,
)
from xcrossrec.system import FINDER


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that holds ``old``."""
    place = tmp_path / "place"
    with replacing_folder(place) as folder:
        (folder / "old").write_text("old")
    return place


def fill(place: Path, name: str) -> None:
    with replacing_folder(place, overwrite=False) as folder:
        (folder / name).touch()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacing, "exchange", lambda one, other: False)


@pytest.mark.parametrize("one_step", [True, False])
def test_a_folder_is_replaced_and_nothing_else_stays(
    place: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool
) -> None:
    if not one_step:
        without_exchange(monkeypatch)
    with replacing_folder(place) as folder:
        (folder / "new").write_text("new")
        assert names(place) == ["old"]
    assert names(place) == ["new"]
    assert names(place.parent) == ["place"]


def test_the_old_folder_is_never_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("two renames, and nothing between them"))
    with replacing_folder(place) as folder:
        (folder / "new").touch()
    assert names(place) == ["new"]


def test_what_macos_puts_into_a_folder_makes_it_nobodys(tmp_path: Path) -> None:
    shown = tmp_path / "shown"
    shown.mkdir()
    (shown / FINDER).touch()
    assert check_vacant(shown, overwrite=False)
    assert (holds(shown), holds(tmp_path / "absent")) == (set(), set())
    fill(shown, "new")
    assert names(shown) == ["new"]
    with pytest.raises(BundleError, match="was made by another process meanwhile"):
        fill(shown, "newer")


def test_a_disk_without_locks_holds_nobody_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("xcrossrec.replacing.fcntl.flock", no_locks)
    with changing(place), claimed(place), claimed(place):
        assert names(place) == ["old"]


@pytest.mark.parametrize("one_step", [True, False])
def test_of_many_that_change_a_folder_each_sees_what_the_others_wrote(
    place: Path, monkeypatch: pytest.MonkeyPatch, one_step: bool
) -> None:
    if not one_step:
        without_exchange(monkeypatch)

    def add(line: str) -> None:
        with changing(place):
            before = (place / "old").read_text()
            with replacing_folder(place) as folder:
                (folder / "old").write_text(f"{before} {line}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, "abcdefgh"))
    assert sorted((place / "old").read_text().split()) == [*"abcdefgh", "old"]
    assert names(place.parent) == ["place"]


def test_a_folder_is_worked_in_by_one_at_a_time(tmp_path: Path) -> None:
    work = tmp_path / "runs" / "work"
    with claimed(work):
        with pytest.raises(DataError, match=f"another process is at work in {work}: wait, or"), claimed(work):
            raise AssertionError
        assert work.is_dir()
    assert not work.exists(), "nothing was written"
    with claimed(work):
        (work / "kept").touch()
    assert names(work) == ["kept"]


def test_modes_are_the_umasks_whatever_wrote_the_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with replacing_folder(tmp_path / "a") as folder:
            (folder / "deep").mkdir(mode=0o700)
            (folder / "deep" / "weights").touch(mode=0o600)
        with replacing_file(tmp_path / "b") as file:
            file.write_text("b")
    finally:
        os.umask(before)
    paths = [tmp_path / "a", tmp_path / "a" / "deep", tmp_path / "a" / "deep" / "weights", tmp_path / "b"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in paths] == [0o750, 0o750, 0o640, 0o640]


def test_every_file_and_folder_is_forced_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forced: list[Path] = []
    monkeypatch.setattr(replacing, "force_to_disk", forced.append)
    with replacing_folder(tmp_path / "a") as folder:
        (folder / "deep").mkdir()
        (folder / "deep" / "file").touch()
    assert set(forced) == {folder, folder / "deep", folder / "deep" / "file", tmp_path}
    assert forced[-1] == tmp_path  # after the rename
    with replacing_file(tmp_path / "b") as file:
        pass
    assert forced[-2:] == [file, tmp_path]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, ValueError])
def test_a_failure_leaves_what_was_there(place: Path, failure: type[BaseException]) -> None:
    (place.parent / "file").write_text("old")
    with pytest.raises(failure), replacing_folder(place):
        raise failure
    with pytest.raises(failure), replacing_file(place.parent / "file"):
        raise failure
    assert names(place.parent) == ["file", "place"]
    assert names(place) == ["old"]
    assert (place.parent / "file").read_text() == "old"


def test_a_failed_last_step_puts_the_old_folder_back(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_exchange(monkeypatch)
    replace = Path.replace

    def fail_into_place(self: Path, other: Path) -> Path:
        if other == place and self.suffix == ".writing":
            raise PermissionError("no")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", fail_into_place)
    sentence = r"place could not be written \(no\): nothing was changed"
    with pytest.raises(StorageError, match=sentence), replacing_folder(place):
        pass
    assert names(place) == ["old"]
    assert names(place.parent) == ["place"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_is_a_sentence_whatever_says_it(tmp_path: Path, error: Exception) -> None:
    sentence = r"out could not be written .*No space left.*nothing was changed; free space"
    with pytest.raises(StorageError, match=sentence), replacing_file(tmp_path / "out"):
        raise error
    with pytest.raises(StorageError, match=sentence), replacing_folder(tmp_path / "out"):
        raise ModelError("cannot be exported: choose another form") from error
    assert names(tmp_path) == []


def test_a_library_that_does_not_say_why_it_failed_is_asked_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("basic_ios::clear: iostream error")
    with pytest.raises(RuntimeError, match="iostream"), needing_room(tmp_path / "out"):
        raise error
    monkeypatch.setattr(tempfile, "TemporaryFile", Mock(side_effect=OSError(errno.ENOSPC, "full")))
    with (
        pytest.raises(StorageError, match=r"out could not be written \(basic_ios.*free space"),
        replacing_folder(tmp_path / "out"),
    ):
        raise error
    with pytest.raises(DataError, match="row 3"), needing_room(tmp_path / "out"):
        raise DataError("row 3 has no item")  # which is not the disk's fault


def test_what_a_crash_left_is_named_and_removed_by_the_next_writer(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left = place.with_name(".place.0123abcd.writing")
    left.mkdir()
    (left / "half").touch()
    other = place.with_name(".place.too.0123abcd.writing")  # of another place
    other.touch()
    assert leftovers(place) == f"; an interrupted replacement left {left}"
    with replacing_folder(place) as folder:
        assert leftovers(place) == ""  # what is being written is none
        with replacing_folder(place):
            assert folder.exists()
    assert f"{left} was removed: an interrupted replacement of {place} had left it" in caplog.text
    assert names(place.parent) == [other.name, "place"]


def test_a_folder_left_between_two_names_is_put_back(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    place.replace(place.with_name(".place.0123abcd.retired"))
    with pytest.raises(ValueError, match="stop"), replacing_folder(place):
        raise ValueError("stop")
    assert names(place) == ["old"]
    assert "place was put back: an interrupted replacement had left it" in caplog.text


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left (os error 28)")],
)
def test_where_temporary_files_cannot_be_written_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    said = rf"{tmp_path} could not be written .*let TMPDIR name another folder"
    with pytest.raises(StorageError, match=said), scratch_folder():
        raise error
    with pytest.raises(ValueError, match="no fault of the disk"), scratch_folder():
        raise ValueError("no fault of the disk")
    assert names(tmp_path) == []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageError, match=r"nowhere.*let TMPDIR name another folder"), scratch_folder():
        pass


def test_a_place_that_was_taken_meanwhile_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "place"
    said = "place was made by another process meanwhile: it is left alone"
    with pytest.raises(BundleError, match=said), replacing_folder(place, overwrite=False):
        fill(place, "theirs")
    assert (names(place), names(tmp_path)) == (["theirs"], ["place"])


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}])
def test_a_link_that_leads_in_a_circle_is_no_place(links: dict[str, str], tmp_path: Path) -> None:
    for name, to in links.items():
        (tmp_path / name).symlink_to(to)
    place, said = tmp_path / "a", "a is a link that leads in a circle: remove it, or choose another place"
    with pytest.raises(StorageError, match="a could not be written"), replacing_folder(place):
        pass
    with pytest.raises(DataError, match=said):
        check_folder(place)
    assert leftovers(place) == ""
    assert names(tmp_path) == sorted(links)


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EROFS, errno.EACCES])
def test_a_volume_is_named_as_what_cannot_be_replaced(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, error = Path("/proc"), OSError(number, os.strerror(number))
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume)
    said = "nothing was changed; it is a volume, which cannot be replaced: choose a folder in it, then try again"
    assert str(replacing.refused(volume, error)).endswith(said)
    assert "volume" not in str(replacing.refused(volume / "toys", error))
    full = replacing.refused(volume, OSError(errno.ENOSPC, "No space left on device"))
    assert "volume" not in str(full)
    assert "free space on its disk" in str(full)
