"""Customers side by side, risks in sentences, and what lists are like."""

from __future__ import annotations

from typing import Any

import polars as pl

from xcrossrec.adaptation.after import beyond_of, language_of, risks_of
from xcrossrec.adaptation.customers import reason_in_words, side_by_side
from xcrossrec.answers import Explanation, HistoryMatch
from xcrossrec.baselines.rivals import Popularity
from xcrossrec.data import Domain
from xcrossrec.models import bundle
from xcrossrec.recommender import Recommender


def test_a_customer_has_her_history_and_both_lists(tiny_models: Any, tiny_domain: Domain) -> None:
    now = Popularity(tiny_domain.train_counts())
    with Recommender(bundle.load(tiny_models.merged), tiny_domain) as recommender:
        found = side_by_side(recommender, now, tiny_domain, seed=1)
        assert found == side_by_side(recommender, now, tiny_domain, seed=1)
        assert len(side_by_side(recommender, now, tiny_domain, customers=1)) == 1
        by_history = {each.history: each for each in found}
        drill = by_history["Drill bit set", "Tape measure 5 m"]  # u5, whose last purchase is kept back
        expected = recommender.recommend(["i4", "i5"], k=3)
        reasons = recommender.explain_many(["i4", "i5"], [each.item_id for each in expected])
    assert [each.title for each in drill.ours] == [each.title for each in expected]
    assert [each.reason for each in drill.ours] == [reason_in_words(each) for each in reasons]
    assert drill.now == ("Red wooden train", "Blue wooden train", "Train track, 12 pieces")  # bought twice each
    assert len(found) == 2


def test_a_reason_names_what_matched_and_who_bought_both() -> None:
    matches = tuple(HistoryMatch(None, f"Item {n}", 0.5, None, 0.1 * n, together) for n, together in ((1, 1), (2, 12)))
    said = reason_in_words(Explanation("i", "Track", 1.0, matches))
    assert said == "goes with \u201cItem 2\u201d; 12 customers bought both"
    assert reason_in_words(Explanation("i", "Track", 1.0, matches[:1])).endswith("; 1 customer bought both")
    assert reason_in_words(Explanation("i", "Track", 1.0, (), reasons=("Bought by 3 customers.",))) == (
        "Bought by 3 customers."
    )


def test_a_base_that_cannot_read_the_language_is_a_risk(tiny_models: Any, tiny_domain: Domain) -> None:
    base = str(tiny_models.base)
    items = tiny_domain.items.select("item_id", title=pl.lit("Лейка из стали")).vstack(
        pl.DataFrame({"item_id": [f"x{n}" for n in range(10)], "title": ["Секатор"] * 10})
    )
    (risk,) = language_of(Domain("leika", items, tiny_domain.interactions), base)
    assert risk.code == "unread_text"
    assert risk.sentence.startswith(f"leika: the base {base} hardly reads these texts: 100% of their letters")
    assert language_of(tiny_domain, base) == ()  # of a few items nothing is said


def test_risks_are_the_linters_what_is_wrong_first(tiny_domain: Domain) -> None:
    assert risks_of([tiny_domain]) == ()
    leaking = {**tiny_domain.interactions, "validation": tiny_domain.frame("train")}
    risks = risks_of([Domain("tiny", tiny_domain.items, leaking)])
    assert risks[0].code in ("shared_users", "equal_splits")
    assert "tiny: 3 users are in train and in validation: split by user, or remove them from one." in [
        each.sentence for each in risks
    ]


def test_popularity_is_measured_by_what_customers_buy() -> None:
    lists = {"coverage@10": 0.5, "gini@10": 0.25, "novelty@10": 3.0, "popularity@10": 6.0, "popularity_bought": 4.0}
    found = beyond_of(lists)
    assert found is not None
    assert (found.coverage, found.gini, found.novelty, found.popularity) == (0.5, 0.25, 3.0, 1.5)
    assert beyond_of(None) is None
    assert beyond_of({**lists, "popularity_bought": 0.0}).popularity is None  # type: ignore[union-attr]
