"""What HTTP asks of a server beside its own API: HEAD, Allow, encodings, query parameters, kinds of numbers."""

from __future__ import annotations

import errno
import gzip
import time
from typing import Any
from unittest.mock import Mock

import pytest

from xcrossrec.catalogue.snapshot import HeldSnapshot
from xcrossrec.models import bundle

from .conftest import sentence

HISTORY = [{"item_id": "i0"}]


def test_head_is_get_without_the_body(shop: Any) -> None:
    for path in ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/static/app.js", "/v1/model", "/v1/items"):
        got, head = shop.ask("GET", path), shop.ask("HEAD", path)
        assert (head.status_code, head.content) == (200, b""), path
        assert got.content
        assert head.headers["content-type"] == got.headers["content-type"]
        if path != "/metrics":  # which counts these requests
            assert head.headers["content-length"] == got.headers["content-length"]
    assert 'method="HEAD"' in shop.ask("GET", "/metrics").text


def test_no_cache_on_the_way_gives_what_a_key_opened_to_others(open_shop: Any, tiny_models: Any) -> None:
    """By Authorization a cache knows that an answer is for one client alone, by X-API-Key it does not."""
    key = {"X-API-Key": "r" * 16}
    with open_shop({"toys": tiny_models.late}, api_keys=("r" * 16,), admin_keys=("a" * 16,)) as shop:
        for path in ("/", "/v1/items", "/v1/models", "/metrics", "/report", "/nothing"):
            assert shop.ask("GET", path, headers=key).headers["cache-control"] == "no-store", path
        assert shop.ask("GET", "/v1/items").headers["cache-control"] == "no-store"  # 401
        file = shop.ask("GET", "/static/app.js")
        again = shop.ask("GET", "/static/app.js", headers={"If-None-Match": file.headers["etag"]})
        assert (file.headers["cache-control"], again.status_code) == ("no-cache", 304)


def test_a_method_that_is_not_taken_is_told_those_that_are(shop: Any) -> None:
    taken = {
        "/v1/items": "DELETE, GET, HEAD, PUT",
        "/v1/recommend": "POST",
        "/v1/models/toys/reload": "POST",
        "/healthz": "GET, HEAD",
        "/": "GET, HEAD",
        "/openapi.json": "GET, HEAD",
        "/static/app.js": "GET, HEAD",
    }
    for path, allowed in taken.items():
        for method in ("PATCH", "OPTIONS", "TRACE"):
            answer = shop.ask(method, path)
            assert f"{method} is not taken at {path!r}: {allowed} are" in sentence(answer, 405, "http")
            assert answer.headers["allow"] == allowed
    assert shop.ask("HEAD", "/v1/recommend").headers["allow"] == "POST"


def test_an_encoded_body_is_named_as_such(shop: Any) -> None:
    body = gzip.compress(b'{"history": [{"item_id": "i0"}]}')
    for header, value in (
        ("Content-Encoding", "gzip"),
        ("Content-Encoding", "br"),
        ("Content-Encoding", "identity, gzip"),
        ("Transfer-Encoding", "gzip, chunked"),
    ):
        headers = {"Content-Type": "application/json", header: value}
        answer = shop.ask("POST", "/v1/recommend", content=body, headers=headers)
        assert f"{header} is {value!r}: send the body as it is" in sentence(answer, 415, "encoded")
        assert answer.headers["accept-encoding"] == "identity"
    headers = {"Content-Encoding": "identity"}
    assert shop.ask("POST", "/v1/recommend", json={"history": HISTORY}, headers=headers).status_code == 200


def test_an_unknown_query_parameter_is_refused_by_its_name(shop: Any) -> None:
    for method, address, said in (
        ("GET", "/v1/items?quary=a", "unknown query parameter 'quary': known are limit, model, query"),
        ("GET", "/v1/model?model=toys", "unknown query parameter 'model': known are name"),
        ("GET", "/v1/models?name=toys", "unknown query parameter 'name': none is known here"),
        ("POST", "/v1/recommend?k=3", "unknown query parameter 'k': none is known here"),
        ("GET", "/healthz?verbose", "unknown query parameter 'verbose'"),
        ("GET", "/v1/items?limit=1&limit=2", "the query parameter 'limit' is given 2 times: give one"),
        ("GET", "/v1/items?limit=5_0", "limit: Value error, write the number without '_', got '5_0'"),
        ("GET", "/?utm=a", "unknown query parameter 'utm': none is known here"),
        ("GET", "/report?modle=toys", "unknown query parameter 'modle': known are model"),
        ("GET", "/openapi.json?v=1", "unknown query parameter 'v': none is known here"),
        ("HEAD", "/static/app.js?v=1", ""),
        ("GET", "/static/app.js?v=1", "unknown query parameter 'v'"),
        ("GET", "/v1/items?query=caf%E9", "the query is not in UTF-8 ('utf-8' codec can't decode byte 0xe9"),
    ):
        more = {"json": {"history": HISTORY}} if method == "POST" else {}
        answer = shop.ask(method, address, **more)
        assert (
            (answer.status_code, answer.content) == (422, b"") if not said else said in sentence(answer, 422, "invalid")
        )


def test_a_request_is_for_one_host(shop: Any) -> None:
    answer = shop.ask("GET", "/healthz", headers=[("Host", "localhost"), ("Host", "shop.example")])
    assert sentence(answer, 400, "host") == "the request has 2 Host headers: send one"


def test_an_address_ends_where_it_does(shop: Any) -> None:
    """A route's pattern takes a line's end behind it."""
    for path in (
        "/healthz%0A",
        "/v1/model%0a",
        "/metrics%0D%0A",
        "/v1/items%0A",
        "/report%0A",
        "/%0A",
        "/static/app.js%0A",
    ):
        assert "there is nothing at '/" in sentence(shop.ask("GET", path), 404, "http"), path
    assert "nothing at '/v1/recommend\\n'" in sentence(shop.post("/v1/recommend%0A", {"history": HISTORY}), 404, "http")


def test_a_range_is_passed_over_since_all_is_small(shop: Any) -> None:
    for path in ("/", "/static/app.js"):
        whole = shop.ask("GET", path).content
        for wanted in ("bytes=0-3", "bytes=5-1", "lines=1", "bytes=999999-"):
            answer = shop.ask("GET", path, headers={"Range": wanted})
            assert (answer.status_code, answer.content) == (200, whole)


def test_an_integral_number_is_an_integer(shop: Any) -> None:
    for whole in ("3.0", "3", "3e0", "30e-1"):
        body = f'{{"history": [{{"item_id": "i0"}}], "k": {whole}}}'
        answer = shop.ask("POST", "/v1/recommend", content=body, headers={"Content-Type": "application/json"})
        assert len(answer.json()["items"]) == 3
    assert len(shop.ask("GET", "/v1/items?limit=3.0").json()["items"]) == 3
    for k in (3.5, True):
        assert "k: " in sentence(shop.post("/v1/recommend", {"history": HISTORY, "k": k}), 422, "invalid")


def test_a_path_that_the_system_refuses_is_named(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = shop.ask("GET", "/v1/model").json()
    for path in ("x" * 300, "/" + "y/" * 2040, "nothing", "a\0b", "/dev/null", "/proc/self/mem", "/dev/null/below"):
        assert ascii(path)[1:9] in sentence(shop.post("/v1/models/toys/reload", {"path": path}), 422, "model")

    for number in (errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO):
        fails = Mock(side_effect=OSError(number, "no such luck", "/srv/model"))
        monkeypatch.setattr(bundle, "read_bundle_manifest", fails)
        said = sentence(shop.post("/v1/models/toys/reload", {"path": "/srv/model"}), 422, "model")
        assert "'/srv/model' cannot be read (no such luck): give the folder of a bundle" in said
    assert shop.ask("GET", "/v1/model").json() == before


def test_a_search_of_titles_has_a_time(open_shop: Any, tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_shop({"toys": tiny_models.late}, search_timeout_s=0.25) as shop:
        assert len(shop.ask("GET", "/v1/items?query=train").json()["items"]) == 3
        snapshot = next(iter(shop.service.models.values())).store.snapshot()
        with pytest.raises(TimeoutError):
            snapshot.search_titles("train", 1, within_s=0)
        monkeypatch.setattr(HeldSnapshot, "search_titles", lambda *_, **__: time.sleep(0.6))
        answer = shop.ask("GET", "/v1/items?query=train")
        assert "not searched within 0.25 s: ask again" in sentence(answer, 503, "timeout")
        assert answer.headers["retry-after"] == "1"
