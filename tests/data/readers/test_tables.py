import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import Inputs
from xcrossrec.data.readers.sources import Form
from xcrossrec.data.readers.tables import Plan, read_tables
from xcrossrec.exceptions import ConfigError, DataError

Rows = list[dict[str, Any]]
FORMS: tuple[Form, ...] = ("csv", "parquet", "jsonl")
BOUGHT: Rows = [
    {"customer": 7, "sku": "i1", "when": 1_400_000_000_000, "text": "Saw", "extra": 1},
    {"customer": 8, "sku": "i2", "when": 1_400_000_001_000, "text": "Bit, 6mm", "extra": 2},
]
TITLES: Rows = [{"sku": "i1", "text": "Saw"}, {"sku": "i2", "text": None}, {"sku": "i3", "text": 'A "B"'}]
MAPPING = Columns(user="customer", item="sku", time="when", title="text")


def save(path: Path, form: Form, rows: Rows, packed: bool = False) -> Path:
    if form == "parquet":
        pl.DataFrame(rows).write_parquet(path)
        return path
    lines = "\n".join(map(json.dumps, rows))
    data = (lines if form == "jsonl" else pl.DataFrame(rows).write_csv()).encode()
    path.write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_own_tables_with_mapped_columns(tmp_path: Path, form: Form, packed: bool) -> None:
    bought, titles = save(tmp_path / "b", form, BOUGHT, packed), save(tmp_path / "t", form, TITLES, packed)
    raw = read_tables(Plan(form), Inputs(bought, titles, columns=MAPPING))
    assert raw.interactions.columns == ["user_id", "item_id", "timestamp"]
    assert raw.interactions.rows() == [("7", "i1", 1_400_000_000), ("8", "i2", 1_400_000_001)]
    assert raw.items.rows() == [("i1", "Saw"), ("i2", ""), ("i3", 'A "B"')]


@pytest.mark.parametrize("form", FORMS)
def test_titles_may_stand_in_the_interactions(tmp_path: Path, form: Form) -> None:
    path = save(tmp_path / "b", form, BOUGHT)
    raw = read_tables(Plan(form), Inputs(path, None, columns=MAPPING))
    assert raw.items.rows() == [("i1", "Saw"), ("i2", "Bit, 6mm")]
    assert raw.sources == (path,)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("order", [("timestamp",), ("position",), ("timestamp", "position")])
def test_order_columns_are_found_by_their_own_names(tmp_path: Path, form: Form, order: tuple[str, ...]) -> None:
    rows = [{"user_id": "u", "item_id": "i", "title": "T", **dict.fromkeys(order, 3)}]
    raw = read_tables(Plan(form), Inputs(save(tmp_path / "b", form, rows), None, columns=Columns()))
    assert raw.interactions.columns == ["user_id", "item_id", *order]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(), "no column for time or position, it has 'customer', 'sku', 'when'.*: .* --column time=NAME"),
        (Columns(user="who"), "has no column 'who', it has 'customer', 'sku'"),
        (Columns(position="nth"), "has no column 'nth'"),
        (Columns(time="when", title="x"), "has no column 'x'"),
        (Columns(time="when"), "no column for the title, it has .*: name it with --column title=NAME"),
    ],
)
def test_wrong_mappings_are_refused(tmp_path: Path, form: Form, columns: Columns, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_tables(Plan(form), Inputs(save(tmp_path / "b", form, BOUGHT), None, columns=columns))


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_columns_unit_and_separator_are_found(tmp_path: Path, separator: str) -> None:
    rows = [
        ["Customer ID", "SKU", "Order date", "note"],
        ["c1", "7", "2026-02-11T13:03:00+01:00", "a"],
        ["c2", "8", "2026-02-12", "b"],
    ]
    bought, items = tmp_path / "b.csv", tmp_path / "i.csv"
    bought.write_text("\n".join(separator.join(row) for row in rows))
    items.write_text(f"sku{separator}name{separator}brand\n7{separator}Saw{separator}X\n")
    raw = read_tables(Plan("csv"), Inputs(bought, items, columns=Columns()))
    assert raw.interactions.rows() == [("c1", "7", 1_770_811_380), ("c2", "8", 1_770_854_400)]
    assert raw.items.rows() == [("7", "Saw", "X")]


def test_a_column_that_may_be_two_things_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("user,customer,sku,title,timestamp,date\na,b,7,Saw,1400000000,2024-01-01\n")
    with pytest.raises(DataError, match="may be the user, 'customer', 'user': say which with --column user=customer"):
        read_tables(Plan("csv"), Inputs(path, None, columns=Columns()))
    raw = read_tables(Plan("csv"), Inputs(path, None, columns=Columns.parse(["user=customer"])))
    assert raw.interactions.rows() == [("b", "7", 1_400_000_000)]


@pytest.mark.parametrize("pair", ["user", "user=", "colour=p", "=p"])
def test_pairs_that_name_no_column_are_refused(pair: str) -> None:
    with pytest.raises(ConfigError, match=f"column '{pair}' is not ROLE=NAME: ROLE is one of user, item"):
        Columns.parse([pair])


@pytest.mark.parametrize("form", FORMS)
def test_given_splits(tmp_path: Path, form: Form) -> None:
    rows = [{"user_id": user, "item_id": "i", "position": 0} for user in "ab"]
    train, test = save(tmp_path / "tr", form, rows[:1]), save(tmp_path / "te", form, rows[1:])
    items = save(tmp_path / "i", form, [{"item_id": "i", "title": "T"}])
    raw = read_tables(Plan(form), Inputs(None, items, {"train": train, "test": test}))
    assert raw.interactions.rows() == [("a", "i", 0, "train"), ("b", "i", 0, "test")]
    assert raw.sources == (train, test, items)


def test_given_splits_with_different_columns_are_refused(tmp_path: Path) -> None:
    train = save(tmp_path / "tr", "csv", [{"user_id": "a", "item_id": "i", "position": 0}])
    test = save(tmp_path / "te", "csv", [{"user_id": "a", "item_id": "i", "timestamp": 0}])
    with pytest.raises(DataError, match="have different columns: give all a position"):
        read_tables(Plan("csv"), Inputs(None, train, {"train": train, "test": test}))
