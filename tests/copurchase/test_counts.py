from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from time import thread_time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xcrossrec.copurchase import CoPurchases, Term, user_hash
from xcrossrec.exceptions import DataError

ITEMS = "abcdefghijkl"
SEQUENCES = st.dictionaries(
    st.sampled_from(["u1", "u2", "u3", "u4"]), st.lists(st.sampled_from(ITEMS), min_size=1, max_size=14), min_size=1
)
HISTORY = st.lists(st.sampled_from([*ITEMS, "unknown"]), max_size=9)


def table(sequences: dict[str, list[str] | str]) -> pl.DataFrame:
    rows = [(user, item) for user, items in sequences.items() for item in items]
    return pl.DataFrame(rows, schema={"user_id": pl.String, "item_id": pl.String}, orient="row")


def by_hand(sequences: dict[str, list[str]], history: list[str]) -> dict[str, float]:
    """The term as its definition says, item by item and pair by pair."""
    firsts = [list(dict.fromkeys(items)) for items in sequences.values()]
    bought = {item: sum(item in first for first in firsts) for item in ITEMS}

    def similarity(one: str, other: str) -> float:
        places = [(first.index(one), first.index(other)) for first in firsts if one in first and other in first]
        near = [(1 if a < b else 0.5) / abs(a - b) for a, b in places if 0 < abs(a - b) <= 6]
        return sum(near) / math.sqrt((bought[one] + 10) * (bought[other] + 10)) if near else 0.0

    ages = {item: len(history) - 1 - place for place, item in enumerate(history)}
    scores = {
        item: sum(similarity(each, item) * 0.7**age for each, age in ages.items() if each in bought) for item in ITEMS
    }
    return {item: score for item, score in scores.items() if score}


@settings(max_examples=40)
@given(SEQUENCES, HISTORY)
def test_scores_are_those_of_the_definition(sequences: dict[str, list[str]], history: list[str]) -> None:
    found = CoPurchases.count(table(sequences)).scores(history)
    assert found == pytest.approx(by_hand(sequences, history))


@settings(max_examples=40)
@given(SEQUENCES, HISTORY, st.integers(1, 5))
def test_the_highest_scores_are_given_alone(sequences: dict[str, list[str]], history: list[str], highest: int) -> None:
    counts = CoPurchases.count(table(sequences))
    every, some = counts.scores(history), counts.scores(history, highest=highest, also=["a", "unknown"])
    least = sorted(every.values(), reverse=True)[:highest][-1:]
    assert some == {item: score for item, score in every.items() if item == "a" or [score] >= least}


@settings(max_examples=40)
@given(SEQUENCES, SEQUENCES, HISTORY)
def test_adding_is_counting_anew(first: dict[str, list[str]], later: dict[str, list[str]], history: list[str]) -> None:
    both = {user: [*first.get(user, ()), *later.get(user, ())] for user in {**first, **later}}
    whole, live = CoPurchases.count(table(both)), CoPurchases.count(table(first))
    for user, items in later.items():
        live.add(user, items)
    joined = CoPurchases.count(table(first)).joined(table(later))
    for counts in (live, joined, CoPurchases.count(live.table(), hashed=True)):
        assert counts.scores(history) == pytest.approx(whole.scores(history))
        assert all(counts.of_user(user) == whole.of_user(user) for user in both)
        assert (counts.customers, counts.purchases) == (whole.customers, whole.purchases)
        assert counts.popularities() == whole.popularities()
        pairs = list(pairwise(ITEMS))
        assert [counts.together(*pair) for pair in pairs] == [whole.together(*pair) for pair in pairs]


@settings(max_examples=40)
@given(SEQUENCES, HISTORY)
def test_to_buy_it_again_changes_nothing(sequences: dict[str, list[str]], history: list[str]) -> None:
    counts = CoPurchases.count(table({user: [*items, *items] for user, items in sequences.items()}))
    before = CoPurchases.count(table(sequences))
    for user, items in sequences.items():
        before.add(user, items)
    assert before.scores(history) == counts.scores(history) == pytest.approx(by_hand(sequences, history))


def test_customers_who_bought_both_are_counted_whatever_lies_between() -> None:
    counts = CoPurchases.count(table({"u1": "abcdefgh", "u2": "ha", "u3": "a"}))
    assert [counts.together(*pair) for pair in ("ah", "ha", "ab", "aa", "az")] == [2, 2, 1, 0, 0]
    assert "h" not in CoPurchases.count(table({"u1": "abcdefgh"})).scores("a")  # seven places apart
    assert [counts.popularity(item) for item in "abz"] == [3, 1, 0]


def test_customers_are_known_by_a_hash_alone() -> None:
    counts = CoPurchases.count(table({"ann@example.org": "ab"}))
    counts.add("ben@example.org", ["b"])
    ann, ben = user_hash("ann@example.org"), user_hash("ben@example.org")
    assert counts.table().rows() == [(ann, "a"), (ann, "b"), (ben, "b")]
    assert (counts.of_user("ben@example.org"), counts.of_user("nobody")) == (("b",), ())


def test_nothing_is_bought_yet() -> None:
    counts = CoPurchases.count(table({}))
    assert (counts.scores(["a"]), counts.together("a", "b"), counts.table().height) == ({}, 0, 0)
    counts.add("u", ["a", "b"])
    assert counts.scores(["a"]) == pytest.approx({"b": 1 / 11})
    assert counts.scores(["b"]) == pytest.approx({"a": 0.5 / 11})


@settings(max_examples=30)
@given(SEQUENCES, HISTORY, st.sampled_from([["u1"], ["u2"], ["u9"], ["u9", "u1"]]))
def test_who_is_forgotten_was_never_there(sequences: dict[str, list[str]], history: list[str], gone: list[str]) -> None:
    counts = CoPurchases.count(table(sequences))
    counts.add("u9", ["a", "b"])
    counts.add("u2", ["l"])
    everything = {**sequences, "u2": [*sequences.get("u2", ()), "l"], "u9": ["a", "b"]}
    hers = [item for user in gone for item in dict.fromkeys(everything.pop(user, ()))]
    assert counts.forget([user_hash(user) for user in gone]) == hers
    same = CoPurchases.count(table(everything))
    assert counts.scores(history) == pytest.approx(same.scores(history))
    assert sorted(counts.table().rows()) == sorted(same.table().rows())
    assert {k: v for k, v in counts.popularities().items() if v} == dict(same.popularities())
    assert (counts.customers, counts.purchases, counts.of_user(gone[0])) == (same.customers, same.purchases, ())
    counts.add(gone[0], ["c"])  # and comes again
    assert counts.of_user(gone[0]) == ("c",)


def test_readers_and_writers_do_not_meet() -> None:
    counts = CoPurchases.count(table({"u": "ab"}))
    with ThreadPoolExecutor(4) as pool:
        written = [pool.submit(counts.add, f"u{n % 9}", [f"i{n % 31}", "a"]) for n in range(400)]
        read = [pool.submit(counts.scores, ["a", f"i{n % 31}"]) for n in range(400)]
    assert not [each.exception() for each in (*written, *read) if each.exception()]
    assert counts.purchases == 2 + 9 * 31 + 9


@pytest.mark.parametrize(
    ("purchases", "message"),
    [
        (pl.DataFrame({"user_id": ["u"]}), "the table of purchases lacks the column 'item_id'"),
        (pl.DataFrame({"user_id": [1], "item_id": ["a"]}), "user_id of the purchases is of type Int64"),
        (pl.DataFrame({"user_id": ["u"], "item_id": [None]}, schema_overrides={"item_id": pl.String}), "1 missing"),
    ],
)
def test_what_is_no_table_of_purchases(purchases: pl.DataFrame, message: str) -> None:
    with pytest.raises(DataError, match=message):
        CoPurchases.count(purchases)


def test_the_weight_is_that_of_the_rung() -> None:
    counts = CoPurchases.count(table({"u": "ab"}))
    term = Term(counts, {"one": 0.5})
    assert (term.bonus(["x", "a"]), term.bonus([])) == ({}, {})
    assert term.bonus(["a"]) == pytest.approx({"b": 0.5 / 11})


def test_what_a_guests_account_buys_is_added_at_once() -> None:
    """Of a hundred thousand purchases none is looked at but the newest."""
    counts = CoPurchases.count(table({"guest": [f"i{number}" for number in range(200_000)]}))
    began = thread_time()
    for number in range(300):
        counts.add("guest", [f"i{number}", f"new{number}", f"new{number}"])
    assert thread_time() - began < 1
    assert counts.purchases == 200_300
    assert counts.of_user("guest")[-2:] == ("new298", "new299")
    assert set(counts.scores(["new299"])) == {f"new{number}" for number in range(293, 299)}
    assert counts.scores(["i199999"])["new0"] > counts.scores(["i199999"])["new1"] > 0
