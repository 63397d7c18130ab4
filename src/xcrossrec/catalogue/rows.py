"""A catalogue's database: SQLite, whose write-ahead log makes each write durable as a whole, or void.

It lists the files of large segments (:mod:`xcrossrec.catalogue.files`) and their dead rows, and holds the recently
written items and all purchases. Every row has a checksum, and the one row of facts has the sums of all these: a row
that was damaged, added or lost is noticed when the database is opened.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeAlias
from zlib import crc32

import numpy as np
from jaxtyping import Float32
from pydantic import AfterValidator, Field, ValidationError

from xcrossrec.catalogue.purchases import LAST_NUMBER, can_be_kept
from xcrossrec.data.text import ItemText
from xcrossrec.exceptions import BundleError, StorageError, XCrossRecError, not_read
from xcrossrec.models.files import Settings, what_does_not_fit
from xcrossrec.replacing import refused

DATABASE = "catalogue.sqlite"
FORMAT_VERSION = 5

_SETTINGS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = FULL",  # a commit returns once it is on disk
    "fullfsync = ON",  # and not in the disk's own memory, where macOS leaves it
    "journal_size_limit = 8388608",  # bytes that the log keeps after a large write
)
_SCHEMA = (
    "CREATE TABLE facts (value TEXT NOT NULL, crc INTEGER NOT NULL)",
    "CREATE TABLE segments (number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, items INTEGER NOT NULL, "
    "vectors INTEGER NOT NULL, codes INTEGER, scales INTEGER, error REAL, length REAL)",
    "CREATE TABLE dead (segment INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (segment, row)) WITHOUT ROWID",
    "CREATE TABLE recent (place INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, category TEXT, "
    "in_stock INTEGER NOT NULL, price REAL, metadata TEXT, item_check INTEGER NOT NULL, vector_check INTEGER NOT NULL, "
    "vector BLOB NOT NULL)",
    "CREATE TABLE purchases (number INTEGER PRIMARY KEY, user_id TEXT NOT NULL, item_id TEXT NOT NULL, "
    "timestamp INTEGER, crc INTEGER NOT NULL, UNIQUE (user_id, item_id))",
)
_MARKS = "SELECT place, item_check, vector_check FROM recent"
_THIS = " WHERE item_id = ?"  # a list as JSON would end at a zero character


LAST_VERSION = 10**15
"""Higher than the version of any catalogue."""

_Sum: TypeAlias = Annotated[int, Field(ge=0)]


class _Facts(Settings):
    """What is recorded of a catalogue as a whole; validated, as the file may come from anybody."""

    fingerprint: str
    dim: Annotated[int, Field(ge=0, le=65_536)]
    version: Annotated[int, Field(ge=0, le=LAST_VERSION)]
    text: Annotated[str, AfterValidator(lambda text: ItemText(text).template)]
    recent: _Sum
    segments: _Sum
    purchases: _Sum
    forgotten: tuple[str, ...] = ()
    unwiped: bool = False


class InUseError(BundleError):
    """The catalogue is open in another process."""


class DamagedError(BundleError):
    """A catalogue's file is not what was written: names the damage and the remedy."""

    def __init__(self, path: Path, what: object) -> None:
        self.path, self.what = path, " ".join(str(what).split())[:300]
        super().__init__(
            f"{path} is damaged ({self.what}): list what is lost with  xcrossrec catalog check {path.parent},  mend it "
            f"with  xcrossrec catalog repair MODEL {path.parent},  or restore a copy"
        )


def check_is_file(path: Path) -> None:
    """Refuse what stands in a file's place (DamagedError): a reader might wait for it for ever, as for a pipe."""
    if not path.is_file():
        raise DamagedError(path, "it is no file" if path.exists() else "it is missing")


class SegmentRecord(NamedTuple):
    """What the database knows of a segment's files (:mod:`xcrossrec.catalogue.files`).

    Attributes:
        number: in their names.
        rows: items.
        items: CRC-32 of the file of items; likewise vectors, codes and scales, None where there are no codes.
        error: of the codes (:class:`xcrossrec.catalogue.scan.Codes`); so is the length.
    """

    number: int
    rows: int
    items: int
    vectors: int
    codes: int | None
    scales: int | None
    error: float | None
    length: float | None

    def files(self, folder: Path) -> list[tuple[Path, int]]:
        """Its files, and their checksums."""
        names = ("items-{}.arrow", "vectors-{}.npy", "codes-{}.npy", "scales-{}.npy")
        checks = (self.items, self.vectors, self.codes, self.scales)
        named = zip(names, checks, strict=True)
        return [(folder / name.format(self.number), check) for name, check in named if check is not None]


DeadRow: TypeAlias = tuple[int, int]
"""A segment's number, and one of its rows whose item was deleted or replaced."""


PurchaseValues: TypeAlias = tuple[str, str, int | None]
"""A customer, an item and a time (:attr:`xcrossrec.catalogue.purchases.Purchase.values`)."""


class Rows:
    """An open database, for one process and one thread at a time. Every commit is on disk before it returns.

    Raises:
        InUseError: open in another process.
        BundleError: no database.
    """

    def __init__(self, path: Path) -> None:
        for beside in path.parent.glob(f"{path.name}-*"):
            check_is_file(beside)
        self.path = path
        self._facts: dict[str, Any] = {}
        with _sentences(path):
            self._connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                for setting in _SETTINGS:
                    self._connection.execute(f"PRAGMA {setting}")
                self._connection.execute("BEGIN IMMEDIATE")
                self._connection.execute("ROLLBACK")
                self.opened = path.stat()
            except BaseException:
                self.close()
                raise

    @classmethod
    def create(
        cls,
        path: Path,
        facts: Mapping[str, Any],
        segments: Sequence[SegmentRecord],
        purchases: Iterable[PurchaseValues] = (),
    ) -> Self:
        """Make a database at a free path; the segments' files exist already, and purchases are not repeated."""
        rows = cls(path)
        with _sentences(path):
            steps = ("BEGIN", *_SCHEMA, f"PRAGMA user_version = {FORMAT_VERSION}", "COMMIT")
            rows._connection.executescript(";".join(steps))
            rows.replace_segments(segments, (), facts={**facts, "purchases": 0})
            rows.add_purchases(purchases, facts={})
        return rows

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database, roll back an interrupted write, and check its facts.

        BundleError where it is damaged, of another format, or open in another process.
        """
        check_is_file(path)
        rows = cls(path)
        try:
            ((made_as,),) = rows._all("PRAGMA user_version")
            schema = {sql for (sql,) in rows._all("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")}
            if made_as != FORMAT_VERSION and schema:
                kind, remedy = (
                    ("a newer", "nothing is wrong with it; install that release here, too")
                    if made_as > FORMAT_VERSION
                    else ("an older", "install that release, or build the catalogue again from its source")
                )
                raise BundleError(
                    f"{path} has the format {made_as} of {kind} release, this one reads {FORMAT_VERSION}: {remedy}"
                )
            if schema != set(_SCHEMA):
                raise DamagedError(path, "its tables are not those that were written")
            found = rows._all("SELECT value, crc FROM facts")
            if len(found) != 1 or crc32(str(found[0][0]).encode()) != found[0][1]:
                raise DamagedError(path, "the checksum of its facts differs")
            try:
                rows._facts = _Facts.model_validate_json(str(found[0][0])).model_dump(exclude_unset=True)
            except ValidationError as error:
                raise DamagedError(path, f"of its facts, {what_does_not_fit(error)}") from error
        except BaseException:
            rows.close()
            raise
        return rows

    def read_damaged_texts(self) -> None:
        """From now on, read texts that are not valid Unicode too; their rows' checksums differ."""
        self._connection.text_factory = partial(str, encoding="utf-8", errors="replace")

    def check(self) -> None:
        """Compare the structure, and which rows there are, with what was written (BundleError where it is damaged)."""
        ((state,),) = self._all("PRAGMA integrity_check(1)")
        if state != "ok":
            raise DamagedError(self.path, " ".join(str(state).split()))
        self.check_sum("segments")
        self.check_sum("recent")
        self.check_sum("purchases")

    def check_sum(self, name: Literal["recent", "segments", "purchases"]) -> None:
        """Compare the sum of the rows' checksums with the recorded one (BundleError); dead rows count for segments."""
        if name == "purchases":
            ((found,),) = self._all("SELECT coalesce(sum(crc), 0) FROM purchases")
        else:
            found = self._sums()[name]
        if found != self._facts[name]:
            raise DamagedError(self.path, f"the rows of {name} are not those that were written")

    def close(self) -> None:
        """Write the log back into the file, and close it."""
        self._connection.close()

    @property
    def facts(self) -> Mapping[str, Any]:
        """What is recorded of the catalogue as a whole: ``fingerprint``, ``dim``, ``version``, ``text``, ..."""
        return self._facts

    def segments(self) -> list[SegmentRecord]:
        """The large segments, oldest first."""
        return [SegmentRecord(*row) for row in self._all("SELECT * FROM segments ORDER BY number")]

    def dead(self) -> list[DeadRow]:
        """The segments' rows that were deleted or replaced."""
        return self._all("SELECT segment, row FROM dead")

    def recent(self) -> list[tuple[Any, ...]]:
        """The items that are in no segment yet, by place: place, values, two checksums, and the vector's bytes."""
        found = self._all("SELECT * FROM recent ORDER BY place")
        return [(*row[:4], bool(row[4]), *row[5:]) for row in found]

    def purchases(
        self, *, at_once: int = 65_536, newest_first: bool = False
    ) -> Iterator[tuple[list[PurchaseValues], list[str]]]:
        """Yield all purchases in order of arrival, some at a time, and sentences on damaged ones."""
        step = -1 if newest_first else 1
        last, beyond, order = -LAST_NUMBER * step, *(("<", "DESC") if newest_first else (">", "ASC"))
        query = f"SELECT * FROM purchases WHERE number {beyond} ? ORDER BY number {order} LIMIT {at_once}"
        while found := self._all(query, last):
            last = max(step * last + 1, step * found[-1][0]) * step
            sound = [crc32(repr(row[:-1]).encode()) == row[-1] and can_be_kept(*row[:-1]) for row in found]
            bad = [row for row, fine in zip(found, sound, strict=True) if not fine]
            damaged = [f"purchase {row[0]} ({str(row[1:3])[:120]}): one of its values is damaged" for row in bad]
            yield [row[1:-1] for row, fine in zip(found, sound, strict=True) if fine], damaged

    def count_purchases(self) -> int:
        """Count the purchases by their index, which has pages of its own."""
        return int(self._all("SELECT count(*) FROM purchases INDEXED BY sqlite_autoindex_purchases_1")[0][0])

    def write(
        self,
        rows: Sequence[tuple[Any, ...]],
        vectors: Float32[np.ndarray, "item dim"],
        *,
        deleted: Collection[str],
        dead: Collection[DeadRow],
        facts: Mapping[str, Any],
    ) -> None:
        """Write and delete items in one transaction: all or nothing (StorageError).

        Args:
            rows: place, values and checksums of recent items.
            vectors: of these items.
            deleted: ids.
            dead: rows of segments that hold written or deleted items.
        """
        values = [(*row, vector.tobytes()) for row, vector in zip(rows, vectors, strict=True)]
        ids = [(item_id,) for item_id in {*deleted, *(row[1] for row in rows)}]
        with self._transaction():
            gone = [row for each in ids for row in self._connection.execute(_MARKS + _THIS, each)]
            self._connection.executemany(f"DELETE FROM recent {_THIS}", ids)
            self._connection.executemany("INSERT INTO recent VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values)
            self._connection.executemany("INSERT INTO dead VALUES (?, ?)", dead)
            change = _sum((row[0], *row[-2:]) for row in rows) - _sum(gone)
            sums = {"recent": self._facts["recent"] + change, "segments": self._facts["segments"] + _sum(dead)}
            self._set({**facts, **sums})

    def known_purchase(self, purchase: PurchaseValues) -> bool:
        """Whether the customer's purchase of the item is there already."""
        return bool(self._all("SELECT 1 FROM purchases WHERE user_id = ? AND item_id = ?", *purchase[:2]))

    def add_purchases(self, purchases: Iterable[PurchaseValues], *, facts: Mapping[str, Any]) -> None:
        """Add new purchases, in order, in one transaction (StorageError)."""
        with self._transaction():
            ((first,),) = self._connection.execute("SELECT coalesce(max(number), 0) + 1 FROM purchases")
            rows = [(number, *values) for number, values in enumerate(purchases, start=first)]
            checks = [crc32(repr(row).encode()) for row in rows]
            marked = ((*row, check) for row, check in zip(rows, checks, strict=True))
            self._connection.executemany("INSERT INTO purchases VALUES (?, ?, ?, ?, ?)", marked)
            self._set({**facts, "purchases": self._facts["purchases"] + sum(checks)})

    @property
    def forgotten(self) -> list[str]:
        """Hashes of forgotten customers, in order."""
        return list(self._facts.get("forgotten", ()))

    def forget(self, user_id: str, customer: str, *, facts: Mapping[str, Any]) -> int:
        """Delete a customer's purchases in one transaction, record the hash of the id, and return how many there were.

        Args:
            customer: the hash.
            facts: to record if there were some.
        """
        checks = self._all("SELECT crc FROM purchases WHERE user_id = ?", user_id)
        if checks or customer not in self.forgotten:
            noted = {**(facts if checks else {}), "forgotten": list(dict.fromkeys([*self.forgotten, customer]))}
            noted["unwiped"] = True
            with self._transaction():
                self._connection.execute("DELETE FROM purchases WHERE user_id = ?", (user_id,))
                self._set({**noted, "purchases": self._facts["purchases"] - sum(check for (check,) in checks)})
        return len(checks)

    def wipe(self) -> None:
        """Rewrite the file, so that deleted rows are left neither in the database nor in its log (StorageError)."""
        try:
            self._all("VACUUM")
            self._all("PRAGMA wal_checkpoint(TRUNCATE)")
            with self._transaction():
                self._set({"unwiped": False})
        except StorageError as error:
            raise StorageError(
                f"the rows of {self.path} are deleted, but what is left of them in its free space could not be "
                "overwritten: free as much space on its disk as the file has, then do it again"
            ) from error

    def replace_segments(
        self,
        added: Sequence[SegmentRecord],
        removed: Collection[int],
        *,
        dead: Collection[DeadRow] = (),
        still_recent: Collection[str] = (),
        facts: Mapping[str, Any],
    ) -> None:
        """Replace segments, and recent items, by other segments in one transaction (StorageError).

        Args:
            added: segments whose files exist.
            removed: numbers of the replaced segments.
            dead: dead rows of the added segments.
            still_recent: ids of recent items that the added segments do not hold in their present form.
            facts: to record with it.
        """
        gone = [(number,) for number in removed]
        kept = frozenset(still_recent)
        with self._transaction():
            self._connection.executemany("DELETE FROM segments WHERE number = ?", gone)
            self._connection.executemany("DELETE FROM dead WHERE segment = ?", gone)
            held = [each for each in self._connection.execute("SELECT item_id FROM recent") if each[0] not in kept]
            self._connection.executemany(f"DELETE FROM recent {_THIS}", held)
            self._connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?, ?, ?, ?)", added)
            self._connection.executemany("INSERT INTO dead VALUES (?, ?)", dead)
            self._set({**facts, **self._sums()})

    def write_back(self) -> bool:
        """Empty the log into the database; False if the disk refuses."""
        try:
            self._all("PRAGMA wal_checkpoint(TRUNCATE)")
        except XCrossRecError:
            return False
        return True

    def _all(self, query: str, *values: object) -> list[Any]:
        with _sentences(self.path):
            return self._connection.execute(query, values).fetchall()

    def _sums(self) -> dict[str, int]:
        """The sums of checksums of recent items, and of segments with their dead rows."""
        return {"recent": _sum(self._all(_MARKS)), "segments": _sum(self.segments()) + _sum(self.dead())}

    def _set(self, changed: Mapping[str, Any]) -> None:
        value = json.dumps({**self._facts, **changed})
        self._connection.execute("DELETE FROM facts")
        self._connection.execute("INSERT INTO facts VALUES (?, ?)", (value, crc32(value.encode())))
        self._pending = {**self._facts, **changed}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
            self._facts = self._pending
        except BaseException as error:
            if self._connection.in_transaction:  # else SQLite has rolled it back itself
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise refused(self.path, error) from error
            raise


def _sum(rows: Iterable[Iterable[Any]]) -> int:
    return sum(crc32(repr(tuple(row)).encode()) for row in rows)


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into this package's exceptions."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise InUseError(
                f"{path} is open in another process: stop that one, or change its catalogue over HTTP (PUT /v1/items)"
            ) from error
        full = name.startswith(("SQLITE_FULL", "SQLITE_IOERR_WRITE"))
        if full or (name.startswith("SQLITE_READONLY") and not os.access(path, os.W_OK)):
            raise refused(path, error) from error
        raise not_read(path, error) or DamagedError(path, error) from error
    except UnicodeDecodeError as error:
        raise DamagedError(path, error) from error
