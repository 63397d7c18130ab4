"""Kills (-9) of a service in the middle of purchases: none that was acknowledged may be lost, none half kept.

    python -m xcrossrec_lab.faults.purchases --kills 20

Several clients add purchases, two items of one customer a request, while the service is killed at a random moment and
started again. Every acknowledged request must then be in the catalogue with both items, every other one with both or
none, and the service must know the customers; in the end its scores must be those of all purchases counted at once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from threading import Thread
from typing import Any, Self

import httpx

from xcrossrec.scoring import Rung
from xcrossrec_lab.faults.kills import Job, in_child, start_job

ITEMS, CLIENTS = 300, 4
WEIGHTS: Mapping[Rung, float] = {"one": 0.5, "several": 1.0}
FIRST = [("first", "i0"), ("first", "i1"), ("first", "i2")]
"""What the model knows."""


def prepare(place: Path) -> None:
    """Make a model that knows a few purchases, and its catalogue; in a process of its own."""
    import polars as pl
    import torch

    from xcrossrec.catalogue import build_catalogue
    from xcrossrec.copurchase import CoPurchases
    from xcrossrec.models import bundle
    from xcrossrec.models.base import load_base
    from xcrossrec.models.kinds import build_model
    from xcrossrec.models.purchases import with_counts
    from xcrossrec.models.source import SourceEncoder, default_lora

    torch.manual_seed(0)
    counts = CoPurchases.count(pl.DataFrame(FIRST, schema=["user_id", "item_id"], orient="row"))
    model = with_counts(build_model(SourceEncoder(load_base(), default_lora(2))), counts, WEIGHTS)
    bundle.save(model, place / "model", {"kind": "adapter", "domain": None})
    build_catalogue(bundle.load(place / "model"), _items(), place / "catalogue").close()


def _items() -> Any:
    return [{"item_id": f"i{number}", "title": f"thing number {number}"} for number in range(ITEMS)]


def bought_by(user: str) -> list[str]:
    """The two items that a customer buys, told by the name."""
    first, second = random.Random(user).sample(range(ITEMS), 2)
    return [f"i{first}", f"i{second}"]


def kill_services(place: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Serve, add purchases, kill; as often as asked.

    Raises:
        AssertionError: a purchase was lost or half kept, or the service answers as if it had been.
    """
    acknowledged: list[str] = []
    kept: dict[str, list[str]] = {}
    for number in range(kills):
        with _Served(place) as served:
            _check_known(served, draw.sample(sorted(kept), min(len(kept), 20)))
            buyers = [
                Thread(target=_buy, args=(served, f"k{number}-{n}", acknowledged), daemon=True) for n in range(CLIENTS)
            ]
            enough = len(acknowledged) + 2 * CLIENTS
            for buyer in buyers:
                buyer.start()
            while len(acknowledged) < enough:
                assert any(buyer.is_alive() for buyer in buyers), served.said()
                time.sleep(0.001)
            time.sleep(draw.uniform(0, 0.2))
        for buyer in buyers:
            buyer.join()
        kept = _in_child(place, _stored)
        lost = [user for user in acknowledged if user not in kept]
        halves = [user for user, items in kept.items() if items != bought_by(user)]
        assert not lost, f"kill {number}: {lost}"
        assert not halves, f"kill {number}: {halves}"
    expected = _in_child(place, _scores_of_all)
    with _Served(place) as served:
        for item, scores in expected.items():
            history, candidates = [{"item_id": item}], [{"item_id": f"i{n}"} for n in range(ITEMS)]
            found = served.post("/v1/score", {"history": history, "candidates": candidates})["scores"]
            furthest = max(abs(each["score"] - score) for each, score in zip(found, scores, strict=True))
            assert furthest < 1e-4, (item, furthest)
    unanswered = len(kept) - len(acknowledged)
    return {"kills": kills, "requests acknowledged": len(acknowledged), "lost": 0, "kept though unanswered": unanswered}


class _Served:
    """A service in a child of this process, which is killed in the end."""

    def __init__(self, place: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._place, self._log = place, place / "log"
        self._client = self.client()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60, trust_env=False)

    def post(self, path: str, body: Any) -> Any:
        answer = self._client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        words = ["serve", self._place / "model", "--catalog", self._place / "catalogue", "--port", self.port]
        self._child = start_job(Job("serve", [str(word) for word in words], self._place), self._log)
        until = time.monotonic() + 400
        while True:
            try:
                self._client.get("/readyz").raise_for_status()
                return self
            except httpx.HTTPError:
                assert time.monotonic() < until, self.said()
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._client.close()


def _buy(served: _Served, name: str, acknowledged: list[str]) -> None:
    """Add one customer's purchases after the other's; the first request without an answer ends it."""
    with served.client() as client:
        for number in range(1_000_000):
            user = f"{name}-{number}"
            try:
                answer = client.post(
                    "/v1/purchases", json={"purchases": [{"user_id": user, "item_id": bought_by(user)}]}
                )
            except httpx.TransportError:
                return
            if answer.status_code != 200:
                return
            acknowledged.append(user)


def _check_known(served: _Served, users: Sequence[str]) -> None:
    """The service knows what customers bought before it was killed."""
    for user in users:
        reason = served.post("/v1/explain", {"user_id": user, "item": {"item_id": "i0"}})["explanation"]
        found = [match["item_id"] for match in reason["matches"]]
        assert found == bought_by(user), (user, found)


def _in_child(place: Path, work: Callable[[Path], Any]) -> Any:
    """What something gives that would start threads, which this process must not have when it forks."""
    told = place / "told.json"

    def tell() -> None:
        told.write_text(json.dumps(work(place)))

    assert in_child(tell) == 0, work.__name__
    return json.loads(told.read_text())


def _stored(place: Path) -> dict[str, list[str]]:
    """What the catalogue holds of each customer, once its service is gone."""
    from xcrossrec.catalogue import recorded_purchases

    found: dict[str, list[str]] = {}
    for user, item, _ in recorded_purchases(place / "catalogue").table().rows():
        found.setdefault(user, []).append(item)
    return found


def _scores_of_all(place: Path) -> dict[str, list[float]]:
    """Scores of all items for some histories, by all purchases counted at once."""
    import polars as pl

    from xcrossrec import Recommender
    from xcrossrec.catalogue import recorded_purchases
    from xcrossrec.copurchase import CoPurchases
    from xcrossrec.models import bundle
    from xcrossrec.models.purchases import with_counts

    own = pl.DataFrame(FIRST, schema=["user_id", "item_id"], orient="row")
    every = pl.concat([own, recorded_purchases(place / "catalogue").table().select("user_id", "item_id")])
    model = with_counts(bundle.load(place / "model"), CoPurchases.count(every), WEIGHTS)
    with Recommender(model, _items()) as recommender:
        ids = [f"i{number}" for number in range(ITEMS)]
        return {item: [each.score for each in recommender.score([item], ids)] for item in ids[:8]}


def main() -> None:
    """Print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in ("xcrossrec.cli", "xcrossrec.recommender", "xcrossrec.serving.server"):
        import_module(name)  # so that each service need not
    with tempfile.TemporaryDirectory(prefix="xcrossrec-purchases-") as name:
        place = Path(name)
        assert in_child(lambda: prepare(place)) == 0, "the model could not be prepared"
        print(json.dumps(kill_services(place, given.kills, random.Random(given.seed)), indent=2))


if __name__ == "__main__":
    main()
