"""What sources are worth to a target, asked without training."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.adaptation.judge import Judge, judge
from xcrossrec.data import build_domain
from xcrossrec.data.market import MarketSettings, sample_market


class Similar:
    """Scores of items by one hidden likeness, with noise."""

    name = "similar"

    def __init__(self, likeness: np.ndarray, noise: float, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.scores = likeness + noise * rng.normal(size=likeness.shape)

    def score(self, histories: Any, candidates: Any = None) -> np.ndarray:
        return self.scores[: len(histories)].astype(np.float32)


def test_a_source_that_is_noise_is_left_out() -> None:
    market = sample_market(0, MarketSettings(train_users=150, validation_users=0, test_users=0))
    asked = Judge(market["garden"], 0)
    likeness = np.zeros((len(asked.moments), market["garden"].items.height))
    for moment, (user, place) in enumerate(asked.moments):
        likeness[moment, asked.users.rows[user][place]] = 1.0
    for number, (name, noise) in enumerate({"": 0.6, "kitchen": 0.5, "camping": 0.5, "noise": 50.0}.items()):
        asked.ask(name, Similar(likeness, noise, number))
    found = judge([name for name in asked.scores if name], asked.ranked)
    assert {name: each.helps for name, each in found.items()} == {"kitchen": "yes", "camping": "yes", "noise": "no"}
    assert [each.used for each in found.values()] == [True, True, False]
    assert found["noise"].without.high < 0
    assert found["kitchen"].without.low > 0  # in the mean of the two that are left


def test_an_only_source_that_is_worse_than_the_base_is_left_out() -> None:
    rng = np.random.default_rng(0)
    ranks = {"": rng.exponential(0.2, 200), "bad": rng.exponential(0.02, 200), "same": rng.exponential(0.2, 200)}
    assert judge(["bad"], lambda names: ranks[names[0]])["bad"].helps == "no"
    assert judge(["bad"], lambda names: ranks[names[0]])["bad"].without is None
    found = judge(["same"], lambda names: ranks[names[0]])["same"]
    assert (found.helps, found.used) == ("unclear", True)


def test_the_latest_purchases_are_asked_about_and_count_by_user() -> None:
    rows = [("a", n, n) for n in range(7)] + [("b", 7, 0), ("b", 8, 1)]
    frame = pl.DataFrame([{"user_id": user, "item_id": f"i{item}", "position": place} for user, item, place in rows])
    items = [{"item_id": f"i{n}", "title": f"thing {n}"} for n in range(20)]
    asked = Judge(build_domain("garden", items, {"train": frame}), 0)
    of = [asked.users.user_ids[user] for user, _ in asked.moments]
    assert sorted(zip(of, (place for _, place in asked.moments), strict=True)) == [
        *(("a", place) for place in (3, 4, 5, 6)), ("b", 1),
    ]  # fmt: skip
    first_of_b = np.zeros((5, 20), dtype=np.float32)
    first_of_b[of.index("b"), 8] = 1.0
    asked.scores["perfect for b"] = first_of_b
    found = dict(zip(asked.users.user_ids, asked.ranked(["perfect for b"]), strict=True))
    assert found["b"] == 1.0
    assert found["a"] == pytest.approx(1 / 14)  # ties count against: the thirteen that she did not buy are ahead


def test_what_was_bought_again_is_asked_about_where_repeats_are_kept_alone() -> None:
    """Every text ranks an item first that stands in the history: no source would be told from another by that."""
    rows = [("a", item) for item in (0, 1, 0, 2)] + [("b", 3), ("b", 3), ("c", 4), ("c", 5)]
    frame = pl.DataFrame([{"user_id": user, "item_id": f"i{item}"} for user, item in rows])
    items = [{"item_id": f"i{n}", "title": f"thing {n}"} for n in range(20)]
    domain = build_domain("garden", items, {"train": frame})
    kept = build_domain("garden", items, {"train": frame}, manifest={"filters": {"repeats": "keep"}})
    for target, places in ((domain, {"a": [1, 3], "c": [1]}), (kept, {"a": [1, 2, 3], "b": [1], "c": [1]})):
        asked = Judge(target, 0)
        found: dict[str, list[int]] = {}
        for user, place in asked.moments:
            found.setdefault(asked.users.user_ids[user], []).append(place)
        assert found == places


def test_an_unclear_source_is_used() -> None:
    rng = np.random.default_rng(0)
    own = rng.exponential(0.2, 100)
    luck = {"a": 0.0, "b": -0.01, "ab": -0.002, "ba": -0.002, "": -0.02}
    ranks = {name: own + by + rng.normal(0, 0.05, 100) for name, by in luck.items()}
    found = judge(["a", "b"], lambda names: ranks["".join(names)])
    assert (found["b"].helps, found["b"].used) == ("unclear", True)
    assert "which may be chance" in found["b"].why
