"""Bits of a catalogue's files, flipped one at a time: none may be served silently.

Each trial takes an image of a catalogue's folder, flips one bit of one file, and opens the catalogue. What opens must
hold what was written; what is refused is repaired, and then each item must be what was written or be named.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from xcrossrec import BundleError, XCrossRecError
from xcrossrec.catalogue import SqliteCatalogue, StoredItem, repair

FINGERPRINT = "a" * 64
DIM = 32
LOG = "catalogue.sqlite-wal"

State = Mapping[str, str]
"""Each item's title; its vector follows from that."""


@dataclass(frozen=True)
class Image:
    """A catalogue's folder as a process left it, and what it holds at each version."""

    folder: Path
    states: Mapping[int, State]

    @property
    def version(self) -> int:
        """Of the last write."""
        return max(self.states)


def encode(titles: Sequence[str]) -> np.ndarray:
    """A model that is quick: each title has random numbers of its own."""
    vectors = [np.random.default_rng(crc32(title.encode())).standard_normal(DIM) for title in titles]
    return np.array(vectors, dtype=np.float32).reshape(len(titles), DIM)


def _encode_items(items: Sequence[StoredItem]) -> np.ndarray:
    return encode([item.title for item in items])


def make_images(place: Path, *, items: int, writes: int) -> tuple[Image, Image]:
    """Make a catalogue with segments, dead rows and recent items.

    Args:
        place: for the two folders.
        items: to begin with.
        writes: afterwards, each of five items or a deletion; a merge comes in the middle.

    Returns:
        an image after a crash, with all writes since the merge in the log, and one of a catalogue that was closed.
    """
    titles = {f"i{number}": f"Item {number}" for number in range(items)}
    states = {1: dict(titles)}
    stored = [StoredItem(*pair, "toys", price=1.5, metadata={"of": "1"}) for pair in titles.items()]
    store = SqliteCatalogue.create(place / "c", stored, encode(list(titles.values())), fingerprint=FINGERPRINT)
    for number in range(writes):
        if number == writes // 2:
            store.compact()
        if number % 5 == 4:
            store.delete([gone := f"i{number}"])
            titles.pop(gone)
        else:
            changed = {f"i{number + 7 * each}": f"Item {number} anew {each}" for each in range(5)}
            store.upsert([StoredItem(*pair) for pair in changed.items()], encode(list(changed.values())))
            titles |= changed
        states[store.version] = dict(titles)
    shutil.copytree(place / "c", place / "crashed")
    store.close()
    (place / "c").rename(place / "closed")
    return Image(place / "crashed", states), Image(place / "closed", states)


def flip_bits(image: Image, files: Sequence[str], count: int, seed: int, scratch: Path) -> Counter[str]:
    """Flip bits, one a trial; every file gets the same number of them.

    Returns:
        how often what came of it. What starts with SILENT or RAW must not occur.
    """
    draw = random.Random(seed)
    found: Counter[str] = Counter()
    for number in range(count):
        name = files[number % len(files)]
        folder = scratch / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(image.folder, folder)
        content = bytearray((folder / name).read_bytes())
        at = draw.randrange(8 * len(content))
        content[at // 8] ^= 1 << at % 8
        (folder / name).write_bytes(content)
        outcome = _outcome(folder, image)
        found[outcome if outcome[0].islower() else f"{outcome}: {name}, bit {at}"] += 1
    return found


def _outcome(folder: Path, image: Image) -> str:
    try:
        with SqliteCatalogue.open(folder, fingerprint=FINGERPRINT) as store:
            same = store.version == image.version and _holds(store, image.states[image.version])
            return "harmless: opened, and all is as it was" if same else "SILENT"
    except XCrossRecError as error:
        if str(folder) not in str(error):
            return f"NAMELESS ({error})"
    except BaseException as error:
        return f"RAW ({error!r})"
    try:
        examination, made = repair(folder, fingerprint=FINGERPRINT, encode=_encode_items)
    except BundleError as error:
        return "refused; the items cannot be told, a copy must be restored" if "restore a copy" in str(error) else "RAW"
    except BaseException as error:
        return f"RAW repair ({error!r})"
    with made:
        said = "\n".join(examination.sentences())
        for version, state in sorted(image.states.items(), reverse=True):
            if _holds(made, state):
                if version == image.version:
                    return "refused, then repaired whole" if made.version > image.version else "SILENT version"
                lost = f"taken back to version {version}, {image.version - version} writes lost"
                return "refused, then taken back to an earlier write, and said so" if lost in said else "SILENT loss"
        state = image.states[image.version]
        kept = {item.item_id: item.title for item in made.snapshot()}
        gone = int(examination.unreadable.sum())
        if _holds(made, {name: state[name] for name in kept if name in state}) and len(state) - len(kept) <= gone:
            return "refused, then repaired but for an item that is named"
    return "SILENT repair"


def _holds(store: SqliteCatalogue, state: State) -> bool:
    snapshot = store.snapshot()
    found = {item.item_id: item.title for item in snapshot}
    return found == state and np.array_equal(snapshot.vectors(list(state)).numpy(), encode(list(state.values())))
