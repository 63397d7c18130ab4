"""The catalogue alone, written by processes that are killed or run out of disk."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xcrossrec.catalogue import SqliteCatalogue, StoredItem, open_kept

sys.path.insert(0, str(Path(__file__).parent))
try:
    from catalogue_writer import BATCH, BATCHES, DIM, FINGERPRINT, vector
finally:
    sys.path.pop(0)

KILLS = {"folder": 20, "database": 4}
"""Of the other 16 of a database, and of its server: ``python -m xcrossrec_lab.faults.database``."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    none = np.empty((0, DIM), dtype=np.float32)
    SqliteCatalogue.create(tmp_path / "catalogue", [], none, fingerprint=FINGERPRINT).close()
    return tmp_path / "catalogue"


@pytest.fixture(params=KILLS)
def kept(request: pytest.FixtureRequest) -> tuple[Path | str, int]:
    """Where a catalogue is kept, and how often who writes it is killed."""
    if request.param == "folder":
        return request.getfixturevalue("folder"), KILLS["folder"]
    from xcrossrec.catalogue.postgres import PostgresCatalogue

    url, none = request.getfixturevalue("postgres"), np.empty((0, DIM), dtype=np.float32)
    PostgresCatalogue.create(url, [], none, fingerprint=FINGERPRINT).close()
    return url, KILLS["database"]


def numbers(lines: Sequence[str], word: str) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith(word)]


def wait_until_done(writer: Any, count: int) -> None:
    until = time.monotonic() + 60
    while len(numbers(writer.lines(), "done")) < count:  # others say what an interrupted write had left
        assert time.monotonic() < until, writer.lines()
        time.sleep(0.001)


def generations(folder: Path | str) -> dict[int, int]:
    """The generation of each batch, once everything about the catalogue was checked."""
    with open_kept(folder, fingerprint=FINGERPRINT) as store:
        store.delete(["none"])  # waits for what a database still does for who was killed
        found: dict[int, set[int]] = {}
        for item in store.snapshot():
            found.setdefault(int(item.item_id[1:]) // BATCH, set()).add(int(item.title.split()[1]))
            wanted = vector(int(item.title.split()[1]))
            assert store.snapshot().vectors([item.item_id])[0].tolist() == wanted, item
        assert all(len(seen) == 1 for seen in found.values()), found
        assert len(store) == BATCH * len(found)
        return {batch: seen.pop() for batch, seen in found.items()}


def test_whatever_was_acknowledged_before_a_kill_is_there_and_nothing_is_half_written(
    nursery: Any, kept: tuple[Path | str, int], tmp_path: Path
) -> None:
    rng = random.Random(0)
    folder, kills = kept
    last: dict[int, int] = {}
    start = 1
    for number in range(kills):
        writer = nursery.start("catalogue_writer:write", [folder, start], tmp_path / f"log{number}")
        wait_until_done(writer, rng.randrange(1, 40))
        time.sleep(rng.uniform(0, 0.004))
        assert writer.kill() == -9
        done = numbers(writer.lines(), "done")
        last.update({generation % BATCHES: generation for generation in done})
        found = generations(folder)
        unknown = done[-1] + 1  # was being written: it may be there, be absent, or have deleted its batch
        for batch, generation in last.items():
            if batch != unknown % BATCHES:
                assert found[batch] == generation
        assert found.get(unknown % BATCHES, unknown) in (unknown, last.get(unknown % BATCHES))
        if unknown % 7 and unknown % BATCHES in last:
            assert unknown % BATCHES in found
        if unknown % BATCHES in found:
            last[unknown % BATCHES] = found[unknown % BATCHES]
        else:
            last.pop(unknown % BATCHES, None)
        start = unknown + 1


def test_a_kill_while_a_catalogue_changes_its_model_leaves_the_vectors_of_one(
    nursery: Any, folder: Path, tmp_path: Path
) -> None:
    rng = random.Random(1)
    items = [StoredItem(f"i{number}", f"Item {number}") for number in range(500)]
    with SqliteCatalogue.open(folder, fingerprint=FINGERPRINT) as store:
        store.upsert(items, np.zeros((len(items), DIM), dtype=np.float32))
    start = 1
    for number in range(8):
        writer = nursery.start("catalogue_writer:embed", [folder, start], tmp_path / f"log{number}")
        wait_until_done(writer, rng.randrange(1, 4))
        time.sleep(rng.uniform(0, 0.02))
        assert writer.kill() == -9
        last = numbers(writer.lines(), "done")[-1]
        with SqliteCatalogue.open(folder, fingerprint=None) as store:
            generation = int(store.fingerprint)
            assert generation in (last, last + 1)
            assert list(store.snapshot()) == items
            vectors = store.snapshot().vectors([item.item_id for item in items])
            assert (vectors.numpy() == vector(generation)).all()
        start = generation + 1


def test_a_full_disk_refuses_the_write_in_a_sentence_and_loses_nothing(
    nursery: Any, folder: Path, tmp_path: Path
) -> None:
    """A limit on the size of files refuses writes as a full disk does."""
    writer = nursery.start("catalogue_writer:write_to_one_log", [folder, 1], tmp_path / "log", fsize=200_000)
    assert writer.wait() == 0, writer.lines()
    done, (refused,) = numbers(writer.lines(), "done"), numbers(writer.lines(), "refused")
    assert refused == done[-1] + 1 > 10
    said = writer.lines()[-1]
    assert "could not be written" in said
    assert "nothing was changed; free space on its disk" in said
    found = generations(folder)
    expected = {generation % BATCHES: generation for generation in done}
    if refused % 7 == 0:  # its batch had been deleted before
        expected.pop(refused % BATCHES, None)
    assert found == expected
    writer = nursery.start("catalogue_writer:write", [folder, refused], tmp_path / "again")
    wait_until_done(writer, 1)
    writer.kill()
    assert generations(folder)[refused % BATCHES] >= refused


@pytest.mark.parametrize("size", [5_000, 100_000])
def test_a_catalogue_that_does_not_fit_on_the_disk_is_not_made(nursery: Any, tmp_path: Path, size: int) -> None:
    place = tmp_path / "place"
    place.mkdir()
    creator = nursery.start("catalogue_writer:create", [place / "catalogue"], tmp_path / "log", fsize=size)
    assert creator.wait() == 0, creator.lines()
    (said,) = creator.lines()
    assert "could not be written" in said
    assert list(place.iterdir()) == []
