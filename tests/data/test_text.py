"""What models read of an item: templates against a slow reference, HTML to text, limits."""
# ruff: noqa: E501, RUF001

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcrossrec.data import Domain, build_domain, read_domain, write_domain
from xcrossrec.data.text import TITLES, ItemText, clean, clean_text, spaced, unaccented
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.prompts import clean_title

SHOP = pl.DataFrame(
    {
        "item_id": ["i0", "i1", "i2", "i3"],
        "title": ["Red train", "Drill 18 V", "", "Saw"],
        "brand": ["Brio", None, "Stanley", " "],
        "category": ["Toys &amp; Games", "Tools", None, "nan"],
        "description": ["<p>A <b>red</b> train</p><p>of wood</p>", "Strong &amp; light", None, "one two three four"],
        "price": [12.0, 99.5, None, 5.0],
        "in_stock": [True, False, None, True],
    }
)
INTERACTIONS = pl.DataFrame({"user_id": ["u"] * 4, "item_id": SHOP["item_id"]})


def shop(**changes: object) -> Domain:
    return build_domain("shop", SHOP, {"train": INTERACTIONS}, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "texts"),
    [
        ("{title}; {brand}; {category}", ["Red train; Brio; Toys & Games", "Drill 18 V; Tools", "Stanley", "Saw"]),
        (
            "{title} by {brand} ({category})",
            ["Red train by Brio (Toys & Games)", "Drill 18 V (Tools)", "by Stanley", "Saw"],
        ),
        (
            "{title}. Brand: {brand}. In: {category}.",
            ["Red train. Brand: Brio. In: Toys & Games.", "Drill 18 V. In: Tools.", "Brand: Stanley", "Saw"],
        ),
        ("{brand} - {title}", ["Brio - Red train", "Drill 18 V", "Stanley", "Saw"]),
        ("{brand}: {title}", ["Brio: Red train", "Drill 18 V", "Stanley", "Saw"]),
        ("{brand} {title}", ["Brio Red train", "Drill 18 V", "Stanley", "Saw"]),
        ("{title}\n{brand}", ["Red train Brio", "Drill 18 V", "Stanley", "Saw"]),
        ("{{{title}}} {brand}", ["{Red train} Brio", "{Drill 18 V}", "Stanley", "{Saw}"]),
        ("{title}, {price} EUR, {in_stock}", ["Red train, 12, true", "Drill 18 V, 99.5, false", "", "Saw, 5, true"]),
        ("{description:2}", ["A red", "Strong &", "", "one two"]),
        (
            "{title:1}; {description}",
            ["Red; A red train of wood", "Drill; Strong & light", "", "Saw; one two three four"],
        ),
    ],
)
def test_an_empty_field_vanishes_with_what_separates_and_introduces_it(template: str, texts: list[str]) -> None:
    if "EUR" in template:  # what follows a field before the separator belongs to it
        texts = [text.replace(", true", " EUR, true").replace(", false", " EUR, false") for text in texts]
    assert ItemText(template).render(SHOP).to_list() == texts
    assert [ItemText(template).of(row) for row in SHOP.iter_rows(named=True)] == texts


@given(
    st.lists(st.sampled_from(["title", "brand", "category"]), min_size=1, max_size=3),
    st.sampled_from(["; ", ", ", " | ", " / ", " - ", " "]),
)
def test_texts_agree_with_joining_what_is_there(names: list[str], separator: str) -> None:
    def slow(row: Mapping[str, str | None]) -> str:
        values = ["" if row[name] in (None, "nan") else clean_title(str(row[name])) for name in names]
        return separator.join(value.replace("&amp;", "&") for value in values if value)

    template = separator.join(f"{{{name}}}" for name in names)
    assert ItemText(template).render(SHOP).to_list() == [slow(row) for row in SHOP.iter_rows(named=True)]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="&<")), min_size=1, max_size=5))
def test_titles_alone_are_read_as_they_were_before_there_were_templates(titles: list[str]) -> None:
    found = TITLES.render(pl.DataFrame({"title": titles}, schema={"title": pl.String})).to_list()
    assert found == [clean_title(title) for title in titles]


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("<p>One</p><p>two</p>", "One two"),
        ("H<sub>2</sub>O", "H2O"),
        ("a<br/>b<BR>c", "a b c"),
        ("&lt;b&gt;Bold&lt;/b&gt; &amp;amp; more", "Bold & more"),
        ('<div class="x > y">in</div>', 'y">in'),
        ("<script>if (a < b) {}</script>Text<style>p {}</style><!-- not this -->", "Text"),
        ("List<String> 5 < 6, I <3 it", "List<String> 5 < 6, I <3 it"),
        ("one\u2028two\x1cthree\x85four\n\tfive\xa0 six", "one two three four five six"),
        ("<ul><li>Light</li><li>Strong</li></ul>", "Light Strong"),
        (None, ""),
        ("None", ""),
        ("n/a", ""),
    ],
)
def test_html_becomes_text_without_line_breaks(raw: str | None, text: str) -> None:
    assert clean_text(pl.Series([raw], dtype=pl.String)).to_list() == [text]


PIECES = ("a", "B", "é", "日", " ", "\n", "\x1c", "\xa0", "&amp;", "&", "<b>", "</p>", "<", "none", ">")
VALUES = st.lists(st.sampled_from(PIECES)).map("".join)


@settings(max_examples=40)
@given(st.lists(st.tuples(VALUES, st.none() | VALUES, st.none() | st.floats(0, 99).map(lambda x: round(x, 2)))))
def test_one_item_is_read_as_many_are(rows: list[tuple[str, str | None, float | None]]) -> None:
    table = pl.DataFrame(rows, {"title": pl.String, "brand": pl.String, "price": pl.Float64}, orient="row")
    for text in (ItemText("{title:2}; by {brand:1}. {price}"), TITLES, ItemText("{brand} ({price})")):
        assert text.render(table).to_list() == [text.of(row) for row in table.iter_rows(named=True)]


@pytest.mark.parametrize(
    "raw", ["<!--" * 16_000, "<script>" * 8_000 + "</", "<script" * 9_000, "<b>Saw</b> " * 900 + "<!--", "</" * 30_000]
)
def test_a_text_that_was_written_to_take_long_does_not(raw: str) -> None:
    began = time.process_time()
    one = clean(raw, title=True)
    assert time.process_time() - began < 0.5
    assert one == clean_text(pl.Series([raw]))[0]


@pytest.mark.parametrize("raw", [f"Saw &#{'9' * 5_000};", f"Saw &#x{'f' * 5_000};", f"Saw &{'a' * 5_000};"])
def test_an_entity_of_thousands_of_digits_is_none(raw: str) -> None:
    """Python makes no number of them."""
    assert clean(raw) == clean_text(pl.Series([raw]))[0] == raw


def test_columns_of_other_types_are_read_as_people_write_them() -> None:
    table = pl.DataFrame({"n": [1.0, 2.5], "many": [["a", "b"], []], "yes": [True, None], "of": [{"a": 1}, {"a": 2}]})
    text = ItemText("{n}; {many}; {yes}; {of}")
    found = text.render(table).to_list()
    assert [text.of(row) for row in table.iter_rows(named=True)] == found
    assert found == ['1; a, b; true; {"a":1}', '2.5; {"a":2}']


def test_lists_in_lists_are_read_as_one_item_s_are() -> None:
    nested = {"path": [[["a", "b"], ["c"]], []], "sizes": [[1.0, 2.5], [float("nan")]], "of": [[{"a": 1}], [None]]}
    table = pl.DataFrame(nested | {"one": [{"a": 1}, None]})
    text = ItemText("{path}; {sizes}; {of}; {one}")
    found = text.render(table).to_list()
    assert [text.of(row) for row in table.iter_rows(named=True)] == found
    assert found == ['a, b, c; 1, 2.5; {"a":1}; {"a":1}', ""]
    items = table.select(item_id=pl.Series(["a", "b"]), title=pl.lit("Hat"), category="path")
    made = build_domain("d", items, {"train": pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"]})})
    assert made.items["category"].to_list() == ["a, b, c", None]


def test_a_limit_is_in_words_and_what_it_cuts_is_counted() -> None:
    text = ItemText("{title:2}; {description:3}")
    assert text.render(SHOP).to_list() == [
        "Red train; A red train",
        "Drill 18; Strong & light",
        "",
        "Saw; one two three",
    ]
    assert text.cut(SHOP) == {"title": {"items": 1, "words": 2}, "description": {"items": 2, "words": 3}}
    assert ItemText("{title:3}; {description}").cut(SHOP) == {}
    wide = pl.DataFrame({"title": ["日本語の長い商品名です" * 9, "short"]})
    assert ItemText("{title:4}").render(wide).str.len_chars().to_list() == [32, 5]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "is not a template of 1 to 1000 characters"),
        ("title", "the item text 'title' names no column"),
        ("{title", "is not understood"),
        ("{}", r"has the field \{\}"),
        ("{title:0}", r"has the field \{title:0\}"),
        ("{title:long}", r"has the field \{title:long\}.*a number of words from 1 to 1000"),
        ("{title!r}", r"has the field \{title!r\}"),
    ],
)
def test_a_template_that_is_not_understood_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ItemText(template)


def test_a_table_without_a_field_is_refused_by_its_name() -> None:
    with pytest.raises(DataError, match=r"has no 'colour', which is read .* it has title, brand, .*: add the column"):
        ItemText("{title}; {colour}").render(SHOP)
    with pytest.raises(DataError, match="the item table of domain 'shop' has no 'colour'"):
        shop(text="{title}; {colour}")


# ---- domains


def test_a_domain_keeps_its_columns_and_reads_what_is_there(tmp_path: Path) -> None:
    domain = shop()
    assert domain.text == ItemText("{title}; {brand}; {category}")
    assert domain.titles == ["Red train", "Drill 18 V", "", "Saw"]
    assert domain.texts == ["Red train; Brio; Toys & Games", "Drill 18 V; Tools", "Stanley", "Saw"]
    assert domain.items.columns == SHOP.columns
    assert domain.items["category"].to_list() == ["Toys & Games", "Tools", None, None]
    write_domain(domain, tmp_path / "shop")
    again = read_domain(tmp_path / "shop")
    assert (again.text, again.texts, again.fingerprint) == (domain.text, domain.texts, domain.fingerprint)
    assert again.items.equals(domain.items)
    assert again.manifest["text"] == "{title}; {brand}; {category}"


def test_the_default_text_is_what_the_items_have() -> None:
    def default(table: pl.DataFrame) -> str:
        return build_domain("d", table, {"train": INTERACTIONS}).text.template

    assert default(SHOP.drop("brand", "category")) == "{title}"
    assert default(SHOP.with_columns(brand=pl.lit(" "))) == "{title}; {category}"
    assert default(SHOP.drop("category")) == "{title}; {brand}"


def test_further_columns_are_kept_as_text_and_canonical_ones_in_their_types() -> None:
    table = SHOP.with_columns(
        pl.Series("size", [1, 2, None, 3]), price=pl.Series(["12", " 9.5 ", "nan", None]), in_stock=pl.lit("Yes")
    ).select("size", "price", "in_stock", "title", "item_id")
    items = build_domain("d", table, {"train": INTERACTIONS}).items
    assert items.schema == {
        "item_id": pl.String, "title": pl.String, "price": pl.Float64, "in_stock": pl.Boolean, "size": pl.String
    }  # fmt: skip
    assert items["price"].to_list() == [12.0, 9.5, None, None]
    assert items["size"].to_list() == ["1", "2", None, "3"]


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("price", "12,50", r"have price '12,50' in row 0.*write a number"),
        ("in_stock", "perhaps", "write true or false"),
    ],
)
def test_a_price_or_stock_that_is_none_is_refused(column: str, value: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_domain("d", SHOP.with_columns(pl.lit(value).alias(column)), {"train": INTERACTIONS})


def test_the_fingerprint_covers_text_and_columns() -> None:
    plain = build_domain("d", SHOP.select("item_id", "title"), {"train": INTERACTIONS})
    prints = {
        domain.fingerprint
        for domain in (
            plain,
            shop(text="{title}"),
            shop(),
            shop().with_text("{title}; {brand}"),
            build_domain("d", SHOP.with_columns(price=pl.lit(1.0)), {"train": INTERACTIONS}),
            build_domain("d", SHOP.with_columns(in_stock=pl.lit(value=False)), {"train": INTERACTIONS}),
        )
    }
    assert len(prints) == 6
    assert shop().with_text("{title}").fingerprint == shop(text="{title}").fingerprint
    assert plain.text == TITLES


def test_what_a_limit_cuts_is_in_the_manifest() -> None:
    assert shop(text="{title}; {description:3}").manifest["filters"]["text_cut"] == {
        "description": {"items": 2, "words": 3}
    }
    assert "text_cut" not in shop().manifest["filters"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Stainless steel", "Stainless steel"), ("Crème brûlée", "Creme brulee"), ("IŞIKLI ışıklı İnce", "ISIKLI isikli Ince"),
        ("Bình tưới đẹp", "Binh tuoi dep"), ("ﾜｲﾔﾚｽ ５", "ワイヤレス 5"), ("ハ\u309a", "パ"),
        ("שָׁלוֹם", "שלום"), ("إبريق", "ابریق"), ("할인", "할인"),
    ],
)  # fmt: skip
def test_accents_and_widths_are_taken_off_but_letters_stay(text: str, plain: str) -> None:
    assert unaccented(text) == plain


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Café au lait 5", "Café au lait 5"), ("不锈钢壶5升", "不 锈 钢 壶 5 升"), ("折りたたみ傘ブラック", "折 りたたみ 傘 ブラック"),
        ("กระถางไม้", "กระ ระถ ะถา ถาง างไ งไม"), ("गमला बड़ा", "गमल बड"), ("스텐 물병", "스텐 물병"),
    ],
)  # fmt: skip
def test_words_are_found_where_a_script_has_no_blanks(text: str, words: str) -> None:
    assert " ".join(spaced(text).split()) == words
    assert spaced("不锈钢", 2).split() == ["不锈", "锈钢"]
