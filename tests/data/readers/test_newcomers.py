"""What a newcomer brings: exports with something around, between or instead of what is meant, and mistyped options."""

from __future__ import annotations

from datetime import date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.data.readers import Columns, Condition, Inputs, Recipe, import_domain
from xcrossrec.data.splitting import by_user
from xcrossrec.exceptions import ConfigError, DataError

ITEMS = "sku,name\na,Hat\nb,Cap\nc,Sock\n"
ORDERS = "user,sku,date\nu,a,2026-01-01\nu,b,2026-01-02\nv,c,2026-01-03\n"
BOUGHT = [("u", "a"), ("u", "b"), ("v", "c")]


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def taken(folder: Path, orders: str, items: str = ITEMS, *where: str, **given: Any) -> Domain:
    conditions = [Condition.parse(each) for each in where]
    files = put(folder / "x.csv", orders), put(folder / "i.csv", items)
    return import_domain("d", None, Inputs(*files, where=conditions, **given), Recipe(split="none"))


def bought(domain: Domain) -> list[tuple[str, str]]:
    return domain.interactions["train"].select("user_id", "item_id").rows()


# ---- around and between the rows


@pytest.mark.parametrize(
    ("orders", "items"),
    [
        (ORDERS.replace("\n", ",\n"), ITEMS.replace("\n", ",\n")),  # a separator behind each line
        (ORDERS.replace("date\n", "date,,\n"), ITEMS),
        ("".join(f"{n},{line}\n" for n, line in zip(["", 0, 1, 2], ORDERS.splitlines(), strict=True)), ITEMS),  # pandas
        (ORDERS + ORDERS, ITEMS + ITEMS),  # files behind one another
        ("\ufeff" + ORDERS + "\ufeff" + ORDERS, ITEMS),
        (ORDERS.replace("u,b", "\ufeffu,b").replace("v,", "\u200bv\0,"), ITEMS.replace("b,", "b\xa0,")),
    ],
)
def test_what_stands_around_rows_is_no_part_of_them(tmp_path: Path, orders: str, items: str) -> None:
    domain = taken(tmp_path, orders, items)
    assert bought(domain) == BOUGHT
    assert domain.items.columns == ["item_id", "title"]
    assert domain.titles == ["Hat", "Cap", "Sock"]


def test_headers_that_come_again_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    taken(tmp_path, ORDERS + ORDERS)
    assert f"{tmp_path / 'x.csv'}: rows that repeat the header are left out" in caplog.messages
    caplog.clear()
    numbered = taken(
        tmp_path, "11,12,2026-01-03\n", "sku,name\n12,Hat\n", columns=Columns(user="1", item="2", time="3")
    )
    assert bought(numbered) == [("11", "12")]
    assert not caplog.messages


@pytest.mark.parametrize(
    ("orders", "said"),
    [
        ("Report;;\n\nuser;sku;date\nu;a;2026-01-01\n", "header stands further down, remove the lines above it"),
        ("u,c,2026-02-01\nv,a,2026-02-01\n", "or join the files if the first alone has one"),
        ("user,date,sku_1,qty_1,sku_2\nu,2026-01-01,a,1,b\n", "it has .*: write a row for each of sku_1, sku_2$"),
    ],
)
def test_a_header_that_is_none_is_told(tmp_path: Path, orders: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        taken(tmp_path, orders)


def test_times_that_are_no_seconds_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for ts, said in ((28_333_333, True), (880_000_000, False)):  # minutes, and seconds of 1997
        taken(tmp_path, f"user,sku,ts\nu,a,{ts}\nu,b,{ts + 6}\n")
        assert any("ts is before 1973, if it counts seconds" in message for message in caplog.messages) == said
        caplog.clear()


# ---- ids


@pytest.mark.parametrize(
    ("orders", "items", "said"),
    [
        ("7", "0007", "'7' is '0007'"),
        ("A-1", "a-1", "'A-1' is 'a-1'"),
        ("A  1", "A 1", "'A  1' is 'A 1'"),
        ('"10,001"', "10001", "'10,001' is '10001'"),
        ("1.0", "1", "'1.0' is '1'"),
    ],
)
def test_ids_that_differ_in_writing_alone_are_told(tmp_path: Path, orders: str, items: str, said: str) -> None:
    with pytest.raises(DataError, match=rf"1 of these are there, but written differently \({said}\): write ids alike"):
        taken(tmp_path, f"user,sku,date\nu,{orders},2026-01-01\nu,x,2026-01-02\n", f"sku,name\n{items},Hat\nx,Cap\n")


def test_a_cell_that_lists_items_is_told(tmp_path: Path) -> None:
    for cell in ("a|b", '"a, b"', "a;b"):
        with pytest.raises(DataError, match=r"lists several items: write a row, or an entry of a list \(JSON\), for"):
            taken(tmp_path, f"user,date,items\nu,2026-01-01,{cell}\nv,2026-01-02,c\n", columns=Columns(item="items"))


def test_one_column_is_not_two_things(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'sku' is named for the user and for the item: name two columns"):
        taken(tmp_path, ORDERS, columns=Columns(user="sku"))


# ---- conditions

LOG = "user,sku,date,qty,ok\nu,a,01.01.2026,1,True\nu,b,02.02.2026,10,False\nv,c,03.03.2026,2,True\n"


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("date>=01.02.2026", "bc"),
        ("date>=2026-02-01", "bc"),
        ("date<2026-02-02 12:00", "ab"),
        ("ok=true", "ac"),
        ("ok!=false", "ac"),
    ],
)
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_conditions_compare_times_and_yes_and_no(tmp_path: Path, line: str, kept: str, form: str) -> None:
    table: Any = put(tmp_path / "x.csv", LOG)
    if form == "parquet":
        days = [datetime(2026, 1, 1), datetime(2026, 2, 2), datetime(2026, 3, 3)]
        table = pl.DataFrame({"user": list("uuv"), "sku": list("abc"), "date": days, "ok": [True, False, True]})
    items = put(tmp_path / "i.csv", ITEMS)
    domain = import_domain("d", None, Inputs(table, items, where=[Condition.parse(line)]), Recipe(split="none"))
    assert "".join(item for _, item in bought(domain)) == kept


def test_a_day_is_that_day(tmp_path: Path) -> None:
    table = pl.DataFrame({"user": ["u"] * 2, "sku": ["a", "b"], "date": [date(2026, 1, 1), date(2026, 1, 2)]})
    inputs = Inputs(table, put(tmp_path / "i.csv", ITEMS), where=[Condition.parse("date=01.01.2026")])
    assert bought(import_domain("d", None, inputs, Recipe(split="none"))) == [("u", "a")]


@pytest.mark.parametrize("line", ["qty>two", "qty<>1", "qty>1 and qty<5", "date>=1/2/2026"])
def test_more_or_less_than_no_number_and_no_time_is_refused(tmp_path: Path, line: str) -> None:
    with pytest.raises(ConfigError, match=r"compares with '.*': give a number, or a time \(2026-01-31\)"):
        taken(tmp_path, LOG, ITEMS, line)


def test_a_condition_on_lists_is_refused_and_one_that_all_fulfil_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    table = pl.DataFrame({"user": ["u"], "sku": ["a"], "date": ["2026-01-01"], "tags": [["x"]]})
    for line in ("tags=x", "tags="):
        inputs = Inputs(table, put(tmp_path / "i.csv", ITEMS), where=[Condition.parse(line)])
        with pytest.raises(DataError, match=r"'tags' has lists or objects .*: name one of single values"):
            import_domain("d", None, inputs)
    taken(tmp_path, LOG, ITEMS, "qty!=3")
    assert "--where leaves nothing out: every row is so (qty!=3)" in caplog.messages


# ---- files and options


def test_a_file_counts_once_whatever_ways_lead_to_it(tmp_path: Path) -> None:
    path = put(tmp_path / "all" / "x.csv", ORDERS)
    (tmp_path / "link.csv").symlink_to(path)
    given = [path, tmp_path / "all" / ".." / "all" / "x.csv", tmp_path / "link.csv", f"{tmp_path}/all/*.csv"]
    inputs = Inputs(given, put(tmp_path / "i.csv", ITEMS))
    assert bought(import_domain("d", None, inputs, Recipe(split="none", repeats="keep"))) == BOUGHT


def test_what_lies_elsewhere_or_the_other_way_round_is_told(tmp_path: Path) -> None:
    orders, items = put(tmp_path / "x.csv", ORDERS), put(tmp_path / "i.csv", ITEMS)
    for address in ("https://shop.org/x.csv", "s3://shop/x.parquet"):
        with pytest.raises(DataError, match="it is an address, which is not fetched; give the path of a file"):
            import_domain("d", None, Inputs(address, items))
    with pytest.raises(DataError, match=r"x\.csv has customers and .*i\.csv none: exchange the two files"):
        import_domain("d", None, Inputs(items, orders))


def test_a_part_of_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    test = put(tmp_path / "v.csv", "user,sku,date\nw,z,2026-02-01\n")
    inputs = Inputs((), put(tmp_path / "i.csv", ITEMS), {"train": put(tmp_path / "t.csv", ORDERS), "test": test})
    with pytest.raises(DataError, match="of test no interaction is left, its items are not in the catalogue: check"):
        import_domain("d", None, inputs, Recipe(unknown_items="drop"))


@pytest.mark.parametrize("share", [float("nan"), -0.1, 1.0])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    rows = pl.DataFrame({"user_id": ["u", "v"], "item_id": ["a", "b"]})
    with pytest.raises(ConfigError, match="must be 0 or more and leave some for train"):
        by_user(rows, validation=share, test=0.1, seed=0)


@pytest.mark.parametrize("user", ["Kunde E-Mail", "Kunden-ID", "Kundennr.", "id_cliente", "Cliente"])
@pytest.mark.parametrize("item", ["Artikelnr", "Art.-Nr.", "id_producto"])
def test_what_shops_call_their_columns_in_other_languages(tmp_path: Path, user: str, item: str) -> None:
    orders = ORDERS.replace("user,sku", f"{user},{item}")
    assert bought(taken(tmp_path, orders, ITEMS.replace("sku", item))) == BOUGHT
