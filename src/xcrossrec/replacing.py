"""Atomic replacement of files and folders: written next to the target, forced to disk, then moved there in one step.

A file or folder that is being written is called ``.NAME.<8 hex digits>.writing`` and locked as long as its process
runs. One without a lock was left by a crash: the next write of the same target removes it and logs that.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xcrossrec.exceptions import BundleError, DataError, StorageError, XCrossRecError, lacking
from xcrossrec.system import FINDER, exchange, fcntl, force_to_disk

log = logging.getLogger(__name__)

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_WRITING, _RETIRED = "writing", "retired"
_TRIES = 5
_LITTLE = 2**16  # bytes; if not even these can be written, a write has failed for lack of space


@contextmanager
def replacing_file(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary file to write to, which replaces ``path`` at the end of the block.

    After an error in the block, or of the disk (StorageError), the old file remains. The folder is made if it is
    absent; the mode follows the umask.
    """
    place = Path(os.path.realpath(path))
    with _beside(place, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
        yield temporary
        with _sentence(place):
            force_to_disk(temporary)
            temporary.replace(place)
            force_to_disk(place.parent)


def replace_text(path: Path | str, text: str) -> None:
    """Replace a file by a text; see :func:`replacing_file`."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(path: Path | str, *, overwrite: bool = True) -> Iterator[Path]:
    """Yield an empty temporary folder to fill, which replaces ``path`` at the end of the block.

    Without ``overwrite``, ``path`` must still be free then (BundleError). Old and new folder are exchanged atomically
    if the disk can do so. All files get a mode that follows the umask. See also :func:`replacing_file`.
    """
    place = Path(os.path.realpath(path))
    with _beside(place, Path.mkdir) as temporary:
        yield temporary
        with _sentence(place):
            mode = temporary.stat().st_mode & 0o777
            for each in (each for each in temporary.rglob("*") if not each.is_symlink()):
                each.chmod(mode if each.is_dir() else mode & 0o666)
                force_to_disk(each)
            force_to_disk(temporary)
            if not overwrite:
                _take(temporary, place)
            else:
                _change_places(temporary, place)
            force_to_disk(place.parent)


@contextmanager
def changing(path: Path | str) -> Iterator[None]:
    """Hold an exclusive lock for changing a folder until the end of the block; waits for it.

    Needed for reading, changing and replacing: of two processes at once, one would lose what the other wrote. The
    parent folder is locked, since the folder itself is replaced. Without effect on disks without locks.
    """
    place = Path(os.path.realpath(path))
    with _sentence(place):
        handle = os.open(place.parent, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Reserve a folder for this process until the end of the block; it is made if it is absent.

    DataError: another process has it. StorageError: the disk refuses.
    """
    with _sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # others mean that the disk has no locks
            if isinstance(error, BlockingIOError):
                raise DataError(f"another process is at work in {folder}: wait, or choose another --out") from None
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()  # if it is empty
    finally:
        os.close(handle)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yield an empty temporary folder, removed at the end of the block (StorageError: it cannot be written)."""
    place = None
    try:
        with tempfile.TemporaryDirectory(prefix="xcrossrec-") as place:
            yield Path(place)
    except Exception as error:
        if isinstance(error, StorageError) or not (place is None or _of_full_disk(error, Path(place).parent)):
            raise
        where = Path(place).parent if place else "the folder for temporary files"
        said = "free space on its disk, or let TMPDIR name another folder for temporary files"
        raise StorageError(f"{where} could not be written ({error}): {said}") from error


def leftovers(path: Path | str) -> str:
    """Name what interrupted replacements of ``path`` left, as the end of a sentence; empty if nothing is left.

    A name that ends in ``.retired`` is the complete old folder; the next replacement puts it back.
    """
    found = _unlocked(Path(os.path.realpath(path)))
    return "".join(f"; an interrupted replacement left {each}" for each, _ in found)


def check_name(path: Path | str) -> None:
    """Refuse (DataError) a path or another word that is not UTF-8, which Polars does not accept."""
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        raise DataError(f"{str(path)!a} is not UTF-8, or this locale is not: rename it, or set PYTHONUTF8=1")


def check_folder(path: Path) -> None:
    """Refuse (DataError) a path that cannot become a folder: a file, below a file, or a circular link."""
    check_name(os.path.realpath(path))
    if os.path.islink(os.path.realpath(path)):  # noqa: PTH114 - Path.is_symlink may raise
        raise DataError(f"{path} is a link that leads in a circle: remove it, or choose another place")
    above = next(each for each in (path, *path.parents) if each.exists())
    if not above.is_dir():
        raise DataError(f"{above} is a file and no folder: choose another place")


def holds(folder: Path) -> set[str]:
    """The names in a folder, without macOS's own file; empty if there is no folder."""
    return {each.name for each in folder.iterdir()} - {FINDER} if folder.is_dir() else set()


def check_vacant(out: Path, *, overwrite: bool) -> bool:
    """Refuse (BundleError) what may not be replaced; otherwise return whether nothing or an empty folder is there."""
    check_folder(out)
    if not holds(out):
        return True
    if not overwrite:
        raise BundleError(f"{out} exists: choose another place, or allow to overwrite it (--overwrite)")
    return False


def state_of(path: Path | str) -> str:
    """What is at a path, for a sentence: ``does not exist``, ``is a file`` or ``is a folder``."""
    found = "is a folder" if Path(path).is_dir() else "is a file"
    return found if Path(path).exists() else "does not exist"


def refused(path: Path, error: object) -> StorageError:
    """The error for a refused write, with its cause and remedy."""
    lack = lacking(error) if isinstance(error, BaseException) else None
    if getattr(error, "errno", None) in (errno.EBUSY, errno.EROFS, errno.EACCES) and path.is_mount():
        lack = "it is a volume, which cannot be replaced: choose a folder in it"
    remedy = lack or "free space on its disk, or check that it may be written"
    return StorageError(f"{path} could not be written ({error}): nothing was changed; {remedy}, then try again")


def check_in_place(path: Path, opened: os.stat_result) -> None:
    """Refuse (StorageError) to write if an opened file was moved, replaced or deleted."""
    with suppress(OSError):
        if os.path.samestat(path.stat(), opened):
            return
    raise StorageError(
        f"{path} is not the file any more that was opened: its folder was moved, replaced or deleted meanwhile; "
        "nothing was changed; put it back in its place, or stop this process and start it again"
    )


@contextmanager
def needing_room(place: Path) -> Iterator[None]:
    """Turn errors caused by a full disk into a StorageError that ``place`` could not be written."""
    try:
        yield
    except Exception as error:
        if isinstance(error, StorageError) or not (cause := _of_full_disk(error, place.parent)):
            raise
        raise refused(place, cause) from error


@contextmanager
def _beside(place: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    with _sentence(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(place)
        temporary, lock = _made(place, make)
    try:
        with needing_room(place):
            yield temporary
    except StorageError as error:
        raise StorageError(str(error).replace(str(temporary), str(place))) from error
    finally:
        if lock is not None:
            os.close(lock)
        _remove(temporary)


def _of_full_disk(error: BaseException, folder: Path) -> BaseException | None:
    """The error or cause due to a full disk: it says so, or gives no reason while the disk is full."""
    said = getattr(error, "errno", None) in _FULL or any(f"(os error {number})" in str(error) for number in _FULL)
    cause = error.__cause__ or error.__context__
    if not said and cause is not None and (found := _of_full_disk(cause, folder)):
        return found
    return error if said or not (isinstance(error, XCrossRecError) or _has_room(folder)) else None


def _has_room(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_LITTLE))
    except OSError as error:
        return error.errno not in _FULL
    return True


def _made(place: Path, make: Callable[[Path], None]) -> tuple[Path, int | None]:
    """Make something and lock it; try again if another process removed it as a leftover in between."""
    for _ in range(_TRIES):
        make(temporary := _sibling(place, _WRITING))
        if (lock := _lock(temporary)) is not None:
            break
    return temporary, lock


def clear_leftovers(path: Path | str) -> None:
    """Remove what crashes left next to ``path``, and put back a folder that was moved away."""
    place = Path(os.path.realpath(path))
    for leftover, _ in _unlocked(place):
        if leftover.name.endswith(_RETIRED) and not place.exists():
            leftover.replace(place)
            log.warning("%s was put back: an interrupted replacement had left it as %s", place, leftover)
        else:
            _remove(leftover)
            log.warning("%s was removed: an interrupted replacement of %s had left it", leftover, place)


def _unlocked(place: Path) -> Iterator[tuple[Path, int]]:
    """Yield leftovers next to a place that no process is writing, each locked until the next."""
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.(?:{_WRITING}|{_RETIRED})")
    for each in sorted(place.parent.glob(".*")):
        if name.fullmatch(each.name) and (lock := _lock(each)) is not None:
            try:
                yield each, lock
            finally:
                os.close(lock)


def _take(temporary: Path, place: Path) -> None:
    try:
        (place / FINDER).unlink(missing_ok=True)
        temporary.replace(place)  # fails if a folder is not empty
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise BundleError(f"{place} was made by another process meanwhile: it is left alone, choose another") from None


def _change_places(temporary: Path, place: Path) -> None:
    if not place.exists():
        temporary.replace(place)
    elif not exchange(temporary, place):
        retired = _sibling(place, _RETIRED)
        place.replace(retired)
        try:
            temporary.replace(place)
        except BaseException:
            retired.replace(place)
            raise
        retired.replace(temporary)


def _sibling(place: Path, state: str) -> Path:
    return place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.{state}")


def _lock(path: Path) -> int | None:
    """Lock a file or folder until the handle is closed; None if another process holds it, or without locks."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return handle
    return None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _sentence(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused(place, error) from error
