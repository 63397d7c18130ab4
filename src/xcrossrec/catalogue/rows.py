"""A catalogue's rows and vectors on disk: one SQLite file, whose write-ahead log makes a write durable or void.

Legend: ``item`` = one item, ``dim`` = vector size.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Float32, Int64

from xcrossrec.catalogue.stored_item import StoredItem, metadata_json
from xcrossrec.exceptions import BundleError, StorageError

DATABASE = "catalogue.sqlite"

_SETTINGS = (
    "locking_mode = EXCLUSIVE",
    "journal_mode = WAL",
    "synchronous = FULL",  # a commit returns once it is on disk
    "journal_size_limit = 8388608",  # bytes that the log keeps after a large write
)
_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (
    place INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, title TEXT NOT NULL, category TEXT,
    in_stock INTEGER NOT NULL, price REAL, metadata TEXT, vector BLOB NOT NULL
);
"""
_WRITE = """
INSERT INTO items VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (place) DO UPDATE SET
    title = excluded.title, category = excluded.category, in_stock = excluded.in_stock, price = excluded.price,
    metadata = excluded.metadata, vector = excluded.vector
"""
_READ_AT_ONCE = 4096
"""Rows read at a time, so that little is held twice."""


class Content(NamedTuple):
    """All rows, in the catalogue's order."""

    items: list[StoredItem]
    places: Int64[np.ndarray, " item"]
    vectors: Float32[np.ndarray, "item dim"]


class Rows:
    """An open file of rows; one process at a time has it, and one thread at a time may call it.

    Args:
        path: of the database.
        connection: to it; taken over.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection

    @classmethod
    def create(cls, path: Path, facts: Mapping[str, Any]) -> Self:
        """Make a file without rows.

        Args:
            path: must be free.
            facts: what :meth:`facts` gives back.
        """
        rows = cls(path, _connect(path))
        with _sentences(path):
            rows._connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            with rows._transaction():
                rows._set(facts)
        return rows

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a file, and take back what an interrupted write left.

        Raises:
            BundleError: damaged, or open in another process.
        """
        rows = cls(path, _connect(path))
        with _sentences(path):
            (state,) = rows._connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            rows.close()
            raise rows._damaged(" ".join(state.split()))
        return rows

    def close(self) -> None:
        """Write the log back into the file and let go of it."""
        self._connection.close()

    def facts(self) -> dict[str, Any]:
        """What is recorded of the catalogue as a whole."""
        with _sentences(self.path):
            return {name: json.loads(value) for name, value in self._connection.execute("SELECT * FROM facts")}

    def read(self, dim: int) -> Content:
        """Read everything.

        Raises:
            BundleError: a vector of another size, or one that is not finite.
        """
        with _sentences(self.path):
            (count,) = self._connection.execute("SELECT count(*) FROM items").fetchone()
            content = Content([], np.empty(count, dtype=np.int64), np.empty((count, dim), dtype=np.float32))
            cursor = self._connection.execute("SELECT * FROM items ORDER BY place")
            while batch := cursor.fetchmany(_READ_AT_ONCE):
                self._add(content, batch)
        return content

    def write(
        self,
        places: Sequence[int],
        items: Sequence[StoredItem],
        vectors: Float32[np.ndarray, "item dim"],
        *,
        deleted: Collection[str] = (),
        facts: Mapping[str, Any],
    ) -> None:
        """Write and delete rows in one transaction; on disk when this returns, or nothing is.

        Args:
            places: of the items; a place that is taken is that item, written anew.
            items: to write.
            vectors: theirs.
            deleted: ids to delete.
            facts: to record with it.

        Raises:
            StorageError: the disk refuses.
        """
        values = (
            (place, i.item_id, i.title, i.category, i.in_stock, i.price, metadata_json(i), vector.tobytes())
            for place, i, vector in zip(places, items, vectors, strict=True)
        )
        with self._transaction():
            self._connection.executemany("DELETE FROM items WHERE item_id = ?", [(item_id,) for item_id in deleted])
            self._connection.executemany(_WRITE, values)
            self._set(facts)

    def replace_vectors(
        self, places: Sequence[int], vectors: Float32[np.ndarray, "item dim"], *, facts: Mapping[str, Any]
    ) -> None:
        """Give rows other vectors, in one transaction.

        Raises:
            StorageError: the disk refuses.
        """
        values = ((vector.tobytes(), place) for place, vector in zip(places, vectors, strict=True))
        with self._transaction():
            self._connection.executemany("UPDATE items SET vector = ? WHERE place = ?", values)
            self._set(facts)

    def _set(self, facts: Mapping[str, Any]) -> None:
        values = [(name, json.dumps(value)) for name, value in facts.items()]
        self._connection.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", values)

    def _add(self, content: Content, batch: Sequence[tuple[Any, ...]]) -> None:
        start, dim = len(content.items), content.vectors.shape[1]
        if wrong := next((row for row in batch if len(row[-1]) != 4 * dim), None):
            raise self._damaged(f"the vector of item {wrong[1]!r} has {len(wrong[-1])} bytes, expected {4 * dim}")
        vectors = np.frombuffer(b"".join(row[-1] for row in batch), dtype=np.float32).reshape(len(batch), dim)
        if (bad := np.flatnonzero(~np.isfinite(vectors).all(axis=1))).size:
            raise self._damaged(f"the vector of item {batch[bad[0]][1]!r} is not finite")
        content.vectors[start : start + len(batch)] = vectors
        content.places[start : start + len(batch)] = [row[0] for row in batch]
        content.items.extend(self._item(*row[1:-1]) for row in batch)

    def _item(
        self, item_id: str, title: str, category: str | None, in_stock: int, price: float | None, metadata: str | None
    ) -> StoredItem:
        try:
            known = None if metadata is None else json.loads(metadata)
        except ValueError as error:
            raise self._damaged(f"the metadata of item {item_id!r} are no JSON ({error})") from error
        return StoredItem.restore(item_id, title, category, bool(in_stock), price, known)

    def _damaged(self, what: str) -> BundleError:
        return BundleError(f"{self.path} is damaged ({what}): restore a copy, or build it again")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._connection.execute("COMMIT")
        except BaseException as error:
            self._undo()
            if isinstance(error, sqlite3.Error):
                raise _refused(self.path, error) from error
            raise

    def _undo(self) -> None:
        """Take back what a transaction did; SQLite may have done so itself."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


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
            raise _refused(path, error) from error
        raise BundleError(f"{path} cannot be read ({error}): restore a copy, or build it again") from error


def _refused(path: Path, error: sqlite3.Error) -> StorageError:
    return StorageError(
        f"{path} could not be written ({error}): nothing was changed; free space on its disk, or check that it may be "
        "written, then send the write again"
    )
