"""A catalogue's database: SQLite, whose write-ahead log makes a write durable or void.

It names the files of large segments (:mod:`xcrossrec.catalogue.files`), knows which of their rows are dead, and holds
the items that were written recently.

Legend: ``item`` = one item, ``dim`` = vector size.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
from jaxtyping import Float32

from xcrossrec.exceptions import BundleError
from xcrossrec.replacing import refused

DATABASE = "catalogue.sqlite"

_SETTINGS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = FULL",  # a commit returns once it is on disk
    "journal_size_limit = 8388608",  # bytes that the log keeps after a large write
)
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE segments (
    number INTEGER PRIMARY KEY, rows INTEGER NOT NULL, crc INTEGER NOT NULL, error REAL, length REAL
);
CREATE TABLE dead (segment INTEGER NOT NULL, row INTEGER NOT NULL, PRIMARY KEY (segment, row)) WITHOUT ROWID;
CREATE TABLE recent (
    place INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, category TEXT,
    in_stock INTEGER NOT NULL, price REAL, metadata TEXT, vector BLOB NOT NULL
);
"""
_WRITE = """
INSERT INTO recent VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (place) DO UPDATE SET
    title = excluded.title, category = excluded.category, in_stock = excluded.in_stock, price = excluded.price,
    metadata = excluded.metadata, vector = excluded.vector
"""


class SegmentRecord(NamedTuple):
    """What the database knows of a segment's files (:mod:`xcrossrec.catalogue.files`).

    Attributes:
        number: in their names.
        rows: items.
        crc: CRC-32 of the file of items.
        error: of the codes (:class:`xcrossrec.catalogue.scan.Codes`); None where there are none.
        length: likewise.
    """

    number: int
    rows: int
    crc: int
    error: float | None
    length: float | None


DeadRow: TypeAlias = tuple[int, int]
"""A segment's number, and a row of it that counts no longer: its item was deleted, or written anew."""


class Rows:
    """An open database; one process at a time has it, and one thread at a time may call it.

    Raises:
        BundleError: open in another process, or no database.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = _connect(path)

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, Any], segments: Sequence[SegmentRecord]) -> Self:
        """Make a database at a free path; the segments are written already."""
        rows = cls(path)
        with _sentences(path):
            rows._connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            rows.replace_segments(segments, (), facts=facts)
        return rows

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a database, and take back what an interrupted write left.

        Raises:
            BundleError: damaged, or open in another process.
        """
        rows = cls(path)
        ((state,),) = rows._all("PRAGMA quick_check(1)")
        if state != "ok":
            rows.close()
            raise rows._damaged(" ".join(state.split()))
        return rows

    def close(self) -> None:
        """Write the log back into the file and let go of it."""
        self._connection.close()

    def facts(self) -> dict[str, Any]:
        """What is recorded of the catalogue as a whole."""
        return {name: json.loads(value) for name, value in self._all("SELECT * FROM facts")}

    def segments(self) -> list[SegmentRecord]:
        """The large segments, oldest first."""
        return [SegmentRecord(*row) for row in self._all("SELECT * FROM segments ORDER BY number")]

    def dead(self) -> list[DeadRow]:
        """The segments' rows that count no longer."""
        return self._all("SELECT segment, row FROM dead")

    def recent(self, dim: int) -> tuple[list[tuple[Any, ...]], Float32[np.ndarray, "item dim"]]:
        """Read the items that are in no segment yet, by place: the values of the columns, and the vectors.

        Raises:
            BundleError: a vector of another size, or one that is not finite, or metadata that are no JSON.
        """
        found = self._all("SELECT * FROM recent ORDER BY place")
        for _, item_id, *_, metadata, vector in found:
            if len(vector) != 4 * dim:
                raise self._damaged(f"the vector of item {item_id!r} has {len(vector)} bytes, expected {4 * dim}")
            try:
                json.loads(metadata or "null")
            except ValueError as error:
                raise self._damaged(f"the metadata of item {item_id!r} are no JSON ({error})") from error
        vectors = np.frombuffer(bytearray().join(row[-1] for row in found), dtype=np.float32).reshape(len(found), dim)
        if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
            raise self._damaged(f"the vector of item {found[bad[0]][1]!r} is not finite")
        return [(*row[:4], bool(row[4]), *row[5:-1]) for row in found], vectors

    def write(
        self,
        rows: Sequence[tuple[Any, ...]],
        vectors: Float32[np.ndarray, "item dim"],
        *,
        deleted: Collection[str],
        dead: Collection[DeadRow],
        facts: Mapping[str, Any],
    ) -> None:
        """Write and delete items in one transaction; on disk when this returns, or nothing is.

        Args:
            rows: place and values of recent items; a place that is taken is that item, written anew.
            vectors: theirs.
            deleted: ids.
            dead: where written and deleted items stood.
            facts: to record with it.

        Raises:
            StorageError: the disk refuses.
        """
        values = ((*row, vector.tobytes()) for row, vector in zip(rows, vectors, strict=True))
        with self._transaction():
            self._connection.executemany("DELETE FROM recent WHERE item_id = ?", [(item_id,) for item_id in deleted])
            self._connection.executemany(_WRITE, values)
            self._connection.executemany("INSERT INTO dead VALUES (?, ?)", dead)
            self._set(facts)

    def replace_segments(
        self,
        added: Sequence[SegmentRecord],
        removed: Collection[int],
        *,
        dead: Collection[DeadRow] = (),
        still_recent: Collection[str] = (),
        facts: Mapping[str, Any],
    ) -> None:
        """Put segments in the place of others and of the recent items, in one transaction.

        Args:
            added: written already.
            removed: numbers of the others.
            dead: rows of the added ones that count no longer.
            still_recent: ids of recent items that the added ones do not hold as they are now.
            facts: to record with it.

        Raises:
            StorageError: the disk refuses.
        """
        gone = [(number,) for number in removed]
        kept = json.dumps(list(still_recent))
        with self._transaction():
            self._connection.executemany("DELETE FROM segments WHERE number = ?", gone)
            self._connection.executemany("DELETE FROM dead WHERE segment = ?", gone)
            self._connection.execute(
                "DELETE FROM recent WHERE item_id NOT IN (SELECT value FROM json_each(?))", (kept,)
            )
            self._connection.executemany("INSERT INTO segments VALUES (?, ?, ?, ?, ?)", added)
            self._connection.executemany("INSERT INTO dead VALUES (?, ?)", dead)
            self._set(facts)

    def _all(self, query: str) -> list[Any]:
        with _sentences(self.path):
            return self._connection.execute(query).fetchall()

    def _set(self, facts: Mapping[str, Any]) -> None:
        values = [(name, json.dumps(value)) for name, value in facts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)

    def _damaged(self, what: str) -> BundleError:
        return BundleError(f"{self.path} is damaged ({what}): restore a copy, or build it again")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            if self._connection.in_transaction:  # SQLite may have taken it back itself
                self._connection.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise refused(self.path, error) from error
            raise


def _connect(path: Path) -> sqlite3.Connection:
    """Open with every commit on disk before it returns, and alone."""
    with _sentences(path):
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}")
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            raise
    return connection


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what SQLite says of a file that it cannot read into a sentence."""
    try:
        yield
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith("SQLITE_BUSY"):
            raise BundleError(
                f"{path} is open in another process: stop that one, or change its catalogue over HTTP (PUT /v1/items)"
            ) from error
        if name.startswith(("SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR_WRITE")):
            raise refused(path, error) from error
        raise BundleError(f"{path} cannot be read ({error}): restore a copy, or build it again") from error
