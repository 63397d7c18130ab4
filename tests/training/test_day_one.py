"""The lower rungs of the ladder, fitted to customers whose taste is planted."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.copurchase import CoPurchases
from xcrossrec.data import Domain, build_domain, with_shared_users
from xcrossrec.models import bundle
from xcrossrec.models.day_one import DayOne, day_one_of
from xcrossrec.models.purchases import with_counts
from xcrossrec.recommender import Question, Recommender
from xcrossrec.training import day_one as module
from xcrossrec.training.day_one import Others, popularity_of, with_day_one

CUSTOMERS, DAY = 120, 86_400
HERE = [{"item_id": f"i{n}", "title": f"{'wooden rake' if n < 20 else 'xylophone zz'} {n}"} for n in range(40)]
THERE = [{"item_id": "pan", "title": "kitchen pan 5"}, {"item_id": "tent", "title": "quilted tent, blue"}]


def garden(*, related: bool, customers: int = CUSTOMERS) -> Domain:
    """Who bought a pan elsewhere buys rakes here; or whoever."""
    rng, here, there = np.random.default_rng(0), [], []
    for user in range(customers):
        taste, bought = user % 2, rng.permutation(20)[:3]
        kind = taste if related else int(rng.integers(2))
        here += [
            {"user_id": f"u{user}", "item_id": f"i{20 * kind + row}", "position": p} for p, row in enumerate(bought)
        ]
        there.append({"user_id": f"u{user}", "item_id": THERE[taste]["item_id"], "position": 0})
    kitchen = build_domain("kitchen", THERE, {"train": there})
    return with_shared_users(build_domain("garden", HERE, {"train": here}), [kitchen])


def fitted(domain: Domain, tiny_models: Any) -> tuple[Recommender, DayOne]:
    counts = CoPurchases.count(domain.frame("train").select("user_id", "item_id"))
    model = with_counts(bundle.load(tiny_models.late), counts, {})
    model = with_day_one(model, domain, domain.sequences("train"))
    day_one = day_one_of(model)
    assert day_one is not None
    return Recommender(model, domain), day_one


def test_a_bridge_is_taken_where_customers_of_both_foretell_something(tiny_models: Any) -> None:
    recommender, day_one = fitted(garden(related=True), tiny_models)
    assert day_one.weights["other"]["bridge"] == 1.0
    for title, rows in (("kitchen pan 5", range(20)), ("quilted tent, blue", range(20, 40))):
        found = recommender.recommend([], 5, other_history=[title])
        assert {item.item_id for item in found} <= {f"i{row}" for row in rows}
    answer = recommender.ask(Question([], other_history=["kitchen pan 5"]))
    assert answer.rung == "other"


def test_without_a_relation_the_simplest_is_taken(tiny_models: Any) -> None:
    recommender, day_one = fitted(garden(related=False), tiny_models)
    assert day_one.weights == {
        "none": {"popularity": 1.0},
        "other": {"bridge": 0.0, "popularity": 1.0},
        "one": {"bridge": 0.0},
        "several": {"bridge": 0.0},
    }
    answer = recommender.ask(Question([], other_history=["kitchen pan 5"]))
    assert answer.reason.endswith("and they predict no better than bestsellers: bestsellers first")
    assert [known.item_id for known, _ in answer.found] == [x.item_id for x in recommender.recommend([])]


def test_too_few_customers_of_both_make_no_bridge(tiny_models: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        recommender, day_one = fitted(garden(related=True, customers=39), tiny_models)
    assert "39 customers of garden bought in another category before; learning from that needs 40" in caplog.text
    assert day_one.bridge is None
    reason = recommender.ask(Question([], other_history=["kitchen pan 5"])).reason
    assert reason.endswith("and too few customers of both to learn from: bestsellers first")


def test_the_most_customers_are_kept(tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_CUSTOMERS", 50)
    _, day_one = fitted(garden(related=True), tiny_models)
    assert day_one.bridge is not None
    assert len(day_one.bridge.customers) == 50


def test_expected_ranks_are_those_of_many_draws() -> None:
    rng = np.random.default_rng(0)
    lately = rng.integers(1, 9, 3000).astype(np.float64)
    scores = rng.normal(size=3000)
    others = Others.draw(lately, seed=0)
    found = others.ranked(np.array([[1.1]]), scores[others.rows][None, None], [[5]])[0, 0]
    drawn = []
    for _ in range(2000):
        for share in (None, lately / lately.sum()):
            rows = rng.choice(3000, 29, p=share)
            drawn.append(1 / (1 + (scores[rows] >= 1.1).sum()))
    assert found == pytest.approx(np.mean(drawn), abs=0.03)


def timed(*, moving: bool) -> Domain:
    """Customers who buy one of ten items; what sells changes after 300 days, or never does."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(400):
        day = user
        kind = int(day > 300) if moving else 0
        item = 5 * kind + int(rng.integers(5))
        rows += [{"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": day * DAY}]
    return build_domain("garden", HERE[:10], {"train": rows})


def test_older_purchases_count_less_where_what_sells_changes() -> None:
    domain = timed(moving=True)
    table, half_life = popularity_of(domain, domain.sequences("train", minimum=1))
    assert half_life == 30.0
    lately = table["lately"].to_numpy()
    assert lately[5:].min() > lately[:5].max()
    assert table["bought"].sum() == 400
    newest = domain.frame("train").filter(pl.col("item_id") == "i7")["timestamp"].to_numpy()
    assert lately[7] == pytest.approx(sum(0.5 ** ((399 * DAY - time) / (30 * DAY)) for time in newest))


def test_purchases_of_the_future_make_no_others_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """One customer's wrong clock left her few purchases alone of what sells most."""
    domain = timed(moving=True)
    train = domain.frame("train")
    right, half_life = popularity_of(domain, domain.sequences("train", minimum=1))
    wrong = (pl.col("user_id") == train["user_id"][0]).alias("wrong")
    far = pl.when(wrong).then(pl.col("timestamp") + 15 * 365 * DAY).otherwise(pl.col("timestamp")).alias("timestamp")
    other = build_domain("garden", domain.items, {"train": train.with_columns(far)})
    monkeypatch.setattr(module.time, "time", lambda: 500.0 * DAY)
    found, same = popularity_of(other, other.sequences("train", minimum=1))
    assert same == half_life
    assert (found["lately"] - right["lately"]).abs().max() <= 1.0, "her own purchase counts as of the last day"
    monkeypatch.setattr(module.time, "time", lambda: 0.0)
    today_is_wrong, _ = popularity_of(domain, domain.sequences("train", minimum=1))
    assert today_is_wrong.equals(right), "a clock that was set back changes nothing"


def test_all_purchases_count_alike_where_nothing_changes_or_no_time_is_known() -> None:
    domain = timed(moving=False)
    table, half_life = popularity_of(domain, domain.sequences("train", minimum=1))
    assert half_life is None
    assert table["lately"].to_list() == table["bought"].to_list()
    plain = garden(related=True)
    assert popularity_of(plain, plain.sequences("train"))[1] is None


def test_only_the_purchases_of_the_given_users_count() -> None:
    domain = garden(related=True)
    table, _ = popularity_of(domain, domain.sequences("train").take(10, 0))
    assert table["bought"].sum() == 30
