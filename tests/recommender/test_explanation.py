"""Why an item has its score, on tiny random models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xcrossrec.answers import Explanation
from xcrossrec.config import Integration
from xcrossrec.data import Domain
from xcrossrec.models import bundle
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import matcher_of
from xcrossrec.recommender import Recommender
from xcrossrec.training.source import write
from xcrossrec.training.target import build_target_model, count_parameters

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

KINDS = ("late", "pair", "shared")


@pytest.fixture(scope="module")
def models(tiny_models: Any) -> dict[str, Any]:
    return {kind: bundle.load(getattr(tiny_models, kind)) for kind in KINDS}


@pytest.fixture(params=KINDS)
def recommender(request: pytest.FixtureRequest, models: dict[str, Any], tiny_domain: Domain) -> Recommender:
    return Recommender(models[request.param], tiny_domain)


@pytest.fixture
def late(models: dict[str, Any], tiny_domain: Domain) -> Recommender:
    return Recommender(models["late"], tiny_domain)


def titles(recommender: Recommender) -> list[str]:
    return [item.title for item in recommender.catalogue.snapshot()]


def _score(recommender: Recommender, history: list[int], item: int) -> float:
    scorer = kind_of(recommender.model).scorer(recommender.model, titles(recommender))
    return float(scorer.score([history], np.array([[item]]))[0, 0])


def test_an_explanation_is_faithful_to_ablation(recommender: Recommender) -> None:
    """Switch each source off at each layer: the score moves exactly as the explanation says."""
    explanation = recommender.explain(["i0", "i1", "i4"], "i2")
    full = _score(recommender, [0, 1, 4], 2)
    assert explanation.score == pytest.approx(full, abs=1e-5)
    encoder = recommender.model[0]
    assert len(explanation.layers) == 2 * 2
    for share in explanation.layers:
        with encoder.silenced(encoder.sources.index(share.source), share.layer - 1):
            assert share.effect == pytest.approx(full - _score(recommender, [0, 1, 4], 2), abs=2e-5)
    assert max(abs(share.effect) for share in explanation.layers) > 1e-3
    with encoder.integration_off():
        assert explanation.integration_effect == pytest.approx(full - _score(recommender, [0, 1, 4], 2), abs=2e-5)


def test_an_explanation_numbers_the_bases_layers(tiny_models: Any, tiny_domain: Domain) -> None:
    model = build_target_model(tiny_models.sources, Integration("xcross", top_layers=1)).eval()
    explanation = Recommender(model, tiny_domain).explain(["i0", "i1"], "i2")
    assert [(share.layer, share.source) for share in explanation.layers] == [(2, "kitchen"), (2, "camping")]


def test_a_sources_totals_are_ablations_too(recommender: Recommender) -> None:
    explanation = recommender.explain(["i0", "i1"], "i2")
    full, encoder = _score(recommender, [0, 1], 2), recommender.model[0]
    weights = encoder.stream_weight.detach().clone()
    assert [share.source for share in explanation.sources] == list(encoder.sources)
    for number, share in enumerate(explanation.sources):
        with encoder.silenced(number, 0), encoder.silenced(number, 1):
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
            encoder(encoder.preprocess([titles(late)[row]]))
        for layer, record in enumerate(records):
            sums[layer] += [record[1, 0, 0].abs().sum().item(), record[0, 1, 0].abs().sum().item()]
        tokens += records[0].shape[-1]
    found = [share.coefficient for share in explanation.layers]
    np.testing.assert_allclose(found, (sums / tokens).ravel(), rtol=1e-4)


def test_matches_of_late_pooling_are_shares_of_the_soft_maximum(models: dict[str, Any], tiny_domain: Domain) -> None:
    recency = matcher_of(models["late"]).log_recency
    with torch.no_grad():
        recency[1] = -0.5
    late = Recommender(models["late"], tiny_domain)
    explanation = late.explain(["i0", "A quite unknown train"], "i1")
    assert [match.item_id for match in explanation.matches] == ["i0", None]
    assert sum(match.share or 0.0 for match in explanation.matches) == pytest.approx(1.0)
    vectors = torch.nn.functional.normalize(late.catalogue.snapshot().vectors(["i0", "i1"]), dim=-1)
    assert explanation.matches[0].cosine == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-5)
    alone = late.explain(["A quite unknown train"], "i1")
    assert explanation.matches[0].effect == pytest.approx(explanation.score - alone.score, abs=1e-5)
    assert alone.matches[0].effect is None
    assert alone.matches[0].share == pytest.approx(1.0)
    with torch.no_grad():
        recency[1] = 0.0


def test_pair_explains_the_history_by_leaving_out(models: dict[str, Any], tiny_domain: Domain) -> None:
    for kind in ("pair", "shared"):
        recommender = Recommender(models[kind], tiny_domain)
        explanation = recommender.explain(["i0", "i1", "i4"], "i2")
        without = _score(recommender, [0, 4], 2)
        assert explanation.matches[1].effect == pytest.approx(explanation.score - without, abs=1e-5)
        assert explanation.matches[1].share is None
        assert explanation.matches[1].cosine is None
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
    assert "Largest single effect" in text
    assert json.loads(json.dumps(explanation.to_dict()))["item_id"] == "i2"
    assert explanation.best_match in explanation.matches


def test_a_model_of_merged_sources_says_what_each_adds(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> None:
    model = build_target_model(tiny_models.sources, Integration("merged"))
    manifest = {"kind": "x-cross", "domain": None, "parameters": count_parameters(model)}
    write(model, tmp_path / "merged", manifest, frozenset(), overwrite=False)
    recommender = Recommender.from_pretrained(tmp_path / "merged", tiny_domain)
    explanation = recommender.explain(["i0", "i1"], "i2")
    assert (explanation.layers, explanation.integration_effect) == ((), None)
    kitchen, camping = explanation.sources
    assert (kitchen.source, kitchen.stream_weight, kitchen.stream_share, kitchen.effect) == ("kitchen", 0.5, 0.5, 0.0)
    half = build_target_model([tiny_models.sources[1]] * 2, Integration("merged"))
    with half[0].left_out(0):  # half of camping's update is what stays without kitchen
        without = float(kind_of(half).scorer(half, tiny_domain.titles).score([[0, 1]])[0][2])
    assert kitchen.stream_effect == pytest.approx(explanation.score - without, abs=1e-5)
    assert camping.stream_effect != pytest.approx(kitchen.stream_effect, abs=1e-4)
    said = str(explanation)
    assert f"merged; what each adds to the score of {explanation.score:.3f}: kitchen" in said


def test_a_single_adapter_recommends_and_explains_without_sources(tiny_models: Any, tiny_domain: Domain) -> None:
    recommender = Recommender.from_pretrained(tiny_models.sources[0], tiny_domain)
    explanation: Explanation = recommender.explain(["i0"], recommender.recommend(["i0"])[0].item_id)
    assert explanation.sources == ()
    assert explanation.integration_effect is None
    assert "combines no other categories" in str(explanation)
