"""Purchases over HTTP: kept before they are acknowledged, and seen by the next answer."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from .conftest import sentence

ADMIN, READER = "an-admin-key-for-tests", "a-reader-key-for-tests"


def test_purchases_are_added_once_in_their_order(shop: Any) -> None:
    version = shop.ask("GET", "/v1/model").json()["catalog"]["version"]
    sent = [{"user_id": "anna", "item_id": ["i0", "i3"], "timestamp": 50.0}, {"user_id": "bo", "item_id": "i3"}]
    answer = shop.post("/v1/purchases", {"purchases": sent})
    assert answer.json() == {"model": "toys", "catalog_version": version + 1, "added": 3}
    again = shop.post("/v1/purchases", {"model": "toys", "purchases": [*sent, {"user_id": "bo", "item_id": "i1"}]})
    assert again.json() == {"model": "toys", "catalog_version": version + 2, "added": 1}
    assert shop.post("/v1/purchases", {"purchases": sent}).json()["added"] == 0
    kept = [("anna", "i0", 50), ("anna", "i3", 50), ("bo", "i3", None), ("bo", "i1", None)]
    assert shop.service.models["toys"].store.purchases().rows() == kept
    assert 'xcrossrec_purchases_added_total{model="toys"} 4.0' in shop.ask("GET", "/metrics").text.splitlines()


def test_purchases_of_unknown_items_are_refused_whole_or_left_out_by_name(shop: Any) -> None:
    sent = {"purchases": [{"user_id": "anna", "item_id": ["i0", "gone", "never"]}, {"user_id": "bo", "item_id": "i1"}]}
    said = sentence(shop.post("/v1/purchases", sent), 404, "unknown_item")
    assert said.startswith("unknown item id 'gone': the catalogue of 6 items lacks it; nothing was added")
    assert shop.service.models["toys"].store.purchases().is_empty()
    answer = shop.post("/v1/purchases", {**sent, "skip_unknown": True}).json()
    assert (answer["added"], answer["unknown"]) == (2, ["gone", "never"])
    answer = shop.post("/v1/purchases", {"purchases": [{"user_id": "b", "item_id": "gone"}], "skip_unknown": True})
    assert (answer.json()["added"], answer.json()["unknown"]) == (0, ["gone"])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], "purchases: List should have at least 1 item"),
        ([{"user_id": "", "item_id": "i0"}], "purchases.0.user_id: String should have at least 1 character"),
        ([{"user_id": "u", "item_id": []}], "purchases.0.item_id"),
        ([{"item_id": "i0"}], "purchases.0.user_id: Field required"),
        ([{"user_id": "u", "item_id": "i0", "timestamp": -1}], "timestamp: Input should be greater than or equal to 0"),
        ([{"user_id": "u", "item_id": "i0", "timestamp": 2**62}], "timestamp: Input should be less than"),
        ([{"user_id": "u", "item_id": "i0", "timestamp": "now"}], "timestamp: Input should be a valid integer"),
        ([{"user_id": "u", "item_id": "i0", "price": 1}], "purchases.0.price: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_purchase_is_refused(shop: Any, sent: Any, said: str) -> None:
    assert said in sentence(shop.post("/v1/purchases", {"purchases": sent}), 422, "invalid")


def test_purchases_have_a_limit_and_need_an_admin_key(open_shop: Any, tiny_models: Any) -> None:
    keys = {"api_keys": (READER,), "admin_keys": (ADMIN,)}
    with open_shop({"toys": tiny_models.late}, upsert=3, **keys) as shop:
        sent = {"purchases": [{"user_id": "anna", "item_id": ["i0", "i1"]}, {"user_id": "bo", "item_id": ["i0", "i1"]}]}
        asked = {"json": sent, "headers": {"Authorization": f"Bearer {ADMIN}"}}
        answer = shop.ask("POST", "/v1/purchases", **asked)
        assert "4 purchases, at most 3 are allowed here" in sentence(answer, 422, "limit")
        asked["headers"] = {"Authorization": f"Bearer {READER}"}
        assert "may read only" in sentence(shop.ask("POST", "/v1/purchases", **asked), 403, "key")
        schema = shop.ask("GET", "/openapi.json", headers=asked["headers"]).json()["components"]["schemas"]
        assert schema["PurchasesRequest"]["properties"]["purchases"]["maxItems"] == 3


def test_many_requests_at_once_are_written_together_and_each_is_told_its_own(
    shop: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, steps = shop.service.models["toys"].store, list[int]()
    add = store.add_purchases

    def counted(purchases: Any) -> Any:
        steps.append(len(purchases))
        return add(purchases)

    monkeypatch.setattr(store, "add_purchases", counted)

    async def scene() -> list[httpx.Response]:
        bodies = [[{"user_id": f"u{n}", "item_id": ["i0", "gone" if n == 7 else "i1"]}] for n in range(40)]
        async with shop.client() as client:
            calls = [client.post("/v1/purchases", json={"purchases": body}) for body in bodies]
            return await asyncio.gather(*calls)

    answers = asyncio.run(scene())
    assert "'gone'" in sentence(answers.pop(7), 404, "unknown_item")
    assert {answer.json()["added"] for answer in answers} == {2}
    assert store.purchases().height == sum(steps) == 78
    assert len(steps) < 40
