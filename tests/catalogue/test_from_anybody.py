"""Catalogues whose checksums fit, and whose content nobody can have written: a sentence says so before they serve."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import polars as pl
import pytest

from catalogue_parts import MODEL, item, unit
from xcrossrec.catalogue import Purchase, SqliteCatalogue, examine, repair
from xcrossrec.catalogue.rows import DATABASE
from xcrossrec.catalogue.segment import check_of_item
from xcrossrec.exceptions import BundleError

ITEMS = [item(number, price=2.5, metadata={"a": number}) for number in range(6)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six items in a segment, one of them dead, and two recent ones; two purchases."""
    folder = tmp_path_factory.mktemp("made") / "catalogue"
    with SqliteCatalogue.create(folder, ITEMS, unit(*range(6)), fingerprint=MODEL) as store:
        store.upsert([item(6), item(7)], unit(6, 7))
        store.delete(["i2"])
        store.add_purchases([Purchase("u", "i1", 5), Purchase("v", "i2")])
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "catalogue"))


def total(rows: Any) -> int:
    return sum(crc32(repr(tuple(row)).encode()) for row in rows)


def signed(folder: Path, *, facts: Any = None, sql: str = "", table: Any = None, vectors: Any = None) -> Path:
    """Change a catalogue, and write the checksums that fit."""
    connection = sqlite3.connect(folder / DATABASE)
    for name, change in (("items-1.arrow", table), ("vectors-1.npy", vectors)):
        if change is not None:
            content = change((folder / name).read_bytes())
            (folder / name).write_bytes(content)
            connection.execute(f"UPDATE segments SET {name.partition('-')[0]} = {crc32(content)}")
    if sql:
        connection.execute(sql)
    for place, *values, stock, price, metadata, vector in connection.execute(
        "SELECT place, item_id, title, category, in_stock, price, metadata, vector FROM recent"
    ).fetchall():
        check = check_of_item((place, *values, bool(stock), price, metadata))
        given = (check, crc32(vector), place)
        connection.execute("UPDATE recent SET item_check = ?, vector_check = ? WHERE place = ?", given)
    for number, *rest, _ in connection.execute("SELECT * FROM purchases").fetchall():
        check = crc32(repr((number, *rest)).encode())
        connection.execute(f"UPDATE purchases SET crc = {check} WHERE number = {number}")
    ((text,),) = connection.execute("SELECT value FROM facts").fetchall()
    known = json.loads(text)
    known["recent"] = total(connection.execute("SELECT place, item_check, vector_check FROM recent"))
    known["segments"] = total(connection.execute("SELECT * FROM segments"))
    known["segments"] += total(connection.execute("SELECT segment, row FROM dead"))
    ((known["purchases"],),) = connection.execute("SELECT sum(crc) FROM purchases").fetchall()
    text = facts if isinstance(facts, str) else json.dumps({**known, **(facts or {})})
    connection.execute("UPDATE facts SET value = ?, crc = ?", (text, crc32(text.encode())))
    connection.commit()
    connection.close()
    return folder


def columns(*changed: pl.Expr) -> Callable[[bytes], bytes]:
    return written(lambda table: table.with_columns(*changed))


def written(change: Callable[[pl.DataFrame], pl.DataFrame]) -> Callable[[bytes], bytes]:
    """Change a table, and let its items' checksums fit."""

    def work(content: bytes) -> bytes:
        table, file = change(pl.read_ipc(content)), BytesIO()
        if "item_check" in table.columns:
            checks = [check_of_item(row[:-2]) for row in table.rows()]
            table = table.with_columns(pl.Series("item_check", checks, dtype=pl.UInt32))
        table.write_ipc(file, compression="uncompressed")
        return file.getvalue()

    return work


def array(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[bytes], bytes]:
    def work(content: bytes) -> bytes:
        file = BytesIO()
        np.save(file, change(np.load(BytesIO(content))))
        return file.getvalue()

    return work


def listed(folder: Path) -> list[str]:
    """What is said of a catalogue that may not be opened."""
    try:
        return examine(folder).sentences()
    except BundleError as error:
        return [str(error)]


def not_finite(vectors: np.ndarray) -> np.ndarray:
    vectors[1, 1] = np.nan
    return vectors


FALLING = {"table": columns(pl.col("place").reverse())}
NEGATIVE = {"table": columns(pl.col("place") - 50)}
SHARED = {"sql": "UPDATE recent SET place = 1 WHERE item_id = 'i6'"}
FLAT = {"vectors": array(np.ravel)}
MENDED_UNSEEN = (FALLING, NEGATIVE, SHARED, FLAT)
"""Of which no item is lost: a repair numbers anew, and reads the vectors' bytes."""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"facts": {"dim": -1}}, "dim is -1"),
        ({"facts": {"dim": 10**9}}, "dim is 1000000000"),
        ({"facts": {"dim": "4"}}, "dim is '4'"),
        ({"facts": {"dim": 5}}, r"shape \(6, 4\), not float32 of \(6, 5\)"),
        ({"facts": {"version": -5}}, "version is -5"),
        ({"facts": {"version": 10**30}}, "version is"),
        ({"facts": {"version": None}}, "version is None"),
        ({"facts": {"text": "{nope"}}, "text is '{nope'"),
        ({"facts": {"forgotten": [1]}}, "forgotten.0 is 1"),
        ({"facts": "{}"}, "fingerprint is missing"),
        ({"facts": "[" * 100_000}, "of its facts"),
        ({"sql": "UPDATE segments SET rows = -3"}, "its columns or rows"),
        ({"sql": "UPDATE segments SET rows = 99"}, "its columns or rows"),
        ({"sql": "INSERT INTO dead VALUES (7, 0)"}, "row 0 of segment 7"),
        ({"sql": "INSERT INTO dead VALUES (1, 99)"}, "row 99 of segment 1"),
        ({"sql": "INSERT INTO dead VALUES (1, -1)"}, "row -1 of segment 1"),
        ({"sql": "UPDATE recent SET item_id = 'i1' WHERE item_id = 'i6'"}, "two items have the item_id 'i1'"),
        (SHARED, "two items have the place 1"),
        ({"sql": "UPDATE recent SET metadata = '[1]' WHERE item_id = 'i6'"}, "'i6'"),
        ({"sql": "UPDATE recent SET price = -1 WHERE item_id = 'i6'"}, "'i6'"),
        ({"sql": "UPDATE purchases SET timestamp = -5"}, "purchase 1"),
        (
            {"sql": "UPDATE purchases SET number = 9223372036854775807 WHERE user_id = 'v'"},
            "purchase 9223372036854775807",
        ),
        ({"sql": "UPDATE purchases SET number = -7 WHERE user_id = 'v'"}, "purchase -7"),
        ({"sql": "UPDATE purchases SET user_id = x'ff' WHERE user_id = 'v'"}, "purchase 2"),
        ({"table": written(lambda table: table.head(3))}, "its columns or rows"),
        ({"table": written(lambda table: table.drop("price"))}, "its columns or rows"),
        ({"table": columns(pl.lit("i1").alias("item_id"))}, "item 'i1'"),
        ({"table": columns(pl.lit(None, pl.String).alias("title"))}, "item 'i0'"),
        (FALLING, "not in order"),
        (NEGATIVE, "not in order"),
        ({"table": columns(pl.lit(-1.0).alias("price"))}, "item 'i0'"),
        ({"table": lambda _: b""}, "items-1.arrow"),
        ({"vectors": array(not_finite)}, "item 'i1'"),
        ({"vectors": array(lambda vectors: vectors[:3])}, r"shape \(3, 4\)"),
        ({"vectors": array(lambda vectors: vectors.astype(np.float64))}, "float64"),
        ({"vectors": array(lambda vectors: vectors.astype(">f4"))}, ">f4"),
        (FLAT, r"shape \(24,\)"),
        ({"vectors": lambda _: b"nothing"}, "vectors-1.npy"),
    ],
)
def test_what_nobody_can_have_written_is_a_sentence(folder: Path, change: dict[str, Any], said: str) -> None:
    signed(folder, **change)
    with pytest.raises(BundleError, match=f"(?=.*{said}).*is damaged.*catalog check"):
        SqliteCatalogue.open(folder, fingerprint=None).close()
    assert listed(folder) or change in MENDED_UNSEEN


def test_metadata_are_looked_at_when_they_are_needed(folder: Path) -> None:
    signed(folder, table=columns(pl.lit("{").alias("metadata")))
    with (
        SqliteCatalogue.open(folder, fingerprint=None) as store,
        pytest.raises(BundleError, match=r"metadata of item 'i0' are no JSON object.*catalog check"),
    ):
        store.snapshot().get(["i0"])
    assert "item 'i0'" in examine(folder).sentences()[0]


@pytest.mark.parametrize(
    ("change", "left"),
    [
        ({"facts": {"dim": 5}}, 7),
        ({"vectors": array(not_finite)}, 7),
        ({"sql": "UPDATE recent SET item_id = 'i1' WHERE item_id = 'i6'"}, 6),
        (FALLING, 7),
        (FLAT, 7),
        ({"sql": "UPDATE purchases SET timestamp = -5"}, 7),
    ],
)
def test_what_can_be_told_is_repaired(folder: Path, change: dict[str, Any], left: int) -> None:
    signed(folder, **change)
    repair(folder, fingerprint=MODEL, encode=lambda items: unit(*range(len(items))))[1].close()
    with SqliteCatalogue.open(folder, fingerprint=MODEL) as store:
        assert len(store) == left
        assert store.snapshot().vectors(["i1"]).isfinite().all()


def test_a_version_that_nobody_reaches_is_refused(folder: Path) -> None:
    text = f"{10**19:020d}"
    (folder / "catalogue.version").write_text(f"{text} {crc32(text.encode()):08x}\n")
    with pytest.raises(BundleError, match=f"catalogue.version is damaged.*no catalogue has the version {10**19}"):
        SqliteCatalogue.open(folder, fingerprint=None)
