from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from xcrossrec.data.readers import Condition, Inputs, Recipe, import_domain
from xcrossrec.data.readers.conditions import all_hold, event_columns, refuse_views
from xcrossrec.exceptions import ConfigError, DataError

LOG = pl.DataFrame(
    {"event": ["view", "buy", None, "gift"], "qty": [1.0, 2.0, -1.0, None], "note": ["1", "10", "9", ""]}
)


@pytest.mark.parametrize(
    ("conditions", "kept"),
    [
        (["event=buy"], [1]),
        (["event=buy", "event=gift"], [1, 3]),
        (["event!=view"], [1, 2, 3]),
        (["qty=1"], [0]),
        (["qty>0", "event!=view"], [1]),
        (["qty<=1"], [0, 2]),
        (["note>=9"], [1, 2]),
        (["note=1"], [0]),
        (["note!="], [0, 1, 2]),
        ([], [0, 1, 2, 3]),
    ],
)
def test_conditions_hold(conditions: list[str], kept: list[int]) -> None:
    held = all_hold([Condition.parse(text) for text in conditions], LOG.schema, "f")
    assert LOG.with_row_index().filter(held)["index"].to_list() == kept


def test_what_is_no_condition_is_refused() -> None:
    with pytest.raises(ConfigError, match="--where 'purchase' is not a condition: give COLUMN=VALUE"):
        Condition.parse("purchase")
    with pytest.raises(DataError, match=r"f has no column 'type' \(--where 'type=x'\), it has 'event', 'qty', 'note'"):
        all_hold([Condition.parse("type=x")], LOG.schema, "f")


@pytest.mark.parametrize(
    ("column", "counts", "line"),
    [
        ("event_type", {"view": 3, "purchase": 1}, '--where "event_type=purchase"'),
        ("behavior", {"pv": 3, "buy": 1, "fav": 1}, '--where "behavior=buy"'),
        ("event", {"addtocart": 3, "transaction": 1}, '--where "event=transaction"'),
        (
            "Order Status",
            {"shipped": 3, "refunded": 1, "delivered": 2},
            '"Order Status=shipped" --where "Order Status=del',
        ),
        ("status", {"ok": 3, "cancelled": 1}, '--where "status!=cancelled"'),
        ("event.type", {"view": 3, "buy": 1}, '--where "event.type=buy"'),
        ("e.kind", {"cartridge": 1, "add_to_cart": 3}, '--where "e.kind!=add_to_cart"'),
        ("action", {"page_view": 3}, '--where "action!=page_view"'),
        ("verb", {"seen": 3, "add_to_bag": 2, "bought": 1}, '--where "verb=bought"'),
        ("user_action", {"hovered": 3, "browsing": 2, "checkout": 1}, '--where "user_action=checkout"'),
        ("behavior_type", {"1": 3, "4": 1}, '--where "behavior_type=VALUE"'),
        ("evento", {"ver": 3, "compra": 1}, '--where "evento=compra"'),
        ("事件", {"浏览": 3, "购买": 1}, '--where "事件=购买"'),
        ("Financial Status", {"paid": 3, "voided": 1}, '--where "Financial Status=paid"'),
        ("is_purchase", {"0": 3, "1": 1}, '--where "is_purchase=1"'),
        ("Returned", {"False": 3, "True": 1}, '--where "Returned!=True"'),
        (
            "quantity",
            {"true": 3, "false": 1},
            'with 0 or less (1): not all of these are purchases; say what counts with --where "quantity>0"',
        ),
        (
            "line_total",
            {"true": 3, "false": 1},
            "with less than 0 (1): not all of these are purchases; say what counts",
        ),
        ("Gross Sales", {"true": 3, "false": 1}, '--where "Gross Sales>=0"'),
        ("refund_of_order", {"true": 1, "false": 3}, '--where "refund_of_order="'),
        ("Return ID", {"true": 1, "false": 3}, '--where "Return ID="'),
    ],
)
def test_views_are_no_purchases(column: str, counts: dict[str, int], line: str) -> None:
    assert list(event_columns(["user", column], [])) == [column]
    assert not event_columns(["user", column], [Condition.parse(f"{column}=x")])
    with pytest.raises(DataError, match="not all of these are purchases; say what counts with") as refused:
        refuse_views("f", column, counts)
    assert line in str(refused.value)


def test_other_states_are_told_and_one_kind_is_not() -> None:
    assert "rows of every kind are taken ('1' (3), '2' (1)); choose with" in str(
        refuse_views("f", "kind", {"1": 3, "2": 1})
    )
    assert refuse_views("f", "action", {"purchase": 3, "reorder": 1}) is None
    assert refuse_views("f", "action", {"1": 3}) is None
    assert refuse_views("f", "action", Counter(map(str, range(99)))) is None
    assert refuse_views("f", "returned", {"": 3, "2026-01-01": 1}) is None
    assert not event_columns(["user", "event_time", "price"], [])


def test_returns_by_negative_quantity_are_no_purchases(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("user,sku,name,ts,qty\nu,a,A,1,2\nu,b,B,2,-2\nu,a,A,3,\n")
    with pytest.raises(DataError, match=r"column 'qty' with 0 or less \(1\): .* --where \"qty>0\""):
        import_domain("d", None, Inputs(path), Recipe(split="none"))
    domain = import_domain("d", None, Inputs(path, where=[Condition.parse("qty>0")]), Recipe(split="none"))
    assert domain.interactions["train"]["item_id"].to_list() == ["a"]


def test_refunds_by_a_negative_amount_are_no_purchases_and_what_was_free_is_one(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(
        "user,sku,name,ts,line_total,discount_total\nu,a,A,1,9,-2\nu,b,B,2,-9.5,0\nu,c,C,3,0,0\nu,d,D,4,,0\n"
    )
    with pytest.raises(DataError, match=r"'line_total' with less than 0 \(1\): .* --where \"line_total>=0\""):
        import_domain("d", None, Inputs(path), Recipe(split="none"))
    domain = import_domain("d", None, Inputs(path, where=[Condition.parse("line_total>=0")]), Recipe(split="none"))
    assert domain.interactions["train"]["item_id"].to_list() == ["a", "c"]


def test_a_return_that_is_numbered_0_is_none(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("user,sku,name,ts,return_id\nu,a,A,1,0\nu,b,B,2,0\n")
    assert import_domain("d", None, Inputs(path), Recipe(split="none")).interactions["train"].height == 2
    path.write_text("user,sku,name,ts,return_id\nu,a,A,1,0\nu,b,B,2,77\n")
    with pytest.raises(DataError, match="'return_id' with an entry in 1 rows: not all of these are purchases"):
        import_domain("d", None, Inputs(path), Recipe(split="none"))
    with pytest.raises(
        DataError, match=r"no row has --where \"return_id=\": in .* return_id has '0' \(1\), '77' \(1\)"
    ):
        import_domain("d", None, Inputs(path, where=[Condition.parse("return_id=")]), Recipe(split="none"))


def test_a_log_of_events_is_not_taken_for_purchases(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text("user,sku,name,ts,event_type\nu,a,A,1,view\nu,a,A,2,purchase\nu,b,B,3,purchase\n")
    recipe = Recipe(split="none")
    with pytest.raises(DataError, match=r"'event_type' with 'purchase' \(2\), 'view' \(1\).*event_type=purchase"):
        import_domain("d", None, Inputs(path), recipe)
    asked = Inputs(path, where=[Condition.parse("event_type=purchase")])
    assert import_domain("d", None, asked, recipe).interactions["train"]["item_id"].to_list() == ["a", "b"]
    with pytest.raises(
        DataError, match=r'no row has --where "event_type=buy": in .*log\.csv, event_type has \'purchase\' \(2\)'
    ):
        import_domain("d", None, Inputs(path, where=[Condition.parse("event_type=buy")]), recipe)
