"""Connections to one database: opened when needed, kept, and opened again where one is lost."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from threading import Lock
from time import sleep
from typing import Any, TypeVar
from urllib.parse import quote
from weakref import finalize
from zlib import crc32

import psycopg
from psycopg import Connection, sql
from psycopg.conninfo import conninfo_to_dict

from xcrossrec.exceptions import ConfigError, NoCatalogueError, StorageError, UnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_DEFAULT = "xcrossrec"
_LOCKS, _STEP_S = 0x78637265, 0.1
"""Under which advisory locks are taken; seconds between two tries."""

_KEPT = 8
"""Connections that wait for the next question."""

_SETTINGS = {
    "hnsw.iterative_scan": "strict_order",  # without it a filter leaves fewer than were asked for
    "hnsw.max_scan_tuples": "2147483647",
    "hnsw.scan_mem_multiplier": "64",
    "plan_cache_mode": "force_custom_plan",
    "jit": "off",
}

_LOST = {"connect_timeout": 5, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}
_LOST |= {"tcp_user_timeout": 25_000}  # milliseconds: no keepalive notices that a question does not arrive
"""Seconds, and a count: when a server that does not answer is given up."""

_PASSING = re.compile(r"57014|55P03|40\w+|53(?!100)\w+")
"""What a later try may not meet, as SQLSTATE: limits of time, conflicts, and a lack of anything but disk."""


class Database:
    """A database and the schema in it that is a catalogue's; any thread may use it.

    Args:
        url: ``postgresql://...``, as libpq reads it; after a ``#`` the schema, ``xcrossrec`` where none is named.
            ConfigError where it is no such URL.

    Attributes:
        schema: its name.
        name: the URL without a password.
    """

    def __init__(self, url: str) -> None:
        place, _, schema = url.rpartition("#") if "#" in url else (url, "", _DEFAULT)
        if not _SCHEMA.fullmatch(schema):
            raise ConfigError(
                "the schema of a database, what stands after #, is not made of a-z, 0-9 and _: give another, and write "
                "a # of the password as %23"
            )
        try:
            self._given = conninfo_to_dict(place)
        except (psycopg.Error, UnicodeError):  # whose text may hold the password
            raise ConfigError(
                "the database's URL cannot be read: write postgresql://USER:PASSWORD@HOST:PORT/NAME, and blanks, %, #, "
                "/ and @ of the password as %20, %25, %23, %2F and %40"
            ) from None
        self.url, self.schema = url, schema
        self.name = _shown(self._given, schema)
        self._idle: list[Connection[Any]] = []
        self._lock = Lock()
        finalize(self, _close, self._idle)

    def table(self, name: str) -> sql.Identifier:
        """A table's full name."""
        return sql.Identifier(self.schema, name)

    def read(
        self, query: sql.Composed, given: Mapping[str, Any] | Sequence[Any] = (), setting: sql.Composed | None = None
    ) -> list[tuple[Any, ...]]:
        """Ask one question, with a ``SET LOCAL`` for it alone; on a new connection if the old one was lost.

        UnavailableError where nobody answers, BundleError where the tables are not there.
        """

        def ask(connection: Connection[Any]) -> list[tuple[Any, ...]]:
            with nullcontext() if setting is None else connection.transaction():
                if setting is not None:
                    connection.execute(setting)
                return connection.execute(query, given, binary=True).fetchall()

        return self._work(ask, lambda: True)

    def change(self, work: Callable[[Connection[Any]], T]) -> T:
        """Do work in one transaction: all of it or nothing; on a new connection if the old one was lost before its end.

        Raises:
            UnavailableError: nobody answers; or the connection was lost at the end, so that all of it may be there.
            StorageError: the database refuses.
        """
        ending = False

        def run(connection: Connection[Any]) -> T:
            nonlocal ending
            with connection.transaction():
                result = work(connection)
                ending = True
            return result

        return self._work(run, lambda: not ending)

    def connect(self) -> Connection[Any]:
        """Open a connection of its own, to be closed; UnavailableError: nobody answers, or the user is refused."""
        try:
            settings: dict[str, Any] = {**_LOST, **self._given, "application_name": "xcrossrec"}
            connection = psycopg.connect("", autocommit=True, prepare_threshold=None, **settings)
            pairs = sql.SQL(", ").join(sql.SQL("set_config({}, {}, false)").format(*pair) for pair in _SETTINGS.items())
            connection.execute(sql.SQL("SELECT ") + pairs)
        except (psycopg.Error, UnicodeError) as error:
            raise UnavailableError(
                f"the database {self.name} cannot be reached ({_said(error)}): start it or check the URL, and ask again"
            ) from None
        return connection

    @contextmanager
    def alone(self, *, wait: bool = True) -> Iterator[Connection[Any] | None]:
        """While no other process makes, indexes or embeds this catalogue, with a connection of its own; None where one
        does and this one does not wait. It waits in steps: who waits in a statement holds up an index."""
        key = crc32(self.schema.encode()) - 2**31
        connection = self.connect()
        try:
            asked = "SELECT pg_try_advisory_lock(%s, %s)"
            try:
                while not (took := connection.execute(asked, (_LOCKS, key)).fetchone() == (True,)) and wait:
                    sleep(_STEP_S)
            except psycopg.Error as error:
                raise self._refusal(error, lost=connection.closed, kept_perhaps=False) from error
            yield connection if took else None
        finally:
            with suppress(psycopg.Error):
                connection.close()

    def close(self) -> None:
        """Close what is open; who still asks opens it again."""
        with self._lock:
            _close(self._idle)

    def _work(self, work: Callable[[Connection[Any]], T], may_repeat: Callable[[], bool]) -> T:
        for kept in (True, False):
            with self._lock:
                connection = self._idle.pop() if kept and self._idle else None
            if connection is None:
                kept, connection = False, self.connect()
            try:
                result = work(connection)
            except psycopg.Error as error:
                if error.sqlstate == "25006":  # this server only reads: another one has taken over
                    connection.close()
                if kept and connection.closed and may_repeat():
                    self.close()  # the others are as old
                    continue
                raise self._refusal(error, lost=connection.closed, kept_perhaps=not may_repeat()) from error
            finally:
                self._give_back(connection)
            return result
        raise AssertionError("the second time a connection is new")

    def _give_back(self, connection: Connection[Any]) -> None:
        with self._lock:
            if not connection.closed and len(self._idle) < _KEPT:
                self._idle.append(connection)
                return
        with suppress(psycopg.Error):
            connection.close()

    def _refusal(self, error: psycopg.Error, *, lost: bool, kept_perhaps: bool) -> Exception:
        if kept_perhaps:
            return UnavailableError(
                f"the database {self.name} was lost at the end of a write ({_said(error)}): it may be kept or not; "
                "send it again, which changes nothing where it was"
            )
        if lost or (isinstance(error, psycopg.OperationalError) and error.sqlstate is None):
            return UnavailableError(
                f"the database {self.name} was lost ({_said(error)}): nothing was changed; ask again"
            )
        if _PASSING.fullmatch(error.sqlstate or ""):
            return UnavailableError(
                f"the database {self.name} broke off ({_said(error)}): nothing was changed; ask again, or see what "
                "holds it up"
            )
        if isinstance(error, psycopg.errors.UndefinedTable | psycopg.errors.InvalidSchemaName):
            return NoCatalogueError(
                f"{self.name} holds no catalogue: check the URL, or make one with  xcrossrec catalog build MODEL ITEMS "
                f"--out {self.name}"
            )
        return StorageError(f"{self.name} refused ({_said(error)}): nothing was changed; see its log")


def _close(connections: list[Connection[Any]]) -> None:
    while connections:
        with suppress(psycopg.Error):
            connections.pop().close()


def _said(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip().removesuffix(":")


def _shown(given: Mapping[str, Any], schema: str) -> str:
    """The URL as people may read it."""
    host = str(given.get("host") or "")
    query = f"?host={quote(host, safe='/')}" if host.startswith("/") else ""
    user, port = (f"{given['user']}@" if given.get("user") else ""), (f":{given['port']}" if given.get("port") else "")
    place = f"postgresql://{user}{'' if query else host}{port}/{given.get('dbname') or ''}{query}"
    return place if schema == _DEFAULT else f"{place}#{schema}"
