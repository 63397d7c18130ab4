"""Exports of shops in other scripts: names, encodings, digits, prices, stocks and dates as they write them there."""
# ruff: noqa: E501, RUF001

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.data.readers import Inputs, Recipe, import_domain
from xcrossrec.data.readers.columns import VOCABULARY, Columns
from xcrossrec.data.readers.conditions import refuse_views
from xcrossrec.data.readers.copies import encoding_of
from xcrossrec.data.readers.frames import item_field
from xcrossrec.data.times import is_buddhist, times, unit_of
from xcrossrec.exceptions import DataError

# country: encoding, orders' names, products' names, two titles, a date of 2025-12-31, a price of 1299, two stocks
SHOPS = {
    "japan": (
        "cp932", "顧客ID,商品コード,注文日", "商品コード,商品名,販売価格（税込）,在庫状況", ("折りたたみ傘 黒", "じょうろ"),
        "2025年12月31日", "￥１，２９９", ("在庫あり", "×"),
    ),
    "china": (
        "gb18030", "买家会员名,商品编号,订单付款时间", "商品编号,商品名称,价格,库存", ("不锈钢浇水壶", "花盆"),
        "2025-12-31 10:20:30", "¥1299.00", ("有货", "0"),
    ),
    "taiwan": (
        "big5", "會員編號,商品編號,訂購日期", "商品編號,商品名稱,售價,庫存狀態", ("澆水壺", "花盆"),
        "2025/12/31 下午 02:05:00", "NT$1,299", ("有貨", "缺貨"),
    ),
    "korea": (
        "euc-kr", "회원ID,상품코드,주문일시", "상품코드,상품명,판매가,재고", ("스테인리스 물뿌리개", "화분"),
        "2025. 12. 31.", "1,299원", ("5개", "품절"),
    ),
    "thailand": (
        "cp874", "รหัสลูกค้า,รหัสสินค้า,วันที่สั่งซื้อ", "รหัสสินค้า,ชื่อสินค้า,ราคา,สต็อก", ("บัวรดน้ำ", "กระถาง"),
        "31/12/2568", "฿1,299.00", ("มีสินค้า", "หมด"),
    ),
    "israel": (
        "cp1255", 'מספר לקוח,"מק""ט",תאריך הזמנה', '"מק""ט",שם מוצר,מחיר,מלאי', ("משפך נירוסטה", "עציץ"),
        "31/12/2025", "1,299.00 ₪", ("במלאי", "אזל מהמלאי"),
    ),
    "egypt": (
        "cp1256", "رقم العميل;رمز المنتج;تاريخ الطلب", "رمز المنتج;اسم المنتج;السعر;المخزون", ("إبريق سقي", "أصيص"),
        "31/12/2025", "1299,00", ("متوفر", "غير متوفر"),
    ),
    "gulf": (
        "utf-8", "رقم العميل;رمز المنتج;تاريخ الطلب", "رمز المنتج;اسم المنتج;السعر;المخزون", ("إبريق سقي", "أصيص"),
        "٢٠٢٥/١٢/٣١", "١٬٢٩٩٫٠٠", ("٥", "٠"),
    ),
    "india": (
        "utf-8", "ग्राहक आईडी,उत्पाद कोड,ऑर्डर तिथि", "उत्पाद कोड,उत्पाद का नाम,मूल्य,स्टॉक", ("गमला", "कैंची"),
        "31-12-2025", "₹1,299.00/-", ("उपलब्ध", "स्टॉक में नहीं"),
    ),
    "turkey": (
        "cp1254", "Müşteri No;Ürün Kodu;Sipariş Tarihi", "Ürün Kodu;Ürün Adı;Fiyat;Stok Durumu", ("Işıklı saksı", "İp"),
        "31.12.2025", "1.299 TL", ("STOKTA VAR", "TÜKENDİ"),
    ),
    "greece": (
        "cp1253", "Κωδικός Πελάτη;Κωδικός Προϊόντος;Ημερομηνία", "Κωδικός Προϊόντος;Όνομα Προϊόντος;Τιμή;Διαθεσιμότητα",
        ("Ποτιστήρι", "Γλάστρα"), "31/12/2025", "1.299,00", ("ΔΙΑΘΕΣΙΜΟ", "Εξαντλημένο"),
    ),
    "russia": (
        "cp1251", "Код клиента;Артикул;Дата заказа", "Артикул;Наименование;Цена, руб.;Наличие", ("Лейка", "Горшок"),
        "31.12.25", "1\xa0299,00 руб.", ("5 шт.", "Нет в наличии"),
    ),
    "vietnam": (
        "utf-8", "Mã khách hàng,Mã sản phẩm,Ngày đặt hàng", "Mã sản phẩm,Tên sản phẩm,Giá,Tình trạng", ("Chậu gỗ", "Xẻng"),
        "31/12/2025", "1.299 ₫", ("Còn hàng", "Hết hàng"),
    ),
    "brazil": (
        "cp1252", "Código do cliente;Código do produto;Data do pedido", "Código do produto;Nome do produto;Preço;Estoque",
        ("Regador", "Pá"), "31/12/2025", "R$ 1.299,00", ("Em estoque", "Esgotado"),
    ),
    "france": (
        "utf-8", "N° client;Référence produit;Date de commande", "Référence;Désignation;Prix TTC;Disponibilité",
        ("Arrosoir", "Bêche"), "31/12/2025", "1\u202f299,00 €", ("En stock", "Rupture de stock"),
    ),
    "switzerland": (
        "utf-16", "Kunden-Nr.;Artikel-Nr.;Bestelldatum", "Artikel-Nr.;Artikelname;Preis (CHF);Lagerbestand",
        ("Gießkanne", "Übertopf"), "31.12.25", "1'299.–", ("5", "0"),
    ),
}  # fmt: skip


def imported(folder: Path, shop: str, encoding: str | None) -> Domain:
    written, orders, products, titles, day, price, stocks = SHOPS[shop]
    cut = ";" if ";" in orders else ","
    quoted = [[f'"{price}"', stock] for stock in stocks]
    rows = [cut.join([f"А-{n}", title, *rest]) for n, (title, rest) in enumerate(zip(titles, quoted, strict=True))]
    bought = [cut.join([user, f"А-{n}", day]) for user in ("u", "v") for n in (0, 1)]
    written = written if "А".encode(written, "ignore") else "utf-8"  # an id in Cyrillic, where it can be written
    for name, lines in (("orders", [orders, *bought]), ("products", [products, *rows])):
        (folder / f"{name}.csv").write_bytes("\r\n".join([*lines, ""]).encode(written))
    inputs = Inputs(folder / "orders.csv", folder / "products.csv", encoding=encoding and written)
    return import_domain(shop, None, inputs, Recipe(split="none"))


@pytest.mark.parametrize("shop", SHOPS)
def test_a_shop_of_another_country_comes_in_as_it_is(tmp_path: Path, shop: str) -> None:
    named = SHOPS[shop][0] not in ("utf-8", "utf-16", "cp1252")
    domain = imported(tmp_path, shop, SHOPS[shop][0] if named else None)
    assert domain.items["title"].to_list() == list(SHOPS[shop][3])
    assert domain.items["price"].to_list() == [1299.0, 1299.0]
    assert domain.items["in_stock"].to_list() == [True, False]
    assert domain.items["item_id"].to_list() == ["А-0", "А-1"]
    first = datetime.fromtimestamp(domain.interactions["train"]["timestamp"][0], UTC)
    assert f"{first:%Y-%m-%d}" == "2025-12-31"


@pytest.mark.parametrize(
    ("encoding", "text", "reads"),
    [
        ("cp932", "注文番号,顧客ID,商品コード,ワイヤレスイヤホン\n", "--encoding cp932 ('注文番号"),
        ("gb18030", "订单编号,买家会员名,商品编号\n2025年12月31日\n", "--encoding gb18030 ('订单编号"),
        ("big5", "訂單編號,會員編號,商品編號\n2025年12月31日\n", "--encoding big5 ('訂單編號"),
        ("euc-kr", "주문번호,회원ID,상품코드\n2025년 12월 31일\n", "--encoding cp949 ('주문번호"),
        ("cp1251", "Номер;Клиент;Артикул\n", "--encoding cp1251 ('Номер"),
        ("cp1253", "Αρ. Παραγγελίας;Κωδικός Πελάτη\n", "--encoding cp1253 ('Αρ. Παραγγ"),
        ("cp1255", "מספר הזמנה,מספר לקוח\n", "--encoding cp1255 ('מספר הזמנה"),
        ("cp1256", "رقم الطلب;رقم العميل\n", "--encoding cp1256 ('رقم الطلب"),
        ("cp874", "รหัสลูกค้า,รหัสสินค้า\n", "--encoding cp874 ('รหัสลูกค้า"),
    ],
)
def test_an_encoding_is_asked_for_with_what_the_text_says_in_it(encoding: str, text: str, reads: str) -> None:
    with pytest.raises(DataError, match="does not look Western") as refused:
        encoding_of(text.encode(encoding), "orders.csv")
    assert reads in str(refused.value)


def test_encodings_that_tell_themselves_and_western_ones(caplog: pytest.LogCaptureFixture) -> None:
    assert encoding_of("注文番号,顧客ID\n".encode("iso2022_jp"), "x") == "iso2022_jp_ext"
    for name in ("utf-16-le", "utf-16-be"):  # without a mark; few of the bytes are zeros
        assert encoding_of("Номер заказа;Код\n".encode(name), "x") == name
        assert encoding_of("รหัสลูกค้า,รหัส\n".encode(name), "x") == name
    said: list[str] = []
    assert encoding_of("Größe;Maße;Gefäße\ngroß;süß;Käse\n".encode("cp1252"), "x", said.append) == "cp1252"
    assert encoding_of("Sipariş No;Müşteri No\n".encode("cp1254"), "x", said.append) == "cp1252"
    assert "'Sipariþ No;Müþteri'); if it is not, give --encoding (cp1250, cp1254, ...)" in said[1]


def test_a_quote_in_a_name_or_a_title_is_a_letter(tmp_path: Path) -> None:
    (tmp_path / "orders.csv").write_text('מספר לקוח,מק"ט,תאריך\nu,1,31/12/2025\nu,2,31/12/2025\n', encoding="utf-8")
    (tmp_path / "items.csv").write_text('מק"ט,שם מוצר,מחיר\n1,מדף 60 ס"מ,10\n2,"מדף, לבן",12\n', encoding="utf-8")
    inputs = Inputs(tmp_path / "orders.csv", tmp_path / "items.csv")
    domain = import_domain("d", None, inputs, Recipe(split="none"))
    assert domain.items.rows() == [("1", 'מדף 60 ס"מ', 10.0), ("2", "מדף, לבן", 12.0)]
    assert domain.interactions["train"].height == 2


def test_an_encoding_that_is_named_counts_once(tmp_path: Path) -> None:
    orders = 'Kunde;Artikelnummer;Bestelldatum\nu;1;"31.12.2025"\n'
    items = 'Artikelnummer;Bezeichnung\n1;"Gießkanne\ngrün"\n'  # several lines: it is copied twice
    for name, text in (("orders", orders), ("items", items)):
        (tmp_path / f"{name}.csv").write_bytes(text.encode("cp1252"))
    inputs = Inputs(tmp_path / "orders.csv", tmp_path / "items.csv", encoding="cp1252")
    assert import_domain("d", None, inputs, Recipe(split="none")).items["title"].to_list() == ["Gießkanne grün"]


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (["1.299,00 €", "5,90"], [1299, 5.9]), (["1’299.00"], [1299]), (["1 299,00"], [1299]), (["1,29,900"], [129900]),
        (["100.000 ₫", "1.250.000 ₫"], [100000, 1250000]), (["90.000đ"], [90000]), (["Rp 150.000"], [150000]),
        (["1.299 kr", "499 kr"], [1299, 499]), (["१,२९,९००"], [129900]), (["12.500 KWD"], [12.5]),
        (["1.2万", "12万円", "1.5 lakh"], [None, None, None]), (["1.299 ₺", "899,90 ₺"], [1299, 899.9]),
    ],
)  # fmt: skip
def test_prices_as_countries_write_them(written: list[str], read: list[float | None]) -> None:
    assert pl.DataFrame({"x": written}).select(item_field("price", "x", pl.String()))["price"].to_list() == read


@pytest.mark.parametrize(
    ("written", "day"),
    [
        ("2025年1月5日", "2025-01-05 00:00"), ("2025年12月31日 14時05分30秒", "2025-12-31 14:05"),
        ("2025년 12월 31일 오후 2시 05분", "2025-12-31 14:05"), ("2025.12.31 10:05", "2025-12-31 10:05"),
        ("2568-12-31 10:20:30", "2025-12-31 10:20"), ("๓๑/๑๒/๒๕๖๘", "2025-12-31 00:00"),
        ("２０２５／１２／３１", "2025-12-31 00:00"), ("31-12-2025", "2025-12-31 00:00"), ("31.12.25", "2025-12-31 00:00"),
    ],
)  # fmt: skip
def test_dates_as_countries_write_them(written: str, day: str) -> None:
    given = pl.Series([written])
    found = times(given, unit_of(given))["timestamp"][0]
    assert f"{datetime.fromtimestamp(found, UTC):%Y-%m-%d %H:%M}" == day


@pytest.mark.parametrize(
    "written", ["1404/03/12", "1447-01-05", "令和7年1月5日", "114/01/05", "05.06.07", "25.12.31 25.12.30"]
)
def test_other_calendars_and_what_may_be_two_days_are_not_guessed(written: str) -> None:
    given = pl.Series(written.split())
    assert (times(given, unit_of(given))["timestamp"].fill_null(-1) < 0).all()
    assert not is_buddhist(given)


def test_rows_of_another_calendar_are_refused_and_buddhist_years_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orders.csv"
    path.write_text("کد مشتری,کد کالا,نام کالا,تاریخ سفارش\nu,1,گلدان,۱۴۰۴/۰۳/۱۲\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'۱۴۰۴/۰۳/۱۲' is a time before 1990 .*Persian, Hijri .* are not converted"):
        import_domain("d", None, Inputs(path), Recipe(split="none"))
    path.write_text("user,item,title,date\nu,1,กระถาง,2568-01-31\nu,1,กระถาง,2567-02-29\n", encoding="utf-8")
    caplog.set_level("INFO")
    found = import_domain("d", None, Inputs(path), Recipe(split="none")).interactions["train"]["timestamp"]
    assert datetime.fromtimestamp(found[0], UTC).year == 2024
    assert any("Buddhist calendar: 2568 is read as 2025" in message for message in caplog.messages)


@pytest.mark.parametrize(
    ("column", "bought", "other"),
    [
        ("注文ステータス", "発送済み", "ｷｬﾝｾﾙ"), ("订单状态", "交易成功", "等待买家付款"), ("주문상태", "배송완료", "취소"),
        ("สถานะคำสั่งซื้อ", "สำเร็จ", "ยกเลิกแล้ว"), ("סטטוס הזמנה", "נשלח", "בוטלה"), ("حالة الطلب", "مكتمل", "ملغي"),
        ("Sipariş Durumu", "Teslim edildi", "İPTAL"), ("Κατάσταση Παραγγελίας", "Ολοκληρώθηκε", "ΑΚΥΡΩΘΗΚΕ"),
        ("Статус заказа", "Доставлен", "Отменён"), ("Trạng thái đơn hàng", "Đã giao", "Đã hủy"),
        ("Situação do pedido", "Entregue", "Estornado"),
    ],
)  # fmt: skip
def test_states_of_orders_that_are_no_purchases_stop_the_import(column: str, bought: str, other: str) -> None:
    with pytest.raises(DataError, match="not all of these are purchases") as refused:
        refuse_views("orders.csv", column, {bought: 9, other: 1})
    assert f'--where "{column}={bought}"' in str(refused.value)


def test_no_name_is_of_two_roles_and_no_stock_yes_and_no() -> None:
    for kind in ("usual", "otherwise", "products"):
        names = [name for names in VOCABULARY[kind].values() for name in names.split()]
        assert len(names) == len(set(names))
    assert not set(VOCABULARY["stock"]["yes"].split()) & set(VOCABULARY["stock"]["no"].split())


def test_ids_that_unicode_writes_in_two_ways_are_told(tmp_path: Path) -> None:
    (tmp_path / "o.csv").write_text("user,item,date\nu,ＡＢ－１,2026-01-01\n", encoding="utf-8")
    (tmp_path / "i.csv").write_text("item,title\nAB-1,Pot\nAB-2,Pan\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"'ＡＢ－１'.*AB-1"):
        import_domain("d", None, Inputs(tmp_path / "o.csv", tmp_path / "i.csv"), Recipe())
    assert Columns.parse(["item=商品コード"]).item == "商品コード"
