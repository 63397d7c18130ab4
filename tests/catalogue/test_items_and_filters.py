"""Items and filters: what they accept, and the sentences for the rest."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from catalogue_parts import meets
from xcrossrec.catalogue import Filters, Purchase, StoredItem
from xcrossrec.catalogue.segment import Segment, table_of
from xcrossrec.exceptions import DataError

NESTED: dict[str, Any] = {}
for _ in range(100_000):
    NESTED = {"a": NESTED}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (("", "i"), "the user id has 0 characters: give 1 to 512"),
        (("u", 7), "the item id is 7, expected text"),
        (("u\ud800", "i"), "the user id is not valid Unicode"),
        (
            ("u", "i", 1.5),
            "timestamp of the purchase of 'i' by 'u' is 1.5: give whole seconds since 1970, not milliseconds",
        ),
        (("u", "i", 1_780_000_000_000), "by 'u' is 1780000000000: give whole seconds"),
        (("u", "i", -1), "by 'u' is -1: give whole seconds"),
        (("u", "i", True), "by 'u' is True: give whole seconds"),
        (("u", "i", 2**63), "by 'u' is 9223372036854775808: give"),
    ],
)
def test_a_purchase_that_cannot_be_kept_is_refused(values: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Purchase(*values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"item_id": ""}, "item id has 0 characters: give 1 to 512"),
        ({"item_id": "x" * 513}, "item id has 513 characters"),
        ({"item_id": 7}, "item id is 7, expected text"),
        ({"item_id": "a\ud800"}, r"item id is not valid Unicode .*at 1.: send UTF-8"),
        ({"title": "t" * 10_001}, "title of item 'i' has 10001 characters: give 0 to 10000"),
        ({"title": None}, "title of item 'i' is None, expected text"),
        ({"category": ""}, "category of item 'i' has 0 characters"),
        ({"in_stock": 1}, "in_stock of item 'i' is 1: give true or false"),
        ({"price": math.nan}, "price of item 'i' is nan: give a number from 0 on"),
        ({"price": -1}, "price of item 'i' is -1.0"),
        ({"price": 10**400}, "price of item 'i' is inf"),
        ({"price": "3"}, "price of item 'i' is '3', expected a number"),
        ({"price": True}, "price of item 'i' is True, expected a number"),
        ({"metadata": [1]}, "metadata of item 'i' are no JSON object"),
        ({"metadata": {1: 2}}, "metadata of item 'i' are no JSON object with text keys"),
        ({"metadata": {"a": math.inf}}, "metadata of item 'i' cannot be written as JSON"),
        ({"metadata": {"a": object()}}, "metadata of item 'i' cannot be written as JSON"),
        ({"metadata": {"a": "\ud800"}}, "metadata of item 'i' cannot be written as JSON"),
        ({"metadata": NESTED}, "metadata of item 'i' cannot be written as JSON"),
        ({"metadata": {"a": "x" * 66_000}}, "metadata of item 'i' have 66009 bytes, at most 65536"),
    ],
)
def test_a_bad_item_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        StoredItem(**{"item_id": "i", "title": "t", **values})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"category": "toys"}, "filter category is 'toys': give a list of texts"),
        ({"category": [1]}, r"filter category is \[1\]"),
        ({"category": []}, "filter category is an empty list: name at least one"),
        ({"in_stock": "yes"}, "filter in_stock is 'yes': give true or false"),
        ({"price_min": math.nan}, "filter price_min is nan: give a finite number"),
        ({"price_max": "9"}, "filter price_max is '9'"),
        ({"price_max": 10**400}, "filter price_max is 1000"),
        ({"price_min": 5, "price_max": 4}, "price_min 5 is above price_max 4: no price can meet both"),
    ],
)
def test_a_bad_filter_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Filters(**values)


PRICE = st.none() | st.sampled_from([0.0, 0.1, 1.0, 1.5, 2.0])
CATEGORY = st.none() | st.sampled_from(["a", "b", "A"])
ITEMS = st.lists(st.tuples(CATEGORY, st.booleans(), PRICE), max_size=6)


@given(
    values=ITEMS,
    category=st.none() | st.sets(st.sampled_from(["a", "b", "A", "z"]), min_size=1),
    in_stock=st.none() | st.booleans(),
    prices=st.tuples(PRICE, PRICE),
)
def test_filtering_many_items_is_asking_each(
    values: list[tuple[str | None, bool, float | None]],
    category: set[str] | None,
    in_stock: bool | None,
    prices: tuple[float | None, float | None],
) -> None:
    low, high = prices if None in prices else sorted(price for price in prices if price is not None)
    filters = Filters(category, in_stock, low, high)
    items = [StoredItem(f"i{n}", "t", *each) for n, each in enumerate(values)]
    segment = Segment(table_of(items, range(len(items)), torch.ones(len(items), 1)), torch.ones(len(items), 1))
    assert segment.meet(filters).tolist() == [meets(item, filters) for item in items]


def test_an_item_without_a_price_or_a_category_meets_no_condition_on_it() -> None:
    bare = Segment(table_of([StoredItem("i", "t")], [0], torch.ones(1, 1)), torch.ones(1, 1))
    assert bare.meet(Filters())
    assert not bare.meet(Filters(price_min=0))
    assert not bare.meet(Filters(price_max=1e9))
    assert not bare.meet(Filters(category=["None", ""]))
