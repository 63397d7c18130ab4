"""The client against a transport that answers what the test says: requests, retries, errors, types."""

from __future__ import annotations

import asyncio
import inspect
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from xcrossrec.client import (
    AsyncClient,
    Client,
    Filters,
    RequestRefusedError,
    ServiceBusyError,
    ServiceError,
    StoredItem,
    calls,
    clients,
)
from xcrossrec.exceptions import ConfigError

ITEM = {"item_id": "i1", "title": "Blue train", "score": 0.5, "rank": 1, "category": None, "in_stock": True, "price": 2}
RANKED = {"model": "m", "catalog_version": 3, "items": [ITEM], "unknown": None, "took_ms": 1.5, "news": "later"}
REASONS = {
    "item_id": "i1",
    "title": "Blue train",
    "score": 0.5,
    "matches": [{"item_id": None, "title": "Red train", "cosine": 0.9, "share": 1, "effect": None}],
    "sources": [{"source": "s", "effect": 0.1, "stream_weight": 0.4, "stream_share": 0.4, "stream_effect": 0.2}],
    "layers": [{"layer": 1, "source": "s", "effect": -0.1, "coefficient": 0.3}],
    "integration_effect": 0.2,
}


class Service:
    """Answers in turn, the last one for ever; keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def body(self) -> Any:
        return json.loads(self.asked[-1].content)


def answer(value: Any, status: int = 200, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=value, headers={name.replace("_", "-"): text for name, text in headers.items()})


def refusal(status: int, message: str, **headers: str) -> httpx.Response:
    return answer({"error": {"code": "short_name", "message": message}}, status, **headers)


def sync(service: Service, **settings: Any) -> Callable[..., Any]:
    """Call a method of the synchronous client by name."""

    def call(method: str, *values: Any, **named: Any) -> Any:
        with Client("http://shop/api", transport=httpx.MockTransport(service), **settings) as client:
            return getattr(client, method)(*values, **named)

    return call


def asynchronous(service: Service, **settings: Any) -> Callable[..., Any]:
    """Call a method of the asynchronous client by name, and wait for it."""

    async def call(method: str, *values: Any, **named: Any) -> Any:
        async with AsyncClient("http://shop/api", transport=httpx.MockTransport(service), **settings) as client:
            return await getattr(client, method)(*values, **named)

    return lambda *values, **named: asyncio.run(call(*values, **named))


both = pytest.mark.parametrize("client", [sync, asynchronous])


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the clients wanted to sleep; they do not."""
    slept: list[float] = []

    async def no_time(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(clients.time, "sleep", slept.append)
    monkeypatch.setattr(clients.asyncio, "sleep", no_time)
    return slept


# ---- what is asked and understood


@both
def test_recommendations_are_typed(client: Any) -> None:
    service = Service(answer({**RANKED, "items": [{**ITEM, "explanation": REASONS}], "unknown": ["id:two words"]}))
    found = client(service, api_key="secret")(
        "recommend",
        ["B1", "Red train", "id:two words", {"title": "Kite"}, "title:Drum"],
        3,
        model="m",
        filters=Filters(category={"trains"}, price_max=9.5),
        candidates=("i1",),
        explain=True,
        skip_unknown=True,
        diversity=2,
    )
    (asked,) = service.asked
    assert (asked.method, str(asked.url)) == ("POST", "http://shop/api/v1/recommend")
    assert asked.headers["authorization"] == "Bearer secret"
    assert service.body == {
        "model": "m",
        "history": [
            {"item_id": "B1"},
            {"title": "Red train"},
            {"item_id": "two words"},
            {"title": "Kite"},
            {"title": "Drum"},
        ],
        "k": 3,
        "filters": {"category": ["trains"], "price_max": 9.5},
        "candidates": ["i1"],
        "include_bought": False,
        "explain": True,
        "skip_unknown": True,
        "diversity": 2,
    }
    assert found.unknown == ("id:two words",)
    (item,) = found.items
    assert (found.model, found.catalog_version, item.item_id, item.price) == ("m", 3, "i1", 2.0)
    assert isinstance(item.price, float)
    assert item.explanation is not None
    assert item.explanation.matches[0].share == 1.0
    assert item.explanation.layers[0].source == item.explanation.sources[0].source == "s"


@both
def test_the_other_calls(client: Any) -> None:
    scores = Service(answer({"model": "m", "catalog_version": 1, "scores": [ITEM], "took_ms": 1}))
    assert client(scores)("score", ["B1"], ["A title"]).scores[0].score == 0.5
    assert scores.body == {"history": [{"item_id": "B1"}], "candidates": [{"title": "A title"}]}
    reasons = Service(answer({"model": "m", "explanation": REASONS}))
    assert client(reasons)("explain", ["B1"], "i1", model="m").integration_effect == 0.2
    assert reasons.body == {"model": "m", "history": [{"item_id": "B1"}], "item": {"item_id": "i1"}}
    for service, method, put in ((scores, "score", ["i1"]), (reasons, "explain", "i1")):
        client(service)(method, [], put, user_id="c-17", other_history=("Cast iron pan",))
        assert service.body["other_history"] == ["Cast iron pan"]
        assert (service.body["history"], service.body["user_id"]) == ([], "c-17")
    items = Service(answer({"items": [{"item_id": "i1", "title": "Blue train", "metadata": {"a": [1]}}]}))
    assert client(items)("find_items", "tr&in", 5)[0] == StoredItem("i1", "Blue train", metadata={"a": [1]})
    assert dict(items.asked[0].url.params) == {"query": "tr&in", "limit": "5"}
    put = Service(answer({"model": "m", "written": 1}))
    assert client(put)("put_items", [StoredItem("i1", "Blue train", price=0.0)]) == 1
    assert put.asked[0].method == "PUT"
    assert put.body == {"items": [{"item_id": "i1", "title": "Blue train", "in_stock": True, "price": 0.0}]}
    delete = Service(answer({"model": "m", "deleted": 0}))
    assert client(delete)("delete_items", ("i1",), model="m") == 0
    assert (delete.asked[0].method, delete.body) == ("DELETE", {"model": "m", "ids": ["i1"]})
    models = Service(answer({"models": [{"name": "m"}]}))
    assert client(models)("models") == ({"name": "m"},)
    assert client(Service(answer({"name": "m"})))("model", "m") == {"name": "m"}
    reload = Service(answer({"name": "a/b"}))
    assert client(reload)("reload", "a/b", "/srv/new") == {"name": "a/b"}
    assert reload.asked[0].url.raw_path == b"/api/v1/models/a%2Fb/reload"


@pytest.mark.parametrize("history", ["B1", {"item_id": "B1"}])
def test_a_history_is_a_list(history: Any) -> None:
    with pytest.raises(ConfigError, match="put it into a list"):
        sync(Service(answer(RANKED)))("recommend", history)


@pytest.mark.parametrize("entry", [{"item_id": "a", "title": "b"}, {"name": "x"}, 7])
def test_an_entry_is_an_id_or_a_title(entry: Any) -> None:
    with pytest.raises(ConfigError, match="expected an id, a title or a mapping"):
        sync(Service(answer(RANKED)))("recommend", [entry])


# ---- waiting


@both
def test_a_busy_server_is_asked_again_after_its_own_time(client: Any, waits: list[float]) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=8), usegmt=True)
    busy = [refusal(429, "full", retry_after="3"), refusal(503, "loading", retry_after=later), refusal(429, "full")]
    service = Service(*busy, answer(RANKED))
    assert client(service)("recommend", ["B1"]).model == "m"
    assert len(service.asked) == 4
    assert waits[0] == 3.0
    assert 6.0 < waits[1] <= 8.0
    assert waits[2] == 1.0  # no time named: 0.25 s, doubled for each earlier repetition


@both
def test_patience_ends(client: Any, waits: list[float]) -> None:
    always = Service(refusal(429, "the queue is full: ask again in 2 s", retry_after="2"))
    with pytest.raises(ServiceBusyError, match="the queue is full: ask again in 2 s") as caught:
        client(always, retries=3)("recommend", ["B1"])
    assert (waits, len(always.asked), caught.value.status) == ([2.0, 2.0, 2.0], 4, 429)
    waits.clear()
    with pytest.raises(ServiceBusyError):
        client(always, retries=10, patience_s=5.0)("recommend", ["B1"])
    assert waits == [2.0, 2.0]
    waits.clear()
    with pytest.raises(ServiceBusyError):
        client(Service(refusal(429, "full", retry_after="3600")))("recommend", ["B1"])
    assert waits == []


@both
def test_nothing_else_is_repeated(client: Any, waits: list[float]) -> None:
    costly = answer({"error": {"code": "too_costly", "message": "1000 texts take 46 s"}}, 503)
    for failure in (refusal(422, "k is 0"), refusal(500, "broken", retry_after="1"), costly):
        service = Service(failure)
        with pytest.raises(ServiceError):
            client(service)("recommend", ["B1"])
        assert len(service.asked) == 1
    assert waits == []


# ---- errors


@both
def test_errors_carry_the_servers_sentence(client: Any) -> None:
    service = Service(refusal(404, "no model 'x': there are a, b", x_request_id="r7"))
    with pytest.raises(RequestRefusedError, match=r"^no model 'x': there are a, b$") as caught:
        client(service)("recommend", ["B1"], model="x")
    assert (caught.value.status, caught.value.code, caught.value.request_id) == (404, "short_name", "r7")
    with pytest.raises(ServiceError, match="answered 502 without a reason: check the address") as caught:
        client(Service(httpx.Response(502, text="<html>")))("models")
    assert not isinstance(caught.value, (RequestRefusedError, ServiceBusyError))
    with pytest.raises(RequestRefusedError, match="answered 404 without a reason"):
        client(Service(answer(["not", "ours"], 404)))("models")


@both
def test_no_answer_names_the_address(client: Any) -> None:
    with pytest.raises(
        ServiceError, match=r"no answer from http://shop/api/ \(ConnectError: refused\): check"
    ) as caught:
        client(Service(httpx.ConnectError("refused")))("models")
    assert caught.value.status == 0


HTTPX = [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@both
@pytest.mark.parametrize("kind", HTTPX, ids=lambda kind: kind.__name__)
def test_whatever_httpx_raises_is_an_error_of_the_clients_own(client: Any, kind: type[Exception]) -> None:
    error = kind.__new__(kind, "broken")
    Exception.__init__(error, "broken")
    with pytest.raises((ServiceError, ConfigError), match=r"http://shop/api/ .*broken\).*: check the address"):
        client(Service(error))("models")


@both
def test_an_answer_that_cannot_be_unpacked_is_no_answer_that_can_be_read(client: Any) -> None:
    zipped = httpx.Response(200, stream=httpx.ByteStream(b"no gzip"), headers={"Content-Encoding": "gzip"})
    with pytest.raises(ServiceError, match=r"no answer that can be read from http://shop/api/ \(DecodingError"):
        client(Service(zipped))("models")
    deep = httpx.Response(500, content=b"[" * 100_000)
    with pytest.raises(ServiceError, match="answered 500 without a reason"):
        client(Service(deep))("models")
    year = refusal(429, "full", retry_after="Mon, 01 Jan " + "9" * 40 + " 00:00:00 GMT")
    with pytest.raises(ServiceBusyError, match="full"):
        client(Service(year), retries=1, patience_s=0.01)("models")


@both
@pytest.mark.parametrize(
    ("method", "values", "message"),
    [
        ("put_items", [[StoredItem("i1", "Train", price=float("nan"))]], "not JSON compliant"),
        ("put_items", [[StoredItem("i1", "Train", metadata={"when": datetime.now(UTC)})]], "not JSON serializable"),
        ("recommend", [["\ud800"]], "surrogates not allowed"),
        ("find_items", ["x" * 70_000], "too long"),
    ],
)
def test_what_cannot_be_sent_is_said(client: Any, method: str, values: Any, message: str) -> None:
    service = Service(answer(RANKED))
    with pytest.raises(ConfigError, match=f"http://shop/api/ cannot be asked this .*{message}"):
        client(service)(method, *values)
    assert not service.asked


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("url", "key"), [("http://[::1", None), ("http://shop:port", None), ("http://shop", "ключ")])
def test_an_address_or_a_key_that_is_none_is_said(kind: Any, url: str, key: str | None) -> None:
    with pytest.raises(ConfigError, match=r"cannot be asked this .*: check the address and the key"):
        kind(url, api_key=key)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize("key", ["of-the-shop\n", "of-the-shop\x00", "\u2028of-the-shop"])
def test_no_error_shows_a_key(kind: Any, key: str) -> None:
    with pytest.raises(ConfigError, match="the key has a line's end, or another character") as told:
        kind("http://shop", api_key=key)
    assert "of-the-shop" not in str(told.value)


def test_no_error_shows_a_password() -> None:
    transport = httpx.MockTransport(Service(httpx.ConnectError("refused")))
    with pytest.raises(ServiceError, match=r"no answer from http://shop/a@b/ "):
        Client("http://anna:secret@shop/a@b", transport=transport).models()


@both
def test_a_client_that_cannot_be_used_any_more_is_said(client: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"http://shop/api/ .*\(closed\): use one that is not closed, in one event loop"
    ):
        client(Service(RuntimeError("closed")))("models")


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_certificates_that_are_not_there_are_said(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    with pytest.raises(ConfigError, match="check what the environment says of proxies and certificates"):
        kind("https://shop")


def test_a_process_that_was_forked_has_connections_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes on one connection would read each other's answers."""
    with Client("http://shop", transport=httpx.MockTransport(Service(answer({"models": []})))) as client:
        client.models()
        of_parent = client._http
        monkeypatch.setattr(clients.os, "getpid", lambda: -1)
        assert client.models() == ()
        of_child = client._http
        assert client.models() == ()
        assert client._http is of_child is not of_parent


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_pickled_client_connects_anew(kind: Any) -> None:
    sent = pickle.loads(pickle.dumps(kind("http://shop/a", api_key="k" * 16)))
    assert str(sent._connected().base_url) == "http://shop/a/"
    assert sent._connected().headers["Authorization"] == f"Bearer {'k' * 16}"


def test_a_name_that_no_host_has_is_said() -> None:
    with Client(f"http://{'a' * 70}.example") as client, pytest.raises(ConfigError, match="cannot be asked this"):
        client.models()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], r"answer is \[\] \("),
        ({"model": "m", "catalog_version": 1}, r"answer.items is .* \(Field required"),
        ({**RANKED, "items": {}}, r"answer.items is \{\} \("),
        ({**RANKED, "items": [{**ITEM, "score": "high"}]}, r"answer.items.0.score is 'high' \("),
        ({**RANKED, "items": [{**ITEM, "rank": True}]}, r"answer.items.0.rank is True \("),
        ({**RANKED, "model": None}, r"answer.model is None \("),
    ],
)
def test_another_programs_answer_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ServiceError, match=f"the server's {message}.*\\), which this client does not understand"):
        sync(Service(answer(value)))("recommend", ["B1"])


def test_an_answer_that_is_no_json() -> None:
    with pytest.raises(ServiceError, match=r"the server's answer is b'<html>' \(Invalid JSON: "):
        sync(Service(httpx.Response(200, text="<html>")))("models")


def test_methods_are_described_as_the_questions_that_they_put() -> None:
    for client in (Client, AsyncClient):
        parameters = list(inspect.signature(client.recommend).parameters)
        assert parameters[:3] == ["self", "history", "k"]
        assert "skip_unknown" in parameters
        assert client.reload.__doc__ == calls.Questions.reload.__doc__


def test_the_client_needs_no_torch() -> None:
    code = (
        "import sys\nfrom xcrossrec.client import AsyncClient, Client\nClient().close()\n"
        "print([name for name in ('torch', 'numpy', 'polars', 'fastapi') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
