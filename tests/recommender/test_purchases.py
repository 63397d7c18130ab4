"""A model that knows purchases: one score through every door, exact, and kept with the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec.catalogue import Filters, build_catalogue, fingerprint_of, read_items
from xcrossrec.copurchase import CoPurchases
from xcrossrec.exceptions import BundleError, DataError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.files import file_digests
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import purchases_of, term_of, with_counts
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.recommender import Question, Recommender

N = 60
IDS = [f"i{n}" for n in range(N)]
WORDS = ("red", "blue", "wooden", "train", "track", "drill", "bit", "tape", "saw")
ITEMS = pl.DataFrame(
    {
        "item_id": IDS,
        "title": [f"{WORDS[n % 9]} {WORDS[n * 7 % 8]} number {n}" for n in range(N - 1)] + [""],
        "in_stock": [n % 4 != 0 for n in range(N)],
    }
)
HISTORIES = [[1], [3, 17], [5, 5, 9], [40, 2, 33, 8], [58]]
K = 12


def some_counts() -> CoPurchases:
    rng = np.random.default_rng(0)
    rows = [(f"u{user}", f"i{item}") for user in range(40) for item in rng.integers(0, N, rng.integers(1, 9))]
    return CoPurchases.count(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"))


@pytest.fixture(scope="module")
def model(tiny_models: Any) -> Model:
    return with_counts(bundle.load(tiny_models.late), some_counts(), {"one": 0.3, "several": 0.8})


@pytest.fixture(scope="module")
def folder(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("purchases") / "model"
    bundle.save(model, folder, {"kind": "target"})
    return folder


@pytest.fixture(scope="module")
def expected(model: Model, tiny_models: Any) -> np.ndarray:
    """The text's scores and the term, item by item."""
    text = ModelScorer(bundle.load(tiny_models.late), ITEMS["title"].to_list(), name="text").score(HISTORIES)
    counts = some_counts()
    for scores, history in zip(text, HISTORIES, strict=True):
        for item, score in counts.scores([f"i{row}" for row in history]).items():
            scores[int(item[1:])] += score * (0.3 if len(history) == 1 else 0.8)
    return text


def best(scores: np.ndarray, left_out: set[int]) -> list[str]:
    order = np.argsort(-scores, kind="stable")
    return [f"i{row}" for row in order if row not in left_out][:K]


def test_a_full_ranking_by_rows_has_the_term(model: Model, expected: np.ndarray) -> None:
    scorer = ModelScorer(model, ITEMS["title"].to_list(), name="model", ids=IDS)
    np.testing.assert_allclose(scorer.score(HISTORIES), expected, atol=1e-5)
    rows = np.array([[4, 17, 4, 59]] * len(HISTORIES))
    np.testing.assert_allclose(scorer.score(HISTORIES, rows), np.take_along_axis(expected, rows, 1), atol=1e-5)
    bought = [some_counts().popularity(item) for item in IDS]
    np.testing.assert_allclose(
        scorer.score([[]])[0], np.log1p(bought), atol=1e-6
    )  # nothing is known: bestsellers first
    with pytest.raises(DataError, match="knows purchases by item id, but 0 ids came with 60 texts: give ids="):
        ModelScorer(model, ITEMS["title"].to_list(), name="model")


@pytest.mark.parametrize("kept", ["memory", "sqlite"])
def test_every_question_is_answered_exactly(model: Model, expected: np.ndarray, tmp_path: Path, kept: str) -> None:
    catalogue = build_catalogue(model, read_items(ITEMS), tmp_path / "c") if kept == "sqlite" else ITEMS
    with Recommender(model, catalogue) as recommender:
        histories = [[f"i{row}" for row in history] for history in HISTORIES]
        together = [answer.recommendations for answer in recommender.answer([Question(h, K) for h in histories])]
        for history, scores, many in zip(HISTORIES, expected, together, strict=True):
            asked = [f"i{row}" for row in history]
            wanted = best(scores, {*history, N - 1})  # what has no title is not recommended
            assert [each.item_id for each in many] == wanted
            assert [each.item_id for each in recommender.recommend(asked, K)] == wanted
            assert [each.score for each in many] == pytest.approx([scores[int(i[1:])] for i in wanted], abs=1e-5)
            scored = recommender.score(asked, [*wanted, "A saw that nobody has"])
            assert [each.score for each in scored[:-1]] == pytest.approx([each.score for each in many], abs=1e-5)
            in_stock = recommender.recommend(asked, K, filters=Filters(in_stock=True))
            assert [each.item_id for each in in_stock] == best(scores, {*history, N - 1, *range(0, N, 4)})
            few = recommender.recommend(asked, K, candidates=IDS[20:40], include_bought=True)
            assert [each.item_id for each in few] == best(scores, {*range(20), *range(40, N)})


def test_an_explanation_says_what_was_bought_together(model: Model) -> None:
    recommender, counts = Recommender(model, ITEMS), some_counts()
    asked = ["i3", "A saw that nobody has", "i4"]
    found = recommender.recommend(asked, 3)
    item = max(found, key=lambda each: counts.together("i4", each.item_id)).item_id
    said = recommender.explain(asked, item)
    (scored,) = recommender.score(asked, [item])
    assert said.score == pytest.approx(scored.score, abs=1e-5)
    assert said.copurchase_effect == pytest.approx(0.8 * counts.scores(["i3", "", "i4"])[item])
    together = [counts.together("i3", item), None, counts.together("i4", item)]
    assert [match.bought_together for match in said.matches] == together
    (without,) = recommender.score(asked[:2], [item])
    assert said.matches[2].effect == pytest.approx(scored.score - without.score, abs=1e-5)
    customers = f"{together[2]} customer{'s' if together[2] != 1 else ''}"
    assert f"bought together by {customers})" in str(said)
    assert f"Co-purchases add {said.copurchase_effect:+.3f}." in str(said)


def test_a_model_without_purchases_explains_as_before(tiny_models: Any) -> None:
    said = Recommender(bundle.load(tiny_models.late), ITEMS).explain(["i3", "i4"], "i5")
    assert said.copurchase_effect is None
    assert {match.bought_together for match in said.matches} == {None}
    assert "bought together" not in str(said)


def test_purchases_are_kept_with_the_model(model: Model, folder: Path, tiny_models: Any) -> None:
    loaded = bundle.load(folder)
    kept, own = term_of(loaded), term_of(model)
    assert kept is not None
    assert own is not None
    assert kept.weights == {"one": 0.3, "several": 0.8}
    assert kept.bonus(["i3", "i4"]) == pytest.approx(own.bonus(["i3", "i4"]))
    bundle.save(loaded, folder.with_name("again"), {"kind": "target"})  # they were not counted
    assert purchases_of(bundle.load(folder.with_name("again"))) is not None
    assert fingerprint_of(loaded) == fingerprint_of(bundle.load(tiny_models.late))  # vectors do not depend on them
    assert term_of(bundle.load(tiny_models.late)) is None


def test_they_take_the_place_of_others(model: Model) -> None:
    former = term_of(model)
    assert former is not None
    again = with_counts(with_counts(model, former.counts, {}), former.counts, {"one": 1.0})
    assert len(again) == len(model)
    assert term_of(again).weights == {"one": 1.0}  # type: ignore[union-attr]


def test_a_pair_model_knows_none(tiny_models: Any) -> None:
    with pytest.raises(ModelError, match="a pair model knows no purchases"):
        with_counts(bundle.load(tiny_models.pair), some_counts(), {})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"one": {"copurchase": -0.1}}, "one.copurchase is -0.1"),
        ({"two": {"copurchase": 0.1}}, "rungs.two"),
        ({"one": {}}, r"rungs\.one\.copurchase is missing"),
    ],
)
def test_foreign_weights_are_refused(folder: Path, tmp_path: Path, settings: Any, message: str) -> None:
    _copy(folder, tmp_path / "m", lambda place: (place / "purchases.json").write_text(json.dumps({"rungs": settings})))
    with pytest.raises(BundleError, match=message):
        bundle.load(tmp_path / "m")


def test_a_foreign_table_is_refused(folder: Path, tmp_path: Path) -> None:
    _copy(folder, tmp_path / "m", lambda place: ITEMS.write_parquet(place / "purchases.parquet"))
    with pytest.raises(BundleError, match=r"purchases\.parquet is no table of user_id and item_id"):
        bundle.load(tmp_path / "m")


def _copy(folder: Path, to: Path, change: Any) -> None:
    """A bundle with another file in the purchases' place, and digests that fit it."""
    shutil.copytree(folder, to)
    (place,) = to.glob("*_Purchases")
    change(place)
    manifest = json.loads((to / "xcrossrec.json").read_text())
    manifest["files"] = file_digests(to, besides="xcrossrec.json")
    (to / "xcrossrec.json").write_text(json.dumps(manifest))
