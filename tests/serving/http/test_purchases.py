"""Purchases over HTTP: kept before they are acknowledged, and seen by the next answer."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import polars as pl
import pytest

from xcrossrec.copurchase import CoPurchases, user_hash
from xcrossrec.models import bundle
from xcrossrec.models.purchases import with_counts
from xcrossrec.replacing import refused

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
        ([{"user_id": "u", "item_id": "i0", "timestamp": -1}], "is -1: give whole seconds since 1970"),
        ([{"user_id": "u", "item_id": "i0", "timestamp": 1_780_000_000_000}], "is 1780000000000: give whole seconds"),
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


def test_the_next_answer_knows_what_was_bought(open_shop: Any, tiny_models: Any, tmp_path: Path) -> None:
    """The customer's own, and those of who bought the same; in recommendations, scores and explanations alike."""
    model = bundle.load(tiny_models.late)
    counts = CoPurchases.count(pl.DataFrame({"user_id": ["u", "u"], "item_id": ["i0", "i1"]}))
    bundle.save(with_counts(model, counts, {"one": 0.5, "several": 1.0}), tmp_path / "model", {"kind": "target"})
    with open_shop({"toys": tmp_path / "model"}) as shop:

        def score(**asked: Any) -> float:
            answer = shop.post("/v1/score", {**asked, "candidates": [{"item_id": "i5"}]})
            assert answer.status_code == 200, answer.text
            return float(answer.json()["scores"][0]["score"])

        before = score(history=[{"item_id": "i3"}])
        assert shop.recommend([], user_id="anna")["rung"] == "none"
        bought = [{"user_id": "anna", "item_id": ["i3", "i5"]}, {"user_id": "bo", "item_id": "i3"}]
        assert shop.post("/v1/purchases", {"purchases": bought}).json()["added"] == 3
        every = [("u", "i0"), ("u", "i1"), ("anna", "i3"), ("anna", "i5"), ("bo", "i3")]
        counted = CoPurchases.count(pl.DataFrame(every, schema=["user_id", "item_id"], orient="row"))
        together = 0.5 * counted.scores(["i3"])["i5"]
        assert together > 0.01
        assert score(history=[{"item_id": "i3"}]) == pytest.approx(before + together, abs=1e-5)
        assert score(user_id="bo") == pytest.approx(before + together, abs=1e-5)
        assert "i3" not in [item["item_id"] for item in shop.recommend([], user_id="bo", k=9)["items"]]
        own, given = shop.recommend([], user_id="anna"), shop.recommend([{"item_id": "i3"}, {"item_id": "i5"}])
        assert (own["items"], own["rung"]) == (given["items"], "several")
        reason = shop.post("/v1/explain", {"user_id": "anna", "item": {"item_id": "i1"}}).json()["explanation"]
        assert [match["item_id"] for match in reason["matches"]] == ["i3", "i5"]
        shop.ask("DELETE", "/v1/items", json={"ids": ["i3"]})
        left = shop.post("/v1/explain", {"user_id": "anna", "item": {"item_id": "i1"}}).json()["explanation"]
        assert [match["item_id"] for match in left["matches"]] == ["i5"]


@pytest.fixture
def known(tiny_models: Any, tmp_path: Path) -> Path:
    """A model that knows what Anna and Bo bought."""
    counts = CoPurchases.count(pl.DataFrame({"user_id": ["anna", "anna", "bo"], "item_id": ["i0", "i1", "i1"]}))
    weighed = with_counts(bundle.load(tiny_models.late), counts, {"one": 0.5, "several": 1.0})
    bundle.save(weighed, tmp_path / "model", {"kind": "target"})
    return tmp_path / "model"


def knows(folder: Path, user: str) -> bool:
    """Whether any file in or beside a model's folder has the hash of a customer."""
    tables = [pl.read_parquet(path).to_dicts() for path in folder.parent.glob("*model*/**/*.parquet")]
    return user_hash(user) in str(tables)


def test_a_customer_is_forgotten_on_disk_and_in_every_answer(open_shop: Any, known: Path, tmp_path: Path) -> None:
    """What the model knew of her as well; and a service that is started again knows nothing either."""
    with open_shop({"toys": known}) as shop:
        untouched = shop.recommend([{"item_id": "i2"}])["items"]
        shop.post("/v1/purchases", {"purchases": [{"user_id": "anna", "item_id": ["i2", "i3"]}]})
        shop.post("/v1/purchases", {"purchases": [{"user_id": "bo", "item_id": "i4"}]})
        assert shop.recommend([], user_id="anna")["rung"] == "several"
        assert shop.recommend([{"item_id": "i2"}])["items"] != untouched
        version = shop.ask("GET", "/v1/model").json()["catalog"]["version"]
        answer = shop.ask("DELETE", "/v1/purchases", json={"user_id": "anna"})
        assert answer.json() == {"model": "toys", "catalog_version": version + 1, "forgotten": 4}
        assert shop.recommend([], user_id="anna")["rung"] == "none"
        assert shop.recommend([{"item_id": "i2"}])["items"] == untouched
        assert shop.recommend([], user_id="bo")["rung"] == "several"
        again = shop.ask("DELETE", "/v1/purchases", json={"user_id": "anna"})
        assert (again.json()["catalog_version"], again.json()["forgotten"]) == (version + 1, 0)
        assert 'xcrossrec_purchases_deleted_total{model="toys"} 4.0' in shop.ask("GET", "/metrics").text.splitlines()
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert not [path for path in files if b"anna" in path.read_bytes()]
        assert not knows(known, "anna")
        assert knows(known, "bo")
    with open_shop({"toys": known}) as shop:
        assert shop.recommend([], user_id="anna")["rung"] == "none"
        assert shop.recommend([], user_id="bo")["rung"] == "several"


def test_to_forget_needs_an_admin_key_and_one_customer(open_shop: Any, tiny_models: Any) -> None:
    with open_shop({"toys": tiny_models.late}, api_keys=(READER,), admin_keys=(ADMIN,)) as shop:
        asked = {"json": {"user_id": "anna"}, "headers": {"Authorization": f"Bearer {READER}"}}
        assert "may read only" in sentence(shop.ask("DELETE", "/v1/purchases", **asked), 403, "key")
        asked = {"json": {"user_id": ["anna"]}, "headers": {"Authorization": f"Bearer {ADMIN}"}}
        said = sentence(shop.ask("DELETE", "/v1/purchases", **asked), 422, "invalid")
        assert "user_id: Input should be a valid string" in said


def test_what_a_crash_left_of_a_customer_is_forgotten_at_the_next_start(
    open_shop: Any, known: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The catalogue forgets first; and a replacement of the bundle may have died before the old one was gone."""
    with open_shop({"toys": known}) as shop:
        with monkeypatch.context() as patch:
            patch.setattr("xcrossrec.serving.served.forget", Mock(side_effect=ZeroDivisionError("died")))
            assert shop.ask("DELETE", "/v1/purchases", json={"user_id": "anna"}).status_code == 500
        assert knows(known, "anna")
    shutil.copytree(known, known.with_name(".model.0123abcd.writing"))
    with open_shop({"toys": known}) as shop:
        assert not knows(known, "anna")
        assert knows(known, "bo")
        assert shop.recommend([], user_id="bo")["rung"] == "one"
    bundle.load(known)


def test_a_bundle_that_may_not_be_changed_at_the_start_is_said_to_know_who_was_forgotten(
    open_shop: Any, known: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with open_shop({"toys": known}) as shop:
        shop.service.models["toys"].store.forget("anna")
    monkeypatch.setattr(bundle, "save_tables", Mock(side_effect=refused(known, "read-only")))
    with open_shop({"toys": known}) as shop:
        assert shop.recommend([], user_id="anna")["rung"] == "none"
    (said,) = [each.getMessage() for each in caplog.records if "forgotten" in each.getMessage()]
    assert said.startswith(f"{known} may still know who was forgotten in its catalogue: {known} could not be written")


def test_to_forget_beside_a_model_that_may_not_be_changed_says_what_is_left_to_do(
    open_shop: Any, known: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_shop({"toys": known}) as shop:
        monkeypatch.setattr(bundle, "save_tables", Mock(side_effect=refused(known, "read-only")))
        said = sentence(shop.ask("DELETE", "/v1/purchases", json={"user_id": "anna"}), 507, "storage")
        assert "the catalogue and all answers have forgotten the customer" in said
        assert f"{known} has not" in said
        assert f"run  xcrossrec forget USER {known}  where that may be changed" in said
        assert "anna" not in said
        assert shop.recommend([], user_id="anna")["rung"] == "none"


def test_many_items_of_many_customers_are_counted_before_they_are_looked_at(
    open_shop: Any, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Mock()
    monkeypatch.setattr("xcrossrec.serving.schemas.Purchase", made)
    with open_shop({"toys": tiny_models.late}, upsert=1000) as shop:
        sent = {"purchases": [{"user_id": "anna", "item_id": ["i0"] * 1000}] * 400}
        assert "400000 purchases, at most 1000" in sentence(shop.post("/v1/purchases", sent), 422, "limit")
    made.assert_not_called()
