"""Both clients against the real application: every call, and the Python API's own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import polars as pl
import pytest

from xcrossrec.client import AsyncClient, Filters, Purchase, RequestRefusedError, StoredItem
from xcrossrec.recommender import Recommender

ADMIN = "an-admin-key-for-tests"
READER = "a-reader-key-for-tests"


@pytest.fixture(scope="module")
def app(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The application over one model and six items, with keys."""
    from xcrossrec.serving.app import create_app
    from xcrossrec.serving.service import Service
    from xcrossrec.serving.settings import Settings, Spec

    table = tmp_path_factory.mktemp("wire") / "items.csv"
    titles = ["Red wooden train", "Blue wooden train", "Train track", "Cordless drill", "Drill bit set", "Tape measure"]
    rows = {"item_id": [f"i{n}" for n in range(6)], "title": titles, "in_stock": [n % 2 == 0 for n in range(6)]}
    pl.DataFrame(rows).write_csv(table)
    service = Service.start([Spec("toys", tiny_models.late, table)], Settings(api_keys=(READER,), admin_keys=(ADMIN,)))
    yield create_app(service)
    service.close()


def ask(app: Any, method: str, *values: Any, key: str = ADMIN, **named: Any) -> Any:
    async def once() -> Any:
        transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 1))
        async with AsyncClient("http://localhost", api_key=key, transport=transport) as client:
            return await getattr(client, method)(*values, **named)

    return asyncio.run(once())


def test_recommendations_are_the_python_apis(app: Any, tiny_models: Any) -> None:
    items = ask(app, "find_items", "", 6)
    frame = pl.DataFrame({"item_id": [item.item_id for item in items], "title": [item.title for item in items]})
    recommender = Recommender.from_pretrained(tiny_models.late, frame)
    history = ["i0", "A title of nobody"]
    found = ask(app, "recommend", history, 4, explain=True)
    expected = recommender.recommend(history, 4)
    assert [(item.item_id, item.rank) for item in found.items] == [(item.item_id, item.rank) for item in expected]
    assert [item.score for item in found.items] == pytest.approx([item.score for item in expected], abs=1e-6)
    reason, own = ask(app, "explain", history, expected[0].item_id), recommender.explain(history, expected[0].item_id)
    assert reason.score == pytest.approx(own.score, abs=1e-5)
    assert found.items[0].explanation is not None
    assert found.items[0].explanation.title == reason.title == own.title
    assert [layer.effect for layer in reason.layers] == pytest.approx([layer.effect for layer in own.layers], abs=1e-5)
    assert [match.share for match in reason.matches] == pytest.approx([m.share for m in own.matches], abs=1e-5)
    scores = ask(app, "score", history, ["i4", "title:Hammer"]).scores
    assert [score.item_id for score in scores] == ["i4", None]
    every = {item.item_id: item.score for item in recommender.recommend(history, 6)}
    assert scores[0].score == pytest.approx(every["i4"], abs=1e-6)
    in_stock = ask(app, "recommend", ["i1"], 6, filters=Filters(in_stock=True)).items
    assert {item.item_id for item in in_stock} == {"i0", "i2", "i4"}


def test_items_come_and_go(app: Any) -> None:
    new = StoredItem("new", "Yellow wooden train", category="trains", price=9.5, metadata={"colour": "yellow"})
    assert ask(app, "put_items", [new]) == 1
    assert ask(app, "find_items", "yellow") == (new,)
    assert "new" in {item.item_id for item in ask(app, "recommend", ["i0"], 10).items}
    assert ask(app, "delete_items", ["new", "nobody"]) == 1
    assert ask(app, "find_items", "yellow") == ()


def test_purchases_are_added_once(app: Any) -> None:
    bought = [Purchase("anna", ["i0", "i3"], 7), Purchase("bo", "i3")]
    first, again = ask(app, "add_purchases", bought), ask(app, "add_purchases", bought)
    assert (first.added, again.added, first.unknown) == (3, 0, None)
    assert (first.model, first.catalog_version) == ("toys", again.catalog_version)
    with pytest.raises(RequestRefusedError, match="unknown item id 'gone'"):
        ask(app, "add_purchases", [Purchase("bo", "gone")])
    skipped = ask(app, "add_purchases", [Purchase("bo", ("gone", "i1"))], skip_unknown=True)
    assert (skipped.added, skipped.unknown) == (1, ("gone",))
    assert (ask(app, "forget", "anna"), ask(app, "forget", "anna")) == (2, 0)


def test_models_are_described_and_replaced(app: Any, tiny_models: Any) -> None:
    (described,) = ask(app, "models")
    assert described["name"] == "toys"
    assert ask(app, "model") == ask(app, "model", "toys") == described
    replaced = ask(app, "reload", "toys", str(tiny_models.late))
    assert replaced["fingerprint"] == described["fingerprint"]


def test_refusals_carry_the_servers_sentence(app: Any) -> None:
    with pytest.raises(
        RequestRefusedError, match=r"no model and no domain is called 'books': there is 'toys'"
    ) as caught:
        ask(app, "recommend", ["i0"], model="books")
    assert (caught.value.status, caught.value.code) == (404, "unknown_model")
    assert caught.value.request_id
    with pytest.raises(RequestRefusedError, match="this key may read only") as caught:
        ask(app, "put_items", [StoredItem("x", "X")], key=READER)
    assert caught.value.status == 403
    with pytest.raises(RequestRefusedError, match="the API key is unknown"):
        ask(app, "models", key="some-other-key-1")
