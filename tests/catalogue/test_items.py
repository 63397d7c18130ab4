"""Items from a domain's folder, a CSV or a Parquet table."""

from __future__ import annotations

import gzip
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.catalogue import SqliteCatalogue, StoredItem, read_items
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import DataError

CSV = """item_id,title,category,in_stock,price,colour
0012,Red  train &amp; track,Toys,true,12.50,red
i1,"Drill, 18 V",,No,,
i2,Saw,Tools,,0,grey
"""


def test_a_csv_is_read_with_ids_as_text_and_other_columns_as_metadata(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text(CSV, encoding="utf-8")
    assert read_items(tmp_path / "items.csv") == [
        StoredItem("0012", "Red train & track", "Toys", True, 12.5, {"colour": "red"}),
        StoredItem("i1", "Drill, 18 V", in_stock=False),
        StoredItem("i2", "Saw", "Tools", True, 0.0, {"colour": "grey"}),
    ]


def test_a_parquet_keeps_its_types(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {
            "item_id": [7, 8],
            "title": ["Train", "Drill"],
            "in_stock": [False, None],
            "price": [3, None],
            "since": [date(2026, 1, 2), None],
            "sizes": [[1, 2], None],
        }
    )
    table.write_parquet(tmp_path / "items.parquet")
    assert read_items(str(tmp_path / "items.parquet")) == [
        StoredItem("7", "Train", None, False, 3.0, {"since": "2026-01-02", "sizes": [1, 2]}),
        StoredItem("8", "Drill"),
    ]


def test_a_list_of_categories_is_text_and_bytes_are_refused() -> None:
    table = pl.DataFrame({"item_id": ["a", "b"], "title": [["Red", "Hat"], ["Cap"]], "category": [["A", "B"], None]})
    assert read_items(table) == [StoredItem("a", "Red, Hat", "A, B"), StoredItem("b", "Cap")]
    for column in ("title", "category", "price", "in_stock"):
        with pytest.raises(DataError, match=f"the catalogue has {column} of type Binary: make it text"):
            read_items(table.with_columns(pl.lit(b"\xff").alias(column)))


def test_a_domains_items_are_read_untitled_ones_too(tiny_domain: Domain, tmp_path: Path) -> None:
    items = tiny_domain.items.with_columns(title=pl.when(pl.col("item_id") == "i2").then(pl.lit("")).otherwise("title"))
    write_domain(Domain("tiny", items, tiny_domain.interactions), tmp_path / "tiny")
    found = read_items(tmp_path / "tiny")
    assert [(item.item_id, item.title) for item in found] == list(items.iter_rows())
    assert found[2] == StoredItem("i2", "")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "items.csv",
            "item_id,colour\n1,x\n",
            "items.csv has no column for the title, .*: call its columns item_id and title",
        ),
        ("items.csv", "item_id,title\n", "items.csv holds no items: give the table of products"),
        (
            "items.csv",
            "item_id,title\n,x\n",
            "1 of 1 rows of items have no id, the first in .*items.csv: complete them$",
        ),
        ("items.csv", "", "items.csv is empty: give a table with item_id and title"),
        ("items.parquet", "PAR1 but no more", "items.parquet"),
        ("items.txt", "item_id,title\n", "items.txt holds no items: give the table of products"),
    ],
)
def test_a_bad_table_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        read_items(tmp_path / name)


def test_what_nobody_understands_of_a_table_is_counted_as_an_import_counts_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "1,Saw,on request,ask us,Acme\n2,Axe,-5,yes,Acme\n3,Rake,12,nan,\n3,Garden rake,nan,no,\n"
    (tmp_path / "items.csv").write_text(f"item_id,title,price,in_stock,vendor\n{rows}")
    found = read_items(tmp_path / "items.csv")
    assert [(item.title, item.price, item.in_stock) for item in found] == [
        ("Saw", None, True), ("Axe", None, True), ("Rake", 12.0, False)
    ]  # fmt: skip
    assert found[0].metadata == {"brand": "Acme"}  # as models read it
    for said in (
        "price: 2 of 3 not understood, for example 'on request', '-5'; left empty",
        "in_stock: 1 of 3 not understood, for example 'ask us'; left empty",
        "1 items have several titles, the first is taken: 3: 'Rake', 'Garden rake'",
    ):
        assert f"{tmp_path / 'items.csv'}: {said}" in caplog.messages


def test_prices_of_a_parquet_are_counted_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = {"item_id": [1, 2, 3, 4], "title": ["a", "b", "c", "d"], "price": [9.5, float("inf"), -1.0, float("nan")]}
    for name, items in (("own", table), ("text", {**table, "price": ["9,50 \u20ac", "free?", "tba", None]})):
        pl.DataFrame(items).with_columns(sizes=[1, 2]).write_parquet(tmp_path / f"{name}.parquet")
        found = read_items(tmp_path / f"{name}.parquet")
        assert [item.price for item in found] == [9.5, None, None, None]
        assert found[0].metadata == {"sizes": [1, 2]}
    own, text = caplog.messages
    assert own.endswith("own.parquet: price: 2 of 3 not understood, for example 'inf', '-1.0'; left empty")
    assert text.endswith("text.parquet: price: 2 of 3 not understood, for example 'free?', 'tba'; left empty")


def test_an_item_without_a_title_is_kept_whatever_names_it(tiny_domain: Domain, tmp_path: Path) -> None:
    table = pl.DataFrame({"item_id": ["i0", "i1", "i2", "i3"], "title": ["Train", None, "nan", " "]})
    table.write_csv(tmp_path / "items.csv")
    table.write_parquet(tmp_path / "items.parquet")
    expected = [StoredItem("i0", "Train"), StoredItem("i1", ""), StoredItem("i2", ""), StoredItem("i3", "")]
    catalogue = tmp_path / "catalogue"
    SqliteCatalogue.create(catalogue, expected, np.empty((4, 0), np.float32), fingerprint="a").close()
    domain = Domain("tiny", table.with_columns(pl.col("title").fill_null("")), tiny_domain.interactions)
    for source in (expected, table, domain, tmp_path / "items.csv", str(tmp_path / "items.parquet"), catalogue):
        assert read_items(source) == expected


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (
            [1.5, 2.0],
            "the catalogue have item_id of type Float64, expected text or integers: read ids as text",
        ),
        (["a", None], "the items of the catalogue lack item_id in 1 rows .*: remove or complete these rows"),
    ],
)
def test_bad_ids_of_a_frame_are_refused(ids: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_items(pl.DataFrame({"item_id": ids, "title": ["x", "y"]}))


def test_items_of_which_none_has_a_title_are_taken_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert read_items(pl.DataFrame({"item_id": ["1", "2"], "title": ["NaN", None]})) == [
        StoredItem("1", ""),
        StoredItem("2", ""),
    ]
    assert (
        "no item of the catalogue has a title: each is recommended only where it is named as a candidate" in caplog.text
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("items.csv", b"sku;name;price;stock\n1;S\xe4ge;$1,234.50;in stock\n2;Kn\xf6pfe;9,99;0\n"),
        (
            "items.jsonl",
            b'{"item": "1", "title": "S\xc3\xa4ge", "price": 1234.5}\n'
            b'{"item": "2", "title": "Kn\xc3\xb6pfe", "price": 9.99}',
        ),
        (
            "items.csv",
            b"item_id,title,price,in_stock\n1,S\xc3\xa4ge,$1234.50,in stock\n2,Kn\xc3\xb6pfe,9.99,sold out\n",
        ),
        ("items.csv.gz", gzip.compress(b"product_id\ttitle\tprice\n1\tS\xc3\xa4ge\t1234.5\n2\tKn\xc3\xb6pfe\t9.99\n")),
    ],
    ids=["semicolons", "json", "prices", "gzip"],  # what gzip writes holds the time: workers must agree on names
)
def test_a_catalogue_takes_what_import_takes(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    found = read_items(tmp_path / name)
    assert [(each.item_id, each.title, each.price) for each in found] == [
        ("1", "S\u00e4ge", 1234.5),
        ("2", "Kn\u00f6pfe", 9.99),
    ]
    if b"stock" in content:
        assert [each.in_stock for each in found] == [True, False]


@pytest.mark.parametrize("name", ["absent", "absent.csv"])
def test_an_absent_table_is_refused_by_name(tmp_path: Path, name: Any) -> None:
    with pytest.raises(DataError, match=f"{name} does not exist"):
        read_items(tmp_path / name)
