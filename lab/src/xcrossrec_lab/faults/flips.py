"""Bits of a catalogue's files, flipped one at a time: none may be served silently.

Each trial takes an image of a catalogue's folder, flips one bit of one file, and opens the catalogue. What opens must
hold what was written; what is refused is repaired, and then each item must be what was written or be named.
"""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from zlib import crc32

import numpy as np

from xcrossrec import BundleError, XCrossRecError
from xcrossrec.catalogue import Purchase, SqliteCatalogue, StoredItem, repair
from xcrossrec.catalogue.damage import Examination

FINGERPRINT = "a" * 64
DIM = 32
LOG = "catalogue.sqlite-wal"


@dataclass(frozen=True)
class State:
    """What a catalogue holds.

    Attributes:
        titles: by item id; an item's vector follows from its title.
        bought: users, items and times, in order.
    """

    titles: Mapping[str, str]
    bought: Sequence[tuple[str, str, int | None]]


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
        writes: afterwards, each of five items or a deletion, and then of five purchases; a merge comes in the middle,
            and a customer is forgotten.

    Returns:
        an image after a crash, with all writes since the merge in the log, and one of a catalogue that was closed.
    """
    titles = {f"i{number}": f"Item {number}" for number in range(items)}
    bought: list[Purchase] = []
    states = {1: State(dict(titles), [])}
    stored = [StoredItem(*pair, "toys", price=1.5, metadata={"of": "1"}) for pair in titles.items()]
    store = SqliteCatalogue.create(place / "c", stored, encode(list(titles.values())), fingerprint=FINGERPRINT)
    for number in range(writes):
        if number == writes // 2:
            store.compact()
            store.forget("u1")
            bought = [each for each in bought if each.user_id != "u1"]
            states[store.version] = State(dict(titles), [each.values for each in bought])
        if number % 5 == 4:
            store.delete([gone := f"i{number}"])
            titles.pop(gone)
        else:
            changed = {f"i{number + 7 * each}": f"Item {number} anew {each}" for each in range(5)}
            store.upsert([StoredItem(*pair) for pair in changed.items()], encode(list(changed.values())))
            titles |= changed
        states[store.version] = State(dict(titles), [each.values for each in bought])
        fresh = [Purchase(f"u{number}", f"i{each}", number if each % 2 else None) for each in range(5)]
        store.add_purchases(fresh)
        bought += fresh
        states[store.version] = State(dict(titles), [each.values for each in bought])
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
        return _named(made, image.states[image.version], examination)


def _named(made: SqliteCatalogue, state: State, examination: Examination) -> str:
    """What came of a repair that is not whole: whatever is missing must have been named."""
    kept = {item.item_id: item.title for item in made.snapshot()}
    gone = int(examination.unreadable.sum())
    titles = {name: state.titles[name] for name in kept if name in state.titles}
    rows = [row for row in state.bought if row in {*made.purchases().iter_rows()}]
    sentences = "\n".join(examination.sentences())
    named = len(re.findall("^purchase ", sentences, re.MULTILINE))
    if counted := re.search(r"^of (\d+) purchases (\d+) can be read: the others are lost", sentences, re.MULTILINE):
        named = int(counted[1]) - int(counted[2])
    if _holds(made, State(titles, rows)) and len(state.titles) - len(kept) <= gone:
        if len(state.bought) == len(rows):
            return "refused, then repaired but for an item that is named"
        if len(state.bought) - len(rows) <= named:
            return "refused, then repaired but for a purchase that is named"
    return "SILENT repair"


def _holds(store: SqliteCatalogue, state: State) -> bool:
    snapshot = store.snapshot()
    found = {item.item_id: item.title for item in snapshot}
    ids, titles = list(state.titles), list(state.titles.values())
    same = found == state.titles and store.purchases().rows() == list(state.bought)
    return same and np.array_equal(snapshot.vectors(ids).numpy(), encode(titles))
