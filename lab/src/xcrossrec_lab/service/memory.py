"""Whether a service's memory stays level: clients mix requests of all kinds for as long as is asked.

    python -m xcrossrec_lab.service.memory MODEL DOMAIN --minutes 30 --out lab/results/service/memory.json
    python -m xcrossrec_lab.service.memory MODEL DOMAIN --minutes 5 --kind title --out FILE    # one kind alone

Titles are new in every request. What is resident (MiB), threads and open files are read once a minute; server and load
share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread
from typing import Any, TypeAlias

import httpx

from xcrossrec import read_domain
from xcrossrec_lab.service.load import about, server

CLIENTS = 6
WRITTEN = 500
"""Items, and customers, that are written again and again."""

Request: TypeAlias = tuple[str, str, Any]


class Mix:
    """Draws requests of one client: method, path, body."""

    def __init__(self, domain: Any, kinds: list[str], seed: int) -> None:
        self._ids: list[str] = domain.items["item_id"].to_list()
        self._words = sorted({word for title in domain.titles for word in title.split()})
        self._fields = [name for name in domain.text.fields if name != "title"]
        self._kinds, self._draw = kinds, random.Random(seed)

    def __call__(self) -> tuple[str, Request]:
        kind = self._draw.choice(self._kinds)
        return kind, KINDS[kind](self)

    def known(self) -> list[dict[str, str]]:
        return [{"item_id": self._draw.choice(self._ids)} for _ in range(self._draw.randint(1, 6))]

    def title(self) -> str:
        return f"{' '.join(self._draw.choices(self._words, k=self._draw.randint(1, 12)))} {self._draw.getrandbits(32)}"

    def one_of(self, prefix: str) -> str:
        return f"{prefix}{self._draw.randrange(WRITTEN)}"

    def item(self) -> dict[str, Any]:
        described = {name: self._draw.choice(self._words) for name in self._fields}
        own = {"category": described.pop("category")} if "category" in described else {}
        return {"item_id": self.one_of("new-"), "title": self.title(), **own, "metadata": described}

    def purchase(self) -> dict[str, Any]:
        when = 1_700_000_000 + self._draw.randrange(1_000_000)
        return {"user_id": self.one_of("u"), "item_id": self._draw.choice(self._ids), "timestamp": when}


KINDS: Mapping[str, Callable[[Mix], Request]] = {
    "ids": lambda mix: ("POST", "/v1/recommend", {"history": mix.known()}),
    "title": lambda mix: ("POST", "/v1/recommend", {"history": [{"title": mix.title()}]}),
    "explained": lambda mix: ("POST", "/v1/recommend", {"history": [{"title": mix.title()}], "k": 5, "explain": True}),
    "score": lambda mix: (
        "POST", "/v1/score", {"history": mix.known(), "candidates": [{"title": mix.title()} for _ in range(20)]}
    ),
    "search": lambda mix: ("GET", f"/v1/items?query={mix.title().split()[0][:3]}", None),
    "write": lambda mix: ("PUT", "/v1/items", {"items": [mix.item()]}),
    "delete": lambda mix: ("DELETE", "/v1/items", {"ids": [mix.one_of("new-")]}),
    "buy": lambda mix: ("POST", "/v1/purchases", {"purchases": [mix.purchase()]}),
    "forget": lambda mix: ("DELETE", "/v1/purchases", {"user_id": mix.one_of("u")}),
    "metrics": lambda mix: ("GET", "/metrics", None),
}  # fmt: skip


def ask(url: str, mix: Mix, until: float, answered: Counter[str]) -> None:
    with httpx.Client(base_url=url, timeout=60) as client:
        while time.monotonic() < until:
            kind, (method, path, body) = mix()
            answered[f"{kind} {client.request(method, path, json=body).status_code}"] += 1


def held(process: int) -> dict[str, int]:
    said = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    files = len(list(Path(f"/proc/{process}/fd").iterdir()))
    return {"mib": int(said["VmRSS"].split()[0]) // 1024, "threads": int(said["Threads"]), "files": files}


def only_child() -> int:
    (child,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return int(child)


def measure(url: str, domain: Any, kinds: list[str], minutes: float) -> dict[str, Any]:
    process, until = only_child(), time.monotonic() + 60 * minutes
    counts = [Counter[str]() for _ in range(CLIENTS)]
    mixes = [Mix(domain, kinds, seed) for seed in range(CLIENTS)]
    clients = [Thread(target=ask, args=(url, mix, until, count)) for mix, count in zip(mixes, counts, strict=True)]
    seen = [{"requests": 0, **held(process)}]
    for client in clients:
        client.start()
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(60, left))
        seen.append({"requests": sum(sum(each.values()) for each in counts), **held(process)})
        print(json.dumps(seen[-1]), flush=True)
    for client in clients:
        client.join()
    return {"seen": seen, "answered": dict(sorted(sum(counts, Counter()).items()))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("domain", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be repeated; all by default")
    given = parser.parse_args()
    domain = read_domain(given.domain)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "items")
        shutil.copytree(given.domain, source)
        shutil.copytree(given.model, Path(place, "model"))  # whose customers are forgotten
        with server(Path(place, "model"), source, Path(place, "server.log")) as url:
            found = measure(url, domain, given.kind or list(KINDS), given.minutes)
    asked = {name: str(value) for name, value in vars(given).items()}
    given.out.write_text(json.dumps({"about": about(domain), "asked": asked, **found}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
