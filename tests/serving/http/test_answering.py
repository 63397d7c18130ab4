"""Who has texts to be read waits for them; nobody else does, and what nobody waits for is not read."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from xcrossrec.serving.answering import Reading, Texts
from xcrossrec.serving.problems import Problem

from .conftest import sentence

LONG = "x" * 400


class Model:
    """Reads one slice whenever it is let."""

    def __init__(self) -> None:
        self.slices: list[list[str]] = []
        self._let = threading.Semaphore(0)

    def read(self, texts: Sequence[Any]) -> dict[Any, int]:
        assert self._let.acquire(timeout=10)
        if "bad" in texts:
            raise RuntimeError("bad luck")
        self.slices.append(list(texts))
        return {text: len(text) for text in texts}

    def let(self, slices: int = 1) -> None:
        self._let.release(slices)


@contextmanager
def reading(model: Model, limit: int = 1000, batch: int = 4) -> Iterator[Reading]:
    made = Reading("r", model.read, len, limit=limit, batch=batch, on_start=lambda: None)
    try:
        yield made
    finally:
        made.close()
        model.let(1000)
        made.join()


def begin(made: Reading, texts: list[str], timeout_s: float = 10.0, **more: Any) -> asyncio.Task[Any]:
    async def ask() -> Any:
        try:
            return await made.ask(Texts(list(texts)), timeout_s=timeout_s, **more)
        except (Problem, RuntimeError) as error:
            return error

    return asyncio.ensure_future(ask())


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not true():
            await asyncio.sleep(0.005)


def test_a_few_texts_do_not_wait_for_many() -> None:
    model, many = Model(), [f"{LONG} {n}" for n in range(60)]

    async def scene(made: Reading) -> None:
        large = begin(made, many)
        await until(lambda: len(made) == 60)
        small = [begin(made, [f"small {n}", "same"]) for n in range(3)]
        await until(lambda: len(made) == 66)
        model.let(3)  # the first slice was taken before the small ones came
        assert await asyncio.gather(*small) == [{f"small {n}": 7, "same": 4} for n in range(3)]
        assert not large.done()
        model.let(20)
        assert set(await large) == set(many)

    with reading(model) as made:
        asyncio.run(scene(made))
    read = [text for texts in model.slices for text in texts]
    assert sorted(read) == sorted({*many, "small 0", "small 1", "small 2", "same"})  # none twice
    assert all(sum(map(len, texts)) < 4_000 + len(LONG) + 4 for texts in model.slices)


def test_what_nobody_waits_for_is_not_read() -> None:
    model, many = Model(), [f"{LONG} {n}" for n in range(60)]

    async def gone() -> bool:
        return True

    async def scene(made: Reading) -> tuple[Problem, Problem]:
        hung_up, late = begin(made, many, gone=gone), begin(made, [f"b{n}" for n in range(600)], timeout_s=0.3)
        problems = await hung_up, await late
        model.let(20)
        await until(lambda: not len(made))
        return problems

    with reading(model) as made:
        hung_up, late = asyncio.run(scene(made))
    assert (hung_up.status, hung_up.code) == (400, "hung_up")
    assert (late.status, late.code) == (503, "timeout")
    assert len(model.slices) == 1  # it had been begun


def test_what_takes_longer_than_its_time_says_so_and_is_not_to_be_repeated() -> None:
    model = Model()

    async def scene(made: Reading) -> Problem:
        asked = begin(made, [f"{n}" for n in range(400)], timeout_s=1.0)
        await asyncio.sleep(0.6)
        model.let()  # the first slice of two took more than half of the time
        late = await asked
        assert isinstance(late, Problem)
        return late

    with reading(model) as made:
        late = asyncio.run(scene(made))
    assert (late.status, late.code) == (503, "too_costly")
    assert "Retry-After" not in late.headers
    assert re.match(r"400 texts had to be read, which takes about [1-9] s, and 1 s are allowed: send few", str(late))


def test_texts_that_wait_are_limited() -> None:
    model = Model()

    async def scene(made: Reading) -> Problem:
        first = begin(made, [f"a{n}" for n in range(12)])  # more than the limit, but alone
        await until(lambda: len(made) == 12)
        refused = await begin(made, ["b"])
        model.let(5)
        assert len(await first) == 12
        assert isinstance(refused, Problem)
        return refused

    with reading(model, limit=10) as made:
        refused = asyncio.run(scene(made))
    assert (refused.status, refused.code) == (429, "busy")
    assert "12 texts wait to be read and 10 may, 1 more are too many" in str(refused)
    assert int(refused.headers["Retry-After"]) >= 1


def test_a_slice_that_fails_fails_alone() -> None:
    model = Model()

    async def scene(made: Reading) -> tuple[Any, Any]:
        model.let(2)
        return await begin(made, ["bad"]), await begin(made, ["good"])

    with reading(model, batch=1) as made:
        bad, good = asyncio.run(scene(made))
    assert isinstance(bad, RuntimeError)
    assert good == {"good": 4}


# ---- in a service


def test_ids_and_remembered_titles_do_not_wait(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model is stuck at a stranger's titles, everything that needs no reading is answered."""
    ranking, let = shop.service.models["toys"].recommender.ranking, threading.Event()
    read = ranking.read
    before = shop.recommend([{"title": "A remembered title"}])
    monkeypatch.setattr(ranking, "read", lambda texts: let.wait(20) and read(texts))

    async def scene() -> None:
        async with shop.client() as client:

            async def post(path: str, **body: Any) -> Any:
                return (await client.post(path, json=body)).json()

            stranger = asyncio.ensure_future(
                post("/v1/score", history=[{"item_id": "i0"}], candidates=[{"title": f"Title {n}"} for n in range(200)])
            )
            await until(lambda: len(shop.service.models["toys"].answers.reading) == 200)
            found = await asyncio.gather(
                post("/v1/recommend", history=[{"item_id": "i0"}]),
                post("/v1/recommend", history=[{"title": "A remembered title"}]),
                post("/v1/score", history=[{"title": "  A remembered title"}], candidates=[{"item_id": "i1"}]),
            )
            assert found[1]["items"] == before["items"]
            assert [len(found[0]["items"]), len(found[2]["scores"])] == [5, 1]
            assert not stranger.done()
            let.set()
            assert len((await stranger)["scores"]) == 200

    asyncio.run(scene())


def test_too_many_titles_are_refused_by_number(open_shop: Any, tiny_models: Any) -> None:
    free, own = [{"title": f"Title {n}"} for n in range(4)], [{"item_id": f"i{n}"} for n in range(6)]
    with open_shop({"toys": tiny_models.late}, texts=3) as shop:
        refused = shop.post("/v1/score", {"history": own[:1], "candidates": [*free, *own]})
        assert refused.status_code == 422
        assert refused.json()["error"]["message"].startswith(
            "4 texts would have to be read, at most 3 are for one request: send fewer at a time"
        )
        assert "retry-after" not in refused.headers
        for path, body in (
            ("/v1/recommend", {"history": free}),
            ("/v1/recommend", {"history": free, "explain": True}),
            ("/v1/explain", {"history": free[:3], "item": free[3]}),
        ):
            assert "4 texts would have to be read" in sentence(shop.post(path, body), 422, "limit")
        assert shop.post("/v1/score", {"history": free[:1], "candidates": [*free[:3], *own]}).status_code == 200
        assert shop.post("/v1/score", {"history": own[:1], "candidates": free}).status_code == 200  # 3 are remembered


def test_a_model_read_again_remembers(shop: Any, tiny_models: Any) -> None:
    shop.recommend([{"title": "A remembered title"}])
    assert shop.post("/v1/models/toys/reload", {"path": str(tiny_models.late)}).status_code == 200
    shop.recommend([{"title": "A remembered title"}])
    assert 'xcrossrec_encoded_texts_total{model="toys"} 1.0' in shop.ask("GET", "/metrics").text
    assert shop.post("/v1/models/toys/reload", {"path": str(tiny_models.merged)}).status_code == 200
    shop.recommend([{"title": "A remembered title"}])  # by another model
    assert 'xcrossrec_encoded_texts_total{model="toys"} 2.0' in shop.ask("GET", "/metrics").text


def test_titles_of_a_client_that_hung_up_are_not_read(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    served, let = shop.service.models["toys"], threading.Event()
    read, slices = served.recommender.ranking.read, []
    monkeypatch.setattr(
        served.recommender.ranking, "read", lambda texts: slices.append(texts) or (let.wait(20) and read(texts))
    )
    body = {"history": [{"item_id": "i0"}], "candidates": [{"title": f"{LONG} {n}"} for n in range(100)]}
    messages = [{"type": "http.request", "body": json.dumps(body).encode()}]
    headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/score", "raw_path": b"/v1/score", "query_string": b""}
    scope |= {"headers": headers, "http_version": "1.1", "scheme": "http", "client": ("127.0.0.1", 1), "root_path": ""}
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    async def scene() -> None:
        await shop.app(scope, receive, send)
        let.set()
        await until(lambda: not len(served.answers.reading))

    asyncio.run(scene())
    assert b"hung up" in sent[1]["body"]
    assert len(slices) == 1  # which had been begun
