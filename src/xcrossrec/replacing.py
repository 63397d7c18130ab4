"""Files and folders that are replaced as a whole: written beside their place, forced to disk, put there in one step.

What is being written stands beside its place as ``.NAME.<8 hex digits>.writing``, locked for as long as its writer
lives. One without a lock was left by a crash: whoever writes the same place next removes it, with a line in the log.
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
_LITTLE = 2**16  # bytes; where not even so many can be written, want of room is why a write failed


@contextmanager
def replacing_file(path: Path | str) -> Iterator[Path]:
    """Lend an empty file beside ``path`` to write to; when the block is left it is on disk in ``path``'s place.

    An error in the block, or of the disk (StorageError), leaves what was there. The folder is made if it is absent, the
    mode is the umask's.
    """
    place = Path(os.path.realpath(path))
    with _beside(place, lambda temporary: temporary.touch(exist_ok=False)) as temporary:
        yield temporary
        with _sentence(place):
            force_to_disk(temporary)
            temporary.replace(place)
            force_to_disk(place.parent)


def replace_text(path: Path | str, text: str) -> None:
    """Write a text as the whole of a file; see :func:`replacing_file`."""
    with replacing_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def replacing_folder(path: Path | str, *, overwrite: bool = True) -> Iterator[Path]:
    """Lend an empty folder beside ``path`` to fill; when the block is left it is on disk in ``path``'s place.

    Without ``overwrite`` that must still be free then (BundleError): somebody may have been quicker. The two change
    places in one step where the disk can, so that there is always the old folder or the new
    one. All files get the umask's mode, whatever wrote them. The rest is as for a file.
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
    """Wait until nobody else is changing a folder, and let nobody until the block is left.

    For what is read, changed and replaced: of two at once, in whatever process, one would lose what the other wrote.
    The folder around it is locked, since the folder itself changes. Where the disk has no locks nobody is held back.
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
    """Have a folder to work in for this process alone until the block is left; it is made if it is absent.

    DataError where another process has it, StorageError where the disk refuses.
    """
    with _sentence(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:  # where the disk has no locks nobody is held back
            if isinstance(error, BlockingIOError):
                raise DataError(f"another process is at work in {folder}: wait, or choose another --out") from None
        try:
            yield
        finally:
            with suppress(OSError):
                folder.rmdir()  # where nothing was written
    finally:
        os.close(handle)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Lend an empty folder among the system's temporary files (else StorageError); it goes when the block is left."""
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
    """Name what interrupted replacements of ``path`` left beside it, as the end of a sentence; empty for nothing.

    A name that ends in ``.retired`` is the whole folder of before, from between two renames: it is put back by the
    next replacement, or by hand.
    """
    found = _unlocked(Path(os.path.realpath(path)))
    return "".join(f"; an interrupted replacement left {each}" for each, _ in found)


def check_name(path: Path | str) -> None:
    """Refuse a path, or another word, that is not UTF-8 (DataError): Polars takes none."""
    if any("\ud800" <= character <= "\udfff" for character in str(path)):
        raise DataError(f"{str(path)!a} is not UTF-8, or this locale is not: rename it, or set PYTHONUTF8=1")


def check_folder(path: Path) -> None:
    """Refuse what cannot become a folder, since it is a file, stands below one or leads in a circle (DataError)."""
    check_name(os.path.realpath(path))
    if os.path.islink(os.path.realpath(path)):  # noqa: PTH114 - which raises nothing, whatever the name
        raise DataError(f"{path} is a link that leads in a circle: remove it, or choose another place")
    above = next(each for each in (path, *path.parents) if each.exists())
    if not above.is_dir():
        raise DataError(f"{above} is a file and no folder: choose another place")


def holds(folder: Path) -> set[str]:
    """The names in a folder, if there is one, without what macOS itself puts there."""
    return {each.name for each in folder.iterdir()} - {FINDER} if folder.is_dir() else set()


def check_vacant(out: Path, *, overwrite: bool) -> bool:
    """Refuse (BundleError) what may not be replaced; otherwise tell whether nothing is there, or an empty folder."""
    check_folder(out)
    if not holds(out):
        return True
    if not overwrite:
        raise BundleError(f"{out} exists: choose another place, or allow to overwrite it (--overwrite)")
    return False


def state_of(path: Path | str) -> str:
    """What stands at a path, for a sentence: ``does not exist``, ``is a file`` or ``is a folder``."""
    found = "is a folder" if Path(path).is_dir() else "is a file"
    return found if Path(path).exists() else "does not exist"


def refused(path: Path, error: object) -> StorageError:
    """Say that the disk refused a write, or what else the system did not give."""
    lack = lacking(error) if isinstance(error, BaseException) else None
    if getattr(error, "errno", None) in (errno.EBUSY, errno.EROFS, errno.EACCES) and path.is_mount():
        lack = "it is a volume, which cannot be replaced: choose a folder in it"
    remedy = lack or "free space on its disk, or check that it may be written"
    return StorageError(f"{path} could not be written ({error}): nothing was changed; {remedy}, then try again")


def check_in_place(path: Path, opened: os.stat_result) -> None:
    """Refuse (StorageError) to write to a file that is not in its place any more, or beside it."""
    with suppress(OSError):
        if os.path.samestat(path.stat(), opened):
            return
    raise StorageError(
        f"{path} is not the file any more that was opened: its folder was moved, replaced or deleted meanwhile; "
        "nothing was changed; put it back in its place, or stop this process and start it again"
    )


@contextmanager
def needing_room(place: Path) -> Iterator[None]:
    """Say of a full disk, whatever the block raises for want of room, that ``place`` could not be written.

    Raises:
        StorageError: it is full.
    """
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
    """The error, or its cause, that comes of want of room: it says so, or a library does not say why it failed."""
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
    """Make something and lock it; again if another process took it for a leftover in between."""
    for _ in range(_TRIES):
        make(temporary := _sibling(place, _WRITING))
        if (lock := _lock(temporary)) is not None:
            break
    return temporary, lock


def clear_leftovers(path: Path | str) -> None:
    """Remove what crashes left beside ``path``, and put a folder back that stood between two names."""
    place = Path(os.path.realpath(path))
    for leftover, _ in _unlocked(place):
        if leftover.name.endswith(_RETIRED) and not place.exists():
            leftover.replace(place)
            log.warning("%s was put back: an interrupted replacement had left it as %s", place, leftover)
        else:
            _remove(leftover)
            log.warning("%s was removed: an interrupted replacement of %s had left it", leftover, place)


def _unlocked(place: Path) -> Iterator[tuple[Path, int]]:
    """Give what stands beside a place and nobody writes, each locked until the next is asked for."""
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
        temporary.replace(place)  # of a folder over one that is not empty it is refused
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
    """Lock a file or folder until the handle is closed; None if another process has it, or there are no locks."""
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
