"""One customer's long request must not stop another's: ids beside a stranger's titles.

    python -m xcrossrec_lab.service.fairness MODEL DOMAIN --out lab/results/service/fairness.json

Known ids are asked for at a fixed rate, first alone, then while a stranger sends many titles that the catalogue lacks
to /v1/score, new ones as soon as the last were answered or refused. Latency is counted from the time at which a request
was due. Server and load share this machine's cores.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread
from typing import Any

from xcrossrec import read_domain
from xcrossrec_lab.service.load import about, latency, open_loop, server, write_bodies

PROMISED_MS = 250
"""What strangers' titles may add to the 99th percentile of known ids."""


class Stranger:
    """Sends titles until told to stop, in a ``with`` block; counts the answers by status."""

    def __init__(self, url: str, words: Sequence[str], titles: int, characters: int, known: str) -> None:
        self.statuses: Counter[int] = Counter()
        self._host = url.removeprefix("http://")
        self._text, self._titles, self._characters, self._known = " ".join(words), titles, characters, known
        self._stop = Event()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> Stranger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        draw = random.Random(1)
        while not self._stop.is_set():
            connection = http.client.HTTPConnection(self._host, timeout=60)
            body = {
                "history": [{"item_id": self._known}],
                "candidates": [{"title": self._title(draw)} for _ in range(self._titles)],
            }
            connection.request("POST", "/v1/score", json.dumps(body), {"Content-Type": "application/json"})
            self.statuses[connection.getresponse().status] += 1
            connection.close()

    def _title(self, draw: random.Random) -> str:
        """Some of a long text behind a number; made quickly, since this process measures besides."""
        start = draw.randrange(len(self._text))
        return f"{draw.getrandbits(40):x} {self._text[start : start + self._characters]}"[: self._characters]


def measure(url: str, domain: Any, folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    bodies = folder / "ids.jsonl"
    write_bodies(domain, "ids", bodies)
    open_loop(url, bodies, given.rate, min(5, given.seconds))
    alone = latency(open_loop(url, bodies, given.rate, given.seconds))
    words = sorted({word for title in domain.titles for word in title.split()})
    stranger = Stranger(url, words, given.titles, given.characters, domain.items["item_id"][0])
    with stranger:
        beside = latency(open_loop(url, bodies, given.rate, given.seconds))
    return {
        "alone": alone,
        "beside_a_stranger": beside,
        "added_to_p99_ms": round(beside["p99_ms"] - alone["p99_ms"], 1),
        "strangers_statuses": {str(status): count for status, count in stranger.statuses.items()},
        "kept": beside["not_200"] == 0 and beside["p99_ms"] - alone["p99_ms"] < PROMISED_MS,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("domain", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rate", type=float, default=10.0, help="requests a second for known ids")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each of both measurements")
    parser.add_argument("--titles", type=int, default=1000, help="of one request of the stranger")
    parser.add_argument("--characters", type=int, default=200, help="of each title")
    parser.add_argument("--refused", action="store_true", help="leave the limit of texts a request as it is")
    given = parser.parse_args()
    domain = read_domain(given.domain)
    if not given.refused:
        os.environ["XCROSSREC_TEXTS"] = str(given.titles)
    with tempfile.TemporaryDirectory() as place:
        source = Path(place, "items")
        shutil.copytree(given.domain, source)
        with server(given.model, source, Path(place, "server.log")) as url:
            found = {"about": about(domain), "asked": {k: str(v) for k, v in vars(given).items()}}
            found |= measure(url, domain, Path(place), given)
    given.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: part for name, part in found.items() if name not in ("about", "asked")}))
    sys.exit(0 if found["kept"] else 1)


if __name__ == "__main__":
    main()
