"""Several models behind one process, and one put in another's place."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import shutil
import time
import weakref
from pathlib import Path
from typing import Any

import pytest

from .conftest import sentence

HISTORY = [{"title": "Wooden toy garage"}, {"item_id": "i3"}]


def of_domain(bundle: Path, place: Path, domain: str) -> Path:
    """Copy a bundle and say that it was trained for a domain."""
    shutil.copytree(bundle, place)
    manifest = place / "xcrossrec.json"
    record = json.loads(manifest.read_text())
    record["domain"] = {"name": domain}
    manifest.write_text(json.dumps(record))
    return place


@pytest.fixture
def two(open_shop: Any, tiny_models: Any, tmp_path: Path) -> Any:
    toys = of_domain(tiny_models.late, tmp_path / "late", "games")
    books = of_domain(tiny_models.sources[0], tmp_path / "books", "reading")
    with open_shop({"toys": toys, "books": books}) as shop:
        yield shop


def test_a_model_is_chosen_by_its_name_or_its_domain(two: Any, open_shop: Any, tiny_models: Any) -> None:
    toys, books = (two.recommend(HISTORY, model=name) for name in ("toys", "books"))
    assert (toys["model"], books["model"]) == ("toys", "books")
    assert [i["score"] for i in toys["items"]] != [i["score"] for i in books["items"]]
    assert two.recommend(HISTORY, model="reading")["items"] == books["items"]
    with open_shop({"only": tiny_models.sources[0]}) as alone:
        scores = [i["score"] for i in alone.recommend(HISTORY)["items"]]
    assert scores == pytest.approx([i["score"] for i in books["items"]], abs=2e-6)


def test_a_folder_that_vanishes_below_a_service_ends_in_sentences(
    shop: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, circle = tmp_path / "gone", tmp_path / "circle"
    gone.mkdir()
    circle.symlink_to(circle)
    served = shop.service.models["toys"]
    monkeypatch.chdir(gone)
    gone.rmdir()
    for path in (Path("model"), circle / "model"):
        served.spec = dataclasses.replace(served.spec, path=path)
        assert shop.ask("GET", "/v1/model").json()["report"] is False
        sentence(shop.ask("GET", "/report"), 404, "no_report")
        sentence(shop.post("/v1/models/toys/reload", {}), 422, "model")
        assert shop.recommend(HISTORY)["items"]


def test_a_report_that_is_a_link_shows_no_other_file(open_shop: Any, tiny_models: Any, tmp_path: Path) -> None:
    """What adapt left may come from anybody, and the file that a link names is only the service's to read."""
    model, report, secret = (tmp_path / name for name in ("out/model", "out/report.html", "secret"))
    shutil.copytree(tiny_models.late, model)
    for file in (secret, report, tmp_path / "out" / "decision.json"):
        file.write_text(file.name, "utf-8")
    with open_shop({"toys": model}, base=str(tiny_models.base)) as shop:
        assert shop.ask("GET", "/report").text == "report.html"
        report.unlink()
        report.symlink_to(secret)
        sentence(shop.ask("GET", "/report"), 404, "no_report")


def test_a_hangup_while_models_are_read_reads_them_once_more(shop: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The first may have read the folder before it changed."""

    async def twice() -> None:
        await asyncio.gather(shop.service.replace_all(), shop.service.replace_all())

    asyncio.run(twice())
    assert 'xcrossrec_reloads_total{model="toys",result="done"} 2.0' in shop.ask("GET", "/metrics").text
    assert "stays as it is" not in caplog.text


def test_a_catalogue_that_does_not_answer_holds_up_no_description(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.service.settings = dataclasses.replace(shop.service.settings, timeout_s=0.05)
    monkeypatch.setattr(type(shop.service.models["toys"]), "info", property(lambda _: time.sleep(0.5)))
    for path in ("/v1/model", "/v1/models"):
        said = sentence(shop.ask("GET", path), 503, "timeout")
        assert said == "the catalogue did not answer within 0.05 s: ask again, or for less"


def test_an_unknown_model_is_never_anothers_answer(two: Any) -> None:
    choices = "'toys' (domain 'games'), 'books' (domain 'reading')"
    for method, path, more in (
        ("POST", "/v1/recommend", {"json": {"model": "shoes", "history": HISTORY}}),
        ("POST", "/v1/score", {"json": {"model": "shoes", "history": HISTORY, "candidates": [{"item_id": "i0"}]}}),
        ("POST", "/v1/explain", {"json": {"model": "shoes", "history": HISTORY, "item": {"item_id": "i0"}}}),
        ("PUT", "/v1/items", {"json": {"model": "shoes", "items": [{"item_id": "n", "title": "New"}]}}),
        ("DELETE", "/v1/items", {"json": {"model": "shoes", "ids": ["i0"]}}),
        ("GET", "/v1/items?model=shoes", {}),
        ("GET", "/v1/model?name=shoes", {}),
        ("POST", "/v1/models/shoes/reload", {"json": {}}),
    ):
        said = sentence(two.ask(method, path, **more), 404, "unknown_model")
        assert "'shoes'" in said
        assert choices in said
    said = sentence(two.post("/v1/recommend", {"history": HISTORY}), 422, "model_needed")
    assert choices in said


def test_a_domain_of_two_models_names_neither(open_shop: Any, tiny_models: Any, tmp_path: Path) -> None:
    paths = {name: of_domain(tiny_models.late, tmp_path / name, "games") for name in ("a", "b")}
    with open_shop(paths) as shop:
        said = sentence(shop.post("/v1/recommend", {"model": "games", "history": HISTORY}), 422, "model_needed")
        assert "name one of 'a', 'b'" in said
        assert shop.recommend(HISTORY, model="b")["model"] == "b"


def test_models_are_described(two: Any) -> None:
    models = two.ask("GET", "/v1/models").json()["models"]
    assert [(m["name"], m["domain"], m["scoring"]) for m in models] == [
        ("toys", "games", "dual"),
        ("books", "reading", "dual"),
    ]
    toys = two.ask("GET", "/v1/model?name=games").json()
    assert toys == models[0]
    assert toys["sources"] == ["kitchen", "camping"]
    assert toys["catalog"] == {"items": 6, "version": 1}
    assert len(toys["fingerprint"]) == 64
    assert [len(part) for part in toys["base"]["digest"].split(".")] == [64, 64, 64]  # weights, tokenizer, settings


def test_a_model_is_replaced_under_load_without_a_failed_request(
    open_shop: Any, tiny_models: Any, tmp_path: Path
) -> None:
    other = tiny_models.sources[0]  # another model, so its vectors are others, too
    with open_shop({"only": other}) as alone:
        wanted_after = [(i["item_id"], i["score"]) for i in alone.recommend(HISTORY)["items"]]

    async def load(shop: Any, client: Any, stop: asyncio.Event, answers: list[Any]) -> None:
        number = 0
        while not stop.is_set():
            number += 1
            if number % 5 == 0:
                item = {"item_id": "w", "title": f"Written {number}", "in_stock": False}
                answers.append(await client.put("/v1/items", json={"items": [item]}))
            else:
                asked = {"history": HISTORY, "filters": {"in_stock": True}}
                answers.append(await client.post("/v1/recommend", json=asked))

    async def scene(shop: Any) -> tuple[list[Any], Any]:
        stop, answers = asyncio.Event(), []
        async with shop.client() as client:
            tasks = [asyncio.ensure_future(load(shop, client, stop, answers)) for _ in range(4)]
            await asyncio.sleep(0.1)
            replaced = await client.post("/v1/models/toys/reload", json={"path": str(other)})
            stop.set()
            await asyncio.gather(*tasks)
        return answers, replaced

    with open_shop({"toys": tiny_models.late}) as shop:
        before = [(i["item_id"], i["score"]) for i in shop.recommend(HISTORY)["items"]]
        answers, replaced = asyncio.run(scene(shop))
        assert replaced.status_code == 200, replaced.text
        after = [(i["item_id"], i["score"]) for i in shop.recommend(HISTORY, filters={"in_stock": True})["items"]]
    assert len(answers) > 8
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    assert [i for i, _ in after] == [i for i, _ in wanted_after]
    assert [s for _, s in after] == pytest.approx([s for _, s in wanted_after], abs=2e-6)
    assert [s for _, s in before] != pytest.approx([s for _, s in wanted_after], abs=1e-4)


def test_a_bundle_that_cannot_be_used_leaves_the_model_as_it_is(shop: Any, tiny_models: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_models.late, broken)
    weights = next(broken.rglob("head.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-4] + b"oops")
    before = shop.recommend(HISTORY)["items"]
    for path, said in ((broken, "is not the file that was written"), (tmp_path / "none", "does not exist")):
        answer = shop.post("/v1/models/toys/reload", {"path": str(path)})
        assert said in sentence(answer, 422, "model")
    said = sentence(shop.post("/v1/models/toys/reload", {"path": str(tiny_models.pair)}), 422, "invalid")
    assert "scores 'pair'" in said
    assert shop.recommend(HISTORY)["items"] == before
    assert 'xcrossrec_reloads_total{model="toys",result="failed"} 3.0' in shop.ask("GET", "/metrics").text
    assert shop.post("/v1/models/toys/reload", {}).status_code == 200
    assert [i["item_id"] for i in shop.recommend(HISTORY)["items"]] == [i["item_id"] for i in before]


def test_starting_needs_a_name_for_each_model(tiny_models: Any, tmp_path: Path) -> None:
    from xcrossrec.exceptions import BundleError, ConfigError
    from xcrossrec.serving.service import Service
    from xcrossrec.serving.settings import Settings, Spec

    spec = Spec("toys", tiny_models.late, tmp_path)
    with pytest.raises(ConfigError, match=r"\['toys', 'toys'\]"):
        Service.start([spec, spec], Settings())
    with pytest.raises(ConfigError, match="at least one model"):
        Service.start([], Settings())
    with pytest.raises(BundleError, match="does not exist"):
        Service.start([Spec("toys", tmp_path / "none", tmp_path)], Settings())


def test_a_write_outlives_two_replacements_in_a_row(
    open_shop: Any, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene(shop: Any) -> Any:
        service = shop.service
        old, successor = service.find(None), service.successor
        await service.replace("toys", tiny_models.sources[0])

        async def replaced_again(served: Any) -> Any:
            found = await successor(served)
            if served is old:  # before the second attempt reaches the model that it was given
                await service.replace("toys", tiny_models.late)
            return found

        monkeypatch.setattr(service, "find", lambda _: old)
        monkeypatch.setattr(service, "successor", replaced_again)
        async with shop.client() as client:
            return await client.put("/v1/items", json={"items": [{"item_id": "w", "title": "Written"}]})

    with open_shop({"toys": tiny_models.late}) as shop:
        answer = asyncio.run(scene(shop))
        assert answer.status_code == 200, answer.text
        (written,) = shop.service.models["toys"].store.snapshot().get(["w"])
        assert written.title == "Written"


def test_a_replaced_model_is_freed_and_the_rest_is_passed_over_as_before(
    shop: Any, tiny_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xcrossrec.serving.service.gc", gc)
    old = weakref.ref(shop.service.models["toys"].model)

    async def replaced() -> None:
        await shop.service.replace("toys", tiny_models.sources[0])
        async with asyncio.timeout(20):
            while old() is not None or not gc.get_freeze_count():
                await asyncio.sleep(0.01)

    gc.freeze()  # as a service does when it begins to answer
    asyncio.run(replaced())
    assert shop.service._retired == []
