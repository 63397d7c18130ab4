"""The tables of a catalogue on PostgreSQL, and what is asked of them and written to them.

``state`` has one row, which every write locks and whose version it raises. ``items_N`` holds the items with the vectors
of generation N; an item that is written anew, or deleted, leaves its former row until nobody can ask for that version
any more. ``purchases`` and ``forgotten`` are numbered in one order of arrival.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import psycopg
import torch
from jaxtyping import Float32
from psycopg import Connection, sql
from torch import Tensor

from xcrossrec.catalogue.postgres.connections import Database
from xcrossrec.catalogue.purchases import Forgotten, Purchase, PurchaseLog, as_table
from xcrossrec.catalogue.segment import Segment, fold, table_of_rows
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import BundleError, DataError, NoCatalogueError, StorageError

Rows: TypeAlias = Sequence[tuple[Any, ...]]

FORMAT = 2
KEPT_MIN = 10
"""Minutes for which former rows of items are kept: a question that began before a write may take so long."""

_FORMER_H = 1
"""Hours for which another model's generation is kept."""

_LINKS, _LEAST_MB, _MOST_MB = 750, 64, 8192
"""Bytes of an item in an index beside its vector; megabytes in which one is made, far longer where it needs more."""

LARGEST_INDEXED = 2000
"""Dimensions that pgvector can index."""

_STATE = """
    format int NOT NULL, version bigint NOT NULL, generation int NOT NULL, fingerprint text NOT NULL, dim int NOT NULL,
    text text NOT NULL, items bigint NOT NULL, next_place bigint NOT NULL, arrived bigint NOT NULL,
    purged bigint NOT NULL, indexed boolean NOT NULL, switched bigint NOT NULL, former int,
    former_until timestamptz, model text"""
_ITEMS = """
    place bigint, since bigint, item_id text NOT NULL, title text NOT NULL, category text,
    in_stock boolean NOT NULL, price double precision, metadata text, folded text NOT NULL, until bigint,
    ended timestamptz, vector {vector}, PRIMARY KEY (place, since)"""
_ITEM = "item_id, title, category, in_stock, price, metadata"
_COLUMNS = {"item": sql.SQL(_ITEM), "columns": sql.SQL(f"place, {_ITEM}, vector_send(vector)")}
VISIBLE = "since <= %(version)s AND (until IS NULL OR until > %(version)s)"
"""Condition on rows of items of a version."""

_WRITTEN = ("place", "since", "item_id", "title", "category", "in_stock", "price", "metadata", "folded", "vector")
_TYPES = ("int8", "int8", "text", "text", "text", "bool", "float8", "text", "text", "bytea")


@dataclass(frozen=True)
class State:
    """What the database says of a catalogue.

    Attributes:
        version: of the last write.
        generation: of the vectors that count.
        fingerprint: of the model that made them; likewise text, what it reads of an item.
        items: how many there are.
        next_place: after all places.
        arrived: number of the last purchase, or of the last customer who was forgotten.
        purged: version up to which former rows of items may be gone.
        indexed: whether the items are found by an index, and not read as a whole.
        switched: version with which the generation came.
        former: generation before, while it can still be asked.
        model: folder of the bundle that switched; None where it is not known.
    """

    version: int
    generation: int
    fingerprint: str
    dim: int
    text: str
    items: int
    next_place: int
    arrived: int
    purged: int
    indexed: bool
    switched: int
    former: int | None
    model: str | None


_FIELDS = sql.SQL(", ").join(map(sql.Identifier, State.__dataclass_fields__))


def taken(name: str) -> BundleError:
    """What is said where a catalogue stands, and may not be overwritten."""
    return BundleError(
        f"{name} holds a catalogue: choose another schema (after #), or allow to overwrite it (--overwrite)"
    )


class Tables:
    """A catalogue's tables; methods that take a connection are steps of a transaction."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def items(self, generation: int) -> sql.Identifier:
        """The table of a generation."""
        return self.database.table(f"items_{generation}")

    def query(self, text: str, generation: int | None = None, **parts: sql.Composable) -> sql.Composed:
        """Put names of tables, ``items`` those of a generation, and parts into a text of SQL."""
        named = {name: self.database.table(name) for name in ("state", "purchases", "forgotten")}
        named |= {} if generation is None else {"items": self.items(generation)}
        return sql.SQL(text).format(**named, **_COLUMNS, **parts)

    def visible(self, generation: int, what: str, condition: str) -> sql.Composed:
        """A question for those items of a version that meet a condition."""
        return self.query(f"SELECT {what} FROM {{items}} WHERE {VISIBLE} AND {condition}", generation)

    # ---- state

    def state(self, connection: Connection[Any] | None = None) -> State:
        """What there is now, locked until the end of its transaction where a connection is given.

        BundleError where no catalogue is, or one of another format.
        """
        locked = "" if connection is None else " FOR UPDATE"
        asked = self.query("SELECT format, {fields} FROM {state}" + locked, fields=_FIELDS)
        found = self.database.read(asked) if connection is None else connection.execute(asked).fetchall()
        if not found:
            raise NoCatalogueError(f"{self.database.name} holds no whole catalogue: build it again (--overwrite)")
        if found[0][0] != FORMAT:
            raise BundleError(
                f"{self.database.name} is a catalogue of format {found[0][0]}, this release reads {FORMAT}: use the "
                "release that made it"
            )
        return State(*found[0][1:])

    def set_state(self, connection: Connection[Any], **facts: Any) -> None:
        """Write facts into the one row."""
        pairs = sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(n), sql.Placeholder(n)) for n in facts)
        connection.execute(self.query("UPDATE {state} SET {pairs}", pairs=pairs), facts)

    def create(self, connection: Connection[Any]) -> State:
        """Make what is missing of schema and tables but for items; gives the state, of generation 0 where no catalogue
        is there."""
        self._extend(connection)
        connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(self.database.schema)))
        for statement in (
            "CREATE TABLE IF NOT EXISTS {state} (one boolean PRIMARY KEY DEFAULT true CHECK (one)," + _STATE + ")",
            "CREATE TABLE IF NOT EXISTS {purchases} (arrived bigint PRIMARY KEY, user_id text NOT NULL, "
            "item_id text NOT NULL, timestamp bigint, UNIQUE (user_id, item_id))",
            "CREATE TABLE IF NOT EXISTS {forgotten} (arrived bigint PRIMARY KEY, customer text NOT NULL UNIQUE)",
        ):
            connection.execute(self.query(statement))
        text = "INSERT INTO {state} SELECT true, %s, 0, 0, '', 0, '', 0, 0, 0, 0, false, 0 ON CONFLICT DO NOTHING"
        connection.execute(self.query(text), (FORMAT,))
        return self.state(connection)

    def _extend(self, connection: Connection[Any]) -> None:
        """Make pgvector's extension, unless another catalogue in this database does at the same time."""
        try:
            with suppress(psycopg.errors.UniqueViolation, psycopg.errors.DuplicateObject), connection.transaction():
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        except (psycopg.errors.FeatureNotSupported, psycopg.errors.UndefinedFile, psycopg.errors.InsufficientPrivilege):
            raise StorageError(
                f"{self.database.name} has no extension 'vector': install pgvector 0.8 or later there, and run  CREATE "
                "EXTENSION vector  as its administrator"
            ) from None
        ((found,),) = connection.execute("SELECT extversion FROM pg_extension WHERE extname = 'vector'").fetchall()
        if tuple(map(int, found.split(".")[:2])) < (0, 8):
            raise StorageError(f"{self.database.name} has pgvector {found}: filters need 0.8 or later")

    # ---- items

    def make_items(self, connection: Connection[Any], generation: int, dim: int) -> None:
        """Make an empty generation."""
        kind = sql.SQL("vector({})").format(sql.Literal(dim)) if dim else sql.SQL("vector")
        self.drop_items(connection, generation)
        connection.execute(self.query("CREATE TABLE {items} (" + _ITEMS + ")", generation, vector=kind))
        connection.execute(self.query("ALTER TABLE {items} ALTER vector SET STORAGE MAIN", generation))

    def drop_items(self, connection: Connection[Any], generation: int) -> None:
        """Remove a generation."""
        connection.execute(self.query("DROP TABLE IF EXISTS {items}", generation))

    def remove(self, connection: Connection[Any], generation: int, item_ids: Sequence[str]) -> None:
        """Remove items of a generation that does not count yet."""
        connection.execute(self.query("DELETE FROM {items} WHERE item_id = ANY(%s)", generation), (list(item_ids),))

    def leave_out_deleted(self, connection: Connection[Any], generation: int, former: int) -> None:
        """Remove items of a generation that does not count yet which the one that counts has no more."""
        text = (
            "DELETE FROM {items} n WHERE NOT EXISTS "
            "(SELECT 1 FROM {former} f WHERE f.item_id = n.item_id AND f.until IS NULL)"
        )
        connection.execute(self.query(text, generation, former=self.items(former)))

    def index_items(self, connection: Connection[Any], generation: int) -> None:
        """Make the indexes of all but vectors, once the first items are there."""
        for columns in (
            "UNIQUE INDEX ON {items} (item_id) WHERE until IS NULL",
            "INDEX ON {items} (item_id)",
            "INDEX ON {items} USING hash (title)",
            "INDEX ON {items} (category, price)",
            "INDEX ON {items} (price)",
            "INDEX ON {items} (since)",
            "INDEX ON {items} (until) WHERE until IS NOT NULL",
            "INDEX ON {items} (ended) WHERE until IS NOT NULL",
        ):
            connection.execute(self.query("CREATE " + columns, generation))
        connection.execute(self.query("ANALYZE {items}", generation))

    def index_vectors(
        self, connection: Connection[Any], generation: int, items: int, dim: int, *, beside: bool = False
    ) -> None:
        """Make the index of so many vectors, in memory; ``beside`` others that write, and then in no transaction."""
        memory = min(max(items * (4 * dim + _LINKS) // 2**20, _LEAST_MB), _MOST_MB)
        limits = "SET maintenance_work_mem = {}; SET max_parallel_maintenance_workers = 0"  # they need shared memory
        connection.execute(sql.SQL(limits).format(f"{memory}MB"))
        how = sql.SQL("CONCURRENTLY" if beside else "")
        index = sql.Identifier(f"items_{generation}_hnsw")
        place = self.database.table(f"items_{generation}_hnsw")
        connection.execute(self.query("DROP INDEX {how} IF EXISTS {place}", how=how, place=place))  # if broken off
        text = "CREATE INDEX {how} {index} ON {items} USING hnsw (vector vector_ip_ops)"
        connection.execute(self.query(text, generation, how=how, index=index))
        connection.execute("RESET maintenance_work_mem; RESET max_parallel_maintenance_workers")

    def write(
        self,
        connection: Connection[Any],
        generation: int,
        version: int,
        places: Iterable[int],
        items: Sequence[StoredItem],
        vectors: Float32[np.ndarray, "item dim"] | Float32[Tensor, "item dim"],
    ) -> None:
        """Copy items in."""
        names = sql.SQL(", ").join(map(sql.Identifier, _WRITTEN))
        text = self.query("COPY {items} ({names}) FROM STDIN (FORMAT binary)", generation, names=names)
        with connection.cursor() as cursor, cursor.copy(text) as copy:
            copy.set_types(_TYPES)
            for place, item, vector in zip(places, items, sent(np.asarray(vectors)), strict=True):
                copy.write_row((place, version, *item.values, fold(item.title), vector))

    def end(
        self, connection: Connection[Any], generation: int, version: int, item_ids: Sequence[str]
    ) -> Mapping[str, int]:
        """Let items be gone from a version on; gives the places of those that were there."""
        text = (
            "UPDATE {items} SET until = %s, ended = now() WHERE item_id = ANY(%s) AND until IS NULL "
            "RETURNING item_id, place"
        )
        return dict(connection.execute(self.query(text, generation), (version, list(item_ids))).fetchall())

    def check(self, state: State) -> list[str]:
        """What does not fit, a sentence each."""
        asked = "SELECT count(*), count(*) FILTER (WHERE vector IS NULL) FROM {items} WHERE until IS NULL"
        ((items, without),) = self.database.read(self.query(asked, state.generation))
        found = [f"there are {items:,} items, and {state.items:,} were written"] if items != state.items else []
        return found + ([f"{without:,} items have no vector"] if without and state.dim else [])

    def written(self, generation: int, since: int, version: int, connection: Connection[Any] | None = None) -> Segment:
        """The items that were written after a version, as of a later one."""
        asked = self.visible(generation, "{columns}", "since > %(since)s ORDER BY place")
        given = {"since": since, "version": version}
        if connection is None:
            return segment_of(self.database.read(asked, given))
        return segment_of(connection.execute(asked, given, binary=True).fetchall())

    def ended(self, generation: int, since: int, version: int) -> list[str]:
        """The ids of items that were deleted or written anew after a version, up to a later one."""
        asked = "SELECT item_id FROM {items} WHERE until > %(since)s AND until <= %(version)s AND since <= %(since)s"
        found = self.database.read(self.query(asked, generation), {"since": since, "version": version})
        return [item_id for (item_id,) in found]

    def tidy(self, connection: Connection[Any], state: State) -> None:
        """Remove what nobody can ask for any more."""
        text = (
            "WITH gone AS (DELETE FROM {items} WHERE until IS NOT NULL AND ended < now() - make_interval(mins => %s) "
            "RETURNING until) SELECT max(until) FROM gone"
        )
        ((last,),) = connection.execute(self.query(text, state.generation), (KEPT_MIN,)).fetchall()
        if last is not None:
            self.set_state(connection, purged=max(last, state.purged))
        over = self.query("SELECT 1 FROM {state} WHERE former_until < now()")
        if state.former is not None and connection.execute(over).fetchone():
            self.drop_items(connection, state.former)
            self.set_state(connection, former=None)

    def switch(self, connection: Connection[Any], state: State, **facts: Any) -> None:
        """Let another generation count, from the next version on; the former one is kept for a while."""
        if state.former is not None:
            self.drop_items(connection, state.former)
        version = state.version + 1
        self.set_state(connection, version=version, switched=version, former=state.generation, purged=version, **facts)
        text = "UPDATE {state} SET former_until = now() + make_interval(hours => %s)"
        connection.execute(self.query(text), (_FORMER_H,))

    # ---- purchases

    def purchases(self) -> tuple[int, PurchaseLog]:
        """The number of the last arrival, all purchases, and who was forgotten."""
        found = self._arrived(-1)
        bought = as_table(row[1:] for row in found if row[2] is not None)
        return found[-1][0], PurchaseLog(bought, [row[1] for row in found if row[1] is not None and row[2] is None])

    def arrivals(self, after: int) -> tuple[int, list[Purchase | Forgotten]]:
        """The same for what came after one; and who was forgotten."""
        found = self._arrived(after)
        named = (row[1:] for row in found if row[1] is not None)
        return found[-1][0], [Forgotten(row[0]) if row[1] is None else Purchase(*row) for row in named]

    def _arrived(self, after: int) -> Rows:
        """What arrived after a number, in order: purchases, and hashes of customers without an item; and one row more
        with the last number alone."""
        asked = (
            "SELECT arrived, user_id, item_id, timestamp FROM {purchases} WHERE arrived > %(after)s UNION ALL "
            "SELECT arrived, customer, NULL, NULL FROM {forgotten} WHERE arrived > %(after)s UNION ALL "
            "SELECT arrived, NULL, NULL, NULL FROM {state}"
        )
        found = self.database.read(self.query(asked), {"after": after})
        found.sort(key=lambda row: row[0])
        return found

    def add_purchases(self, connection: Connection[Any], arrived: int, rows: Rows) -> Rows:
        """Add those that are new, numbered from the next number on; gives them."""
        users, items, times = (list(column) for column in zip(*rows, strict=True))
        asked = (
            "INSERT INTO {purchases} SELECT %s + row_number() OVER (ORDER BY n), u, i, t "
            "FROM unnest(%s::text[], %s::text[], %s::bigint[]) WITH ORDINALITY given (u, i, t, n) WHERE NOT EXISTS "
            "(SELECT 1 FROM {purchases} p WHERE p.user_id = u AND p.item_id = i) RETURNING user_id, item_id, timestamp"
        )
        return connection.execute(self.query(asked), (arrived, users, items, times)).fetchall()

    def copy_purchases(self, connection: Connection[Any], arrived: int, table: pl.DataFrame) -> int:
        """Put purchases, each once, in the place of all that are there, numbered after a number; gives the last."""
        connection.execute(self.query("TRUNCATE {purchases}"))
        text = self.query("COPY {purchases} (arrived, user_id, item_id, timestamp) FROM STDIN (FORMAT binary)")
        with connection.cursor() as cursor, cursor.copy(text) as copy:
            copy.set_types(("int8", "text", "text", "int8"))
            for number, row in enumerate(table.iter_rows(), start=arrived + 1):
                copy.write_row((number, *row))
        return arrived + table.height

    def forget(self, connection: Connection[Any], user_id: str) -> int:
        """Delete a customer's purchases; gives how many there were."""
        asked = self.query("DELETE FROM {purchases} WHERE user_id = ANY(%s)")
        return connection.execute(asked, (askable([user_id]),)).rowcount

    def note_forgotten(self, connection: Connection[Any], arrived: int, customers: Sequence[str]) -> int:
        """Note who was forgotten, by hashes, numbered after a number; gives the last number."""
        connection.execute(self.query("DELETE FROM {forgotten} WHERE customer = ANY(%s)"), (list(customers),))
        rows = enumerate(customers, start=arrived + 1)
        with connection.cursor() as cursor:
            cursor.executemany(self.query("INSERT INTO {forgotten} VALUES (%s, %s)"), list(rows))
        return arrived + len(customers)


def sent(vectors: Float32[np.ndarray, "item dim"]) -> Iterable[bytes | None]:
    """Vectors as the database reads them; None where there are none."""
    count, dim = vectors.shape
    if not dim:
        return [None] * count
    head = dim.to_bytes(2, "big") + b"\0\0"
    return (head + row.tobytes() for row in vectors.astype(">f4"))


def received(vectors: Sequence[bytes | None]) -> Float32[Tensor, "item dim"]:
    """Vectors as the last of ``columns`` gives them."""
    content = b"".join(vector[4:] for vector in vectors if vector is not None)
    values = np.frombuffer(content, dtype=">f4").astype(np.float32)
    return torch.from_numpy(values.reshape(len(vectors), -1) if len(vectors) else values.reshape(0, 0))


def segment_of(rows: Rows, dim: int = 0) -> Segment:
    """Rows of ``columns``, places rising, as a segment; it has no checksums, which are the database's own."""
    vectors = received([row[-1] for row in rows]) if rows else torch.empty(0, dim)
    return Segment.build(table_of_rows([(*row[:-1], 0, 0) for row in rows]), vectors)


def check_texts(values: Iterable[Any]) -> None:
    """Refuse (DataError) a text with a zero character, which the database cannot keep."""
    for value in values:
        if isinstance(value, str) and "\0" in value:
            raise DataError(f"{value[:60]!r} has a zero character, which PostgreSQL cannot keep: leave it out")


def askable(texts: Iterable[str]) -> list[str]:
    """Those texts that the database may know, each once."""
    return [text for text in dict.fromkeys(texts) if "\0" not in text and text.encode(errors="ignore").decode() == text]
