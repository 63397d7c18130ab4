"""Several services on one database: one writes, all see it; one changes its model, all do; the database may go away."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from xcrossrec.catalogue import Purchase, build_catalogue
from xcrossrec.copurchase import CoPurchases
from xcrossrec.exceptions import StorageError
from xcrossrec.models import bundle
from xcrossrec.models.purchases import with_counts
from xcrossrec.recommender import Question, Recommender
from xcrossrec.serving.service import Service
from xcrossrec.serving.settings import Settings, Spec

from .conftest import Shop, sentence

TRAIN = {"item_id": "i0"}


@pytest.fixture
def replicas(postgres: str, tiny_domain: Any, tiny_models: Any) -> Iterator[tuple[Shop, Shop]]:
    build_catalogue(bundle.load(tiny_models.late), tiny_domain, postgres).close()
    with opened(postgres, tiny_models.late) as first, opened(postgres, tiny_models.late) as second:
        yield first, second


@contextmanager
def opened(url: str, model: Path) -> Iterator[Shop]:
    service = Service.start([Spec("toys", model, url)], Settings())
    try:
        yield Shop(service)
    finally:
        service.close()


def test_what_one_writes_all_see_at_once(replicas: tuple[Shop, Shop]) -> None:
    first, second = replicas
    before = second.recommend([TRAIN], k=9)
    put = first.ask("PUT", "/v1/items", json={"items": [{"item_id": "new", "title": "Red wooden trains"}]})
    assert put.status_code == 200, put.text
    after = second.recommend([TRAIN], k=9)
    assert after["catalog_version"] == put.json()["catalog_version"] > before["catalog_version"]
    assert {item["item_id"] for item in after["items"]} - {item["item_id"] for item in before["items"]} == {"new"}
    assert after["items"] == first.recommend([TRAIN], k=9)["items"]
    bought = second.post("/v1/purchases", {"purchases": [{"user_id": "anna", "item_id": "new"}]})
    assert bought.json()["added"] == 1
    anna = {"user_id": "anna", "k": 9, "history": [TRAIN]}
    there = [shop.post("/v1/recommend", anna).json()["items"] for shop in replicas]
    assert there[0] == there[1]
    assert "new" not in [item["item_id"] for item in there[0]]  # she has it
    assert first.ask("DELETE", "/v1/purchases", json={"user_id": "anna"}).json()["forgotten"] == 1
    assert "new" in [item["item_id"] for item in second.post("/v1/recommend", anna).json()["items"]]
    second.post("/v1/purchases", {"purchases": [{"user_id": "cy", "item_id": "new"}]})
    assert first.ask("DELETE", "/v1/purchases", json={"user_id": "cy"}).json()["forgotten"] == 1  # unasked since
    assert second.ask("DELETE", "/v1/items", json={"ids": ["new"]}).json()["deleted"] == 1
    assert first.recommend([TRAIN], k=9)["items"] == before["items"]


def test_a_purchase_that_cannot_be_kept_refuses_no_others_that_came_with_it(replicas: tuple[Shop, Shop]) -> None:
    served = replicas[0].service.models["toys"]
    wrong, right = Purchase("an\0na", "i0"), Purchase("bo", "i0")
    refused, added = served._add_purchases([([wrong], False), ([right], False)])
    assert "zero character, which PostgreSQL cannot keep" in str(refused)
    assert added == {"catalog_version": served.store.version, "added": 1}
    assert served.recommender.bought.of("bo") == ("i0",)


def test_who_was_forgotten_before_a_service_starts_is_so_whatever_its_bundle_knows(
    postgres: str, tiny_domain: Any, tiny_models: Any, tmp_path: Path
) -> None:
    """Each replica has a copy of the bundle; a batch job reads one, too."""
    bought = pl.DataFrame({"user_id": ["anna", "anna", "bo"], "item_id": ["i0", "i1", "i1"]})
    known = with_counts(bundle.load(tiny_models.late), CoPurchases.count(bought), {"one": 0.5, "several": 1.0})
    bundle.save(known, tmp_path / "model", {"kind": "target"})
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    build_catalogue(known, tiny_domain, postgres).close()
    with opened(postgres, tmp_path / "model") as first:
        assert first.ask("DELETE", "/v1/purchases", json={"user_id": "anna"}).json()["forgotten"] == 2
        wanted = first.recommend([TRAIN], k=6)["items"]
        with opened(postgres, tmp_path / "copy") as late:
            assert [late.recommend([], user_id=user)["rung"] for user in ("anna", "bo")] == ["none", "one"]
            assert late.recommend([TRAIN], k=6)["items"] == wanted
            late.post("/v1/purchases", {"purchases": [{"user_id": "anna", "item_id": "i4"}]})
    with Recommender.from_pretrained(tmp_path / "copy", postgres) as batch:
        assert [batch.ask(Question(user_id=user)).rung for user in ("anna", "bo")] == ["one", "one"]  # she came again


def test_when_one_changes_its_model_the_others_follow_and_no_write_is_refused(
    replicas: tuple[Shop, Shop], tiny_models: Any
) -> None:
    first, second = replicas
    other = str(tiny_models.sources[0])
    done = first.post("/v1/models/toys/reload", {"path": other})
    assert done.status_code == 200, done.text
    put = second.ask("PUT", "/v1/items", json={"items": [{"item_id": "new", "title": "Red wooden trains"}]})
    assert put.status_code == 200, put.text
    infos = [shop.ask("GET", "/v1/model").json() for shop in replicas]
    assert infos[0] == infos[1]
    assert infos[0]["fingerprint"] == done.json()["fingerprint"]
    assert first.recommend([TRAIN], k=9)["items"] == second.recommend([TRAIN], k=9)["items"]


def test_a_catalogue_that_was_built_again_for_the_same_model_is_taken_up(
    replicas: tuple[Shop, Shop], postgres: str, tiny_domain: Any, tiny_models: Any
) -> None:
    first, second = replicas
    build_catalogue(bundle.load(tiny_models.late), tiny_domain, postgres, overwrite=True).close()
    put = second.ask("PUT", "/v1/items", json={"items": [{"item_id": "new", "title": "Red wooden trains"}]})
    assert put.status_code == 200, put.text
    asyncio.run(first.service._follow("toys"))
    assert first.recommend([TRAIN], k=9)["items"] == second.recommend([TRAIN], k=9)["items"]


def test_a_service_that_nobody_writes_to_follows_within_seconds(
    replicas: tuple[Shop, Shop], tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcrossrec.serving.service.FOLLOW_S", 0.01)
    first, second = replicas
    first.post("/v1/models/toys/reload", {"path": str(tiny_models.sources[0])})

    async def follow() -> None:
        task = asyncio.create_task(second.service.follow())
        until = time.monotonic() + 20
        while second.service.models["toys"].spec.path != tiny_models.sources[0] and time.monotonic() < until:
            await asyncio.sleep(0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(follow())
    assert second.service.models["toys"].spec.path == tiny_models.sources[0]


def test_a_service_that_starts_late_serves_the_model_whose_vectors_count(
    replicas: tuple[Shop, Shop], postgres: str, tiny_models: Any
) -> None:
    first, _ = replicas
    first.post("/v1/models/toys/reload", {"path": str(tiny_models.sources[0])})
    with opened(postgres, tiny_models.late) as third:
        assert third.ask("GET", "/v1/model").json() == first.ask("GET", "/v1/model").json()
        assert third.recommend([TRAIN], k=9)["items"] == first.recommend([TRAIN], k=9)["items"]


def test_a_service_that_cannot_follow_is_not_ready_until_it_can(
    replicas: tuple[Shop, Shop], tiny_models: Any, tmp_path: Path
) -> None:
    first, second = replicas
    folder, hidden = tmp_path / "next", tmp_path / "hidden"
    shutil.copytree(tiny_models.sources[0], folder)
    answer = first.post("/v1/models/toys/reload", {"path": str(folder)})
    assert answer.status_code == 200, answer.text
    folder.rename(hidden)
    asyncio.run(second.service._follow("toys"))
    said = sentence(second.ask("GET", "/readyz"), 503, "behind")
    assert said == "'toys' was replaced on its catalogue by a model that cannot be read here: ask another one"
    assert "xcrossrec_ready 0.0" in second.ask("GET", "/metrics").text
    assert first.ask("GET", "/readyz").status_code == 200
    hidden.rename(folder)
    asyncio.run(second.service._follow("toys"))
    ready = second.ask("GET", "/readyz")
    assert ready.status_code == 200, ready.text
    assert second.recommend([TRAIN], k=9)["items"] == first.recommend([TRAIN], k=9)["items"]


def test_a_look_that_failed_once_does_not_keep_a_service_from_being_ready(
    replicas: tuple[Shop, Shop], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = replicas
    with monkeypatch.context() as patch:
        patch.setattr(first.service.models["toys"].store._tables, "state", refuse)  # type: ignore[attr-defined]
        asyncio.run(first.service._follow("toys"))
        assert first.ask("GET", "/readyz").status_code == 503
    asyncio.run(first.service._follow("toys"))
    assert first.ask("GET", "/readyz").status_code == 200


def refuse() -> None:
    raise StorageError("the database refused")


def test_a_catalogue_that_was_built_again_or_restored_is_read_again(
    replicas: tuple[Shop, Shop], postgres: str, postgres_server: str, tiny_models: Any, tiny_domain: Any
) -> None:
    """Its version is lower than the one that was read, and nothing else tells."""
    import psycopg

    for shop in replicas:
        for number in range(3):
            shop.ask("PUT", "/v1/items", json={"items": [{"item_id": f"lost{number}", "title": "Red wooden train"}]})
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {postgres.rpartition('#')[2]} CASCADE")
    said = sentence(replicas[0].post("/v1/recommend", {"history": [TRAIN]}), 503, "database")
    assert "holds no catalogue" in said
    build_catalogue(bundle.load(tiny_models.late), tiny_domain, postgres).close()
    put = replicas[0].ask("PUT", "/v1/items", json={"items": [{"item_id": "new", "title": "Blue wooden train"}]})
    assert put.status_code == 200, put.text
    asyncio.run(replicas[1].service._follow("toys"))
    for shop in replicas:
        found = {item["item_id"] for item in shop.recommend([TRAIN], k=20)["items"]}
        assert "new" in found
        assert not any(each.startswith("lost") for each in found)


def test_what_the_databases_limits_of_time_break_off_may_be_asked_again(
    replicas: tuple[Shop, Shop], postgres: str, postgres_server: str, tiny_models: Any
) -> None:
    import psycopg

    server, _, schema = postgres.rpartition("#")
    with (
        opened(
            f"{server}{'&' if '?' in server else '?'}options=-c%20lock_timeout%3D50#{schema}", tiny_models.late
        ) as shop,
        psycopg.connect(postgres_server) as other,
    ):
        other.execute(f"LOCK TABLE {schema}.state IN ACCESS EXCLUSIVE MODE")
        put = shop.ask("PUT", "/v1/items", json={"items": [{"item_id": "x", "title": "X"}]})
        for answer in (shop.post("/v1/recommend", {"history": [TRAIN]}), put, shop.ask("GET", "/v1/model")):
            assert "broke off (canceling statement due to lock timeout)" in sentence(answer, 503, "database")
            assert answer.headers["Retry-After"]
        other.rollback()
        assert shop.recommend([TRAIN])["items"]


def test_lost_connections_are_opened_again_and_an_absent_database_is_a_sentence(
    replicas: tuple[Shop, Shop], postgres_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import psycopg

    from xcrossrec.catalogue.postgres.connections import Database

    first, _ = replicas
    wanted = first.recommend([TRAIN])["items"]
    store = first.service.models["toys"].store

    def cut() -> None:
        """End this service's connections alone: other processes' tests are on the same server."""
        kept = [each.info.backend_pid for each in store._tables.database._idle]  # type: ignore[attr-defined]
        assert kept
        with psycopg.connect(postgres_server, autocommit=True) as connection:
            connection.execute("SELECT pg_terminate_backend(pid) FROM unnest(%s::int[]) pid", (kept,))

    cut()
    assert first.recommend([TRAIN])["items"] == wanted
    cut()
    put = first.ask("PUT", "/v1/items", json={"items": [{"item_id": "i0", "title": "Red wooden train"}]})
    assert put.status_code == 200, put.text
    cut()
    with monkeypatch.context() as patch:
        patch.setitem(store._tables.database._given, "host", "/nowhere")  # type: ignore[attr-defined]
        asked: list[Callable[[], httpx.Response]] = [
            lambda: first.post("/v1/recommend", {"history": [TRAIN]}),
            lambda: first.ask("PUT", "/v1/items", json={"items": [{"item_id": "x", "title": "X"}]}),
            lambda: first.ask("GET", "/v1/model"),
            lambda: first.ask("GET", "/v1/items"),
        ]
        for ask in asked:
            said = sentence(ask(), 503, "database")
            assert "cannot be reached" in said
            assert "start it or check the URL, and ask again" in said
        assert first.ask("GET", "/metrics").status_code == 200
    assert first.recommend([TRAIN])["items"] == wanted
    assert isinstance(store._tables.database, Database)  # type: ignore[attr-defined]
