"""One planted defect for each code of the fields that models read."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.data.lint import Finding, lint

NAMES = ["oak", "brass", "velvet", "cedar", "quartz", "linen", "copper", "maple", "jade", "amber"]
NAMES += ["slate", "coral", "ivory", "onyx", "pearl", "ruby", "topaz", "walnut", "wool", "zinc"]
USERS = range(20)


def domain(text: str = "{title}; {brand}; {category}; {description}", **columns: list[Any]) -> Domain:
    """Twenty items of which each says something of its own, and twenty users; with some columns instead."""
    clean = {
        "item_id": [f"item-{number:03}" for number in USERS],
        "title": [f"{name.title()} lamp {NAMES[-number]} {number}" for number, name in enumerate(NAMES)],
        "brand": [NAMES[number % 7] for number in USERS],
        "category": [NAMES[number % 3] for number in USERS],
        "description": [" ".join(random.Random(number).sample(NAMES, 12)) for number in USERS],
    }
    items = pl.DataFrame({**clean, **columns})
    bought = [{"user_id": f"u{u}", "item_id": f"item-{(u + step) % 20:03}"} for u in USERS for step in range(4)]
    return build_domain("d", items, {"train": bought}, text=text)


def findings(made: Domain) -> dict[str, Finding]:
    return {each.code: each for each in lint(made).findings}


def others(number: int) -> str:
    return f"Goes well with item-{(number + 1) % 20:03}, item-{(number + 7) % 20:03}"


FAULTS = {
    "empty_field": (
        {"brand": ["oak"] * 9 + [""] * 10 + ["n/a"]},
        11,
        "11 of 20 items have no brand: use another field",
    ),
    "constant_field": (
        {"category": ["Home"] * 20},
        20,
        "20 of 20 items have the same category, which distinguishes none",
    ),
    "boilerplate_field": (
        {"description": [f"{name} Free returns within thirty days {name}" for name in NAMES]},
        20,
        "20 of 20 values of description contain one phrase",
    ),
    "html_tag": (
        {"description": [f"{name} <x-card ref={n}>{name * 2}" for n, name in enumerate(NAMES)]},
        20,
        "values of description contain remains of HTML tags",
    ),
    "long_text": ({"description": [f"{name} {n} " * 60 for n, name in enumerate(NAMES)]}, 20, "more than 100 words"),
    "leaking_field": (
        {"description": [f"2026-01-{number + 1:02} 12:00:00" for number in USERS]},
        20,
        "20 of 20 values of description are or contain a time",
    ),
}


@pytest.mark.parametrize("code", FAULTS)
def test_a_planted_fault_is_found_and_is_a_warning(code: str) -> None:
    columns, count, said = FAULTS[code]
    one = findings(domain(**columns))[code]
    assert (one.severity, one.count) == ("warning", count)
    assert said in one.message


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    made = domain()
    codes = {"empty_field", "constant_field", "boilerplate_field", "html_tag", "long_text", "leaking_field"}
    assert not codes & set(findings(made))
    write_domain(made, tmp_path / "d")
    assert not codes & {each.code for each in lint(tmp_path / "d").findings}


@pytest.mark.parametrize(
    "values",
    [
        [f"SKU{number * 7919:08}" for number in USERS],
        [f"https://shop.example/p/item-{number:03}?ref=a b" for number in USERS],
    ],
)
def test_a_field_that_is_nearly_an_id_is_found(values: list[str]) -> None:
    one = findings(domain(description=values))["leaking_field"]
    assert (one.severity, one.split) == ("warning", None)
    assert "are or contain an id" in one.message


@pytest.mark.parametrize("by", ["id", "title"])
def test_a_field_that_names_the_target_is_an_error(by: str) -> None:
    title = domain().titles
    named = [others(number) if by == "id" else f"{NAMES[number]} or {title[(number + 1) % 20]}!" for number in USERS]
    one = findings(domain(description=named))["leaking_field"]
    assert (one.severity, one.split, one.count) == ("error", "train", 20)
    assert "last items are named, by id or title, in the description of an item bought before" in one.message


def test_boilerplate_of_titles_is_found_by_its_longest_phrase() -> None:
    one = findings(domain(title=[f"Buy {name} now at the best price {number}" for number, name in enumerate(NAMES)]))
    assert (one["boilerplate_field"].count, one["boilerplate_field"].examples) == (20, ("'now at the best price'",))


def test_html_that_is_cleaned_is_no_fault() -> None:
    assert "html_tag" not in findings(domain(description=[f"<p>{name} <b>{name}</b></p>" for name in reversed(NAMES)]))


def test_a_column_that_nobody_reads_is_left_alone() -> None:
    made = domain("{title}", url=[f"https://x/{number}" for number in USERS])
    assert "leaking_field" not in findings(made)
    assert "leaking_field" in findings(domain("{title}; {url}", url=[f"https://x/{number}" for number in USERS]))


def test_chinese_and_thai_texts_without_blanks_are_no_ids_and_not_boilerplate() -> None:
    letters = {"不锈钢浇水壶园艺专业花盆修枝剪": 2, "บัวรดน้ำกระถางไม้สแตนเลสกรรไกร": 6}
    for script, size in letters.items():
        texts = ["".join(random.Random(number).choices(script, k=16)) for number in USERS]
        assert not {"leaking_field", "boilerplate_field", "long_text"} & set(findings(domain(description=texts)))
        long = findings(domain(description=[text * 16 for text in texts]))
        assert ("long_text" in long) == (16 * 16 / size > 100)
    named = [f"再买{domain().titles[(number + 1) % 20]}吧" for number in USERS]
    assert findings(domain(description=named))["leaking_field"].severity == "error"


def test_titles_that_unicode_writes_in_two_ways_are_one() -> None:
    titles = [f"{name} {number}" for number, name in enumerate(NAMES)]
    titles[:4] = ["Café au lait", "Cafe\u0301 au lait", "ワイヤレス", "ﾜｲﾔﾚｽ"]
    assert findings(domain(title=titles))["duplicate_title"].count == 4
