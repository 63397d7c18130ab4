"""Answers over the wire equal those of the Python API."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from xcrossrec.recommender import Recommender

FREE = "Wooden toy garage"
HISTORIES: list[list[dict[str, str]]] = [
    [{"item_id": "i0"}],
    [{"title": FREE}],
    [{"item_id": "i0"}, {"item_id": "i3"}, {"title": FREE}],
    [{"title": "Red  wooden train "}, {"item_id": "i4"}],  # the catalogue's, with other white space
    [{"title": FREE}, {"title": "Hammer"}, {"item_id": "i5"}, {"item_id": "i5"}],
]
KINDS = ("late", "pair", "shared")


@pytest.mark.parametrize("kind", KINDS)
def test_recommendations_are_those_of_python(kind: str, open_shop: Any, tiny_models: Any, tiny_domain: Any) -> None:
    path = getattr(tiny_models, kind)
    python = Recommender.from_pretrained(path, tiny_domain)
    with open_shop({"toys": path}) as shop:
        for history, candidates, bought in product(HISTORIES, (None, ["i4", "i1", "i0", "i1"]), (False, True)):
            wanted = python.recommend(history, k=4, candidates=candidates, include_bought=bought)
            got = shop.recommend(history, k=4, candidates=candidates, include_bought=bought)
            assert [item["item_id"] for item in got["items"]] == [each.item_id for each in wanted], history
            assert [item["title"] for item in got["items"]] == [each.title for each in wanted]
            assert [item["rank"] for item in got["items"]] == [each.rank for each in wanted]
            assert [item["score"] for item in got["items"]] == pytest.approx([e.score for e in wanted], abs=2e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_python(kind: str, open_shop: Any, tiny_models: Any, tiny_domain: Any) -> None:
    path = getattr(tiny_models, kind)
    python = Recommender.from_pretrained(path, tiny_domain)
    ids = list(tiny_domain.items["item_id"])
    with open_shop({"toys": path}) as shop:
        for history in HISTORIES:
            ranked = python.recommend(history, k=6, candidates=ids, include_bought=True)
            wanted = {each.item_id: each.score for each in ranked}
            got = shop.post(
                "/v1/score", {"history": history, "candidates": [{"item_id": item_id} for item_id in ids]}
            ).json()
            assert [each["item_id"] for each in got["scores"]] == ids
            assert [e["score"] for e in got["scores"]] == pytest.approx([wanted[i] for i in ids], abs=2e-6)


def test_a_free_titles_score_is_that_of_its_explanation(shop: Any, tiny_models: Any, tiny_domain: Any) -> None:
    python = Recommender.from_pretrained(tiny_models.late, tiny_domain)
    wanted = python.explain([{"item_id": "i0"}], {"title": FREE}).score
    got = shop.post(
        "/v1/score", {"history": [{"item_id": "i0"}], "candidates": [{"title": FREE}, {"item_id": "i1"}]}
    ).json()
    assert got["scores"][0] == {"item_id": None, "title": FREE, "score": pytest.approx(wanted, abs=2e-6)}
    assert got["scores"][1]["title"] == "Blue wooden train"


@pytest.mark.parametrize("kind", KINDS)
def test_explanations_are_those_of_python(kind: str, open_shop: Any, tiny_models: Any, tiny_domain: Any) -> None:
    path = getattr(tiny_models, kind)
    history = HISTORIES[2]
    wanted = Recommender.from_pretrained(path, tiny_domain).explain(history, "i1").to_dict()
    with open_shop({"toys": path}) as shop:
        alone = shop.post("/v1/explain", {"history": history, "item": {"item_id": "i1"}}).json()["explanation"]
        found = shop.recommend(history, k=1, candidates=["i1"], explain=True)["items"][0]["explanation"]
    for got in (alone, found):
        assert flat(got) == pytest.approx(flat(wanted), abs=2e-5)


def flat(value: Any, place: str = "") -> dict[str, Any]:
    """All numbers and texts of nested values, by their place."""
    if isinstance(value, dict):
        return {k: v for name, inner in value.items() for k, v in flat(inner, f"{place}.{name}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for n, inner in enumerate(value) for k, v in flat(inner, f"{place}[{n}]").items()}
    return {place: value}


def test_requests_answered_together_get_their_own_answers(open_shop: Any, tiny_models: Any, tiny_domain: Any) -> None:
    import asyncio

    python = Recommender.from_pretrained(tiny_models.late, tiny_domain)
    histories = [[{"title": f"Train number {n}"}, {"item_id": f"i{n % 6}"}] for n in range(24)]

    async def all_at_once(shop: Any) -> list[Any]:
        async with shop.client() as client:
            asked = [client.post("/v1/recommend", json={"history": history}) for history in histories]
            return [answer.json() for answer in await asyncio.gather(*asked)]

    with open_shop({"toys": tiny_models.late}, batch_wait_ms=500.0) as shop:  # none is left alone on a busy machine
        answers = asyncio.run(all_at_once(shop))
        assert 'xcrossrec_batch_size_bucket{le="1.0",model="toys"} 0.0' in shop.ask("GET", "/metrics").text
    for history, got in zip(histories, answers, strict=True):
        wanted = python.recommend(history)
        assert [item["item_id"] for item in got["items"]] == [each.item_id for each in wanted]
        assert [item["score"] for item in got["items"]] == pytest.approx([e.score for e in wanted], abs=2e-6)


def test_unknown_ids_are_refused_or_left_out_by_name(shop: Any) -> None:
    history = [{"item_id": "gone"}, {"item_id": "i0"}]
    refused = shop.post("/v1/recommend", {"history": history})
    assert refused.status_code == 404
    assert "unknown item id 'gone'" in refused.json()["error"]["message"]
    got = shop.recommend(history, skip_unknown=True)
    assert got["unknown"] == ["gone"]
    assert got["items"] == shop.recommend([{"item_id": "i0"}])["items"]
    assert shop.recommend([{"item_id": "i0"}], skip_unknown=True)["unknown"] == []
    nothing = shop.post("/v1/recommend", {"history": [{"item_id": "gone"}], "skip_unknown": True})
    assert nothing.status_code == 422
    assert "none of the history's 1 items ('gone' first)" in nothing.json()["error"]["message"]


def test_filters_hold_inside_the_search(shop: Any) -> None:
    items = [
        {"item_id": f"n{n}", "title": f"Toy number {n}", "category": "toys", "price": float(n), "in_stock": n % 2 == 0}
        for n in range(10)
    ]
    assert shop.ask("PUT", "/v1/items", json={"items": items}).json()["written"] == 10
    filters = {"category": ["toys"], "price_min": 2, "price_max": 8, "in_stock": True}
    got = shop.recommend([{"item_id": "i0"}], k=10, filters=filters)["items"]
    assert sorted(item["item_id"] for item in got) == ["n2", "n4", "n6", "n8"]
    among_all = [
        i for i in shop.recommend([{"item_id": "i0"}], k=100)["items"] if i["item_id"] in {"n2", "n4", "n6", "n8"}
    ]
    assert [i["item_id"] for i in got] == [i["item_id"] for i in among_all]
