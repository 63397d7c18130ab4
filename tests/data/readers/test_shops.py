"""Exports as shops' own systems write them: who bought what when, and what is said where that is not clear."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.data.lint import lint
from xcrossrec.data.readers import Columns, Condition, Inputs, Recipe, import_domain
from xcrossrec.exceptions import DataError

PRODUCTS = "sku,name\na,Hat\nb,Cap\nc,Sock\n"


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def taken(orders: Path, items: Path | None = None, *where: str, **given: Any) -> Domain:
    conditions = [Condition.parse(each) for each in where]
    return import_domain("d", None, Inputs(orders, items or (), where=conditions, **given), Recipe(split="none"))


def bought(domain: Domain) -> list[tuple[str, str]]:
    return domain.interactions["train"].select("user_id", "item_id").rows()


# ---- orders and products of several rows

SHOPIFY = """\
Name,Email,Financial Status,Paid at,Total,Cancelled at,Created at,Lineitem quantity,Lineitem name,Lineitem sku
#3,u@x.org,paid,2026-01-03 10:00:00 +0100,9,,2026-01-03 10:00:00 +0100,1,Hat,a
#3,u@x.org,,,,,2026-01-03 10:00:00 +0100,2,Cap,b
#2,v@x.org,refunded,2026-01-02 10:00:00 +0100,9,2026-01-05 10:00:00 +0100,2026-01-02 10:00:00 +0100,1,Sock,c
#2,v@x.org,,,,,2026-01-02 10:00:00 +0100,1,Hat,a
#1,v@x.org,paid,2026-01-01 10:00:00 +0100,9,,2026-01-01 10:00:00 +0100,1,Cap,b
#1,v@x.org,,,,,2026-01-01 10:00:00 +0100,1,Hat,
#0,v@x.org,paid,2026-01-01 09:00:00 +0100,9,,2026-01-01 09:00:00 +0100,1,Hat,a
"""


@pytest.mark.parametrize("condition", ["Financial Status=paid", "Cancelled at="])
@pytest.mark.parametrize("time", ["Paid at", "Created at"])
@pytest.mark.parametrize("sock", ["Sock", '"Long\nSock"'])
def test_what_the_first_row_of_an_order_says_holds_for_all(
    tmp_path: Path, condition: str, time: str, sock: str
) -> None:
    orders = put(tmp_path / "o.csv", SHOPIFY.replace("Sock", sock))
    domain = taken(orders, None, condition, columns=Columns(time=time), incomplete="drop")
    assert sorted(bought(domain)) == [("u@x.org", "a"), ("u@x.org", "b"), ("v@x.org", "a"), ("v@x.org", "b")]
    assert domain.manifest["filters"]["rows"] == {"read": 7, "where": 2, "incomplete": 1, "kept": 4}
    assert sorted(domain.titles) == ["Cap", "Hat", " ".join(sock.strip('"').split())]


def test_cancelled_orders_are_seen_by_their_time(tmp_path: Path) -> None:
    path = put(tmp_path / "o.jsonl", "")
    orders = [{"user": "u", "sku": s, "date": f"2026-01-0{n}", "name": "A", "cancelled_at": at} for n, s, at in
              ((1, "a", None), (2, "b", "2026-01-09"), (3, "c", "null"))]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, orders)))
    with pytest.raises(DataError, match=r"'cancelled_at' with an entry in 1 rows: .* with --where \"cancelled_at=\"$"):
        taken(path)
    assert bought(taken(path, None, "cancelled_at=")) == [("u", "a"), ("u", "c")]


def test_variants_have_the_title_of_their_product(tmp_path: Path) -> None:
    head = "Handle,Title,Vendor,Product Category,Variant SKU,Variant Price,Variant Inventory Qty,Image Src"
    rows = ["hat,Hat,Acme,Hats,a,10,3,x", "hat,,,,a-red,12,0,", "cap,Cap,Acme,Caps,b,9,1,y", "cap,,,,,,,z"]
    items = put(tmp_path / "i.csv", "\n".join([head, *rows, "sock,Sock,,Socks,c,1,1,"]))
    orders = put(tmp_path / "o.csv", "email,lineitem_sku,date\nu,a-red,2026-01-01\n")
    told = taken(orders, items, incomplete="drop")
    assert told.items.select("item_id", "title", "brand", "category", "price", "in_stock").rows() == [
        ("a", "Hat", "Acme", "Hats", 10.0, True),
        ("a-red", "Hat", "Acme", "Hats", 12.0, False),
        ("b", "Cap", "Acme", "Caps", 9.0, True),
        ("c", "Sock", None, "Socks", 1.0, True),
    ]
    assert told.manifest["filters"]["items_without_id"] == 1


def test_blank_cells_of_single_rows_stay_blank(tmp_path: Path) -> None:
    text = "user,order_id,sku,name,date,note,code\nu,1,a,Hat,2026-01-01,x,y\nu,1,b,Cap,2026-01-01,,z\nu,2,c,S,,,\n"
    with pytest.raises(DataError, match=r"1 of 3 rows of interactions lack a time \(1\)"):
        taken(put(tmp_path / "o.csv", text))


# ---- which column joins the tables


def test_the_item_is_the_column_that_both_tables_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    orders = put(tmp_path / "o.csv", "item_id,product_id,sku,user,date\n1,7,b,u,2026-01-01\n2,8,a,u,2026-01-02\n")
    assert bought(taken(orders, put(tmp_path / "i.csv", PRODUCTS))) == [("u", "b"), ("u", "a")]
    assert "the item is 'sku' in" in caplog.text
    ids = put(tmp_path / "j.csv", "ID,SKU,Name\n7,x,Cap\n8,y,Hat\n")
    assert bought(taken(orders, ids)) == [("u", "7"), ("u", "8")]
    with pytest.raises(DataError, match="several columns that may be the item, 'product_id', 'sku': say which"):
        taken(put(tmp_path / "x.csv", "product_id,sku,user,date\n"), ids)  # which has no rows that could tell
    with pytest.raises(DataError, match=r"j\.csv holds no items: give the table of products"):
        taken(orders, put(ids, "sku,ean,name\n"))


def test_two_tables_without_a_common_item_are_told(tmp_path: Path) -> None:
    orders = put(tmp_path / "o.csv", "Teil,Ware,user,date\n1,b,u,2026-01-01\n2,a,u,2026-01-02\n")
    items = put(tmp_path / "i.csv", "Nr.,Ref.,Name\na,1,Hat\nb,3,Cap\n")
    with pytest.raises(DataError, match=r"i\.csv has no column 'Ware', .*\(--column item=NAME once for each\)"):
        taken(orders, items, columns=Columns(item="Ware"))
    with pytest.raises(
        DataError, match=r"2 items that its catalogue lacks \('b', 'a'\): these are all, and there ids "
    ):
        taken(orders, put(tmp_path / "j.csv", "Ware,Name\nx,Hat\ny,Cap\n"), columns=Columns(item="Ware"))
    both = Columns.parse(["item=Ware", "item=Nr."])
    assert bought(taken(orders, items, columns=both)) == [("u", "b"), ("u", "a")]


# ---- who


@pytest.mark.parametrize("name", ["User", "user_id"])
def test_a_cashier_is_no_customer(tmp_path: Path, name: str) -> None:
    orders = put(tmp_path / "o.csv", f"Date,{name},Customer Email,Sku,Details\n2026-01-01,Kim,u,a,x\n")
    items = put(tmp_path / "i.csv", PRODUCTS)
    with pytest.raises(DataError, match=f"may be the user, 'Customer Email', '{name}': .* user=Customer Email"):
        taken(orders, items)
    assert bought(taken(orders, items, columns=Columns(user="Customer Email"))) == [("u", "a")]


def test_who_lacks_in_one_column_may_be_in_another(tmp_path: Path) -> None:
    lines = [{"user_id": user, "user_pseudo_id": f"p{n}", "sku": "a", "name": "Hat", "ts": 1_700_000_000 + n}
             for n, user in enumerate((None, "u", None))]  # fmt: skip
    path = put(tmp_path / "x.jsonl", "\n".join(map(json.dumps, lines)))
    with pytest.raises(
        DataError, match=r"lack a user \(2\); .* take another column \(--column user=user_pseudo_id\), or"
    ):
        taken(path)
    with pytest.raises(DataError, match=r"3 of 3 rows .* lack a user \(3\).*: complete them, or name other columns"):
        taken(put(tmp_path / "y.csv", "user,sku,name,date\n" + ",a,A,2026-01-01\n" * 3), incomplete="drop")


def test_a_time_of_day_is_told_with_the_column_that_has_the_date(tmp_path: Path) -> None:
    path = put(tmp_path / "o.csv", "email,sku,name,Date created,Time\nu,a,A,2026-01-01,9:15:04 AM\n")
    with pytest.raises(
        DataError, match=r"'9:15:04 AM' is not an .*; or take another column \(--column time=Date created"
    ):
        taken(path)


def test_guests_dealers_and_robots_are_told_however_many_these_are(tmp_path: Path) -> None:
    rows = [f"{'0' if n % 2 else n},a,Hat,{1_700_000_000 + n}" for n in range(300)]
    domain = taken(put(tmp_path / "o.csv", "\n".join(["customer_id,sku,name,ts", *rows])))
    assert domain.manifest["filters"]["heavy_users"] == {"users": 1, "interactions": 151, "examples": ["0"]}
    more = [f"-1,a,Hat,{1_800_000_000 + n}" for n in range(200)]
    domain = taken(put(tmp_path / "o.csv", "\n".join(["customer_id,sku,name,ts", *rows, *more])))
    assert domain.manifest["filters"]["heavy_users"] == {"users": 2, "interactions": 351, "examples": ["-1", "0"]}
    found = next(found for found in lint([domain]).findings if found.code == "heavy_user")
    assert (found.count, found.examples) == (2, ("-1", "0"))
    even = [f"u{n % 3},a,Hat,{1_700_000_000 + n}" for n in range(900)]
    domain = taken(put(tmp_path / "o.csv", "\n".join(["customer_id,sku,name,ts", *even])))
    assert "heavy_users" not in domain.manifest["filters"]


# ---- names, words and dates


@pytest.mark.parametrize(
    ("orders", "items", "told"),
    [
        (
            "Kundennummer;Bestelldatum;Artikelnummer;Anzahl",
            "Artikelnummer;Artikelbezeichnung;Hersteller;Kategorie;Bruttopreis;Lagerbestand",
            "brand category price in_stock",
        ),
        ("Kundennr;Bestelldatum;Artikelnummer;Menge",
         "Artikelnummer;Bezeichnung;Hersteller;Warengruppe;Preis;Lagerbestand",
         "brand category price in_stock"),
        ("id_customer;Date;product_reference;Qté", "Référence;Nom;Marque;Catégorie;Prix (TTC);Quantité",
         "brand category price in_stock"),
        ("order_customer_customer_number;order_date_time;line_items_product_number;line_items_quantity",
         "product_number;name;manufacturer_name;categories;price_gross;stock", "brand category price in_stock"),
        ("CustomerNo;OrderDate;ProductID;Quantity", "ID;name;brand;primaryCategory;listPrice;inStock",
         "brand category price in_stock"),
        ("KUNNR;ERDAT;MATNR;KWMENG", "MATNR;MAKTX;HERST;WGBEZ;NETPR;LABST", ""),
        ("Email (Billing);Order Date;SKU;Qty", "SKU;Name;Brands;Product Category;Regular price;Stock",
         "brand category price in_stock"),
    ],
)  # fmt: skip
def test_columns_are_found_in_the_exports_of_many_shops(tmp_path: Path, orders: str, items: str, told: str) -> None:
    bill = put(tmp_path / "o.csv", f"{orders}\n20001;03.01.2026 09:15;a-1;1\n20001;04.01.2026 09:15;b-1;2\n")
    domain = taken(bill, put(tmp_path / "i.csv", f"{items}\na-1;Hat;Acme;Hats;12,50 €;3\nb-1;Cap;Acme;Caps;9,00 €;0\n"))
    assert bought(domain) == [("20001", "a-1"), ("20001", "b-1")]
    assert domain.titles == ["Hat", "Cap"]
    assert domain.items.select(told.split()).rows() == (
        [("Acme", "Hats", 12.5, True), ("Acme", "Caps", 9, False)] if told else []
    )


def test_a_nested_item_s_own_object_is_asked_first(tmp_path: Path) -> None:
    lines = [{"sku": "a", "name": "Hat", "position": 1}, {"sku": "b", "name": "Cap", "position": 2}]
    context = {"page": {"title": "Shop"}, "library": {"name": "js"}}
    properties = {"position": 3, "products": lines}
    event = {"userId": "u", "timestamp": "2026-01-01", "context": context, "properties": properties}
    assert taken(put(tmp_path / "x.jsonl", json.dumps(event))).titles == ["Hat", "Cap"]


@pytest.mark.parametrize(
    ("column", "words", "line"),
    [
        ("État", ["Livré", "Paiement accepté", "Annulé"], "État!=Annulé"),
        ("Order Status", ["Completed", "Processing", "Cancelled"], "Order Status!=Cancelled"),
        ("Bestellstatus", ["In Bearbeitung", "Abgebrochen"], "Bestellstatus!=Abgebrochen"),
        ("line_items_quantity", ["1", "-1"], "line_items_quantity>0"),
        ("metric.name", ["Placed Order", "Cancelled Order"], "metric.name=Placed Order"),
        ("Transaction Type", ["Sale", "Return"], "Transaction Type=Sale"),
        ("ABGRU", ["", "Z1"], "ABGRU="),
        ("cancel_reason", ["", "customer"], "cancel_reason="),
    ],
)
def test_no_remedy_leaves_out_purchases(tmp_path: Path, column: str, words: list[str], line: str) -> None:
    rows = [f"u,{sku},A,2026-01-0{n + 1},{word}" for n, (sku, word) in enumerate(zip("abc", words, strict=False))]
    path = put(tmp_path / "o.csv", "\n".join([f"user,sku,name,date,{column}", *rows]))
    with pytest.raises(DataError, match=f'say what counts with --where "{line}"$'):
        taken(path)
    assert len(bought(taken(path, None, line))) == len(words) - 1


@pytest.mark.parametrize(
    ("days", "order"),
    [
        (["03/31/25", "04/01/25"], "ab"),
        (["31/03/25 9:05", "1/4/25 9:05"], "ab"),
        (["1/15/24, 9:00 AM", "1/2/24, 9:00 PM"], "ba"),
        (["Mar 31, 2025, 9:05:10 AM", "April 1, 2025"], "ab"),
        (["1 Apr 2025 10:00", "31-Mar-2025 11:00"], "ba"),
        (["25/3/1", "25/3/2"], None),
    ],
)
def test_days_are_read_as_shops_write_them(tmp_path: Path, days: list[str], order: str | None) -> None:
    rows = [f'u,{sku},A,"{day}"' for sku, day in zip("ab", days, strict=True)]
    path = put(tmp_path / "o.csv", "\n".join(["user,sku,name,date", *rows]))
    if order is None:
        with pytest.raises(DataError, match="'25/3/1' is not an ISO 8601 time"):
            taken(path)
    else:
        assert "".join(item for _, item in bought(taken(path))) == order


def test_a_product_behind_its_code_is_no_list(tmp_path: Path) -> None:
    path = put(tmp_path / "o.csv", "customer,product,name,date\nu,[A-1] Hat,Hat,2026-01-01\n")
    assert bought(taken(path)) == [("u", "[A-1] Hat")]


def test_what_analytics_write_for_nothing_is_nothing(tmp_path: Path) -> None:
    path = put(tmp_path / "o.csv", "user,sku,name,date,brand\nu,a,Hat,2026-01-01,(not set)\nu,b,Cap,2026-01-02,Acme\n")
    assert taken(path).items["brand"].to_list() == [None, "Acme"]
