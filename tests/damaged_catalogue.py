"""A catalogue on disk, how it is damaged, and how it is mended."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from zlib import crc32

import numpy as np

from catalogue_parts import MODEL, item
from xcrossrec.catalogue import SqliteCatalogue, StoredItem, repair
from xcrossrec.catalogue.rows import DATABASE

LOG = f"{DATABASE}-wal"


def encode(titles: Sequence[str]) -> np.ndarray:
    """A model whose vectors tell the title."""
    draws = [np.random.default_rng(crc32(title.encode())).standard_normal(16) for title in titles]
    return np.array(draws, dtype=np.float32).reshape(len(titles), 16)


def encode_items(items: Sequence[StoredItem]) -> np.ndarray:
    return encode([each.title for each in items])


ITEMS = [item(number, category="toys", price=2.5, metadata={"a": [1]}) for number in range(24)]


def written(folder: Path) -> SqliteCatalogue:
    """Twenty items in a segment with codes, two of them dead, and five recent ones; at version 3."""
    store = SqliteCatalogue.create(folder, ITEMS[:20], encode_items(ITEMS[:20]), fingerprint=MODEL)
    store.delete(["i0"])
    store.upsert([ITEMS[1], *ITEMS[20:]], encode_items([ITEMS[1], *ITEMS[20:]]))
    return store


def opened(folder: Path) -> SqliteCatalogue:
    return SqliteCatalogue.open(folder, fingerprint=MODEL)


def mended(folder: Path) -> tuple[list[str], SqliteCatalogue]:
    found, made = repair(folder, fingerprint=MODEL, encode=encode_items)
    return found.sentences(), made


def is_whole(store: SqliteCatalogue, items: Sequence[StoredItem] = ITEMS[1:]) -> bool:
    snapshot = store.snapshot()
    vectors = snapshot.vectors([each.item_id for each in items]).numpy()
    return list(snapshot) == list(items) and np.array_equal(vectors, encode_items(items))


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def run(sql: str) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        with sqlite3.connect(path) as connection:
            connection.execute(sql)
        connection.close()

    return change
