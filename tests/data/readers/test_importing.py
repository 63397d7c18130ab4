import hashlib
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from xcrossrec.data.interactions import build_domain
from xcrossrec.data.readers.frames import RawDomain
from xcrossrec.data.readers.importing import Recipe, make_domain
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import SplitWay

# One row an interaction: user, item, time. u1 repeats (a, 1) exactly and buys a again later.
ROWS = [
    ("u1", "a", 1),
    ("u1", "a", 1),
    ("u2", "b", 9),
    ("u1", "c", 3),
    ("u1", "b", 2),
    ("u1", "a", 4),
    ("u2", "a", 8),
    ("u3", "d", 5),
]


@pytest.fixture
def source(tmp_path: Path) -> RawDomain:
    path = tmp_path / "source.csv"
    path.write_text("what was read")
    items = pl.DataFrame({"item_id": list("abcde"), "title": ["A", "B &amp; C", "C", "D", "E"]})
    rows = pl.DataFrame(ROWS, schema=["user_id", "item_id", "timestamp"], orient="row")
    return RawDomain(items, rows, (path,))


def test_by_default_repeats_go_and_the_last_items_are_left_out(source: RawDomain) -> None:
    domain = make_domain("m", source, Recipe())
    assert domain.interactions["test"].select("user_id", "item_id", "position").rows() == [
        ("u1", "a", 0),
        ("u1", "b", 1),
        ("u1", "c", 2),
        ("u1", "a", 3),
    ]
    assert domain.interactions["validation"].height == 3
    assert domain.interactions["train"]["user_id"].to_list() == ["u1", "u1", "u2", "u2", "u3"]
    assert domain.titles == ["A", "B & C", "C", "D", "E"]


def test_the_manifest_states_sources_and_filters(source: RawDomain) -> None:
    manifest = make_domain("m", source, Recipe(split="by-user", validation=0.34, test=0, seed=5)).manifest
    (stated,) = manifest["sources"]
    assert stated["sha256"] == hashlib.sha256(b"what was read").hexdigest()
    assert stated["bytes"] == 13
    assert manifest["seed"] == 5
    assert manifest["filters"]["split"] == "by_user"
    assert manifest["filters"]["repeats"] == "drop"
    assert manifest["counts"]["users"] == {"train": 2, "validation": 1}


@pytest.mark.parametrize(
    ("recipe", "interactions"),
    [
        (Recipe(split="none"), 7),
        (Recipe(split="none", repeats="keep"), 8),
        (Recipe(split="none", repeats="first"), 6),
        (Recipe(split="none", core=2), 5),
    ],
)
def test_filters(source: RawDomain, recipe: Recipe, interactions: int) -> None:
    domain = make_domain("m", source, recipe)
    assert domain.interactions["train"].height == interactions


def test_items_that_the_core_drops_leave_the_catalogue_and_unsold_ones_stay(source: RawDomain) -> None:
    domain = make_domain("m", source, Recipe(split="none", core=2))
    assert domain.items["item_id"].to_list() == ["a", "b", "e"]


@pytest.mark.parametrize("recipe", [{}, {"core": 2}, {"repeats": "keep"}])
@pytest.mark.parametrize("way", ["leave-last-out", "by-user", "none"])
def test_prepared_rows_need_no_second_check(source: RawDomain, way: SplitWay, recipe: dict[str, Any]) -> None:
    items = source.items.filter(pl.col("item_id") != "c")
    raw = RawDomain(items, source.interactions, source.sources)
    one = make_domain("m", raw, Recipe(unknown_items="drop", split=way, validation=0.4, test=0, **recipe))
    again = build_domain("m", one.items, one.interactions, manifest=one.manifest)
    assert again.fingerprint == one.fingerprint
    assert again.manifest["counts"] == one.manifest["counts"]


def test_temporal_split(source: RawDomain) -> None:
    domain = make_domain("m", source, Recipe(split="temporal", validation=0.3, test=0.3))
    users = {split: sorted(frame["user_id"].unique()) for split, frame in domain.interactions.items()}
    assert users == {"train": ["u1"], "validation": ["u1", "u3"], "test": ["u2"]}
    assert domain.manifest["filters"]["test"] == 0.3


def test_unknown_items_are_dropped_before_the_core(source: RawDomain) -> None:
    raw = RawDomain(source.items.filter(~pl.col("item_id").is_in(["b", "c"])), source.interactions, ())
    recipe = Recipe(split="none", core=2, unknown_items="drop")
    assert make_domain("m", raw, recipe).interactions["train"].select("user_id", "item_id").rows() == [
        ("u1", "a"),
        ("u1", "a"),
    ]
    with pytest.raises(DataError, match=r"2 items that its catalogue lacks \('[bc]', '[bc]'\)"):
        make_domain("m", raw, Recipe())


def test_split_sources_are_taken_as_they_are(source: RawDomain) -> None:
    rows = source.interactions.with_columns(pl.lit("train").alias("split"))
    given = RawDomain(source.items, rows, source.sources)
    domain = make_domain("m", given, Recipe())
    assert domain.interactions["train"].height == len(ROWS)
    assert domain.manifest["filters"]["split"] == "given"
    for recipe in (Recipe(split="by-user"), Recipe(core=2), Recipe(repeats="first")):
        with pytest.raises(ConfigError, match="come split, so they are taken as they are"):
            make_domain("m", given, recipe)


def test_impossible_recipes_are_refused(source: RawDomain) -> None:
    with pytest.raises(ConfigError, match="core is 0, expected 1 or more"):
        Recipe(core=0)
    with pytest.raises(DataError, match=r"k-core of 9 .* is empty"):
        make_domain("m", source, Recipe(core=9))


def test_where_the_rows_went_is_stated_once_whatever_the_split(source: RawDomain) -> None:
    items = source.items.filter(pl.col("item_id") != "c")
    raw = RawDomain(items, source.interactions, (), {"read": 9, "where": 1})
    filters = make_domain("m", raw, Recipe(unknown_items="drop")).manifest["filters"]
    assert filters["rows"] == {"read": 9, "where": 1, "unknown_items": 1, "repeats": 1, "kept": 6}
    assert filters["unknown_items"] == {"items": 1, "interactions": 1}
    with pytest.raises(DataError, match=r"has 1 interactions with 1 items .*--unknown-items drop"):
        make_domain("m", raw, Recipe())
    rows = source.interactions.with_columns(pl.lit("train").alias("split"))
    given = rows.filter(pl.col("timestamp").is_in([1, 8])).unique(maintain_order=True)
    with pytest.raises(DataError, match=r"has 2 interactions with 1 items that its catalogue lacks \('a'\)"):
        make_domain("m", RawDomain(items.filter(pl.col("item_id") != "a"), given, ()), Recipe())


def test_a_temporal_split_goes_by_fractions_of_a_second(source: RawDomain) -> None:
    rows = [("u1", "a", 5, 300), ("u2", "b", 5, 100), ("u3", "c", 5, 200), ("u2", "a", 4, 900)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp", "subsecond"], orient="row")
    domain = make_domain("m", RawDomain(source.items, frame, ()), Recipe(split="temporal", validation=0.3, test=0.3))
    users = {split: frame["user_id"].unique().to_list() for split, frame in domain.interactions.items()}
    assert users == {"train": ["u2"], "validation": ["u3"], "test": ["u1"]}
    assert domain.interactions["train"].columns == ["user_id", "item_id", "position", "timestamp"]


def _orders(source: RawDomain, users: int) -> RawDomain:
    """Each user with an order of one item and one of two; three more users with one order of three alone."""
    rows = [(f"u{n}", item, 10 + (item != "a")) for n in range(users) for item in "abc"]
    rows += [(f"v{n}", item, 10) for n in range(3) for item in "abc"]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    return RawDomain(source.items, table, source.sources)


@pytest.mark.parametrize("way", ["leave-last-out", "by-user", "temporal"])
def test_an_order_is_predicted_from_those_before_it(source: RawDomain, way: SplitWay) -> None:
    shares = {"validation": 0.3, "test": 0.3} if way == "by-user" else {"validation": 0.0, "test": 0.3}
    domain = make_domain("m", _orders(source, 120), Recipe(split=way, **shares))
    test = domain.sequences("test")
    histories, targets = test.histories_and_targets()
    assert len(test) >= 30
    assert set(histories) == {(0,)}  # not the other line of the target's order
    assert set(targets) == {2}
    assert set(test.rows) == {(0, 1, 2)}  # which is no negative either
    assert not any(user.startswith("v") for user in test.user_ids)
    assert domain.manifest["filters"]["one_order"]["test"] == domain.count_users("test") - len(test)
    assert test.take(5, 0).histories_and_targets()[0] == [(0,)] * 5


def test_where_few_have_an_earlier_order_all_lines_count(source: RawDomain) -> None:
    few = make_domain("m", _orders(source, 29), Recipe())
    assert "orders" not in few.manifest["filters"]
    assert set(few.sequences("test").histories_and_targets()[0]) == {(0, 1)}
    enough = make_domain("m", _orders(source, 30), Recipe())
    assert set(enough.sequences("test").histories_and_targets()[0]) == {(0,)}
    without = _orders(source, 40)
    placed = without.interactions.rename({"timestamp": "position"})
    assert (
        "orders" not in make_domain("m", RawDomain(source.items, placed, source.sources), Recipe()).manifest["filters"]
    )
