"""Faults around a real server process: kills, a full disk, corrupt files, a change of models."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import numpy as np
import pytest

from xcrossrec.catalogue import StoredItem, encode_items, open_catalogue
from xcrossrec.models import bundle
from xcrossrec.recommender import Recommender

from .conftest import TITLES, recommend, sentence

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading

KILLS = 20
BATCH = 4


def put(client: httpx.Client, items: list[dict[str, Any]]) -> httpx.Response:
    return client.put("/v1/items", json={"items": items})


def batch_of(generation: int) -> list[dict[str, Any]]:
    """Items of one batch; everything about them tells the generation."""
    number = generation % 10
    return [
        {
            "item_id": f"b{number}-{place}",
            "title": f"generation {generation} place {place}",
            "price": generation,
            "metadata": {"generation": generation},
        }
        for place in range(BATCH)
    ]


# ---- kill -9


def write_until_killed(client: httpx.Client, generation: int, acknowledged: list[int]) -> None:
    """Write one batch after the other; the first without an answer ends it."""
    while True:
        try:
            answer = put(client, batch_of(generation))
        except httpx.TransportError:
            return
        assert answer.status_code == 200, answer.text
        acknowledged.append(generation)
        generation += 1


def stored_generations(client: httpx.Client) -> dict[int, int]:
    """What the service says of each batch; every batch must be whole."""
    found: dict[int, list[tuple[int, int, str]]] = {}
    for item in client.get("/v1/items", params={"query": "generation", "limit": 100}).json()["items"]:
        number, place = item["item_id"].removeprefix("b").split("-")
        assert item["title"] == f"generation {item['metadata']['generation']} place {place}"
        found.setdefault(int(number), []).append((item["metadata"]["generation"], int(item["price"]), place))
    for number, rows in found.items():
        assert len({row[:2] for row in rows}) == 1, (number, rows)
        assert sorted(row[2] for row in rows) == [str(place) for place in range(BATCH)]
    return {number: rows[0][0] for number, rows in found.items()}


def test_twenty_kills_in_the_middle_of_upserts_lose_nothing_that_was_acknowledged(
    start_server: Any, tiny_models: Any, catalogue: Path
) -> None:
    rng = random.Random(0)
    acknowledged: list[int] = []
    expected: dict[int, int] = {}
    generation = 1
    for _ in range(KILLS):
        server = start_server(tiny_models.late, "--catalog", catalogue)
        with server.client() as client:
            found = stored_generations(client)
            if found.get(generation % 10) == generation:  # written, but killed before it was acknowledged
                expected[generation % 10] = generation
            assert found == expected
            before = len(acknowledged)
            writer = Thread(target=write_until_killed, args=(client, generation + 1, acknowledged))
            writer.start()
            while len(acknowledged) < before + 3:
                assert writer.is_alive(), server.process.lines()
                time.sleep(0.001)
            time.sleep(rng.uniform(0, 0.03))
            server.kill()
            writer.join()
        expected.update({each % 10: each for each in acknowledged[before:]})
        generation = acknowledged[-1] + 1
    model = bundle.load(tiny_models.late)
    with open_catalogue(model, catalogue) as store:
        items = list(store.snapshot())
        assert [item.title for item in items][: len(TITLES)] == TITLES
        found = {int(item.item_id[1:].split("-")[0]): int(item.price or 0) for item in items[len(TITLES) :]}
        expected.update({generation % 10: generation} if found[generation % 10] == generation else {})
        assert (found, len(store)) == (expected, len(TITLES) + BATCH * len(expected))
        vectors = store.snapshot().vectors([item.item_id for item in items]).numpy()
        np.testing.assert_allclose(vectors, encode_items(model, items), atol=2e-6)
    assert len(acknowledged) >= 3 * KILLS


# ---- a full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if sys.platform != "linux" or os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("NO SMALL DISK: mounting a tmpfs needs root on Linux, so a truly full disk was not tried")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def large(number: int) -> list[dict[str, Any]]:
    return [
        {"item_id": f"x{number}-{place}", "title": "red saw", "metadata": {"text": "m" * 15_000}} for place in range(20)
    ]


def fill(client: httpx.Client) -> tuple[int, str]:
    """Write until it is refused: how many writes were taken, and the refusal."""
    for number in range(200):
        answer = put(client, large(number))
        if answer.status_code != 200:
            return number, sentence(answer, 507)
    raise AssertionError("the disk was never full")


def test_a_full_disk_refuses_upserts_and_nothing_else(
    start_server: Any, tiny_models: Any, catalogue: Path, small_disk: Path
) -> None:
    place = Path(shutil.copytree(catalogue, small_disk / "catalogue"))
    (small_disk / "reserve").write_bytes(b"0" * 1_000_000)
    server = start_server(tiny_models.late, "--catalog", place)
    with server.client() as client:
        taken, said = fill(client)
        assert taken > 0
        assert "could not be written" in said
        assert "nothing was changed; free space on its disk" in said
        items = len(TITLES) + 20 * taken
        assert client.get("/v1/model").json()["catalog"]["items"] == items
        assert recommend(client, "blue drill", k=3).status_code == 200
        (small_disk / "reserve").unlink()
        assert put(client, large(900)).status_code == 200
        server.kill()
    again = start_server(tiny_models.late, "--catalog", place)
    with again.client() as client:
        assert client.get("/v1/model").json()["catalog"]["items"] == items + 20
        assert put(client, [{"item_id": "last", "title": "white saw"}]).status_code == 200
    again.stop()


def test_a_limit_on_the_size_of_files_is_a_full_disk_too(start_server: Any, tiny_models: Any, catalogue: Path) -> None:
    server = start_server(tiny_models.late, "--catalog", catalogue, fsize=1_500_000)
    with server.client() as client:
        taken, said = fill(client)
        assert "could not be written" in said
        assert recommend(client, "blue drill").status_code == 200
    server.stop()
    again = start_server(tiny_models.late, "--catalog", catalogue)
    with again.client() as client:
        assert client.get("/v1/model").json()["catalog"]["items"] == len(TITLES) + 20 * taken
        assert put(client, large(900)).status_code == 200
    again.stop()


# ---- corrupt files


def corrupt_weights(folder: Path) -> None:
    weights = max(folder.rglob("*.safetensors"), key=lambda path: path.stat().st_size)
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    weights.write_bytes(content)


def cut_manifest(folder: Path) -> None:
    path = folder / "xcrossrec.json"
    path.write_text(path.read_text(encoding="utf-8")[:50], encoding="utf-8")


def drop_modules(folder: Path) -> None:
    (folder / "modules.json").unlink()


@pytest.mark.parametrize("corrupt", [corrupt_weights, cut_manifest, drop_modules])
def test_a_corrupt_bundle_is_refused_at_the_start_and_in_a_reload(
    start_server: Any, tiny_models: Any, catalogue: Path, tmp_path: Path, corrupt: Callable[[Path], None]
) -> None:
    bad = Path(shutil.copytree(tiny_models.late, tmp_path / "bad"))
    corrupt(bad)
    refused = start_server(bad, "--catalog", catalogue, ready=False)
    assert refused.process.wait() == 2
    (line,) = [line for line in refused.process.lines() if line.startswith("error: ")]
    assert str(bad) in line
    assert "Traceback" not in refused.process.log.read_text(encoding="utf-8")
    server = start_server(f"toys={tiny_models.late}", "--catalog", catalogue)
    with server.client() as client:
        before = recommend(client, "blue drill").json()["items"]
        answer = client.post("/v1/models/toys/reload", json={"path": str(bad)})
        assert str(bad) in sentence(answer, 422)
        os.kill(server.process.pid, signal.SIGHUP)
        assert recommend(client, "blue drill").json()["items"] == before
        assert put(client, batch_of(1)).status_code == 200
    server.stop()


def test_a_corrupt_catalogue_is_refused_at_the_start(start_server: Any, tiny_models: Any, catalogue: Path) -> None:
    path = catalogue / "catalogue.sqlite"
    path.write_bytes(path.read_bytes()[:5000])
    server = start_server(tiny_models.late, "--catalog", catalogue, ready=False)
    assert server.process.wait() == 2
    assert "catalogue.sqlite" in (said := "".join(server.process.lines()))
    assert f"xcrossrec catalog check {catalogue}" in said


def test_another_models_catalogue_is_refused_with_the_command_that_embeds_it_again(
    start_server: Any, tiny_models: Any, catalogue: Path
) -> None:
    server = start_server(tiny_models.sources[0], "--catalog", catalogue, ready=False)
    assert server.process.wait() == 2
    assert f"xcrossrec catalog embed MODEL {catalogue}" in "".join(server.process.lines())


# ---- a model is replaced under load


class Load:
    """Clients that ask and write without a pause; every answer is kept."""

    def __init__(self, server: Any, clients: int) -> None:
        self.server = server
        self.statuses: list[int] = []
        self.failures: list[str] = []
        self.written: dict[str, str] = {}
        self.deleted: set[str] = set()
        self._done = Event()
        self._threads = [Thread(target=self._ask, args=(number,)) for number in range(clients)]
        self._threads += [Thread(target=self._write, args=(number,)) for number in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, number: int) -> None:
        with self.server.client() as client:
            while not self._done.is_set():
                more = {"explain": True, "k": 1} if number == 0 else {"k": 5}
                self._keep(lambda: recommend(client, TITLES[number], "yellow submarine", **more))  # noqa: B023

    def _write(self, number: int) -> None:
        with self.server.client() as client:
            count = 0
            while not self._done.is_set():
                count += 1
                ids = [f"w{number}-{count % 30}-{place}" for place in range(3)]
                title = f"written {number} {count}"
                if self._keep(lambda: put(client, [{"item_id": i, "title": title} for i in ids])):  # noqa: B023
                    self.written.update(dict.fromkeys(ids, title))
                if count % 5 == 0:
                    gone = ids[:1]
                    if self._keep(lambda: client.request("DELETE", "/v1/items", json={"ids": gone})):  # noqa: B023
                        self.written.pop(gone[0])

    def _keep(self, ask: Callable[[], httpx.Response]) -> bool:
        try:
            answer = ask()
        except httpx.HTTPError as error:
            self.failures.append(repr(error))
            return False
        self.statuses.append(answer.status_code)
        if answer.status_code != 200:
            self.failures.append(answer.text)
        return answer.status_code == 200


def test_models_are_replaced_under_load_without_a_failed_request_or_a_lost_write(
    start_server: Any, tiny_models: Any, catalogue: Path, tmp_path: Path
) -> None:
    server = start_server(f"toys={tiny_models.late}", "--catalog", catalogue, environment={"XCROSSREC_TIMEOUT_S": "60"})
    other = tiny_models.sources[0]
    with server.client() as client, Load(server, clients=4) as load:
        for path in (other, tiny_models.late, tiny_models.late, other):
            before = len(load.statuses)
            answer = client.post("/v1/models/toys/reload", json={"path": str(path)})
            assert answer.status_code == 200, answer.text
            until = time.monotonic() + 60
            while len(load.statuses) < before + 20 and time.monotonic() < until:
                time.sleep(0.02)
    assert load.failures == []
    assert len(load.statuses) >= 80
    with server.client() as client:
        info = client.get("/v1/model").json()
        found = recommend(client, "blue drill", "i", k=30).json()["items"]
    server.stop()
    model = bundle.load(other)
    with open_catalogue(model, catalogue) as store:  # it is the last model's
        assert store.fingerprint == info["fingerprint"]
        titles = {item.item_id: item.title for item in store.snapshot() if item.item_id.startswith("w")}
        assert titles == load.written
        assert len(store) == len(TITLES) + len(titles)
        table = [(item.item_id, item.title) for item in store.snapshot()]
        vectors = store.snapshot().vectors([item_id for item_id, _ in table]).numpy()
        np.testing.assert_allclose(vectors, encode_items(model, [StoredItem(*each) for each in table]), atol=2e-6)
    import polars as pl

    frame = pl.DataFrame(table, schema=["item_id", "title"], orient="row")
    expected = Recommender(model, frame).recommend(["title:blue drill", "title:i"], 30)
    assert [item["item_id"] for item in found] == [each.item_id for each in expected]
    np.testing.assert_allclose([item["score"] for item in found], [each.score for each in expected], atol=2e-6)


def test_a_hangup_signal_reads_the_bundle_again_without_a_failed_request(
    start_server: Any, tiny_models: Any, catalogue: Path, tmp_path: Path
) -> None:
    place = Path(shutil.copytree(tiny_models.late, tmp_path / "served"))
    server = start_server(f"toys={place}", "--catalog", catalogue, environment={"XCROSSREC_TIMEOUT_S": "60"})
    with server.client() as client, Load(server, clients=2) as load:
        before = client.get("/v1/model").json()["fingerprint"]
        place.rename(tmp_path / "old")
        shutil.copytree(tiny_models.sources[0], tmp_path / "new")
        (tmp_path / "new").rename(place)
        os.kill(server.process.pid, signal.SIGHUP)
        until = time.monotonic() + 60
        while client.get("/v1/model").json()["fingerprint"] == before:
            assert time.monotonic() < until, server.process.lines()
            time.sleep(0.02)
    assert load.failures == []
    server.stop()
