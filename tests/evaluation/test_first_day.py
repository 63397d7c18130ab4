"""The protocol of the first day, and who stands on which rung."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from jaxtyping import Float, Int

from xcrossrec.data import Domain, build_domain, with_shared_users
from xcrossrec.evaluation import Evaluation, evaluate, summary_table
from xcrossrec.evaluation.protocol import first_day
from xcrossrec.exceptions import DataError

ITEMS = [{"item_id": f"i{n}", "title": f"Item {n}"} for n in range(40)]


def rows(user: str, *items: int, start: int = 100) -> list[dict[str, object]]:
    return [{"user_id": user, "item_id": f"i{n}", "timestamp": start + day} for day, n in enumerate(items)]


@pytest.fixture(scope="module")
def domain() -> Domain:
    train = [*rows("a", 1, 2, 3), *rows("b", 4, 5)]
    test = [*rows("c", 6, 7, 8), *rows("a", 1, 2, 3), *rows("d", 9, 6), *rows("e", 5, 4)]
    garden = build_domain("garden", ITEMS, {"train": train, "test": test})
    bought = [*rows("c", 0, start=1), *rows("c", 1, start=101), *rows("d", 1, start=100)]
    there = build_domain(
        "kitchen", [{"item_id": "i0", "title": "Pan"}, {"item_id": "i1", "title": "Pot"}], {"train": bought}
    )
    return with_shared_users(garden, [there])


class Listening:
    """Remembers what it was told."""

    name = "listening"

    def __init__(self) -> None:
        self.told: list[tuple[tuple[int, ...], tuple[str, ...]]] = []

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        raise AssertionError("asked without other categories")

    def score_with(
        self,
        histories: Sequence[Sequence[int]],
        elsewhere: Sequence[Sequence[str]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        self.told += [(tuple(own), tuple(there)) for own, there in zip(histories, elsewhere, strict=True)]
        scores = np.tile(np.arange(len(ITEMS), dtype=np.float32), (len(histories), 1))
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


def test_first_purchases_are_ranked_and_nothing_bought_here_is_known(domain: Domain) -> None:
    scorer = Listening()
    found = evaluate(scorer, domain, "test", negatives=["uniform", "full"], first=True)
    assert scorer.told == [((), ("Pan",)), ((), ()), ((), ())]
    full = found.of("full").select("user_id", "rank", "candidates").rows()
    # of 40 items those of the user's own are left out, and 39 - 6, 39 - 9, 39 - 5 stand above the target
    assert full == [("c", 39 - 6 - 2 + 1, 38), ("d", 39 - 9 + 1, 39), ("e", 39 - 5 + 1, 39)]
    assert found.info.rungs == {"other": 1, "none": 2}
    assert "What is known of the users: 2 nothing, 1 purchases in other categories alone." in summary_table(
        found.summary()
    )
    assert found.info.fingerprint != domain.fingerprint


def test_last_purchases_come_with_what_was_bought_before_elsewhere(domain: Domain) -> None:
    scorer = Listening()
    found = evaluate(scorer, domain, "test", negatives=["full"])
    assert scorer.told == [((6, 7), ("Pan", "Pot")), ((1, 2), ()), ((9,), ("Pot",)), ((5,), ())]
    assert found.summary()["rungs"] == {"several": 2, "one": 2}


def test_each_rung_has_its_own_metrics_which_are_kept_with_the_results(domain: Domain, tmp_path: object) -> None:
    found = evaluate(Listening(), domain, "test", negatives=["uniform", "full"])
    found.save(f"{tmp_path}/r.parquet")
    loaded = Evaluation.load(f"{tmp_path}/r.parquet")
    assert loaded.info.rungs == {"several": 2, "one": 2}
    summary = loaded.summary()
    assert summary == found.summary()
    assert set(summary["by_rung"]) == {"several", "one"}
    histories, _ = domain.sequences("test").histories_and_targets()
    several = [len(own) > 1 for own in histories]
    for rung, users in (("several", several), ("one", [not each for each in several])):
        for kind in ("uniform", "full"):
            of_rung = found.of(kind).filter(users)  # type: ignore[arg-type]
            told = summary["by_rung"][rung][kind]
            assert told["mrr"] == pytest.approx(of_rung["mrr"].mean())
            assert told["ci"]["mrr"][0] <= told["mrr"] <= told["ci"]["mrr"][1]
    lines = summary_table(summary).splitlines()
    assert sum("known: one purchase here " in line for line in lines) == 2
    alone = evaluate(Listening(), domain, "test", negatives=["full"], first=True)
    assert set(alone.summary()["by_rung"]) == {"none", "other"}
    everybody = Domain("garden", domain.items, {"test": domain.frame("test").filter(pl.col("user_id") == "e")})
    assert evaluate(Listening(), everybody, "test", negatives=["full"]).info.by_rung is None  # as the whole


def test_users_whose_purchases_are_known_have_no_first_day(domain: Domain) -> None:
    with pytest.raises(DataError, match="models know the first purchases of the train split"):
        first_day(domain, "train")
    same = Domain("garden", domain.items, {"train": domain.frame("test"), "test": domain.frame("test")})
    with pytest.raises(DataError, match="all users of 'test' of domain 'garden' are in its train split"):
        first_day(same, "test")
    moved = first_day(domain, "test").frame("test")
    assert moved["item_id"].to_list() == ["i7", "i8", "i6", "i6", "i9", "i4", "i5"]
    assert moved.filter(pl.col("user_id") == "a").is_empty()
