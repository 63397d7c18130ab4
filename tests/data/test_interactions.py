from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.data.interactions import (
    as_categories,
    as_text,
    clean_titles,
    deduplicate,
    k_core,
    numbers_of,
    order,
)
from xcrossrec.data.text import unescape
from xcrossrec.exceptions import ConfigError, DataError

ITEMS = pl.DataFrame({"item_id": ["a", "b", "c"], "title": ["Ant", "Bee", "Cat"]})


def bought(*rows: tuple[Any, ...], columns: str = "user_id item_id timestamp") -> pl.DataFrame:
    return pl.DataFrame(rows, schema=columns.split(), orient="row")


def test_deduplicate_drops_exact_repeats_only() -> None:
    frame = bought(("u", "a", 1), ("u", "b", 1), ("u", "a", 1), ("u", "a", 2), ("v", "a", 1))
    assert deduplicate(frame).rows() == [("u", "a", 1), ("u", "b", 1), ("u", "a", 2), ("v", "a", 1)]


def test_deduplicate_keeps_the_earliest_purchase() -> None:
    frame = bought(("u", "a", 5), ("u", "b", 3), ("u", "a", 1), ("v", "a", 9))
    kept = deduplicate(frame, first_purchase_only=True)
    assert kept.rows() == [("u", "b", 3), ("u", "a", 1), ("v", "a", 9)]


def test_deduplicate_without_time_goes_by_user_and_item() -> None:
    frame = bought(("u", "a"), ("u", "a"), ("u", "b"), columns="user_id item_id")
    assert deduplicate(frame).rows() == [("u", "a"), ("u", "b")]


def slow_core(pairs: set[tuple[int, int]], least: int) -> set[tuple[int, int]]:
    """Remove one offending pair at a time."""
    pairs = set(pairs)
    while True:
        for user, item in sorted(pairs):
            of_user = sum(1 for pair in pairs if pair[0] == user)
            of_item = sum(1 for pair in pairs if pair[1] == item)
            if min(of_user, of_item) < least:
                pairs.remove((user, item))
                break
        else:
            return pairs


@given(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30),
    st.integers(1, 3),
)
def test_k_core_agrees_with_removal_one_by_one(pairs: set[tuple[int, int]], least: int) -> None:
    frame = pl.DataFrame(sorted(pairs), schema=["user_id", "item_id"], orient="row")
    expected = slow_core(pairs, least)
    if expected:
        assert set(k_core(frame, least).rows()) == expected
    else:
        with pytest.raises(DataError, match=f"k-core of {least} interactions a user and an item is empty"):
            k_core(frame, least)


def test_order_sorts_by_time_and_keeps_ties_as_they_stand() -> None:
    frame = bought(("v", "c", 4), ("u", "b", 7), ("v", "a", 4), ("u", "a", 1), ("v", "b", 2))
    ordered = order(frame)
    assert ordered.select("user_id", "item_id", "position").rows() == [
        ("v", "b", 0),
        ("v", "c", 1),
        ("v", "a", 2),
        ("u", "a", 0),
        ("u", "b", 1),
    ]


ROWS = st.lists(
    st.tuples(st.sampled_from(["u", "v", "", None]), st.sampled_from(["a", "b", None]), st.integers(-2, 2)), max_size=12
)
INTERACTIONS = {"user_id": pl.String, "item_id": pl.String, "timestamp": pl.Int64}


def plain_deduplicate(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.unique(["user_id", "item_id", "timestamp"], keep="first", maintain_order=True)


def plain_order(frame: pl.DataFrame) -> pl.DataFrame:
    numbered = frame.with_row_index("row").with_columns(pl.col("row").min().over("user_id").alias("first"))
    ordered = numbered.sort("first", "timestamp", "row").drop("first", "row")
    return ordered.with_columns(pl.int_range(pl.len(), dtype=pl.Int64).over("user_id").alias("position"))


@given(ROWS, st.integers(1, 2**62))
def test_steps_on_numbers_agree_with_those_on_text(rows: list[tuple[Any, ...]], scale: int) -> None:
    """As one writes them in polars; numbers made beforehand, and times too large for them, change nothing."""
    frame = pl.DataFrame(rows, schema=INTERACTIONS, orient="row")
    frame = frame.with_columns(pl.col("timestamp") * scale // 2)
    categories = as_categories(frame)
    for step, plain in ((deduplicate, plain_deduplicate), (order, plain_order)):
        expected = plain(frame)
        assert step(frame).equals(expected)
        assert as_text(step(categories)).equals(expected)
    if rows:
        assert as_text(k_core(categories, 1)).equals(frame)


@given(ROWS)
def test_numbers_tell_ids_apart(rows: list[tuple[Any, ...]]) -> None:
    frame = pl.DataFrame(rows, schema=INTERACTIONS, orient="row")
    for ids in (frame["item_id"], as_categories(frame)["item_id"]):
        catalogue, numbers = numbers_of(ITEMS["item_id"]), numbers_of(ids)
        items = [*zip(ITEMS["item_id"], catalogue.tolist(), strict=True), *zip(ids, numbers.tolist(), strict=True)]
        assert len(set(items)) == len({item for item, _ in items}) == len({number for _, number in items})


def test_order_goes_by_position_then_as_rows_stand() -> None:
    frame = bought(("u", "a", 9), ("u", "b", 3), ("u", "c", 5), columns="user_id item_id position")
    assert order(frame)["item_id"].to_list() == ["b", "c", "a"]
    assert order(frame)["position"].to_list() == [0, 1, 2]
    assert order(frame.drop("position"))["item_id"].to_list() == ["a", "b", "c"]
    apart = bought(("u", "a", 2**62), ("u", "b", -(2**62) - 5), columns="user_id item_id position")
    assert order(apart)["item_id"].to_list() == ["b", "a"]  # further apart than an int64 can say


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("Black &amp; Decker", "Black & Decker"),
        ("5&quot; &amp;amp; more&#39;s", "5\" & more's"),
        ("AT&T &copy without end", "AT&T &copy without end"),
        ("  two\n words\u00a0here\t", "two words here"),
        (None, ""),
    ],
)
def test_clean_titles_makes_plain_text(title: str | None, clean: str) -> None:
    frame = pl.DataFrame({"title": [title]}, schema={"title": pl.String})
    assert clean_titles(frame)["title"].to_list() == [clean]


@given(st.text(st.sampled_from("ab &;\n\t\x1c\x85\u3000\u200bé#38quot"), max_size=12))
def test_clean_titles_agrees_with_the_slow_way(title: str) -> None:
    """Titles that need no cleaning are not looked at one by one."""
    expected = " ".join(unescape(title).split())
    assert clean_titles(pl.DataFrame({"title": ["x", title, "&amp;"]}))["title"].to_list() == ["x", expected, "&"]


@given(st.text())
def test_unescape_leaves_text_without_entities_alone(text: str) -> None:
    if ";" not in text:
        assert unescape(text) == text


TRAIN = [{"user_id": "u", "item_id": "a"}, {"user_id": "u", "item_id": "b"}]


@pytest.mark.parametrize(
    "make", [list, pl.DataFrame, pl.LazyFrame, pd.DataFrame, lambda rows: pl.DataFrame(rows).to_arrow()]
)
def test_build_domain_takes_tables_of_other_libraries(make: Callable[[Any], Any]) -> None:
    expected = build_domain("d", ITEMS, {"train": pl.DataFrame(TRAIN)})
    domain = build_domain("d", make(ITEMS.to_dicts()), {"train": make(TRAIN)})
    assert domain.fingerprint == expected.fingerprint


@pytest.mark.parametrize("bad", [7, "items.csv", [["a", "b"]], None])
def test_build_domain_refuses_what_is_no_table(bad: Any) -> None:
    with pytest.raises(DataError, match=r"(are a \w+ and not a table|lacks? the column)"):
        build_domain("d", bad, {"train": TRAIN})


def test_build_domain_takes_a_table_a_split() -> None:
    with pytest.raises(ConfigError, match=r"interactions is a DataFrame: expected a mapping, as \{name: value\}"):
        build_domain("d", ITEMS, pl.DataFrame(TRAIN))  # type: ignore[arg-type]


def test_build_domain_orders_and_converts() -> None:
    items = pl.DataFrame({"item_id": [7, 8, 7], "title": ["Seven &amp; up", "Eight", "Seven &amp; up"], "x": 1})
    train = pl.DataFrame({"user_id": [2, 1, 2], "item_id": [7, 8, 8], "timestamp": [20.7, 5.0, 10.0]})
    domain = build_domain("d", items, {"train": train}, manifest={"seed": 5, "filters": {"split": "given"}})
    assert domain.items.rows() == [("7", "Seven & up", "1"), ("8", "Eight", "1")]
    assert domain.interactions["train"].rows() == [("2", "8", 0, 10), ("2", "7", 1, 20), ("1", "8", 0, 5)]
    assert domain.manifest["seed"] == 5
    assert domain.manifest["filters"] == {
        "split": "given",
        "html_entities": {"items": 1, "examples": ["Seven &amp; up"]},
    }


def test_build_domain_reads_positions_written_as_text() -> None:
    train = bought(("u", "a", "10"), ("u", "b", "9.0"), columns="user_id item_id position")
    frame = build_domain("d", ITEMS, {"train": train}).interactions["train"]
    assert frame.rows() == [("u", "b", 9), ("u", "a", 10)]


def train_of(**columns: list[Any]) -> dict[Any, pl.DataFrame]:
    return {"train": pl.DataFrame({"user_id": ["u", "u"], "item_id": ["a", "b"], **columns}, strict=False)}


@pytest.mark.parametrize(
    ("items", "splits", "message"),
    [
        (ITEMS.select("item_id"), train_of(), "the items of domain 'd' lacks the column 'title'; it has item_id"),
        (ITEMS.clear(), train_of(), "domain 'd' is empty: its catalogue has no items"),
        (ITEMS, {"test": train_of()["train"]}, "domain 'd' has no train split, got test"),
        (ITEMS, {"train": train_of()["train"].clear()}, "domain 'd' has an empty train split"),
        (
            ITEMS,
            {"train": pl.DataFrame({"user": ["u"], "item_id": ["a"]})},
            "the train interactions of domain 'd' lacks the column 'user_id'; it has user, item_id",
        ),
        (ITEMS, train_of(user_id=["u", None]), r"lack user_id in 1 rows \(first: row 1, from 0\)"),
        (ITEMS, train_of(item_id=[" ", "a"]), r"lack item_id in 1 rows \(first: row 0, from 0\)"),
        (ITEMS, train_of(item_id=[1.0, 2.5]), "item_id of type Float64, expected text or integers"),
        (ITEMS, train_of(item_id=["a", "zz"]), r"1 interactions with 1 items that its catalogue lacks \('zz'\)"),
        (ITEMS, train_of(position=["0", "first"]), "have position 'first' in row 1"),
        (ITEMS, train_of(position=[0.5, 1.0]), "have position 0.5 in row 0"),
        (ITEMS, train_of(position=[0.0, float("nan")]), "have position nan in row 1"),
        (ITEMS, train_of(position=[True, False]), "have position True in row 0"),
        (ITEMS, train_of(timestamp=[5, None]), "have timestamp None in row 1"),
        (
            ITEMS.vstack(pl.DataFrame({"item_id": ["a"], "title": ["Ape"]})),
            train_of(),
            r"give 1 ids more than one title \('a'\)",
        ),
    ],
)
def test_build_domain_refuses_bad_tables(items: pl.DataFrame, splits: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_domain("d", items, splits)


def test_build_domain_refuses_an_empty_name() -> None:
    with pytest.raises(DataError, match="a domain needs a name"):
        build_domain(" ", ITEMS, train_of())


def untitled() -> pl.DataFrame:
    return ITEMS.with_columns(title=pl.Series(["Ant", "nan", "Cat"]))


def test_build_domain_keeps_untitled_items_as_empty_text() -> None:
    domain = build_domain("d", untitled(), train_of())
    assert domain.titles == ["Ant", "", "Cat"]
    assert domain.manifest["filters"]["empty_titles"] == {"items": 1, "examples": ["b"]}


@given(st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 3)), min_size=1, max_size=12))
def test_build_domain_orders_as_a_loop_does(rows: list[tuple[str, str, int]]) -> None:
    users = list(dict.fromkeys(user for user, _, _ in rows))
    expected = [row for user in users for row in sorted((r for r in rows if r[0] == user), key=lambda row: row[2])]
    made = build_domain("d", ITEMS, {"train": bought(*rows, columns="user_id item_id position")})
    assert made.interactions["train"].rows() == expected


def test_build_domain_of_a_domain_changes_nothing(tiny_domain: Domain) -> None:
    again = build_domain("tiny", tiny_domain.items, tiny_domain.interactions)
    assert again.fingerprint == tiny_domain.fingerprint


@pytest.mark.real_data
def test_build_domain_takes_the_real_sports_data(amazon_dir: Any) -> None:
    read = {
        stem: pl.read_csv(amazon_dir / "sports" / f"{stem}.csv.gz", infer_schema=False)
        for stem in ("items", "train", "validation")
    }
    items = read.pop("items")
    domain = build_domain("sports", items, read)  # type: ignore[arg-type]
    assert domain.manifest["filters"]["empty_titles"]["items"] == 3
    assert domain.manifest["counts"]["users"] == {"train": 15_395, "validation": 1_924}


def test_fractions_of_a_second_count_for_the_order_before_they_are_cut() -> None:
    rows = {
        "train": [{"user_id": "u", "item_id": item, "timestamp": 1.0 + n / 10} for n, item in enumerate("cba", 1)][::-1]
    }
    domain = build_domain("d", ITEMS, rows)
    assert domain.interactions["train"].select("item_id", "timestamp").rows() == [("c", 1), ("b", 1), ("a", 1)]


def test_an_unknown_item_names_the_option() -> None:
    with pytest.raises(
        DataError, match=r"1 interactions with 1 items .* leave them out \(data import --unknown-items drop\)"
    ):
        build_domain("d", ITEMS, {"train": bought(("u", "z", 1))})


@pytest.mark.parametrize(
    "times",
    [
        [1_500_000_000_900, 1_500_000_000_100],
        [Decimal("1500000000.9"), Decimal("1500000000.1")],
        ["2017-07-14T02:40:00.9", "2017-07-14 02:40:00.100"],
        pa.array([1_500_000_000_900, 1_500_000_000_100], pa.timestamp("ms", tz="+05:30")),
    ],
)
def test_times_of_a_table_are_read_as_those_of_a_file(times: Any) -> None:
    table = pa.table({"user_id": ["u", "u"], "item_id": ["a", "b"], "timestamp": times})
    train = build_domain("d", {"item_id": ["a", "b"], "title": ["A", "B"]}, {"train": table}).interactions["train"]
    assert train.rows() == [("u", "b", 0, 1_500_000_000), ("u", "a", 1, 1_500_000_000)]


@pytest.mark.parametrize(
    ("items", "splits", "message"),
    [
        ({}, {"timestamp": [-5]}, "timestamp -5 in row 0 .*: it is a time before 1990"),
        ({}, {"timestamp": [True]}, "timestamp of type Boolean, expected seconds, ISO 8601 or datetimes"),
        ({"title": [b"\xff"]}, {}, "title of type Binary: make it text"),
        ({"price": [float("inf")]}, {}, "have price 'inf' in row 0"),
    ],
)
def test_values_that_cannot_be_are_refused(items: dict[str, Any], splits: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_domain(
            "d", {"item_id": ["a"], "title": ["A"], **items}, {"train": {"user_id": ["u"], "item_id": ["a"], **splits}}
        )


def test_a_split_of_another_name_is_refused() -> None:
    table = {"user_id": ["u"], "item_id": ["a"]}
    with pytest.raises(DataError, match="has splits valid: call them train, validation, test"):
        build_domain("d", {"item_id": ["a"], "title": ["A"]}, {"train": table, "valid": table})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="domain is a list: expected Domain"):
        write_domain([], "x")  # type: ignore[arg-type]
