import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data.readers.frames import Columns
from xcrossrec.data.readers.tables import TableForm, read_given, read_tables
from xcrossrec.exceptions import DataError

Rows = list[dict[str, Any]]
FORMS: tuple[TableForm, ...] = ("csv", "parquet", "jsonl")
BOUGHT: Rows = [
    {"customer": 7, "sku": "i1", "when": 1_400_000_000_000, "text": "Saw", "extra": 1},
    {"customer": 8, "sku": "i2", "when": 1_400_000_001_000, "text": "Bit, 6mm", "extra": 2},
]
TITLES: Rows = [{"sku": "i1", "text": "Saw"}, {"sku": "i2", "text": None}, {"sku": "i3", "text": 'A "B"'}]
MAPPING = Columns(user="customer", item="sku", time="when", title="text", time_unit="ms")


def save(path: Path, form: TableForm, rows: Rows, packed: bool = False) -> Path:
    if form == "parquet":
        pl.DataFrame(rows).write_parquet(path)
        return path
    lines = "\n".join(map(json.dumps, rows))
    data = (lines if form == "jsonl" else pl.DataFrame(rows).write_csv()).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_own_tables_with_mapped_columns(tmp_path: Path, form: TableForm, packed: bool) -> None:
    bought, titles = save(tmp_path / "b", form, BOUGHT, packed), save(tmp_path / "t", form, TITLES, packed)
    raw = read_tables(form, bought, titles, MAPPING)
    assert raw.interactions.columns == ["user_id", "item_id", "timestamp"]
    assert raw.interactions.rows() == [("7", "i1", 1_400_000_000), ("8", "i2", 1_400_000_001)]
    assert raw.items.rows() == [("i1", "Saw"), ("i2", ""), ("i3", 'A "B"')]


@pytest.mark.parametrize("form", FORMS)
def test_titles_may_stand_in_the_interactions(tmp_path: Path, form: TableForm) -> None:
    path = save(tmp_path / "b", form, BOUGHT)
    raw = read_tables(form, path, None, MAPPING)
    assert raw.items.rows() == [("i1", "Saw"), ("i2", "Bit, 6mm")]
    assert raw.sources == (path,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [("timestamp",), ("position",), ("timestamp", "position")])
def test_order_columns_are_found_by_their_own_names(tmp_path: Path, form: TableForm, order: tuple[str, ...]) -> None:
    rows = [{"user_id": "u", "item_id": "i", "title": "T", **dict.fromkeys(order, 3)}]
    raw = read_tables(form, save(tmp_path / "b", form, rows), None, Columns())
    assert raw.interactions.columns == ["user_id", "item_id", *order]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "has no column 'user_id', it has 'customer', 'sku'"),
        (Columns(user="customer", item="sku"), "neither 'timestamp' nor 'position'.*--time-column"),
        (Columns(user="customer", item="sku", position="nth"), "has no column 'nth'"),
        (Columns(user="customer", item="sku", time="when"), "not in s .*: pass --time-unit ms"),
        (Columns(user="customer", item="sku", time="when", time_unit="ms", title="x"), "has no column 'x'"),
    ],
)
def test_wrong_mappings_are_refused(tmp_path: Path, form: TableForm, columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tables(form, save(tmp_path / "b", form, BOUGHT), None, columns)


@pytest.mark.parametrize("form", FORMS)
def test_given_splits(tmp_path: Path, form: TableForm) -> None:
    rows = [{"user_id": user, "item_id": "i", "position": 0} for user in "ab"]
    train, test = save(tmp_path / "tr", form, rows[:1]), save(tmp_path / "te", form, rows[1:])
    items = save(tmp_path / "i", form, [{"item_id": "i", "title": "T"}])
    raw = read_given(form, {"train": train, "test": test}, items, Columns())
    assert raw.interactions.rows() == [("a", "i", 0, "train"), ("b", "i", 0, "test")]
    assert raw.sources == (train, test, items)


def test_given_splits_with_different_columns_are_refused(tmp_path: Path) -> None:
    train = save(tmp_path / "tr", "csv", [{"user_id": "a", "item_id": "i", "position": 0}])
    test = save(tmp_path / "te", "csv", [{"user_id": "a", "item_id": "i", "timestamp": 0}])
    with pytest.raises(DataError, match="have different columns: give all of them a position"):
        read_given("csv", {"train": train, "test": test}, train, Columns())
