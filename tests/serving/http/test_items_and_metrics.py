"""Items over HTTP; metrics, the page, the schema and settings."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import polars as pl
import pytest
import torch
from starlette.responses import Response

from xcrossrec.data import write_domain
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.dual import encode_titles
from xcrossrec.serving import settings as settings_module
from xcrossrec.serving.gate import Gate
from xcrossrec.serving.logs import JsonLines
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.room import Room
from xcrossrec.serving.settings import Settings, is_loopback, keys_of

from .conftest import sentence


def test_items_are_found_written_and_deleted(shop: Any) -> None:
    version = shop.ask("GET", "/v1/model").json()["catalog"]["version"]
    new = {"item_id": "n", "title": "Wooden  train tunnel", "category": "toys", "price": 5, "metadata": {"ean": [1]}}
    written = shop.ask("PUT", "/v1/items", json={"items": [new]}).json()
    assert written == {"model": "toys", "catalog_version": version + 1, "written": 1}
    found = shop.ask("GET", "/v1/items?query=TRAIN tun&limit=3").json()["items"]
    assert found == [{**new, "title": "Wooden train tunnel", "price": 5.0, "in_stock": True}]
    first, second = shop.ask("GET", "/v1/items?query=n&limit=2").json()["items"]
    assert (first["item_id"], "n" in second["title"]) == ("n", True)
    assert shop.ask("GET", "/v1/items?query=%20n%20&limit=1").json()["items"] == found
    assert shop.recommend([{"title": "Wooden train tunnel"}], k=9)["items"][0]["item_id"] != "n"
    known = shop.recommend([{"item_id": "i0"}], k=9)["items"]
    (item,) = [each for each in known if each["item_id"] == "n"]
    assert (item["category"], item["price"], item["in_stock"]) == ("toys", 5.0, True)
    deleted = shop.ask("DELETE", "/v1/items", json={"ids": ["n", "never"]}).json()
    assert deleted == {"model": "toys", "catalog_version": version + 2, "deleted": 1}
    assert "n" not in [each["item_id"] for each in shop.recommend([{"item_id": "i0"}], k=9)["items"]]
    assert shop.post("/v1/recommend", {"history": [{"item_id": "n"}]}).status_code == 404


def test_a_write_is_all_or_nothing(shop: Any) -> None:
    twice = [{"item_id": "n", "title": "One"}, {"item_id": "n", "title": "Two"}]
    answer = shop.ask("PUT", "/v1/items", json={"items": [{"item_id": "m", "title": "M"}, *twice]})
    assert "'n' comes twice" in sentence(answer, 422, "invalid")
    assert shop.ask("GET", "/v1/model").json()["catalog"]["items"] == 6
    large = {"item_id": "m", "title": "M", "metadata": {"text": "x" * 70_000}}
    answer = shop.ask("PUT", "/v1/items", json={"items": [large]})
    assert "at most 65536" in sentence(answer, 422, "invalid")


def test_an_item_is_written_with_what_the_model_reads_or_refused(
    open_shop: Callable[..., AbstractContextManager[Any]], tiny_models: Any, tiny_domain: Any, tmp_path: Path
) -> None:
    items = tiny_domain.items.with_columns(brand=pl.lit("Maker"), category=pl.lit("toys"))
    write_domain(replace(tiny_domain, items=items), tmp_path / "branded")
    with open_shop({"toys": tiny_models.text}, items=tmp_path / "branded") as shop:
        assert shop.ask("GET", "/v1/model").json()["text"] == "{title}; by {brand}; {category}"
        bare = {"item_id": "n", "title": "Train"}
        answer = shop.ask("PUT", "/v1/items", json={"items": [bare]})
        assert "'n' has no 'brand', which the model reads" in sentence(answer, 422, "invalid")
        answer = shop.ask("PUT", "/v1/items", json={"items": [{**bare, "metadata": {"brand": "Brio"}}]})
        assert "has no 'category'" in sentence(answer, 422, "invalid")
        assert "send its category, null where there is none" in answer.json()["error"]["message"]
        new = {**bare, "category": None, "metadata": {"brand": "Brio"}}
        assert shop.ask("PUT", "/v1/items", json={"items": [new]}).json()["written"] == 1
        served = shop.service.models["toys"]
        found = served.store.snapshot().vectors(["n"])
        torch.testing.assert_close(found, encode_titles(served.model, ["Train; by Brio"]))
        assert {item["title"] for item in shop.recommend([{"item_id": "n"}], k=9)["items"]} == set(tiny_domain.titles)


def test_the_first_items_are_examples(shop: Any) -> None:
    assert [i["item_id"] for i in shop.ask("GET", "/v1/items?limit=2").json()["items"]] == ["i0", "i1"]


def test_a_first_event_is_an_increase(shop: Any) -> None:
    """Prometheus takes a counter that appears with 1 for one that was 1 all the time."""
    text = shop.ask("GET", "/metrics").text
    for name in ("items_written", "items_deleted", "purchases_added", "purchases_deleted"):
        assert f'xcrossrec_{name}_total{{model="toys"}} 0.0' in text
    for result in ("done", "failed"):
        assert f'xcrossrec_reloads_total{{model="toys",result="{result}"}} 0.0' in text


def test_metrics_count_what_happened(shop: Any) -> None:
    for _ in range(2):
        shop.recommend([{"title": "Free title"}])
    shop.ask("GET", "/nowhere/at/all")
    answer = shop.ask("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    for line in (
        'xcrossrec_requests_total{method="POST",route="/v1/recommend",status="200"} 2.0',
        'xcrossrec_requests_total{method="GET",route="other",status="404"} 1.0',
        'xcrossrec_request_seconds_count{route="/v1/recommend"} 2.0',
        'xcrossrec_batch_size_sum{model="toys"} 3.0',
        'xcrossrec_queue_seconds_count{model="toys"} 3.0',
        'xcrossrec_encoded_texts_total{model="toys"} 1.0',
        'xcrossrec_remembered_texts_total{model="toys"} 1.0',
        'xcrossrec_texts_waiting{model="toys"} 0.0',
        'xcrossrec_catalogue_items{model="toys"} 6.0',
        'xcrossrec_queue_length{model="toys"} 0.0',
        "xcrossrec_ready 1.0",
        "xcrossrec_requests_in_flight 1.0",
    ):
        assert line in answer.text.splitlines(), line


def test_draining_is_seen_before_the_end(shop: Any) -> None:
    assert shop.ask("GET", "/readyz").json() == {"status": "ready", "models": ["toys"]}
    shop.service.draining = True
    answer = shop.ask("GET", "/readyz")
    assert "about to stop" in sentence(answer, 503, "draining")
    assert answer.headers["connection"] == "close"
    assert shop.ask("GET", "/healthz").json() == {"status": "ok"}
    assert shop.recommend([{"item_id": "i0"}])["items"]


def test_the_page_is_given(shop: Any) -> None:
    page = shop.ask("GET", "/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert shop.ask("GET", "/static/app.js").headers["x-content-type-options"] == "nosniff"
    assert shop.ask("GET", "/static/none.js").status_code == 404


def test_the_schema_has_the_limits_and_examples(open_shop: Any, tiny_models: Any) -> None:
    with open_shop({"toys": tiny_models.late}, k=7, history=3) as shop:
        schema = shop.ask("GET", "/openapi.json").json()
        properties = schema["components"]["schemas"]["RecommendRequest"]["properties"]
        assert (properties["k"]["maximum"], properties["history"]["maxItems"]) == (7, 3)
        for name in ("Recommend", "Score", "Explain", "Upsert", "Delete", "Reload"):
            assert schema["components"]["schemas"][f"{name}Request"]["examples"]
        assert shop.ask("GET", "/docs").status_code == 404


def test_requests_have_an_id_and_the_log_no_titles(
    open_shop: Any, tiny_models: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "xcrossrec.access")
    secret = "Surprise present"
    body = {"history": [{"title": secret}, {"item_id": "i3"}]}
    for wanted in (False, True):
        caplog.clear()
        with open_shop({"toys": tiny_models.late}, log_titles=wanted) as shop:
            answer = shop.ask("POST", "/v1/recommend", json=body, headers={"X-Request-Id": "mine-1"})
            assert answer.headers["x-request-id"] == "mine-1"
            other = shop.ask("GET", "/healthz", headers={"X-Request-Id": "no spaces allowed"})
            assert len(other.headers["x-request-id"]) == 16
        (record,) = [r for r in caplog.records if getattr(r, "facts", {}).get("route") == "/v1/recommend"]
        line = JsonLines().format(record)
        facts = json.loads(line)
        assert facts["request_id"] == "mine-1"
        assert (facts["model"], facts["status"], facts["history"], facts["k"]) == ("toys", 200, 2, 10)
        assert facts["ms"] > 0
        assert (secret in line) == wanted
        assert ("i3" in line) == wanted


def test_a_log_line_may_have_an_exception() -> None:
    fault = (ValueError, ValueError("x\x9b2J\u2028"), None)
    record = logging.LogRecord("a", logging.ERROR, "f", 1, "went %s", ("wrong",), fault)
    written = JsonLines().format(record)
    assert written.isprintable()  # one line for whatever reads it, and no command for a terminal
    line = json.loads(written)
    assert (line["level"], line["message"]) == ("error", "went wrong")
    assert "ValueError: x" in line["exception"]


def test_what_other_libraries_warn_of_and_a_fault_are_json_too() -> None:
    code = "import logging; from xcrossrec.serving.logs import log_as_json; log_as_json()"
    code += "; log = logging.getLogger('asyncio'); log.info('quiet'); log.error('never retrieved')"
    code += "; import threading; each = threading.Thread(target=next, args=((),)); each.start(); each.join()"
    code += "; raise ZeroDivisionError('a fault')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    warned, thread, fault = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (warned["logger"], warned["level"], warned["message"]) == ("asyncio", "error", "never retrieved")
    assert (thread["level"], thread["message"]) == ("error", "a thread ended by a fault")
    assert "TypeError: 'tuple' object is not an iterator" in thread["exception"]
    assert (fault["level"], fault["message"]) == ("critical", "the service ended by a fault")
    assert "ZeroDivisionError: a fault" in fault["exception"]
    assert ended.returncode == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"queue": 0}, "queue is 0: give at least 1"),
        ({"idle_timeout_s": float("inf")}, "idle_timeout_s is inf: give at least 0.001, at most 1e"),
        ({"stop_s": float("nan")}, "stop_s is nan: give at least 0.001"),
        ({"request_bytes": 10**20}, "request_bytes is 100000000000000000000: give at least 1, at most 1e"),
        ({"timeout_s": 0.0}, "timeout_s is 0.0"),
        ({"port": 70_000}, "port is 70000: give at least 0, at most 65535"),
        ({"threads": 10**8}, "threads is 100000000: give at least 0, at most 1024"),
        ({"host": "0.0.0.0"}, "no keys are set: set XCROSSREC_API_KEYS and XCROSSREC_ADMIN_KEYS"),
        ({"host": "shop.example", "api_keys": ("k" * 16,)}, "no keys are set"),
        ({"api_keys": ("k" * 16, "short")}, "number 2 has 5 characters"),
        ({"admin_keys": ("schlüssel-0123456789",)}, "printable ASCII"),
        ({"api_keys": ('"reader-0123456789"',)}, "number 1 has 19 characters.*the first no quotation mark"),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Settings(**settings)


def test_settings_that_are_fine_show_no_key() -> None:
    keys = {"api_keys": ("reader-0123456789",), "admin_keys": ("admin-0123456789",)}
    assert "0123456789" not in repr(Settings(host="0.0.0.0", **keys))
    assert Settings(host="0.0.0.0", insecure=True).processor_threads >= 1
    assert is_loopback("::1")
    assert keys_of({"A": " one ,two,, "}, "A") == ("one", "two")
    assert keys_of({}, "A") == ()


def test_numbers_and_keys_come_from_the_environment_where_they_are_not_given() -> None:
    environment = {"XCROSSREC_K": "7", "XCROSSREC_STOP_S": "1.5", "XCROSSREC_PORT": "1", "XCROSSREC_API_KEYS": "k" * 16}
    settings = Settings.read(environment, port=9000)
    assert (settings.k, settings.stop_s, settings.port, settings.upsert) == (7, 1.5, 9000, Settings.upsert)
    assert settings.api_keys == ("k" * 16,)
    with pytest.raises(ConfigError, match="XCROSSREC_UPSERT is 'many': set a whole number"):
        Settings.read({"XCROSSREC_UPSERT": "many"})
    with pytest.raises(ConfigError, match="XCROSSREC_DRAIN_S is 'soon': set a number"):
        Settings.read({"XCROSSREC_DRAIN_S": "soon"})


@pytest.mark.parametrize(
    ("set_", "meant"),
    [("API_KEY", "API_KEYS"), ("KEYS", "(API|ADMIN)_KEYS"), ("QUEU", "QUEUE"), ("TIMEOUT", "TIMEOUT_S")],
)
def test_a_setting_whose_name_is_misspelled_is_refused(set_: str, meant: str) -> None:
    others = {f"XCROSSREC_{name}": "x" for name in ("USER", "PATH", "SECRET", "HOME", "FUZZ_SEED")}
    assert Settings.read(others) == Settings()
    with pytest.raises(ConfigError, match=f"^XCROSSREC_{set_} is set and is no setting: XCROSSREC_{meant} is one$"):
        Settings.read({f"XCROSSREC_{set_}": "k" * 16, "XCROSSREC_FAST": "1"})


@pytest.mark.parametrize(
    ("set_", "option"), [("LOG_TITLES", "log-titles"), ("INSECURE", "insecure"), ("LOG_TITLE", "log-titles")]
)
def test_a_variable_for_what_only_an_option_sets_is_refused(set_: str, option: str) -> None:
    with pytest.raises(ConfigError, match=f"^XCROSSREC_{set_} is set and is no setting: --{option} is one$"):
        Settings.read({f"XCROSSREC_{set_}": "1"})


def test_what_kubernetes_sets_for_a_service_of_this_name_is_no_setting() -> None:
    address = {
        "XCROSSREC_SERVICE_HOST": "10.0.0.1",
        "XCROSSREC_SERVICE_PORT": "80",
        "XCROSSREC_SERVICE_PORT_HTTP": "80",
    }
    port = {"XCROSSREC_PORT": "tcp://10.0.0.1:80", "XCROSSREC_PORT_80_TCP": "tcp://10.0.0.1:80"}
    of_port = {f"XCROSSREC_PORT_80_TCP_{name}": name for name in ("PROTO", "PORT", "ADDR")}
    database = {"XCROSSREC_DATABASE_SERVICE_HOST": "10.0.0.2", "XCROSSREC_DATABASE_PORT": "tcp://10.0.0.2:5432"}
    assert Settings.read({**address, **port, **of_port, **database}) == Settings()


@pytest.mark.parametrize("service", ["API", "DB", "WEB", "QUEUE", "A", "V2", "BATCH", "HISTORY", "API_V2", "HOST"])
def test_nor_is_what_it_sets_for_services_whose_names_only_begin_like_it(service: str) -> None:
    name = f"XCROSSREC_{service}"
    address = {f"{name}_SERVICE_HOST": "10.0.0.1", f"{name}_SERVICE_PORT": "80", f"{name}_SERVICE_PORT_HTTP": "80"}
    port = {f"{name}_PORT": "tcp://10.0.0.1:80", f"{name}_PORT_80_TCP": "tcp://10.0.0.1:80"}
    of_port = {f"{name}_PORT_80_TCP_{each}": each for each in ("PROTO", "PORT", "ADDR")}
    assert Settings.read({**address, **port, **of_port}) == Settings()


@pytest.mark.parametrize(
    ("limit", "threads"),
    [("200000 100000", 1), ("250000 100000", 2), ("50000 100000", 1), ("max 100000", 15), ("", 15)],
)
def test_models_take_no_more_threads_than_a_container_has_processors(
    limit: str, threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(16)), raising=False)
    monkeypatch.setattr(settings_module, "_PROCESSORS", tmp_path / "cpu.max")
    assert Settings().processor_threads == 15, "where no limit is told"
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert Settings().processor_threads == threads
    assert Settings(threads=5).processor_threads == 5


@pytest.mark.parametrize(
    ("body", "full"),
    [
        (b'{"history": [{"title": "a"}]}', True),
        (b'{"history": [{"\\u0074itle": "a"}]}', True),
        (b'{"history": [{"titl\\u0065": "a"}]}', True),
        (b'{"other_history": ["a"]}', True),
        (b'{"history": [{"item_id": "i0"}], "user_id": "u"}', False),
    ],
)
def test_titles_keep_no_ids_out_however_they_are_spelled(body: bytes, full: bool) -> None:
    room = Room(1, Metrics())
    with room.taken("/v1/score", b'{"history": [{"title": "a"}]}'):
        assert room.is_full("/v1/score", body) is full
    with room.taken("/v1/score", body):
        assert room.is_full("/v1/score", b'{"history": [{"item_id": "i0"}]}') is not full


def test_more_requests_than_there_is_room_for_are_refused_at_once(caplog: pytest.LogCaptureFixture) -> None:
    metrics, answer = Metrics(), asyncio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await answer.wait()
        await Response("done")(scope, receive, send)

    async def scene() -> list[httpx.Response]:
        service: Any = SimpleNamespace(settings=Settings(), metrics=metrics, room=Room(2, metrics), draining=False)
        gate = Gate(slow, service)
        transport = httpx.ASGITransport(app=gate)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            inside = [asyncio.ensure_future(client.post("/v1/recommend")) for _ in range(2)]
            await asyncio.sleep(0.05)
            refused = [await client.post("/v1/recommend") for _ in range(5)]
            answer.set()
            return [*await asyncio.gather(*inside), await client.post("/v1/recommend"), *refused]

    answers = asyncio.run(scene())
    assert [each.status_code for each in answers] == [200] * 3 + [429] * 5
    for refused in answers[3:]:
        assert "2 requests are being answered" in sentence(refused, 429, "busy")
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.headers["x-request-id"]
    counted = 'xcrossrec_requests_total{method="POST",route="refused",status="429"} 5.0'
    assert counted in metrics.text().decode()
    assert caplog.text.count("requests refused, the queue is full") == 1
