"""Recommending and explaining, on tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from xcrossrec.answers import Explanation
from xcrossrec.data import Domain, write_domain
from xcrossrec.exceptions import BundleError, ConfigError, DataError
from xcrossrec.models import bundle
from xcrossrec.models.scorer import build_scorer
from xcrossrec.recommender import Item, Recommender
from xcrossrec.training.source import write
from xcrossrec.training.target import build_target_model, count_parameters

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

KINDS = ("late", "prompt", "pair", "shared")


@pytest.fixture(scope="module")
def recommenders(tiny_models: Any) -> dict[str, Recommender]:
    return {kind: Recommender.from_pretrained(getattr(tiny_models, kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def recommender(
    request: pytest.FixtureRequest, recommenders: dict[str, Recommender], tiny_domain: Domain
) -> Recommender:
    return recommenders[request.param].index(tiny_domain)


@pytest.fixture
def late(recommenders: dict[str, Recommender], tiny_domain: Domain) -> Recommender:
    return recommenders["late"].index(tiny_domain)


def test_recommendations_are_the_scorers_ranking_without_what_was_bought(
    recommender: Recommender, tiny_domain: Domain
) -> None:
    found = recommender.recommend(["i0", "i3"], k=3)
    scores = build_scorer(recommender.model, tiny_domain.titles).score([[0, 3]])[0]
    expected = sorted((row for row in range(6) if row not in (0, 3)), key=lambda row: -scores[row])[:3]
    assert [r.item_id for r in found] == [f"i{row}" for row in expected]
    assert [r.rank for r in found] == [1, 2, 3]
    assert [r.title for r in found] == [tiny_domain.titles[row] for row in expected]
    np.testing.assert_allclose([r.score for r in found], scores[expected], atol=1e-5)


def test_bought_items_come_back_when_asked(late: Recommender) -> None:
    assert {r.item_id for r in late.recommend(["i0"], include_bought=True)} == {f"i{n}" for n in range(6)}
    assert late.recommend(["i0"], k=1, include_bought=True)[0].item_id == "i0"


def test_candidates_restrict_and_nothing_left_is_an_empty_list(recommender: Recommender) -> None:
    assert {r.item_id for r in recommender.recommend(["i0"], candidates=["i4", "i2", "i4"])} == {"i2", "i4"}
    assert recommender.recommend(["i0"], candidates=["i0"]) == []


def test_a_free_title_scores_like_the_same_item_by_id(recommender: Recommender, tiny_domain: Domain) -> None:
    by_id = recommender.recommend(["i0", "i1"])
    without = tiny_domain.items.filter(pl.col("item_id") != "i0")
    by_title = recommender.index(without).recommend(["Red  wooden\ttrain", "i1"])
    assert [r.item_id for r in by_title] == [r.item_id for r in by_id]
    np.testing.assert_allclose([r.score for r in by_title], [r.score for r in by_id], atol=1e-5)


def test_a_title_that_the_catalogue_has_is_that_item_and_left_out(late: Recommender) -> None:
    assert "i0" not in {r.item_id for r in late.recommend(["Red wooden train"])}


def test_known_items_are_not_encoded_again(late: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late.model, "encode", lambda *args, **kwargs: pytest.fail("encoded"))
    assert len(late.recommend(["i0", "title:Red wooden train"])) == 5


@pytest.mark.parametrize(
    "item",
    [
        "i3",
        "id:i3",
        "title:Cordless drill 18 V",
        "Cordless drill 18 V",
        Item("i3"),
        Item(title="Cordless drill 18 V"),
        {"item_id": "i3"},
        {"title": "Cordless drill 18 V"},
    ],
)
def test_every_form_of_an_item_means_the_same(late: Recommender, item: Any) -> None:
    assert late.recommend([item], k=2) == late.recommend(["i3"], k=2)


def test_a_catalogue_id_wins_over_the_forms(late: Recommender) -> None:
    odd = late.index(pl.DataFrame({"item_id": ["id:i3", "two words", "x"], "title": ["Drill", "Saw", "Plane"]}))
    assert {r.item_id for r in odd.recommend(["id:i3", "two words"])} == {"x"}


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ([], "history is empty"),
        (["B00X"], r"unknown item id 'B00X'.*write it as 'title:B00X'"),
        (["id:i0 i1"], "unknown item id 'i0 i1'"),
        (["title: "], "empty title"),
        (["  "], "unknown item id"),
        ("i0", "a list of items, got 'i0'"),
        ([3], "got 3"),
        ([{"name": "x"}], r"got \{'name': 'x'\}"),
        ([{}], "item_id=None and title=None"),
        ([float("nan")], "got nan"),
    ],
)
def test_a_bad_history_is_refused_by_name(late: Recommender, history: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        late.recommend(history)


def test_bad_requests_are_refused(late: Recommender, tiny_models: Any) -> None:
    with pytest.raises(ConfigError, match="k is 0"):
        late.recommend(["i0"], k=0)
    with pytest.raises(DataError, match=r"got \[\]: give at least one"):
        late.recommend(["i0"], candidates=[])
    with pytest.raises(DataError, match="unknown item id 'zzz'"):
        late.recommend(["i0"], candidates=["zzz"])
    with pytest.raises(DataError, match="item_id='a' and title='b'"):
        Item("a", "b")
    with pytest.raises(ConfigError, match="no catalogue yet"):
        Recommender(late.model).recommend(["i0"])
    with pytest.raises(BundleError, match="does not exist"):
        Recommender.from_pretrained(tiny_models.base / "nothing")


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({"item_id": ["a"]}, "lacks the column 'title'"),
        ({"item_id": ["a", "a"], "title": ["One", "Two"]}, "id 'a' twice"),
        ({"item_id": ["a", "b"], "title": ["One", None]}, r"NaN or empty \(first: 'b'\)"),
        ({"item_id": ["a", "b"], "title": ["One", "nan"]}, r"NaN or empty \(first: 'b'\)"),
        ({"item_id": [1.5], "title": ["One"]}, "of type Float64"),
        ({"item_id": [None, "a"], "title": ["One", "Two"]}, "with 1 missing"),
        ({"item_id": pl.Series([], dtype=pl.String), "title": pl.Series([], dtype=pl.String)}, "has no items"),
    ],
)
def test_a_bad_catalogue_is_refused(late: Recommender, items: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        late.index(pl.DataFrame(items))


def test_a_catalogue_is_a_domain_a_table_or_a_folder(late: Recommender, tiny_domain: Domain, tmp_path: Path) -> None:
    expected = late.recommend(["i0"])
    write_domain(tiny_domain, tmp_path / "domain")
    assert late.index(tmp_path / "domain").recommend(["i0"]) == expected
    assert late.index(str(tmp_path / "domain")).recommend(["i0"]) == expected
    assert late.index(tiny_domain.items).recommend(["i0"]) == expected


def test_an_item_without_a_title_is_recommended_only_when_named(late: Recommender, tiny_domain: Domain) -> None:
    blank = pl.when(pl.col("item_id") == "i1").then(pl.lit(" ")).otherwise("title").alias("title")
    late.index(Domain("kept", tiny_domain.items.with_columns(blank), {}))
    assert {r.item_id for r in late.recommend(["i0"])} == {"i2", "i3", "i4", "i5"}
    assert {r.item_id for r in late.recommend(["i1"])} == {"i0", "i2", "i3", "i4", "i5"}
    assert [(r.item_id, r.title) for r in late.recommend(["i0"], candidates=["i1"])] == [("i1", " ")]
    with pytest.raises(DataError, match="no item of the catalogue 'kept' has a title"):
        late.index(Domain("kept", tiny_domain.items.with_columns(title=pl.lit("")), {}))


def test_equal_scores_keep_the_catalogues_order(late: Recommender) -> None:
    late.index(pl.DataFrame({"item_id": list("dcba"), "title": ["Hammer", "Saw", "Saw", "Saw"]}))
    assert [r.item_id for r in late.recommend(["title:Saw file"]) if r.title == "Saw"] == ["c", "b", "a"]
    top = late.recommend(["title:Saw file"], k=2)
    assert [r.item_id for r in top] == [r.item_id for r in late.recommend(["title:Saw file"])][:2]


def test_a_pair_model_refuses_a_large_catalogue(
    recommenders: dict[str, Recommender], monkeypatch: pytest.MonkeyPatch, tiny_domain: Domain
) -> None:
    monkeypatch.setattr("xcrossrec.recommender.PAIR_LIMIT", 3)
    pair = recommenders["pair"].index(tiny_domain)
    with pytest.raises(DataError, match="each of 5 items, at most 3"):
        pair.recommend(["i0"])
    assert len(pair.recommend(["i0"], candidates=["i1", "i2"])) == 2


def test_long_histories_are_ranked_in_parts(late: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    history, every = [f"i{n % 3}" for n in range(40)], [f"i{n}" for n in range(6)]
    whole = late.recommend(history, include_bought=True)
    monkeypatch.setattr("xcrossrec.recommender._CELLS_AT_ONCE", 80)
    parts = late.recommend(history, candidates=every, include_bought=True)
    assert [r.item_id for r in parts] == [r.item_id for r in whole]
    np.testing.assert_allclose([r.score for r in parts], [r.score for r in whole], atol=1e-6)


def _score(recommender: Recommender, history: list[int], item: int) -> float:
    scorer = build_scorer(recommender.model, recommender.catalog.titles)
    return float(scorer.score([history], np.array([[item]]))[0, 0])


def test_an_explanation_is_faithful_to_ablation(recommender: Recommender) -> None:
    """Switch each source off at each layer: the score moves exactly as the explanation says."""
    explanation = recommender.explain(["i0", "i1", "i4"], "i2")
    full = _score(recommender, [0, 1, 4], 2)
    assert explanation.score == pytest.approx(full, abs=1e-5)
    encoder = recommender.model[0]
    assert len(explanation.layers) == 2 * 2
    for share in explanation.layers:
        with encoder.ablated(share.layer - 1, encoder.sources.index(share.source)):
            assert share.effect == pytest.approx(full - _score(recommender, [0, 1, 4], 2), abs=2e-5)
    assert max(abs(share.effect) for share in explanation.layers) > 1e-3
    with encoder.integration_off():
        assert explanation.integration_effect == pytest.approx(full - _score(recommender, [0, 1, 4], 2), abs=2e-5)


def test_an_explanation_numbers_the_bases_layers(tiny_models: Any, tiny_domain: Domain) -> None:
    model = build_target_model(tiny_models.sources, integrator="pairwise", top_layers=1).eval()
    explanation = Recommender(model).index(tiny_domain).explain(["i0", "i1"], "i2")
    assert [(share.layer, share.source) for share in explanation.layers] == [(2, "kitchen"), (2, "camping")]


def test_a_sources_totals_are_ablations_too(recommender: Recommender) -> None:
    explanation = recommender.explain(["i0", "i1"], "i2")
    full, encoder = _score(recommender, [0, 1], 2), recommender.model[0]
    weights = encoder.stream_weight.detach().clone()
    assert [share.source for share in explanation.sources] == list(encoder.sources)
    for number, share in enumerate(explanation.sources):
        with encoder.ablated(0, number), encoder.ablated(1, number):
            assert share.effect == pytest.approx(full - _score(recommender, [0, 1], 2), abs=2e-5)
        with torch.no_grad():
            encoder.stream_weight[number] = 0.0
        moved = full - _score(recommender, [0, 1], 2)
        with torch.no_grad():
            encoder.stream_weight.copy_(weights)
        assert share.stream_effect == pytest.approx(moved, abs=2e-5)
    assert sum(share.stream_share for share in explanation.sources) == pytest.approx(1.0)
    assert explanation.sources[0].stream_weight == pytest.approx(0.7)


def test_explaining_leaves_the_model_as_it_was(recommender: Recommender) -> None:
    before = recommender.recommend(["i0", "i1"])
    recommender.explain(["i0", "i1"], "i2")
    assert recommender.recommend(["i0", "i1"]) == before


def test_coefficients_are_the_integrators_own(late: Recommender) -> None:
    """Against a loop over texts one by one, which have no padding."""
    explanation = late.explain(["i0", "i3"], "i2")
    encoder = late.model[0]
    sums, tokens = np.zeros((2, 2)), 0
    for row in (0, 3, 2):
        with encoder.observing() as records, torch.no_grad():
            encoder(encoder.preprocess([late.catalog.titles[row]]))
        for layer, record in enumerate(records):
            sums[layer] += [record[0][1, 0, 0].abs().sum().item(), record[0][0, 1, 0].abs().sum().item()]
        tokens += records[0][0].shape[-1]
    found = [share.coefficient for share in explanation.layers]
    np.testing.assert_allclose(found, (sums / tokens).ravel(), rtol=1e-4)


def test_matches_of_late_pooling_are_shares_of_the_soft_maximum(late: Recommender) -> None:
    recency = bundle.matcher_of(late.model).log_recency
    with torch.no_grad():
        recency[1] = -0.5
    late.index(late.catalog)
    explanation = late.explain(["i0", "A quite unknown train"], "i1")
    assert [match.item_id for match in explanation.matches] == ["i0", None]
    assert sum(match.share or 0.0 for match in explanation.matches) == pytest.approx(1.0)
    vectors = torch.nn.functional.normalize(late.scorer.vectors, dim=-1)
    assert explanation.matches[0].cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    alone = late.explain(["A quite unknown train"], "i1")
    assert explanation.matches[0].effect == pytest.approx(explanation.score - alone.score, abs=1e-5)
    assert alone.matches[0].effect is None
    assert alone.matches[0].share == pytest.approx(1.0)
    with torch.no_grad():
        recency[1] = 0.0


def test_prompt_and_pair_explain_the_history_by_leaving_out(
    recommenders: dict[str, Recommender], tiny_domain: Domain
) -> None:
    for kind in ("prompt", "pair", "shared"):
        recommender = recommenders[kind].index(tiny_domain)
        explanation = recommender.explain(["i0", "i1", "i4"], "i2")
        without = _score(recommender, [0, 4], 2)
        assert explanation.matches[1].effect == pytest.approx(explanation.score - without, abs=1e-5)
        assert explanation.matches[1].share is None
        assert (explanation.matches[1].cosine is None) == (kind != "prompt")
        assert recommender.explain(["i0"], "i2").matches[0].effect is None


def test_many_explanations_are_the_single_ones(recommender: Recommender) -> None:
    many = recommender.explain_many(["i0", "i1"], ["i2", "Something else entirely"])
    for explanation, item in zip(many, ["i2", "title:Something else entirely"], strict=True):
        single = recommender.explain(["i0", "i1"], item).to_dict()
        assert explanation.title == single["title"]
        for mine, other in zip(explanation.layers, single["layers"], strict=True):
            assert mine.effect == pytest.approx(other["effect"], abs=2e-5)
            assert mine.coefficient == pytest.approx(other["coefficient"], abs=1e-5)
    assert recommender.explain_many(["i0"], []) == []


def test_an_explanation_reads_as_sentences_and_as_json(recommender: Recommender) -> None:
    explanation = recommender.explain(["i0", "i1"], "i2")
    text = str(explanation)
    assert "Best match in the history" in text
    assert "kitchen" in text
    assert "Strongest single place" in text
    assert json.loads(json.dumps(explanation.to_dict()))["item_id"] == "i2"
    assert explanation.best_match in explanation.matches


def test_a_model_of_merged_sources_says_what_each_adds(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    model = build_target_model(tiny_models.sources, integrator="merged")
    manifest = {"kind": "x-cross", "domain": None, "parameters": count_parameters(model)}
    write(model, tmp_path / "merged", manifest, frozenset(), overwrite=False)
    recommender = Recommender.from_pretrained(tmp_path / "merged").index(tiny_domain)
    explanation = recommender.explain(["i0", "i1"], "i2")
    assert (explanation.layers, explanation.integration_effect) == ((), None)
    kitchen, camping = explanation.sources
    assert (kitchen.source, kitchen.stream_weight, kitchen.stream_share, kitchen.effect) == ("kitchen", 0.5, 0.5, 0.0)
    half = build_target_model([tiny_models.sources[1]] * 2, integrator="merged")
    with half[0].left_out(0):  # half of camping's update is what stays without kitchen
        without = float(build_scorer(half, tiny_domain.titles).score([[0, 1]])[0][2])
    assert kitchen.stream_effect == pytest.approx(explanation.score - without, abs=1e-5)
    assert camping.stream_effect != pytest.approx(kitchen.stream_effect, abs=1e-4)
    said = str(explanation)
    assert f"merged into one stream; what each adds to the score of {explanation.score:.3f}: kitchen" in said


def test_a_single_adapter_recommends_and_explains_without_sources(tiny_models: Any, tiny_domain: Domain) -> None:
    recommender = Recommender.from_pretrained(tiny_models.sources[0]).index(tiny_domain)
    explanation: Explanation = recommender.explain(["i0"], recommender.recommend(["i0"])[0].item_id)
    assert explanation.sources == ()
    assert explanation.integration_effect is None
    assert "one source" in str(explanation)
