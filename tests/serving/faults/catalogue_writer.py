"""Writes into a catalogue until it is killed, and says after each write that it is done."""

from __future__ import annotations

import sys

import numpy as np

from xcrossrec.catalogue import SqliteCatalogue, StoredItem, base, open_kept
from xcrossrec.exceptions import StorageError, UnavailableError

FINGERPRINT = "a" * 64
DIM = 8
BATCH = 5
BATCHES = 20

base._RECENT_LEAST = 12  # segments are merged all the time


def vector(generation: int) -> list[float]:
    return [float(generation % 1000 + 1)] * DIM


def write() -> None:
    """Arguments: folder or URL, generation to start with. A batch is five items of one generation, or none of them."""
    _, folder, start = sys.argv
    with open_kept(folder, fingerprint=FINGERPRINT) as store:
        generation = int(start)
        while True:
            batch = generation % BATCHES
            items = [StoredItem(f"i{batch * BATCH + n}", f"generation {generation}") for n in range(BATCH)]
            vectors = np.array([vector(generation)] * BATCH, dtype=np.float32)
            if generation % 7 == 0:
                store.delete([item.item_id for item in items])
            try:
                store.upsert(items, vectors)
            except (StorageError, UnavailableError) as error:
                print(f"refused {generation} {error}", flush=True)
                return
            print(f"done {generation}", flush=True)
            generation += 1


def write_to_one_log() -> None:
    """The same without merges, which empty the database's log so often that it may never grow."""
    base._RECENT_LEAST = 10**6
    write()


def embed() -> None:
    """Arguments: folder, generation to start with. Gives all items one model's vectors after the other."""
    _, folder, start = sys.argv
    store = open_kept(folder, fingerprint=None)
    generation = int(start)
    while True:
        store = store.embed_again(
            fingerprint=f"{generation:064}",
            dim=DIM,
            encode=lambda titles: np.array([vector(generation)] * len(titles), dtype=np.float32),  # noqa: B023
        )
        print(f"done {generation}", flush=True)
        generation += 1


def create() -> None:
    """Arguments: folder to make, with 2,000 items."""
    items = [StoredItem(f"i{number}", f"Item {number}") for number in range(2000)]
    vectors = np.ones((len(items), DIM), dtype=np.float32)
    try:
        SqliteCatalogue.create(sys.argv[1], items, vectors, fingerprint=FINGERPRINT)
    except StorageError as error:
        print(f"refused {error}", flush=True)
