"""A service as a process: signals and hang-ups."""

from __future__ import annotations

import asyncio
import dataclasses
import http.client
import json
import signal
import socket
import time
from pathlib import Path
from threading import Event, Thread
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.data import write_domain
from xcrossrec.serving import served as served_module
from xcrossrec.serving import server as server_module
from xcrossrec.serving.server import bind

from .conftest import Shop, sentence
from .processes import Process, recommend, started

TITLE = [{"title": "Wooden toy garage"}]


@pytest.fixture
def words(tiny_models: Any, tiny_domain: Any, tmp_path: Path) -> list[str]:
    write_domain(tiny_domain, tmp_path / "items")
    return ["serve", f"toys={tiny_models.late}", "--catalog", str(tmp_path / "items"), "--port", "0"]


def test_hang_ups_a_reload_and_a_stop_that_answers_what_is_in_flight(words: list[str], tmp_path: Path) -> None:
    # a batch waits two seconds for company, so that the signal comes while requests are in flight
    with started(words, tmp_path, {"XCROSSREC_BATCH_WAIT_MS": "2000", "XCROSSREC_DRAIN_S": "1"}) as process:
        process.wait_until_it_listens()
        answers: list[httpx.Response] = []
        threads = [Thread(target=lambda: answers.append(recommend(process.url, TITLE))) for _ in range(3)]
        for thread in threads:
            thread.start()
        hang_up(process)
        wait_for_in_flight(process, 4)
        process.popen.send_signal(signal.SIGHUP)
        process.popen.send_signal(signal.SIGTERM)
        wait_for_draining(process)
        for thread in threads:
            thread.join()
        assert process.popen.wait(60) == 0
        assert [answer.status_code for answer in answers] == [200, 200, 200]
        assert all(answer.json()["items"] for answer in answers)
        lines = process.lines()
    messages = [line["message"] for line in lines]
    assert any(message.startswith("toys is now ") for message in messages)
    assert messages.count("request") >= 4
    assert {line["level"] for line in lines} == {"info"}
    assert "garage" not in json.dumps(lines)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="what it catches is read in /proc, as Linux has it")
def test_a_hangup_while_it_loads_reads_the_models_again_and_does_not_end_it(words: list[str], tmp_path: Path) -> None:
    with started(words, tmp_path) as process:
        status, until = Path(f"/proc/{process.popen.pid}/status"), time.monotonic() + 60
        while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & 1 and time.monotonic() < until:
            time.sleep(0.01)  # until it catches the first of all signals
        process.popen.send_signal(signal.SIGHUP)
        process.wait_until_it_listens()
        while "toys is now " not in process.log.read_text() and time.monotonic() < until:
            time.sleep(0.05)
        assert process.stop() == 0
        assert "toys is now " in process.log.read_text()


def test_a_stop_ends_in_time_whatever_is_still_at_work(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a model that encodes a catalogue nor a database that does not answer can be interrupted."""
    ended, release = Event(), Event()
    monkeypatch.setattr(server_module, "_CLOSE_S", 0.01)
    monkeypatch.setattr(server_module.os, "_exit", lambda status: ended.set())
    monkeypatch.setattr(served_module, "load", lambda *_: release.wait(60))
    shop.service.settings = dataclasses.replace(shop.service.settings, drain_s=0, stop_s=0.001)
    answers: list[httpx.Response] = []
    with bind("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1/models/toys/reload"
        server = server_module.Server(shop.service, shop.app)
        asking = Thread(target=lambda: answers.append(httpx.post(url, json={}, timeout=60)))

        async def stop_while_it_reloads() -> None:
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            asking.start()
            while not shop.service._replacing["toys"].locked():
                await asyncio.sleep(0.005)
            server.handle_exit(signal.SIGTERM, None)
            assert await asyncio.to_thread(ended.wait, 60)
            await asyncio.to_thread(asking.join, 60)
            release.set()
            await serving

        listener.listen()
        asyncio.run(stop_while_it_reloads())
    assert "ask again, or another service" in sentence(answers[0], 503, "draining")


def test_a_process_that_has_served_goes_on_with_something_else(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = Event()
    monkeypatch.setattr(server_module, "_CLOSE_S", 0.3)
    monkeypatch.setattr(server_module.os, "_exit", lambda status: ended.set())
    shop.service.settings = dataclasses.replace(shop.service.settings, drain_s=0, stop_s=0.001)
    with bind("127.0.0.1", 0) as listener:
        server = server_module.Server(shop.service, shop.app)

        async def start_and_stop() -> None:
            serving = asyncio.create_task(server.serve([listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            server.handle_exit(signal.SIGTERM, None)
            await serving

        listener.listen()
        asyncio.run(start_and_stop())
    assert not ended.wait(0.5)


def hang_up(process: Process) -> None:
    """Ask, and go away before the answer."""
    address = httpx.URL(process.url)
    connection = http.client.HTTPConnection(address.host, address.port or 80)
    connection.request("POST", "/v1/recommend", json.dumps({"history": TITLE}), {"Content-Type": "application/json"})
    connection.close()


def wait_for_in_flight(process: Process, count: int) -> None:
    for _ in range(100):
        text = httpx.get(f"{process.url}/metrics", timeout=10).text
        if f"xcrossrec_requests_in_flight {count + 1}.0" in text:  # and the one that asks
            return
        time.sleep(0.01)
    raise AssertionError(text)


def wait_for_draining(process: Process) -> None:
    for _ in range(100):
        answer = httpx.get(f"{process.url}/readyz", timeout=10)
        if answer.status_code == 503:
            assert answer.json()["error"]["code"] == "draining"
            return
        time.sleep(0.005)
    raise AssertionError("it never said that it stops")


def test_a_port_that_is_taken_is_a_sentence_before_models_are_loaded(words: list[str], tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        done = CliRunner().invoke(app, [*words[:-1], port])
    assert done.exit_code == 2
    assert f"127.0.0.1 port {port} cannot be listened at" in done.stderr
    assert not list((tmp_path / "items").glob(".catalogue*"))


@pytest.mark.parametrize("host", ["a..b", ".", "x" * 300])
def test_a_host_that_nobody_can_have_is_a_sentence(words: list[str], host: str) -> None:
    done = CliRunner().invoke(app, [*words, "--host", host, "--insecure"])
    assert done.exit_code == 2
    assert f"{host} port" in done.stderr
    assert "cannot be listened at (" in done.stderr
    assert "choose another --host or --port" in done.stderr
