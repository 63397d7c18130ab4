"""Files as shops have them: packed, encoded, separated, nested, several at once, with rows that lack something."""

import bz2
import gzip
import json
import lzma
import shutil
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.data.readers import Columns, Condition, Inputs, Recipe, copies, import_domain
from xcrossrec.data.readers.sources import Reading, open_sources
from xcrossrec.exceptions import ConfigError, DataError

TITLES = ["Käse", "Öl", "Größe"]
TABLE = "user_id,item_id,title,timestamp\n" + "".join(
    f"u{user},00{item},{title},{1_500_000_000 + item}\n" for user in range(2) for item, title in enumerate(TITLES)
)
EXPECTED = [(f"u{user}", f"00{item}", item) for user in range(2) for item in range(3)]
ORDERS = [
    {"customer": {"id": i}, "lines": [{"sku": "a", "name": "A"}, {"sku": "b", "name": "B"}], "at": f"2026-01-0{i + 1}"}
    for i in range(2)
]
NESTED = Columns(user="customer.id", item="lines.sku", title="lines.name", time="at")


def put(path: Path, data: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def taken(*files: Any, recipe: Recipe | None = None, **given: Any) -> Domain:
    return import_domain("d", None, Inputs(*files, **given), recipe or Recipe(split="none"))


def rows(domain: Domain) -> list[tuple[Any, ...]]:
    return domain.interactions["train"].select("user_id", "item_id", "position").rows()


def zst(text: bytes) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(text)
    return buffer.getvalue().to_pybytes()


PACKED = {"gzip": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zst, "plain": bytes}
ENCODED = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252", "latin-1"]


@pytest.mark.parametrize("packing", PACKED)
@pytest.mark.parametrize("text", [TABLE, TABLE.replace(",", "\t").replace("\n", "\r\n\r\n"), TABLE.replace(",", ";")])
def test_packings_and_separators_are_found(tmp_path: Path, packing: str, text: str) -> None:
    domain = taken(put(tmp_path / "x", PACKED[packing](text.encode())))
    assert rows(domain) == EXPECTED
    assert domain.titles == TITLES


@pytest.mark.parametrize("encoding", ENCODED)
def test_encodings_are_found(tmp_path: Path, encoding: str) -> None:
    assert taken(put(tmp_path / "x.csv", TABLE.encode(encoding))).titles == TITLES
    lines = "\n".join(json.dumps({"user": "u", "sku": "s", "date": "2026-01-01", "name": TITLES[0]}) for _ in range(2))
    raw = lines.encode().decode("unicode_escape")
    assert taken(put(tmp_path / "x.jsonl", raw.encode(encoding))).titles == TITLES[:1]


def test_a_late_letter_tells_the_encoding(tmp_path: Path) -> None:
    head = TABLE.splitlines(keepends=True)[0] + "u,a,Saw,1500000000\n" * 60_000
    late = put(tmp_path / "x.csv", head.encode() + "u,b,Öl,1500000001\n".encode("latin-1"))
    assert taken(late).titles == ["Saw", "Öl"]
    broken = put(tmp_path / "y.csv", TABLE.encode() + b"u,b,\xd6l,1500000001\n")
    with pytest.raises(DataError, match=r"y\.csv, line 8: byte 0xd6 is not UTF-8, although the rest is: correct"):
        taken(broken)


def test_other_alphabets_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", TABLE.replace("Käse", "Сыр и масло на каждый день").encode("cp1251", "replace"))
    with pytest.raises(DataError, match=r"line 2: byte 0xd1 .* look Western: name its .* --encoding cp1251 \('Сыр"):
        taken(path)
    assert taken(path, encoding="cp1251").titles[0] == "Сыр и масло на каждый день"
    with pytest.raises(DataError, match=r"is not utf-8 .* it seems to be cp1252 \(--encoding\)"):
        taken(put(tmp_path / "y.csv", TABLE.encode("cp1252")), encoding="utf-8")
    with pytest.raises(ConfigError, match="--encoding 'klingon' is unknown"):
        taken(path, encoding="klingon")


def test_a_separator_may_be_named_and_a_wrong_one_is_told(tmp_path: Path) -> None:
    path = put(tmp_path / "x.csv", TABLE.replace(",", "~"))
    assert rows(taken(path, separator="~")) == EXPECTED
    semicolons = put(tmp_path / "y.csv", TABLE.replace(",", ";"))
    with pytest.raises(DataError, match=r"its separator seems to be ';' \(--separator ';'\)"):
        taken(semicolons, separator=",")
    with pytest.raises(ConfigError, match="--separator '::' is not one character"):
        taken(path, separator="::")


def test_columns_of_a_file_without_a_header_have_numbers(tmp_path: Path) -> None:
    bought = put(tmp_path / "x.csv", "u1,9,a,2026-01-02\nu1,9,b,2026-01-01\n")
    items = put(tmp_path / "i.csv", "sku,name\na,A\nb,B\n")
    with pytest.raises(DataError, match="if its first row is no header, number its columns: --column user=1"):
        taken(bought, items)
    assert rows(taken(bought, items, columns=Columns(user="1", item="3", time="4"))) == [("u1", "b", 0), ("u1", "a", 1)]


def test_several_files_folders_patterns_and_archives_are_one(tmp_path: Path) -> None:
    head, *lines = TABLE.splitlines(keepends=True)
    parts = [put(tmp_path / "all" / f"{n}.csv", head + "".join(lines[n::3])) for n in range(3)]
    put(tmp_path / "all" / "_SUCCESS", "")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as packed:
        for part in parts:
            packed.write(part, f"inner/{part.name}")
    for given in (parts, tmp_path / "all", f"{tmp_path}/all/*.csv", f"{tmp_path}/**/?.csv", tmp_path / "all.zip"):
        domain = taken(given)
        assert sorted(rows(domain)) == EXPECTED
        assert len(domain.manifest["sources"]) == (1 if str(given).endswith("zip") else 3)
    with pytest.raises(DataError, match=r"no-\*\.csv: it matches nothing"):
        taken(f"{tmp_path}/no-*.csv")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="it is a folder without files"):
        taken(tmp_path / "empty")


def test_a_zip_file_that_fills_the_disk_is_refused_before_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.csv", bytes(2_000_000))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_999_999))
    with pytest.raises(DataError, match=r"bomb\.zip holds 2,000,000 bytes, more than .* has room for: unpack"):
        copies.unzip(tmp_path / "bomb.zip", tmp_path)
    assert not list(tmp_path.rglob("*.csv"))


def test_many_columns_cost_no_more_than_each_of_them(tmp_path: Path) -> None:
    """A dump keyed by customers has as many; twice as many must not cost four times as much."""
    names = [f"c{number}" for number in range(3_000)]
    (tmp_path / "keyed.json").write_text(json.dumps({name: {"item": "i", "t": 1} for name in names}))
    (tmp_path / "wide.csv").write_text(f"user_id,item_id,{','.join(names)}\nu,i{',' * len(names)}\n")
    began = time.process_time()
    for file, count in (("keyed.json", 6_000), ("wide.csv", 3_002)):
        (source,) = open_sources(tmp_path / file, None, Reading(tmp_path))
        assert len(source.types) == count
        some = list(source.types)
        assert source.read(some, lambda batches: next(batches).width, [pl.col(name) for name in some]) == count
    assert time.process_time() - began < 20


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_file_of_which_files_would_be_lost_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as packed:  # as on a Mac, were the second one called A.csv
        packed.writestr("a.csv", TABLE)
        packed.writestr("a.csv", TABLE)
    with pytest.raises(DataError, match=r"two\.zip has 1 files whose names others have, too: unpack it"):
        copies.unzip(tmp_path / "two.zip", tmp_path)


def test_forms_may_be_mixed_and_folders_be_columns(tmp_path: Path) -> None:
    for event in ("purchase", "view"):
        frame = pl.DataFrame({"user": [1, 1], "sku": ["a", f"only {event}"], "ts": [1_500_000_000, 1_500_000_001]})
        (tmp_path / "lake" / f"event_type={event}").mkdir(parents=True)
        frame.write_parquet(tmp_path / "lake" / f"event_type={event}" / "0.parquet")
    more = put(tmp_path / "more.jsonl", json.dumps({"user": 2, "sku": "a", "ts": 5, "event_type": "purchase"}))
    items = put(tmp_path / "i.csv", "sku;name\na;A\nonly purchase;B\n")
    bought = taken([tmp_path / "lake", more], items, where=[Condition.parse("event_type=purchase")])
    assert rows(bought) == [("1", "a", 0), ("1", "only purchase", 1), ("2", "a", 0)]
    assert bought.manifest["filters"]["rows"] == {"read": 5, "where": 2, "kept": 3}


@pytest.mark.parametrize("form", ["lines", "array", "mark", "nan", "parquet"])
def test_nested_columns_have_dotted_names(tmp_path: Path, form: str) -> None:
    text = "\n".join(map(json.dumps, ORDERS))
    written = {
        "lines": text,
        "array": json.dumps(ORDERS, indent=1),
        "mark": "\ufeff" + text,
        "nan": text + '\n{"at": NaN}',
    }
    path = tmp_path / "x"
    if form == "parquet":
        pl.DataFrame(ORDERS).write_parquet(path)
    else:
        put(path, written[form])
    domain = taken(path, columns=NESTED, incomplete="drop")
    assert rows(domain) == [("0", "a", 0), ("0", "b", 1), ("1", "a", 0), ("1", "b", 1)]
    assert domain.titles == ["A", "B"]
    with pytest.raises(DataError, match=r"no column 'customer', it has 'customer\.id', 'lines\.sku'"):
        taken(path, columns=Columns(user="customer"), incomplete="drop")


def test_a_nested_id_has_another_name_among_the_items(tmp_path: Path) -> None:
    bought = put(tmp_path / "x", "\n".join(map(json.dumps, ORDERS)))
    items = put(tmp_path / "i.csv", "sku,name\na,A\nb,B\n")
    assert len(rows(taken(bought, items, columns=Columns(item="lines.sku", time="at")))) == 4


def test_odd_quotes_pass_and_rows_of_another_width_do_not(tmp_path: Path) -> None:
    head = "user_id,item_id,title,timestamp\n"
    odd = put(tmp_path / "x.csv", head + 'u,a,5" pipe,1500000000\nu,b,"x" y,1500000001\n')
    assert taken(odd).titles == ['5" pipe', "x y"]
    for wide in ("u,a,Bit, 6mm,1500000000\n", "u,a,Bit,1500000000\nu,a,Bit, 6mm,1500000000\n"):
        with pytest.raises(DataError, match=r"y\.csv, line \d: 5 fields where 4 are expected \(user_id, item_id"):
            taken(put(tmp_path / "y.csv", head + wide))
    with pytest.raises(
        DataError, match=r"z\.jsonl, line 2: '\{\"a\": 1' is not a JSON object or an array of them: correct or remove"
    ):
        taken(put(tmp_path / "z.jsonl", '{"user": 1, "sku": 2, "date": 3, "name": 4}\n{"a": 1\n'))


def test_damaged_files_are_told(tmp_path: Path) -> None:
    text = TABLE.encode() * 500
    for name, data in {"gz": gzip.compress(text), "bz": bz2.compress(text), "zs": zst(text)}.items():
        with pytest.raises(DataError, match=rf"{name} is a (truncated|corrupt) (gzip|bz2|zst) file"):
            taken(put(tmp_path / name, data[:-20]))
    with pytest.raises(DataError, match=r"p\.parquet is not a readable Parquet file"):
        import_domain("d", "parquet", Inputs(put(tmp_path / "p.parquet", "no")))
    with pytest.raises(DataError, match="does not exist; give the path of a file, a folder or a pattern"):
        taken(tmp_path / "none.csv")


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_rows_that_lack_something_are_counted(tmp_path: Path, form: str) -> None:
    table = pl.DataFrame(
        {
            "customer": [1.0, None, 2.0, 3.0],
            "sku": ["a", "a", "NULL", "a"],
            "ts": [1_500_000_000] * 3 + [None],
            "name": ["A"] * 4,
        }
    )
    path = tmp_path / "x"
    {"csv": table.write_csv, "jsonl": table.write_ndjson, "parquet": table.write_parquet}[form](path)
    message = r"3 of 4 rows .* lack a user \(1\), an item \(1\), a time \(1\); first .*x, row 2.*--incomplete drop"
    with pytest.raises(DataError, match=message):
        taken(path)
    domain = taken(path, incomplete="drop")
    assert rows(domain) == [("1", "a", 0)]
    assert domain.manifest["filters"]["rows"] == {"read": 4, "incomplete": 3, "kept": 1}


def test_items_without_an_id_are_counted(tmp_path: Path) -> None:
    bought = put(tmp_path / "x.csv", "user,sku,date\nu,a,2026-01-01\n")
    items = put(tmp_path / "i.jsonl", '{"sku": "a", "name": "A"}\n{"name": "B"}\n{"sku": "", "name": "C"}\n')
    with pytest.raises(
        DataError, match=r"2 of 3 rows of items have no id, the first in .*i\.jsonl: .*--incomplete drop"
    ):
        taken(bought, items)
    domain = taken(bought, items, incomplete="drop")
    assert (domain.titles, domain.manifest["filters"]["items_without_id"]) == (["A"], 2)


def test_an_item_with_two_titles_is_told(tmp_path: Path) -> None:
    bought = put(tmp_path / "x.csv", "user,sku,date\nu,a,2026-01-01\n")
    items = put(tmp_path / "i.csv", "sku,name\na,\na,Apple\nb,Bread\na,Axe\nb,Bread\n")
    domain = taken(bought, items)
    assert domain.titles == ["Apple", "Bread"]
    told = domain.manifest["filters"]["conflicting_titles"]
    assert told == {"items": 1, "examples": ["a: 'Apple', 'Axe'"]}


def test_items_keep_what_a_shop_knows(tmp_path: Path) -> None:
    head = "sku,name,Brand Name,category,body_html,unit_price,Stock,colour"
    items = put(tmp_path / "i.csv", f'{head}\na,A,Bosch,Tools > Saws,<b>sharp</b>,"1.234,50 €",3,red\nb,B,,,,,0,\n')
    frame = import_domain(
        "d", None, Inputs(put(tmp_path / "x.csv", "user,sku,date\nu,a,2026-01-01\n"), items), Recipe(split="none")
    ).items
    assert frame.columns == ["item_id", "title", "brand", "category", "description", "price", "in_stock", "colour"]
    assert frame["price"].to_list() == [1234.5, None]
    assert frame["in_stock"].to_list() == [True, False]
    assert frame["colour"][0] == "red"


@pytest.mark.parametrize("unit", ["ms", "s", "iso", "datetime"])
def test_order_and_repeats_go_by_fractions_of_a_second(tmp_path: Path, unit: str) -> None:
    stamps = [1_588_687_728_950, 1_588_687_728_300, 1_588_687_728_100, 1_588_687_728_100]
    times: list[Any] = {
        "ms": stamps,
        "s": [stamp / 1000 for stamp in stamps],
        "iso": [f"2020-05-05T14:08:48.{stamp % 1000}Z" for stamp in stamps],
        "datetime": [pl.Series([stamp]).cast(pl.Datetime("ms"))[0] for stamp in stamps],
    }[unit]
    frame = pl.DataFrame({"user": ["u"] * 4, "sku": list("baaa"), "title": ["T"] * 4, "time": times})
    frame.write_parquet(tmp_path / "x.parquet")
    assert rows(taken(tmp_path / "x.parquet")) == [("u", "a", 0), ("u", "a", 1), ("u", "b", 2)]


@pytest.mark.parametrize("time", ["-5", "1912-06-23", "-1500000000000"])
def test_times_before_1970_are_refused(tmp_path: Path, time: str) -> None:
    with pytest.raises(DataError, match=f"row 1: timestamp '{time}' is a time before 1990"):
        taken(put(tmp_path / "x.csv", f"user,sku,name,date\nu,a,A,{time}\n"))


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_quote_that_is_never_closed_takes_no_rows_with_it(tmp_path: Path, packed: str) -> None:
    rows = ["user,sku,name,date", *(f"u{n % 3},s{n},Thing {n},2026-01-{n + 10}" for n in range(9))]
    rows[4] = 'u0,s3,"Thing 3,2026-01-13'
    content = "\n".join(rows).encode()
    path = tmp_path / f"x.csv{packed}"
    path.write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(DataError, match=r"x\.csv(\.gz)?, line 5: a quote is never closed, so that all that follows"):
        taken(path)
    rows[4] = 'u0,s3,"Thing\n3, red",2026-01-13'
    path.write_bytes(gzip.compress("\n".join(rows).encode()) if packed else "\n".join(rows).encode())
    assert taken(path).interactions["train"].height == 9


def test_a_long_description_behind_odd_quotes_is_read(tmp_path: Path) -> None:
    head = "sku,name,description,user,date\n"
    text = f'a,5" pipe,{"x" * 200_000},u,2026-01-01\nb,"B",y,u,2026-01-02\n'
    domain = taken(put(tmp_path / "x.csv", head + text))
    assert domain.titles == ['5" pipe', "B"]
    assert domain.items["description"].str.len_chars().to_list() == [200_000, 1]


def test_what_a_spreadsheet_says_of_its_separator_is_heard(tmp_path: Path) -> None:
    assert rows(taken(put(tmp_path / "x.csv", "sep=;\r\n" + TABLE.replace(",", ";")))) == EXPECTED
    with pytest.raises(DataError, match=r"its first row has no separator: name it \(--separator\), or remove lines"):
        taken(put(tmp_path / "y.csv", "Orders of May\n" + TABLE))


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), ", it looks like an Excel workbook"),
        (b"SQLite format 3\0" + bytes(900), ", it looks like an SQLite database"),
        (gzip.compress(gzip.compress(TABLE.encode())), ", it looks like a file that is packed twice"),
        (b"o.csv" + bytes(200) + bytes(range(1, 32)) * 30, ""),
    ],
)
def test_what_is_no_table_is_called_by_its_name(tmp_path: Path, data: bytes, kind: str) -> None:
    with pytest.raises(DataError, match=f"x is neither text nor Parquet{kind}: write it as CSV, JSON or Parquet"):
        taken(put(tmp_path / "x", data))


def test_a_workbook_is_no_table(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.xlsx", "w") as packed:
        packed.writestr("[Content_Types].xml", "<x/>")
    with pytest.raises(DataError, match=r"x\.xlsx is a workbook and not a table: save its sheet as CSV"):
        taken(tmp_path / "x.xlsx")


def test_folders_are_columns_of_text_and_empty_files_are_left_out(tmp_path: Path) -> None:
    for day, sku in {"2026-01-02": "a", "2026-01-01": "b"}.items():
        put(tmp_path / "lake" / f"date={day}" / "0.csv", f"user,sku\nu,{sku}\n")
        put(tmp_path / "lake" / f"date={day}" / "1.csv", "")
    items = put(tmp_path / "i.csv", "sku,name\na,A\nb,B\n")
    assert rows(taken(tmp_path / "lake", items)) == [("u", "b", 0), ("u", "a", 1)]
    for name, nothing in {"e.csv": b"", "m.csv": "".encode("utf-16"), "e.json": b"[]"}.items():
        with pytest.raises(DataError, match=rf"{name} is empty: give a file with rows"):
            taken(put(tmp_path / name, nothing), items)


def test_what_is_a_list_here_and_an_object_there_is_text(tmp_path: Path) -> None:
    """As PHP writes them: an object without keys is a list."""
    records = [{"user": {"id": user}, "sku": "a", "ts": 5, "note": note} for user, note in (("u", []), ("v", {"n": 1}))]
    items = put(
        tmp_path / "i.json", "".join(f'{{"sku": "a", "name": "A", "more": {more}}}\n' for more in ("[1]", "{}"))
    )
    for text in ("\n".join(map(json.dumps, records)), json.dumps(records, indent=1)):
        made = taken(put(tmp_path / "x.json", text), items)
        assert rows(made) == [("u", "a", 0), ("v", "a", 0)]
        assert made.items["more"].to_list() == ["[1]"]


@pytest.mark.parametrize("form", ["jsonl", "parquet", "csv"])
@pytest.mark.parametrize("times", [[1_500_000_001, 1_500_000_000], None])
def test_a_list_of_items_is_a_row_an_item(tmp_path: Path, form: str, times: list[int] | None) -> None:
    bought = {"user": "u", "items": ["a", "b c"]} | ({"ts": times} if times else {})
    path, items = tmp_path / "x", put(tmp_path / "i.csv", "sku,name\na,A\nb c,B\n")
    if form == "parquet":
        pl.DataFrame([bought]).write_parquet(path)
    else:
        cells = pl.DataFrame({name: [str(value) if name != "user" else value] for name, value in bought.items()})
        put(path, json.dumps(bought) if form == "jsonl" else cells.write_csv())
    expected = [("u", "b c", 0), ("u", "a", 1)] if times else [("u", "a", 0), ("u", "b c", 1)]
    assert rows(taken(path, items, columns=Columns(item="items"))) == expected


def test_lists_of_different_lengths_and_values_of_another_type_are_refused(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user": ["u"], "items": [["a", "b"]], "ts": [[1_500_000_000]], "took": [60_000]})
    frame.with_columns(pl.col("took").cast(pl.Duration)).write_parquet(tmp_path / "x")
    with pytest.raises(DataError, match="item_id and timestamp are lists of different lengths"):
        taken(tmp_path / "x", columns=Columns(item="items", title="user"))
    with pytest.raises(DataError, match=r"'took' is of type Duration.* and no time: name another .*--column time="):
        taken(tmp_path / "x", columns=Columns(item="items", title="user", time="took"))


FLAT = [{"user": order["customer"]["id"], "lines": order["lines"], "date": order["at"]} for order in ORDERS]


@pytest.mark.parametrize(
    "text",
    [json.dumps({"data": {"orders": FLAT}}, indent=1), json.dumps({"orders": FLAT}),
     "\n".join(json.dumps(order, indent=1) for order in FLAT)],
)  # fmt: skip
def test_objects_on_several_lines_are_read(tmp_path: Path, text: str) -> None:
    domain = taken(put(tmp_path / "x.json", text))
    assert rows(domain) == [("0", "a", 0), ("0", "b", 1), ("1", "a", 0), ("1", "b", 1)]


def test_a_zone_may_be_an_offset_and_a_column_of_bytes_is_left_out(tmp_path: Path) -> None:
    stamps = pa.array([1_500_000_001 * 10**9, 1_500_000_000 * 10**9], pa.timestamp("ns", tz="+05:30"))
    bought = pa.table({"user": ["u", "u"], "sku": ["a", "b"], "time": stamps})
    items = pl.DataFrame({"sku": ["a", "b"], "name": ["A", "B"], "picture": [b"\xff", None]})
    domain = taken(bought, items)
    assert domain.interactions["train"]["timestamp"].to_list() == [1_500_000_000, 1_500_000_001]
    assert domain.items.columns == ["item_id", "title"]


def test_tables_without_rows_are_named(tmp_path: Path) -> None:
    bought = put(tmp_path / "x.csv", "user,sku,date\nu,a,2026-01-01\n")
    with pytest.raises(DataError, match=r"i\.csv holds no items: give the table of products"):
        taken(bought, put(tmp_path / "i.csv", "sku,name\n"))
    with pytest.raises(DataError, match="the table of interactions holds no interactions"):
        taken(pl.DataFrame({"user": [], "sku": [], "date": []}), bought)
