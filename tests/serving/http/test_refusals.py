"""What is refused: with a 4xx and a sentence that names the value."""

from __future__ import annotations

import asyncio
import json
from time import thread_time
from typing import Any

import pytest

from .conftest import sentence

JSON = {"Content-Type": "application/json"}
TITLE = [{"title": "Wooden train"}]


@pytest.fixture(scope="module")
def shop(lasting_shop: Any) -> Any:
    """One for all: what is refused changes nothing."""
    return lasting_shop


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"history": [{"item_id": "i0"}], "filters": {"price_max": NaN}}', "not JSON in UTF-8"),
        (b'{"history": [{"item_id": "i0"}], "filters": {"price_max": Infinity}}', "not JSON in UTF-8"),
        (b'{"history": [{"title": "\xff\xfe"}]}', "not JSON in UTF-8"),
        (b'{"history": [{"title": "\\ud800"}]}', "not JSON in UTF-8"),
        ('{"history": [{"title": "Zug"}]}'.encode("utf-16"), "not JSON in UTF-8"),
        (b'{"history": [{"item_id": "i0"}]', "not JSON in UTF-8"),
        (b"", "the body: "),
        (b'{"k": ' + b"1" * 5000 + b"}", "not JSON in UTF-8"),
        (b"[" * 100_000, "not JSON in UTF-8"),
        (b"[" * 100 + b"]" * 100, "more than 32 levels"),
        (b'{"a":' * 40 + b"1" + b"}" * 40, "more than 32 levels"),
        (b'{"history": [{"item_id": "i0"}], "k": 5, "k": 1}', "an object of the body has 'k' 2 times: send it once"),
        (b'{"history": [{"item_id": "i0", "item\\u005fid": "i1"}]}', "has 'item_id' 2 times"),
        (b'{"' + b"k" * 10**6 + b'": 1}', "kkkkkkkk: Extra inputs"),
    ],
)
def test_a_body_that_is_no_plain_json(shop: Any, body: bytes, said: str) -> None:
    answer = shop.ask("POST", "/v1/recommend", content=body, headers=JSON)
    assert 400 <= answer.status_code < 500
    assert said in answer.json()["error"]["message"]
    assert len(answer.content) < 500


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v1/recommend", {"history": [1] * 600_000}, "600000 items of the history, at most 100"),
        ("/v1/recommend", {"history": [{}] * 20_000}, "20000 items of the history, at most 100"),
        ("/v1/recommend", {"history": TITLE, "other_history": [1] * 600_000}, "600000 items of other categories"),
        ("/v1/recommend", {"history": TITLE, "filters": {"category": [""] * 500_000}}, "500000 categories, at most"),
        ("/v1/score", {"history": TITLE, "candidates": [{}] * 20_000}, "20000 candidates, at most 10000"),
        ("/v1/score", {"history": TITLE, "candidates": [{"a": 1}] * 10_000}, "candidates.0.a: Extra inputs"),
        ("/v1/purchases", {"purchases": [{}] * 20_000}, "20000 purchases, at most 1000"),
        ("/v1/purchases", {"purchases": [{"user_id": "u", "item_id": [1] * 600_000}]}, "600000 purchases, at most"),
        ("/v1/purchases", {"purchases": [{"user_id": "u", "item_id": [1] * 1000}] * 600}, "purchases.0.item_id."),
        ("/v1/recommend", {f"{n}": 1 for n in range(150_000)}, "has 150000 names, at most 10000"),
        ("/v1/recommend", {"history": [{f"{n}": 1 for n in range(9_000)}] * 20}, "history.0.0: Extra inputs"),
    ],
)
def test_a_large_body_that_does_not_fit_costs_little(shop: Any, path: str, body: Any, said: str) -> None:
    content = json.dumps(body, separators=(",", ":"))
    assert len(content) < 2**21
    before = thread_time()
    answer = shop.ask("POST", path, content=content, headers=JSON)
    assert said in answer.json()["error"]["message"]
    assert thread_time() - before < 15  # 17 s and 2 GB, when each entry had an error of its own; coverage costs some


@pytest.mark.parametrize(
    "kind", ["application/json; charset=UTF-8; v=1", 'application/json;v="charset=x"', "application/json;"]
)
def test_other_parameters_of_a_content_type_are_no_matter(shop: Any, kind: str) -> None:
    answer = shop.ask(
        "POST", "/v1/recommend", content='{"history": [{"item_id": "i0"}]}', headers={"Content-Type": kind}
    )
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"k": 0}, "k: Input should be greater than or equal to 1, got 0"),
        ({"k": 1001}, "1001 k, at most 1000"),
        ({"k": 10**400}, "k: Input should be less than or equal to 1000000, got 1000"),
        ({"k": "5"}, "k: Input should be a valid integer, got '5'"),
        ({"k": True}, "k: Input should be a valid integer, got True"),
        ({"history": []}, "the history is empty: give at least one"),
        ({"history": [{"item_id": "i0"}] * 101}, "101 items of the history, at most 100"),
        ({"history": [{"item_id": "i0", "title": "both"}]}, "got item_id='i0' and title='both': give one"),
        ({"history": [{}]}, "got item_id=None and title=None: give one"),
        ({"history": ["i0"]}, "history.0: "),
        ({"history": [{"title": " \n"}]}, "history.0.title: "),
        ({"history": [{"title": "\x1c"}]}, "is an empty title"),
        ({"history": [{"title": "x" * 1001}]}, "history.0.title: "),
        ({"candidates": []}, "candidates: "),
        ({"candidates": ["i0"] * 10_001}, "10001 candidates, at most 10000"),
        ({"filters": {"price_min": 5, "price_max": 4}}, "price_min 5.0 is above price_max 4.0"),
        ({"filters": {"colour": "red"}}, "filters.colour: Extra inputs are not permitted, got 'red'"),
        ({"explain": True, "k": 11}, "11 recommendations to explain (k), at most 10"),
        ({"histroy": []}, "histroy: Extra inputs are not permitted"),
    ],
)
def test_a_value_that_does_not_fit(shop: Any, change: dict[str, Any], said: str) -> None:
    answer = shop.post("/v1/recommend", {"history": TITLE, **change})
    assert said in sentence(answer, 422, "limit" if "at most" in said else "invalid")


def test_unknown_candidates_are_named(shop: Any) -> None:
    answer = shop.post("/v1/recommend", {"history": TITLE, "candidates": ["i0", "i77"]})
    assert "unknown item id 'i77'" in sentence(answer, 404, "unknown_item")
    answer = shop.post("/v1/score", {"history": TITLE, "candidates": [{"item_id": "i77"}]})
    assert "unknown item id 'i77'" in sentence(answer, 404, "unknown_item")
    answer = shop.post("/v1/explain", {"history": TITLE, "item": {"item_id": "i77"}})
    assert "unknown item id 'i77'" in sentence(answer, 404, "unknown_item")


def test_a_large_body_is_not_read(open_shop: Any, tiny_models: Any) -> None:
    with open_shop({"toys": tiny_models.late}, request_bytes=1000) as shop:
        fits = {"history": [{"title": "x" * 900}]}
        assert shop.post("/v1/recommend", fits).status_code == 200
        answer = shop.post("/v1/recommend", {"history": [{"title": "x" * 1000}]})
        assert "at most 1000 bytes" in sentence(answer, 413, "too_large")

        async def parts() -> Any:  # without a length that tells beforehand
            for _ in range(5):
                yield b" " * 300

        async def stream() -> Any:
            async with shop.client() as client:
                return await client.post("/v1/recommend", content=parts(), headers=JSON)

        assert "at most 1000 bytes" in sentence(asyncio.run(stream()), 413, "too_large")


def test_a_body_that_comes_too_slowly(open_shop: Any, tiny_models: Any) -> None:
    async def drip() -> Any:
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def scene() -> Any:
        async with shop.client() as client:
            return await client.post("/v1/recommend", content=drip(), headers=JSON)

    with open_shop({"toys": tiny_models.late}, body_timeout_s=0.2) as shop:
        answer = asyncio.run(scene())
    assert "not complete after 0.2 s" in sentence(answer, 408, "slow")


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1"]
)
def test_a_body_that_is_announced_as_something_else(shop: Any, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = shop.ask("POST", "/v1/recommend", content=b'{"history": [{"item_id": "i0"}]}', headers=headers)
    assert "send application/json in UTF-8" in sentence(answer, 415, "content_type")


def test_a_body_that_is_announced_as_two_things(shop: Any) -> None:
    headers = [("Content-Type", "application/json"), ("Content-Type", "text/plain")]
    answer = shop.ask("POST", "/v1/recommend", content=b'{"history": [{"item_id": "i0"}]}', headers=headers)
    assert "the Content-Type is 'application/json, text/plain'" in sentence(answer, 415, "content_type")


def test_unknown_places_and_methods(shop: Any) -> None:
    assert "nothing at '/v2/recommend'" in sentence(shop.ask("GET", "/v2/recommend"), 404, "http")
    answer = shop.ask("PATCH", "/v1/items")
    assert "PATCH is not taken at '/v1/items'" in sentence(answer, 405, "http")
    assert answer.headers["allow"]
    assert "limit: " in sentence(shop.ask("GET", "/v1/items?limit=0"), 422, "invalid")


def test_a_page_of_another_host_is_no_key(shop: Any) -> None:
    answer = shop.ask("GET", "/v1/models", headers={"Host": "evil.example:8000"})
    assert "for the host 'evil.example'" in sentence(answer, 403, "host")
    for host in ("127.0.0.1:8000", "localhost", "[::1]:8000"):
        assert shop.ask("GET", "/v1/models", headers={"Host": host}).status_code == 200


def test_pair_models_read_few_candidates(open_shop: Any, tiny_models: Any) -> None:
    with open_shop({"toys": tiny_models.pair}, pair_candidates=3) as shop:
        answer = shop.post("/v1/recommend", {"history": TITLE})
        assert "each of 6 items, at most 3 are allowed: give fewer candidates" in sentence(answer, 422, "invalid")
        answer = shop.post("/v1/score", {"history": TITLE, "candidates": [{"title": f"t{n}"} for n in range(4)]})
        assert "each of 4 items, at most 3" in sentence(answer, 422, "invalid")
        assert len(shop.recommend(TITLE, candidates=["i0", "i1", "i5"])["items"]) == 3


# ---- keys

READ, ADMIN = "reader-0123456789abcdef", "admin-0123456789abcdef"


@pytest.fixture
def locked(open_shop: Any, tiny_models: Any) -> Any:
    with open_shop({"toys": tiny_models.late}, api_keys=(READ,), admin_keys=(ADMIN,)) as shop:
        yield shop


def test_keys_open_what_they_are_for(locked: Any) -> None:
    put = {"json": {"items": [{"item_id": "n", "title": "New"}]}}
    for method, path, more in (
        ("GET", "/v1/models", {}),
        ("POST", "/v1/recommend", {"json": {"history": TITLE}}),
        ("GET", "/metrics", {}),
        ("PUT", "/v1/items", put),
    ):
        assert "key is missing" in sentence(locked.ask(method, path, **more), 401, "key")
        for wrong in (READ[:-1], READ + "x", "", "\xe9" * 20):
            headers = {"Authorization": f"Bearer {wrong}".encode("latin-1")}
            assert locked.ask(method, path, headers=headers, **more).status_code == 401
        for header in ({"Authorization": f"Bearer {ADMIN}"}, {"X-Api-Key": ADMIN}):
            assert locked.ask(method, path, headers=header, **more).status_code == 200
    reader = {"Authorization": f"Bearer {READ}"}
    assert locked.ask("GET", "/v1/models", headers=reader).status_code == 200
    for method, path, more in (
        ("PUT", "/v1/items", put),
        ("DELETE", "/v1/items", {"json": {"ids": ["n"]}}),
        ("POST", "/v1/models/toys/reload", {"json": {}}),
    ):
        assert "may read only" in sentence(locked.ask(method, path, headers=reader, **more), 403, "key")


def test_without_a_key_only_the_page_and_the_state_are_shown(locked: Any) -> None:
    for path in ("/healthz", "/readyz", "/", "/static/app.js", "/openapi.json"):
        assert locked.ask("GET", path).status_code == 200, path
    assert locked.ask("GET", "/v1/model").headers["www-authenticate"] == "Bearer"
    schema = locked.ask("GET", "/openapi.json").json()
    assert schema["paths"]["/v1/recommend"]["post"]["security"] == [{"key": []}]


def test_a_name_that_comes_twice_among_thousands_is_found_at_once(lasting_shop: Any) -> None:
    """Counting each of them anew took seconds in which nobody was answered."""
    names = ", ".join(f'"n{number}": 0' for number in range(9_998))
    body = f'{{"history": [], "x": {{{names}, "last": 1, "last": 2}}}}'
    began = thread_time()
    answer = lasting_shop.ask("POST", "/v1/recommend", content=body, headers={"Content-Type": "application/json"})
    assert "has 'last' 2 times: send it once" in sentence(answer, 400, "json")
    assert thread_time() - began < 1


def test_who_may_read_only_writes_by_no_spelling_of_an_address(open_shop: Any, tiny_models: Any) -> None:
    """A route's pattern takes a line's end behind the address, too."""
    keys = {"api_keys": ("a-reader-key-for-tests",), "admin_keys": ("an-admin-key-for-tests",)}
    with open_shop({"toys": tiny_models.late}, **keys) as shop:
        headers = {"Authorization": f"Bearer {keys['api_keys'][0]}"}
        before, bought = shop.ask("GET", "/v1/model", headers=headers).json(), {"user_id": "anna", "item_id": "i0"}
        for path, body in (("/v1/purchases", {"purchases": [bought]}), ("/v1/models/toys/reload", {})):
            for spelled in (path, f"{path}%0A", f"{path}/", f"{path}%0D%0A", path.replace("/v1/", "//v1/")):
                answer = shop.ask("POST", spelled, json=body, headers=headers)
                assert "this key may read only" in sentence(answer, 403, "key")
        assert shop.ask("GET", "/v1/model", headers=headers).json() == before
        asked = {"json": {"history": [{"item_id": "i0"}]}, "headers": headers}
        assert shop.ask("POST", "/v1/recommend", **asked).status_code == 200
