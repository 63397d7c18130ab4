"""What exports get wrong, and what is said of it: quotes, escapes, values that nobody understands, other doors."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data import write_domain
from xcrossrec.data.readers import Columns, Condition, Inputs, Recipe, import_domain, read_interactions
from xcrossrec.data.readers.tables import read_item_file
from xcrossrec.exceptions import ConfigError, DataError


def put(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


# ---- doors without the options of the import


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user,sku,date\nu,a,2026-01-01\nu,,2026-01-02\n", r"\(--incomplete drop\); but --incomplete is for"),
        ("user,sku,date,event\nu,a,2026-01-01,view\nu,a,2026-01-02,purchase\n", "but --where is for"),
        ("user,sku,date\nu,a,2026-01-01\nu,a,1912-01-02\n", "but --where is for"),
        ("user,sku,date\nu,a,2026-01-01\nu,b,c,2026-01-02\n", "but --separator is for"),
        ("user,sku,date\nu,Сыр и масло,2026-01-01\n", "but --encoding is for"),
    ],
)
def test_who_cannot_take_an_option_is_told_what_to_do_instead(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(text.encode("cp1251"))
    with pytest.raises(DataError, match=f"{said} 'xcrossrec data import': correct the file, or import it .* that fo"):
        read_interactions(Inputs(path))


def test_an_option_that_is_there_is_named_alone(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"--column time=NAME or --column position=NAME$"):
        read_interactions(Inputs(put(tmp_path / "x.csv", "user,sku\nu,a\n")))


def test_a_domain_is_read_for_its_purchases(tmp_path: Path) -> None:
    rows = [f"u{user},a{item},2026-01-0{1 + item}" for user in range(2) for item in range(4)]
    bought = put(tmp_path / "x.csv", "\n".join(["user,sku,date", *rows]))
    items = put(tmp_path / "i.csv", "sku,name\n" + "".join(f"a{item},A\n" for item in range(4)))
    write_domain(import_domain("d", None, Inputs(bought, items), Recipe()), tmp_path / "d")
    alone, both = read_interactions(Inputs(str(tmp_path / "d"))), read_interactions(Inputs([tmp_path / "d", bought]))
    assert alone.equals(read_interactions(Inputs(bought)))
    assert both.height == 2 * alone.height


def test_a_table_of_items_has_no_options_either(tmp_path: Path) -> None:
    path = tmp_path / "i.csv"
    path.write_bytes("sku,name\na,Сыр и масло\n".encode("cp1251"))
    with pytest.raises(
        DataError, match=r"does not look Western: call its columns item_id and title, and write .* UTF-8"
    ):
        read_item_file(path)


# ---- values that nobody understands

ITEMS = """item_id,name,price,stock
a,A,call us,in stock
b,B,"1.234,50 €",auf Lager
c,C,$12,épuisé
d,D,tba,
e,E,NaN,perhaps
e,E,3,
"""


def test_prices_and_stocks_that_are_not_understood_are_counted(tmp_path: Path) -> None:
    bought = put(tmp_path / "x.csv", "user,sku,date\nu,a,2026-01-01\n")
    domain = import_domain("d", None, Inputs(bought, put(tmp_path / "i.csv", ITEMS)), Recipe(split="none"))
    assert domain.manifest["filters"]["not_understood"] == {
        "price": "2 of 5 not understood, for example 'call us', 'tba'; left empty",
        "in_stock": "1 of 4 not understood, for example 'perhaps'; left empty",
    }
    assert domain.items["price"].to_list() == [None, 1234.5, 12, None, 3]
    assert domain.items["in_stock"].to_list() == [True, True, False, None, None]
    assert not [name for name in domain.items.columns if name.startswith("__")]


def test_who_reads_a_table_of_items_is_told_of_such_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = put(tmp_path / "i.csv", ITEMS)
    assert read_item_file(path).height == 5
    assert f"{path}: price: 2 of 5 not understood, for example 'call us', 'tba'; left empty" in caplog.messages


# ---- quotes

HEAD = "user,sku,name,price,date\n"


def bought(*lines: str) -> str:
    return HEAD + "".join(f"{line}\n" for line in lines)


def titles(path: Path) -> list[str]:
    return import_domain("d", None, Inputs(path), Recipe(split="none")).titles


@pytest.mark.parametrize(
    "lines",
    [
        ['u,a,"Red shoe,10,2026-01-01', "u,b,Blue,11,2026-01-02", 'u,c,Hat 5",12,2026-01-03'],  # Polars sees nothing
        ['u,a,"Red shoe,10,2026-01-01', "u,b,Blue,11,2026-01-02", 'u,c,"Hat",12,2026-01-03'],
        ['u,a,"Red shoe,10,2026-01-01', 'u,c,"Hat",12,2026-01-03'],
        ['u,a,"Monitor 24"",10,2026-01-01', "u,b,Blue,11,2026-01-02", 'u,c,"Hat",12,2026-01-03'],
        ['u,a,"Monitor 24" wide', 'and high",10,2026-01-01', "u,b,Blue,11,2026-01-02"],
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_rows_that_run_into_one_another_are_refused(tmp_path: Path, lines: list[str], separator: str) -> None:
    path = put(tmp_path / "x.csv", bought("u,z,Sock,1,2026-01-01", *lines).replace(",", separator))
    with pytest.raises(DataError, match=r"x\.csv, lines? 3( to [45])?: quotes do not come in pairs, so that rows or"):
        titles(path)


def test_texts_of_several_lines_are_read(tmp_path: Path) -> None:
    texts = ["Warm, soft\nand red", 'Soft\n\na ""long"" line, and, commas\n- one\n- two', "One\nTwo, too\nThree"]
    rows = [f'u,{sku},"{text}",10,2026-01-01' for sku, text in zip("abc", texts, strict=True)]
    assert titles(put(tmp_path / "x.csv", bought(*rows))) == [
        " ".join(text.replace('""', '"').split()) for text in texts
    ]


@pytest.mark.parametrize("packed", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ('"Monitor 24\\" wide"', 'Monitor 24" wide'),
        ('"Monitor 24\\""', 'Monitor 24"'),
        ('"The \\"best\\", really"', 'The "best", really'),
        ("Red\\, blue", "Red, blue"),
        ('"C:\\\\files\\\\"', "C:\\files\\"),
        ("\\N", ""),
    ],
)
def test_quotes_behind_backslashes_are_read(
    tmp_path: Path, written: str, read: str, packed: Callable[[bytes], bytes]
) -> None:
    text = bought(f"u,a,{written},10,2026-01-01", 'u,b,"5\\" pipe, \\"new\\"",\\N,2026-01-02', "u,c,\\N,12,2026-01-03")
    path = tmp_path / "x.csv"
    path.write_bytes(packed(text.encode()))
    domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
    assert domain.titles == [read, '5" pipe, "new"', ""]
    assert domain.items["price"].to_list() == [10, None, 12]


def test_backslashes_of_plain_csv_stay(tmp_path: Path) -> None:
    rows = ['u,a,"{""size"": ""5\\""""}",10,2026-01-01', 'u,b,"C:\\dir\\",11,2026-01-02', "u,c,Hat\\,12,2026-01-03"]
    assert titles(put(tmp_path / "x.csv", bought(*rows))) == ['{"size": "5\\""}', "C:\\dir\\", "Hat\\"]


def test_what_databases_write_for_nothing_is_nothing(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", bought("u,a,\\N,\\N,2026-01-01", "u,b,Hat,12,2026-01-02"))
    domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
    assert domain.titles == ["", "Hat"]
    assert domain.manifest["filters"]["empty_titles"] == {"items": 1, "examples": ["a"]}


# ---- settings and times


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(split="random"), "split is 'random': choose one of leave-last-out, by-user, temporal, none"),
        (lambda: Recipe(repeats="all"), "repeats is 'all': choose one of drop, keep, first"),
        (lambda: Recipe(repeats=None), "repeats is None: choose one of drop, keep, first"),
        (lambda: Recipe(unknown_items="keep"), "unknown_items is 'keep': choose one of error, drop"),
        (lambda: Inputs("x.csv", incomplete="keep"), "incomplete is 'keep': choose one of error, drop"),
        (lambda: Columns(time_unit="min"), "time_unit is 'min': choose one of s, ms, us, ns, iso, mdy, dmy, days"),
        (lambda: Condition("qty", "==", "1"), "relation is '==': choose one of =, !=, <, <=, >, >="),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$"):
        make()


def test_dates_that_may_be_two_days_are_told_how_to_be_written(tmp_path: Path) -> None:
    for time in ("01/02/2026", "14:05"):
        path = put(tmp_path / "x.csv", f"user,sku,name,date\nu,a,A,{time}\n")
        with pytest.raises(DataError, match=f"'{time}' is not an ISO 8601 time: write 2026-01-31 14:05:00, all in one"):
            titles(path)


def bought_when(path: Path, columns: Columns | None = None) -> list[tuple[str, str]]:
    """What was bought, oldest first, each with its time."""
    domain = import_domain("d", None, Inputs(path, columns=columns or Columns()), Recipe(split="none"))
    rows = domain.interactions["train"].sort("timestamp", maintain_order=True)
    return [(item, str(datetime.fromtimestamp(time, UTC))[:19]) for item, time in rows["item_id", "timestamp"].rows()]


@pytest.mark.parametrize(
    ("head", "rows"),
    [
        ("date,time", ["2026-01-02,14:05", "2026-01-02,09:30:00"]),
        ("order_date,order_time", ["02.01.2026,14:05:00", "02.01.2026,9:30"]),
        ("Order Date,Order Time", ["1/2/2026,2:05 PM", "1/2/2026,9:30 AM", "1/31/2026,"]),
        ("Bestelldatum,Bestelluhrzeit", ["2026-01-02 00:00:00,14:05:00.5", "2026-01-02 00:00:00,09:30:00"]),
        ("fecha,hora", ["2026/01/02,14:05", "2026/01/02,9:30"]),
        ("sale_date,sale_hour", ["2026-01-02,14", "2026-01-02,9"]),
        ("InvoiceDate,InvoiceTime", ["2026-01-02,1899-12-30 14:05:00", "2026-01-02,0 days 09:30:00"]),
        ("ERDAT,ERZET", ["20260102,140500", "20260102,093000"]),
        ("order_date,order_time", ["46024,14:05", "46024,09:30", "46054.25,"]),
        ("order_date,order_time", ["46024,0.586805556", "46024.0,0.395833333"]),
        ("order_date,order_time", ["46024.586805556,14:05", "46024.395833333,09:30"]),
        ("order_date,order_time", ["2026-01-02T00:00:00Z,14:05", "2026-01-02T00:00:00Z,09:30"]),
    ],
)
def test_a_date_and_a_time_of_day_are_one_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, head: str, rows: list[str]
) -> None:
    caplog.set_level("INFO")
    lines = [f"u,i{number},I{number},{row}" for number, row in enumerate(rows)]
    found = bought_when(put(tmp_path / "x.csv", "\n".join([f"user,sku,name,{head}", *lines]) + "\n"))
    day, clock = head.split(",")
    assert [item for item, _ in found] == ["i1", "i0", "i2"][: len(rows)]
    hours = ("14:00:00", "09:00:00") if "hour" in head else ("14:05:00", "09:30:00")
    assert [time for _, time in found][:2] == [f"2026-01-02 {hour}" for hour in reversed(hours)]
    assert f"{tmp_path / 'x.csv'}: a time is {day!r} and {clock!r} together" in caplog.messages


def test_how_files_are_read_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    for name, day in (("a", "46024"), ("b", "46025")):
        text = f"user,sku,name,date,time\nu,{name},Öl,{day},14:05\n"
        (tmp_path / "all").mkdir(exist_ok=True)
        (tmp_path / "all" / f"{name}.csv").write_bytes(text.encode("cp1252"))
    items = tmp_path / "all" / "a.csv"
    domain = import_domain(
        "d", None, Inputs(tmp_path / "all", [items, tmp_path / "all" / "b.csv"]), Recipe(split="none")
    )
    assert domain.interactions["train"]["item_id"].to_list() == ["a", "b"]
    assert sum("together" in message for message in caplog.messages) == 1
    assert [message for message in caplog.messages if "Windows-1252" in message] == [
        f"{tmp_path / 'all' / name}.csv is read as Windows-1252 (line 2: 'u,{name},Öl,{day},14:'); if it is not, "
        "give --encoding (cp1250, cp1254, ...)"
        for name, day in (("a", 46024), ("b", 46025))
    ]


def test_a_time_of_day_may_be_typed_named_or_left_out(tmp_path: Path) -> None:
    moments = [datetime(2026, 1, 2, 14, 5), datetime(2026, 1, 2, 9, 30)]
    table = pl.DataFrame({"user": "u", "sku": ["a", "b"], "name": ["A", "B"], "date": moments}).with_columns(
        pl.col("date").dt.date(), pl.col("date").dt.time().alias("time")
    )
    table.write_parquet(tmp_path / "x.parquet")
    assert bought_when(tmp_path / "x.parquet") == [("b", "2026-01-02 09:30:00"), ("a", "2026-01-02 14:05:00")]
    midnight = [("a", "2026-01-02 00:00:00"), ("b", "2026-01-02 00:00:00")]
    assert bought_when(tmp_path / "x.parquet", Columns(time="date")) == midnight
    table.rename({"date": "day", "time": "till"}).write_csv(tmp_path / "y.csv")
    assert bought_when(tmp_path / "y.csv", Columns.parse(["time=day", "clock=till"]))[0] == ("b", "2026-01-02 09:30:00")


def test_a_time_of_day_that_is_none_is_refused_with_the_date_alone_as_a_way_out(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", "user,sku,name,date,time\nu,a,A,2026-01-02,noon\n")
    with pytest.raises(DataError, match=r"'2026-01-02 noon' is not an ISO 8601 time.*\(--column time=date\)$"):
        bought_when(path)
    lacking = put(tmp_path / "y.csv", "user,sku,name,date,time\nu,a,A,2026-01-02,9:00\nu,b,B,,9:00\n")
    with pytest.raises(DataError, match="1 of 2 rows of interactions lack a time"):
        bought_when(lacking)


@pytest.mark.parametrize(
    ("name", "values"), [("order_date", ["45231.75", "45231.25"]), ("Kaufdatum", ["45231,75", "45231,25"])]
)
def test_dates_as_spreadsheets_number_them_are_read_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, values: list[str]
) -> None:
    caplog.set_level("INFO")
    head, body = f"user;sku;name;{name}\n", "".join(f"u;i{n};I;{value}\n" for n, value in enumerate(values))
    found = bought_when(put(tmp_path / "x.csv", head + body))
    assert found == [("i1", "2023-11-01 06:00:00"), ("i0", "2023-11-01 18:00:00")]
    assert f"{tmp_path / 'x.csv'}: {name} has dates as a spreadsheet numbers them" in caplog.text
    with pytest.raises(DataError, match="timestamp '2023-11-01' is not a spreadsheet's number of a day"):
        bought_when(put(tmp_path / "y.csv", head + body + "u;i9;I;2023-11-01\n"))


def test_small_numbers_are_seconds_unless_all_may_be_days_of_a_date(tmp_path: Path) -> None:
    for name, values in (
        ("timestamp", ["45231", "45230"]),
        ("date", ["45231", "7"]),
    ):
        rows = "".join(f"u,i{number},I,{value}\n" for number, value in enumerate(values))
        times = {time for _, time in bought_when(put(tmp_path / "x.csv", f"user,sku,name,{name}\n{rows}"))}
        assert "1970-01-01 12:33:51" in times
    path = put(tmp_path / "x.csv", "user,sku,name,date\nu,a,A,45231\nu,b,B,1700000000\n")
    with pytest.raises(DataError, match="row 1: timestamp '45231' is a time before 1990"):
        bought_when(path)


@pytest.mark.parametrize(("none", "time"), [("0", "1700000000"), ("1970-01-01", "2026-01-01"), ("1", "1700000000123")])
def test_a_time_that_was_written_for_none_is_no_purchase_before_all_others(
    tmp_path: Path, none: str, time: str
) -> None:
    path = put(tmp_path / "x.csv", f"user,sku,name,date\nu,a,A,{time}\nu,b,B,{none}\n")
    with pytest.raises(DataError, match=f"row 2: timestamp '{none}' is a time before 1990"):
        bought_when(path)
    bought = Inputs(path, where=[Condition.parse("date>=1990-01-01")])
    assert import_domain("d", None, bought, Recipe(split="none")).interactions["train"]["item_id"].to_list() == ["a"]


# ---- what shops and spreadsheets export


def test_titles_that_say_nothing_are_none_beside_others(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", bought("u,a,\\N,1,2026-01-01", "u,a,Hat,1,2026-01-02", "v,a,NULL,1,2026-01-03"))
    domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
    assert domain.titles == ["Hat"]
    assert "conflicting_titles" not in domain.manifest["filters"]


def test_ids_that_a_spreadsheet_shortened_are_refused(tmp_path: Path) -> None:
    rows = ["u,a,A,1,2026-01-01", "u,1.23457E+12,B,1,2026-01-02", "u,1.23457E+12,C,1,2026-01-03"]
    with pytest.raises(DataError, match=r"x\.csv, row 2: item_id '1\.23457E\+12' was shortened by a spreadsheet: make"):
        titles(put(tmp_path / "x.csv", bought(*rows)))


def test_a_date_of_zeros_is_none(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", bought("u,a,A,1,2026-01-01", "u,b,B,1,0000-00-00 00:00:00"))
    with pytest.raises(DataError, match=r"1 of 2 rows of interactions lack a time \(1\)"):
        titles(path)


@pytest.mark.parametrize("name", ["Lineitem quantity", "qty_ordered", "Menge"])
def test_quantities_below_one_are_no_purchases(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / "x.csv", f"kunde;artikel;bezeichnung;datum;{name}\nu;a;A;03.01.2026;1\nu;b;B;04.01.2026;-1\n")
    with pytest.raises(DataError, match=f'column {name!r} with 0 or less .*: .* --where "{name}>0"'):
        titles(path)


def test_a_shop_s_products_are_found_by_their_variants(tmp_path: Path) -> None:
    orders = put(tmp_path / "o.csv", "user,lineitem_sku,date\nu,R-42,2026-01-01\n")
    head = "Handle,Title,Body (HTML),Categories,product_type,Variant SKU,Regular price,Sale price,is_in_stock"
    items = put(tmp_path / "i.csv", f'{head}\nred,Red,"<p>Soft</p>\n<p>and red</p>",Shoes,simple,R-42,"12,50",,0\n')
    domain = import_domain("d", None, Inputs(orders, items), Recipe(split="none"))
    row = domain.items.row(0, named=True)
    assert (row["title"], row["category"], row["price"], row["in_stock"]) == ("Red", "Shoes", 12.5, False)


def test_an_address_names_the_customer_where_nothing_else_does(tmp_path: Path) -> None:
    rows = "a@x.de,7,R-42,Red,2026-01-01\n"
    by_address = put(tmp_path / "a.csv", f"Email,Order,Lineitem sku,Lineitem name,Created at\n{rows}")
    by_number = put(tmp_path / "n.csv", f"Customer Email,Customer No,Lineitem sku,Lineitem name,Created at\n{rows}")
    both = put(tmp_path / "b.csv", f"Email,Customer_Email,Lineitem sku,Lineitem name,Created at\n{rows}")
    for path, user in ((by_address, "a@x.de"), (by_number, "7")):
        domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
        assert domain.frame("train")["user_id"].to_list() == [user]
        assert domain.items["title"].to_list() == ["Red"]
    with pytest.raises(DataError, match="several columns that may be the user, 'Email', 'Customer_Email'"):
        import_domain("d", None, Inputs(both), Recipe(split="none"))


def test_empty_cells_behind_a_row_are_nothing(tmp_path: Path) -> None:
    rows = ["u,a,Hat,1,2026-01-01,,", "u,b,Cap,1,2026-01-02,", "u,c,Sock,1,2026-01-03"]
    assert titles(put(tmp_path / "x.csv", bought(*rows))) == ["Hat", "Cap", "Sock"]


@pytest.mark.parametrize(
    ("days", "order"),
    [
        (["1/31/2026 2:05 PM", "02/01/2026"], "ab"),
        (["31/01/2026 14:05", "01/02/2026 09:00"], "ab"),
        (["1/2/2026 10:00", "1/13/2026"], "ab"),
        (["1/2/2026", "13/1/2026"], "ba"),
    ],
)
def test_a_number_above_12_tells_day_and_month(tmp_path: Path, days: list[str], order: str) -> None:
    path = put(tmp_path / "x.csv", bought(*(f"u,{sku},Hat,1,{day}" for sku, day in zip("ab", days, strict=True))))
    domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
    assert domain.interactions["train"]["item_id"].to_list() == list(order)


@pytest.mark.parametrize("days", [["1/31/2026", "31/1/2026"], ["13/13/2026", "1/1/2026"], ["1/31/2026", "31.1.2026x"]])
def test_days_and_months_that_contradict_one_another_are_refused(tmp_path: Path, days: list[str]) -> None:
    with pytest.raises(DataError, match="is not an ISO 8601 time: write 2026-01-31"):
        titles(put(tmp_path / "x.csv", bought(*(f"u,a,Hat,1,{day}" for day in days))))


def test_a_blank_before_quotes_is_no_part_of_a_text(tmp_path: Path) -> None:
    rows = ['u, a, "Hat, red", 1, 2026-01-01', 'u, b, "Cap ""L""", 1, 2026-01-02']
    assert titles(put(tmp_path / "x.csv", bought(*rows))) == ["Hat, red", 'Cap "L"']
    head = '"user", "sku", "name", "date"\n"u", "a", "Hat", "2026-01-01"\n'
    assert titles(put(tmp_path / "y.csv", head)) == ["Hat"]
    assert titles(put(tmp_path / "z.csv", bought('u,a,"He said, ""hello"", twice",1,2026-01-01'))) == [
        'He said, "hello", twice'
    ]


@pytest.mark.parametrize("text", ['"Big \\"one\\", ok"', '"Monitor 24\\" wide"'])
def test_backslashes_behind_the_first_rows_are_refused(tmp_path: Path, text: str) -> None:
    many = ["u,a,Hat,1,2026-01-01"] * 60_000
    with pytest.raises(DataError, match=r"x\.csv, line 60002: quotes do not come in pairs, .*: close each, or"):
        titles(put(tmp_path / "x.csv", bought(*many, f"u,b,{text},1,2026-01-02", 'u,c,"Cap",1,2026-01-03')))


def test_stocks_of_a_few_words_are_counted_too(tmp_path: Path) -> None:
    stock = pl.Series(["in stock", "tbd"], dtype=pl.Categorical)
    path = tmp_path / "x.parquet"
    pl.DataFrame({"user": [1, 2], "sku": ["a", "b"], "name": "A", "ts": 1_500_000_000, "stock": stock}).write_parquet(
        path
    )
    domain = import_domain("d", None, Inputs(path), Recipe(split="none"))
    assert domain.manifest["filters"]["not_understood"] == {
        "in_stock": "1 of 2 not understood, for example 'tbd'; left empty"
    }
