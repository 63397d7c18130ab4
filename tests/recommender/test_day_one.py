"""Customers who have bought little or nothing here: one score through every door, its rung and its reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from xcrossrec.catalogue import Filters, Purchase, fingerprint_of
from xcrossrec.copurchase import CoPurchases
from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.models import bundle
from xcrossrec.models.bridge import Bridge
from xcrossrec.models.day_one import DayOne, day_one_of
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import with_counts
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.recommender import Question, Recommender

N, K = 40, 7
IDS = [f"i{n}" for n in range(N)]
TITLES = [f"{['red', 'blue', 'green'][n % 3]} {['saw', 'rake', 'hose', 'spade'][n % 4]} {n}" for n in range(N)]
ITEMS = pl.DataFrame({"item_id": IDS, "title": TITLES, "in_stock": [n % 5 != 0 for n in range(N)]})
ELSEWHERE = ["red kitchen pan", "blue tent", "green pot"]
WEIGHTS: dict[Any, dict[str, float]] = {
    "none": {"popularity": 1.0},
    "other": {"bridge": 1.0, "popularity": 0.05},
    "one": {"bridge": 0.4},
    "several": {"bridge": 0.2},
}


def some_counts() -> CoPurchases:
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(30) for item in rng.integers(0, N - 5, rng.integers(1, 7))]
    return CoPurchases.count(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))


@pytest.fixture(scope="module")
def model(tiny_models: Any) -> Model:
    text = bundle.load(tiny_models.late)
    vectors = encode_titles(text, TITLES)
    rng = np.random.default_rng(1)
    there = [encode_titles(text, [ELSEWHERE[each] for each in rng.integers(0, 3, 2)]).mean(0) for _ in range(20)]
    bridge = Bridge.fit(torch.stack(there), [rng.integers(0, N, 3).tolist() for _ in range(20)], vectors, IDS)
    known = some_counts()
    bought = known.popularities()
    lately = [bought.get(item, 0) / (1 + row % 3) for row, item in enumerate(IDS)]
    counts = [bought.get(item, 0) for item in IDS]
    popularity = pl.DataFrame({"item_id": IDS, "lately": lately, "bought": counts})
    model = with_counts(text, known, {"one": 0.3, "several": 0.8})
    day_one = DayOne(vectors.shape[1], popularity, WEIGHTS, half_life_days=90.0, bridge=bridge)
    return kind_of(model).assemble([*model, day_one])


@pytest.fixture(scope="module")
def recommender(model: Model) -> Recommender:
    return Recommender(model, ITEMS)


@pytest.fixture(scope="module")
def scorer(model: Model) -> ModelScorer:
    return ModelScorer(model, TITLES, name="ladder", ids=IDS)


QUESTIONS = [([], []), ([], ELSEWHERE), ([4], ELSEWHERE[:1]), ([4, 9, 13], ELSEWHERE), ([4, 9], [])]


def test_scores_are_made_of_their_parts(model: Model, scorer: ModelScorer, tiny_models: Any) -> None:
    text = ModelScorer(bundle.load(tiny_models.late), TITLES, name="text").score([history for history, _ in QUESTIONS])
    found = scorer.score_with([history for history, _ in QUESTIONS], [there for _, there in QUESTIONS])
    counts, day_one = some_counts(), day_one_of(model)
    assert day_one is not None
    assert day_one.bridge is not None
    prior = np.log1p(np.array(day_one.popularity["lately"]))
    near = day_one.bridge.near(encode_titles(model, TITLES))
    for own, expected, (history, there) in zip(found, text, QUESTIONS, strict=True):
        rung = "several" if len(history) > 1 else "one" if history else "other" if there else "none"
        share = WEIGHTS[rung].get("bridge", 0.0) if there else 0.0
        parts = expected * (1 - share) + prior * WEIGHTS[rung].get("popularity", 0.0)
        if there:
            mean = encode_titles(model, there).mean(0)
            parts = parts + share * near.scores(day_one.bridge.weigh(mean[None])[0]).numpy()
        for item, score in counts.scores([IDS[row] for row in history]).items():
            parts[int(item[1:])] += score * {"one": 0.3, "several": 0.8}[rung]
        np.testing.assert_allclose(own, parts, atol=1e-5)


@pytest.mark.parametrize(("history", "there"), QUESTIONS)
def test_every_door_gives_one_score(
    recommender: Recommender, scorer: ModelScorer, history: list[int], there: list[str]
) -> None:
    expected = scorer.score_with([history], [there])[0]
    ids = [IDS[row] for row in history]
    found = recommender.recommend(ids, K, other_history=there)
    order = [row for row in np.argsort(-expected, kind="stable") if row not in history]
    assert [item.item_id for item in found] == [IDS[row] for row in order[:K]]
    assert [item.score for item in found] == pytest.approx(expected[order[:K]].tolist(), abs=1e-5)
    some = recommender.recommend(ids, K, other_history=there, filters=Filters(in_stock=True), candidates=IDS[10:30])
    allowed = [row for row in order if 10 <= row < 30 and row % 5]
    assert [item.item_id for item in some] == [IDS[row] for row in allowed[:K]]
    scored = recommender.ask(Question(ids, to_score=["i30", "title:a new lamp"], other_history=there)).scores
    assert scored[0].score == pytest.approx(float(expected[30]), abs=1e-5)
    together = recommender.answer([Question(ids, K, other_history=there), Question(["i1"])])[0]
    assert [known.item_id for known, _ in together.found] == [item.item_id for item in found]  # type: ignore[union-attr]


def test_every_answer_names_its_rung_and_reason(recommender: Recommender) -> None:
    told = [recommender.ask(Question([IDS[row] for row in own], other_history=there)) for own, there in QUESTIONS]
    assert [(answer.rung, answer.reason) for answer in told] == [
        ("none", "nothing is known about this customer: recent bestsellers first"),
        (
            "other",
            "only purchases in other categories are known: what customers with similar purchases there bought here",
        ),
        (
            "one",
            "one purchase here is known: items like it, and bought together with it; and what customers with similar "
            "purchases there bought here",
        ),
        (
            "several",
            "3 purchases here are known: items like them, and bought together with them; and what customers with "
            "similar purchases there bought here",
        ),
        ("several", "2 purchases here are known: items like them, and bought together with them"),
    ]


def test_reasons_without_a_history_name_buyers(recommender: Recommender) -> None:
    answer = recommender.ask(Question([], 1, other_history=ELSEWHERE))
    (reason,) = map(str, recommender.explain_answer(answer))
    bought = some_counts().popularity(answer.found[0][0].item_id or "")
    assert f"Bought by {bought} customer" in reason
    alike = recommender.catalogue.snapshot().get([answer.alike[0][0]])[0]
    assert alike is not None
    assert f"Customers with similar purchases in other categories bought: {alike.title} (" in reason


def test_reasons_beside_a_bridge_are_of_the_texts_part_of_the_score(recommender: Recommender) -> None:
    def asked(history: list[str]) -> Question:
        return Question(history, to_score=["i30"], other_history=ELSEWHERE)

    answer = recommender.ask(asked(["i4", "i9", "i13"]))
    (reason,) = recommender.explain_answer(answer)
    assert reason.score == answer.found[0][1]
    for slot, rest in enumerate((["i9", "i13"], ["i4", "i13"], ["i4", "i9"])):
        effect = reason.score - recommender.ask(asked(rest)).found[0][1]
        assert reason.matches[slot].effect == pytest.approx(effect, abs=1e-5)


def test_what_is_bought_now_is_popular_at_once(tiny_models: Any) -> None:
    model = with_counts(bundle.load(tiny_models.late), some_counts(), {})
    with Recommender(model, ITEMS) as recommender:
        assert recommender.ask(Question([])).reason == "nothing is known about this customer: bestsellers first"
        recommender.catalogue.add_purchases([Purchase(f"new{user}", "i38") for user in range(40)])
        assert recommender.recommend([], 1)[0].item_id == "i38"


def test_skipped_ids_leave_a_customer_of_whom_nothing_is_known(recommender: Recommender) -> None:
    answer = recommender.ask(Question(["gone"], skip_unknown=True))
    assert (answer.rung, list(answer.unknown)) == ("none", ["gone"])


def test_a_model_without_purchases_needs_a_history(tiny_models: Any) -> None:
    with Recommender(bundle.load(tiny_models.late), ITEMS) as recommender:
        with pytest.raises(DataError, match="the history is empty"):
            recommender.recommend([])
        with pytest.raises(DataError, match="the model knows no purchases, so a history of other categories"):
            recommender.recommend(["i1"], other_history=["red pan"])
        answer = recommender.ask(Question(["i1"]))
        assert (answer.rung, answer.reason) == ("one", "one purchase here is known: items like it")


@pytest.mark.parametrize(
    ("there", "error", "match"),
    [
        (["pan", " "], DataError, "' ' is an empty title"),
        ("pan", ConfigError, "other_history is 'pan': expected a list; put it into one"),
    ],
)
def test_wrong_histories_of_other_categories_are_refused(
    recommender: Recommender, there: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        recommender.recommend([], other_history=there)


def test_it_is_kept_with_the_model(model: Model, scorer: ModelScorer, tmp_path: Path, tiny_models: Any) -> None:
    bundle.save(model, tmp_path / "model", {"kind": "target"})
    read = bundle.load(tmp_path / "model")
    asked = [history for history, _ in QUESTIONS], [there for _, there in QUESTIONS]
    again = ModelScorer(read, TITLES, name="again", ids=IDS).score_with(*asked)
    np.testing.assert_array_equal(again, scorer.score_with(*asked))
    assert fingerprint_of(read) == fingerprint_of(bundle.load(tiny_models.late))


def test_a_damaged_one_is_refused(model: Model, tmp_path: Path) -> None:
    day_one = day_one_of(model)
    assert day_one is not None
    day_one.save(str(tmp_path))
    table = day_one.popularity
    table.with_columns(lately=-pl.col("lately")).write_parquet(tmp_path / "popularity.parquet")
    with pytest.raises(BundleError, match=r"popularity.parquet is no table of what was bought"):
        DayOne.load(str(tmp_path))
    settings = (tmp_path / "day_one.json").read_text()
    (tmp_path / "day_one.json").write_text(settings.replace('"bridge": 0.4', '"bridge": 1.4'))
    with pytest.raises(BundleError, match=r"weights.one.bridge is 1.4"):
        DayOne.load(str(tmp_path))
