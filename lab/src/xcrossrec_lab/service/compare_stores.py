"""Which embedded database keeps the catalogue: LanceDB against SQLite, on what a service asks of it.

    python -m xcrossrec_lab.service.compare_stores --out lab/results/service/stores.json [--part timed]

Both keep the same rows (id, title, category, stock, price, metadata) and vectors. SQLite is measured through the
class that the service uses, `xcrossrec.catalogue.SqliteCatalogue`, LanceDB through the smallest class that does the
same. Each number is taken in a process of its own; a writer is killed with SIGKILL in the middle of its writes, and
what it had acknowledged is looked up; system calls that make data durable are counted by strace; a full disk is a small
tmpfs (root).
LanceDB needs `pip install lancedb`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

DIM = 384
BATCH = 10
BACKENDS = ("sqlite", "lancedb")


class Store(Protocol):
    def write(self, numbers: Sequence[int], vectors: np.ndarray, generation: int) -> None: ...
    def delete(self, numbers: Sequence[int]) -> None: ...
    def read(self) -> tuple[list[str], list[str], np.ndarray]: ...
    def close(self) -> None: ...


def title(number: int, generation: int) -> str:
    return f"An item of a shop with a title of usual length, number {number}, generation {generation}"


def unit_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


# ---- the two stores


class SqliteStore:
    def __init__(self, folder: Path) -> None:
        from xcrossrec.catalogue import SqliteCatalogue, StoredItem, is_catalogue

        self._item, place = StoredItem, folder / "catalogue"
        new = not is_catalogue(place)
        self.catalogue = (
            SqliteCatalogue.create(place, fingerprint="0", dim=DIM)
            if new
            else SqliteCatalogue.open(place, fingerprint="0")
        )

    def write(self, numbers: Sequence[int], vectors: np.ndarray, generation: int) -> None:
        items = [
            self._item(f"i{n}", title(n, generation), f"c{n % 7}", n % 3 == 0, float(n % 500), {"n": n})
            for n in numbers
        ]
        self.catalogue.upsert(items, vectors)

    def delete(self, numbers: Sequence[int]) -> None:
        self.catalogue.delete([f"i{n}" for n in numbers])

    def read(self) -> tuple[list[str], list[str], np.ndarray]:
        snapshot = self.catalogue.snapshot()
        items = list(snapshot)
        ids = [each.item_id for each in items]
        return ids, [each.title for each in items], snapshot.vectors(ids).numpy()

    def close(self) -> None:
        self.catalogue.close()


class LanceStore:
    def __init__(self, folder: Path) -> None:
        import lancedb
        import pyarrow as pa
        from lancedb.index import BTree

        self._pa, self._by_id = pa, BTree()
        self._db = lancedb.connect(str(folder))
        self.schema = pa.schema(
            [
                ("place", pa.int64()),
                ("item_id", pa.string()),
                ("title", pa.string()),
                ("category", pa.string()),
                ("in_stock", pa.bool_()),
                ("price", pa.float64()),
                ("metadata", pa.string()),
                ("vector", pa.list_(pa.float32(), DIM)),
            ]
        )
        exists = (folder / "items.lance").exists()
        self.table = self._db.open_table("items") if exists else self._db.create_table("items", schema=self.schema)
        self._empty = not exists

    def _rows(self, numbers: Sequence[int], vectors: np.ndarray, generation: int) -> Any:
        flat = self._pa.array(vectors.ravel(), self._pa.float32())
        columns = [
            list(numbers),
            [f"i{n}" for n in numbers],
            [title(n, generation) for n in numbers],
            [f"c{n % 7}" for n in numbers],
            [n % 3 == 0 for n in numbers],
            [float(n % 500) for n in numbers],
            [json.dumps({"n": n}) for n in numbers],
            self._pa.FixedSizeListArray.from_arrays(flat, DIM),
        ]
        return self._pa.table(columns, schema=self.schema)

    def write(self, numbers: Sequence[int], vectors: np.ndarray, generation: int) -> None:
        rows = self._rows(numbers, vectors, generation)
        if self._empty:
            self.table.add(rows)
            self.table.create_index("item_id", config=self._by_id)
            self._empty = False
            return
        self.table.merge_insert("item_id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, numbers: Sequence[int]) -> None:
        self.table.delete(f"item_id IN ({', '.join(repr(f'i{n}') for n in numbers)})")

    def read(self) -> tuple[list[str], list[str], np.ndarray]:
        rows = self.table.to_arrow().sort_by("place").combine_chunks()
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        return rows["item_id"].to_pylist(), rows["title"].to_pylist(), vectors

    def close(self) -> None:
        pass

    def tidy(self) -> None:
        from datetime import timedelta

        self.table.optimize(cleanup_older_than=timedelta(0))


def open_store(backend: str, folder: Path) -> Store:
    return SqliteStore(folder) if backend == "sqlite" else LanceStore(folder)


# ---- what runs in processes of its own


def timed(repeats: int, work: Callable[[int], None]) -> dict[str, float]:
    times = []
    for number in range(repeats):
        start = time.perf_counter()
        work(number)
        times.append(1000 * (time.perf_counter() - start))
    return {"p50_ms": round(statistics.median(times), 2), "p95_ms": round(float(np.percentile(times, 95)), 2)}


def size_mb(folder: Path) -> float:
    return round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6, 1)


def resident_mb() -> float:
    """Memory of this process (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def child_writes(backend: str, folder: Path, items: int) -> dict[str, Any]:
    vectors = unit_vectors(items)
    start = time.perf_counter()
    store = open_store(backend, folder)
    store.write(range(items), vectors, 0)
    found: dict[str, Any] = {"bulk_write_s": round(time.perf_counter() - start, 2), "bulk_mb": size_mb(folder)}
    found["upsert_1"] = timed(200, lambda n: store.write([n * 7 % (items - 50)], vectors[n : n + 1], 1))
    found["upsert_100"] = timed(20, lambda n: store.write(range(n * 40, n * 40 + 100), vectors[:100], 2))
    found["delete_1"] = timed(50, lambda n: store.delete([items - 1 - n]))
    found["mb_after_270_writes"] = size_mb(folder)
    if isinstance(store, LanceStore):
        start = time.perf_counter()
        store.tidy()
        found["tidy_s"] = round(time.perf_counter() - start, 2)
        found["mb_after_tidy"] = size_mb(folder)
    store.close()
    found["mb_closed"] = size_mb(folder)
    return found


def child_opens(backend: str, folder: Path, items: int) -> dict[str, Any]:
    start = time.perf_counter()
    import sqlite3  # noqa: F401  counted on both sides

    if backend == "lancedb":
        import lancedb  # noqa: F401
    else:
        import xcrossrec.catalogue  # noqa: F401
    imported = time.perf_counter()
    store = open_store(backend, folder)
    ids, _, vectors = store.read()
    done = time.perf_counter()
    assert len(ids) == len(vectors) == items - 50
    return {"import_s": round(imported - start, 2), "open_and_read_s": round(done - imported, 3)}


def child_searches(backend: str, folder: Path, items: int) -> dict[str, Any]:
    """One query vector, dot products, exact, with a filter: what both can do."""
    queries = unit_vectors(60)
    if backend == "lancedb":
        table = LanceStore(folder).table

        def search(number: int) -> None:
            query = (
                table.search(queries[number]).distance_type("dot").where("in_stock AND price <= 300", prefilter=True)
            )
            assert len(query.limit(10).to_arrow()) == 10

        return {"search_filtered": timed(60, search), "pools_several_vectors": False}
    from xcrossrec.catalogue import Filters, only_slot

    snapshot = SqliteStore(folder).catalogue.snapshot()
    filters = Filters(in_stock=True, price_max=300)

    def scan(number: int) -> None:
        assert len(snapshot.search(queries[number : number + 1], 10, pool=only_slot, filters=filters)) == 10

    scan(0)
    return {"search_filtered": timed(60, scan), "pools_several_vectors": True}


def child_serves(_: str, folder: Path, items: int) -> dict[str, Any]:
    """The whole store as a service uses it: SQLite below, the exact scan of memory above."""
    from xcrossrec.catalogue import Filters, SqliteCatalogue, StoredItem, only_slot

    vectors = unit_vectors(items)
    made = [StoredItem(f"i{n}", title(n, 0), f"c{n % 7}", n % 3 == 0, float(n % 500)) for n in range(items)]
    SqliteCatalogue.create(folder, fingerprint="0", dim=DIM, items=made, vectors=vectors).close()
    start = time.perf_counter()
    store = SqliteCatalogue.open(folder, fingerprint="0")
    found: dict[str, Any] = {"open_s": round(time.perf_counter() - start, 3)}
    store.snapshot().search(vectors[:1], 10, pool=only_slot)

    def search(number: int) -> None:
        filters = Filters(in_stock=True, price_max=300)
        assert (
            len(store.snapshot().search(vectors[number : number + 10], 10, pool=lambda p: p.amax(0), filters=filters))
            == 10
        )

    found["search_10_slots_filtered"] = timed(100, search)
    found["upsert_1"] = timed(500, lambda n: store.upsert([made[n * 13 % items]], vectors[n : n + 1]))
    found["search_with_500_recent"] = timed(100, search)
    found["upsert_100"] = timed(20, lambda n: store.upsert(made[n * 40 : n * 40 + 100], vectors[:100]))
    start = time.perf_counter()
    store.compact()
    found["merge_s"] = round(time.perf_counter() - start, 3)
    found["titles"] = timed(50, lambda n: store.snapshot().search_titles(f"number {n}", 10))
    found["titles_absent"] = timed(50, lambda n: store.snapshot().search_titles(f"absent {n}", 10))
    store.close()
    return found


def child_rests(_: str, folder: Path, items: int) -> dict[str, Any]:
    """What an open store holds in memory."""
    from xcrossrec.catalogue import SqliteCatalogue

    before = resident_mb()
    with SqliteCatalogue.open(folder, fingerprint="0") as store:
        assert len(store) == items
        store.snapshot().search_titles("number", 1)
        return {"memory_mb": round(resident_mb() - before)}


def child_acknowledges(backend: str, folder: Path, start: int, batches: int = 50) -> None:
    """Write batches for ever and say which one is done; the title's generation and the vector's first number agree."""
    store = open_store(backend, folder)
    vectors = unit_vectors(BATCH)
    print("ready", flush=True)
    for generation in range(start, start + 1_000_000):
        vectors[:, 0] = generation
        store.write(range(BATCH * (generation % batches), BATCH * (generation % batches + 1)), vectors, generation)
        print(generation, flush=True)


def child_fills(backend: str, folder: Path, start: int) -> None:
    """The same with new items all the time."""
    child_acknowledges(backend, folder, start, 1_000_000)


def child_checks(backend: str, folder: Path, _: int) -> dict[str, Any]:
    """Give the last generation of each batch, and whether every batch is whole."""
    ids, titles, vectors = open_store(backend, folder).read()
    generations: dict[int, set[tuple[int, float]]] = {}
    for item_id, name, vector in zip(ids, titles, vectors, strict=True):
        written = int(name.rsplit(" ", 1)[1])
        generations.setdefault(int(item_id[1:]) // BATCH, set()).add((written, float(vector[0])))
    whole = all(len(seen) == 1 and min(seen)[0] == min(seen)[1] for seen in generations.values())
    twice = len(ids) - len(set(ids))
    return {"whole": whole, "twice": twice, "last": {batch: min(seen)[0] for batch, seen in generations.items()}}


CHILDREN: dict[str, Callable[[str, Path, int], Any]] = {
    "writes": child_writes,
    "opens": child_opens,
    "searches": child_searches,
    "serves": child_serves,
    "rests": child_rests,
    "acknowledges": child_acknowledges,
    "fills": child_fills,
    "checks": child_checks,
}


# ---- the whole comparison


def child(kind: str, backend: str, folder: Path, number: int, prefix: Sequence[str] = ()) -> list[str]:
    return [
        *prefix,
        sys.executable,
        "-m",
        "xcrossrec_lab.service.compare_stores",
        "--child",
        kind,
        backend,
        str(folder),
        str(number),
    ]


def ask(kind: str, backend: str, folder: Path, number: int) -> dict[str, Any]:
    done = subprocess.run(child(kind, backend, folder, number), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{kind} of {backend} failed: {done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def kill_in_the_middle(backend: str, folder: Path, times: int) -> dict[str, Any]:
    """Kill a writer so often; count acknowledged batches that are missing, and batches that are not whole."""
    rng = random.Random(0)
    acknowledged: dict[int, int] = {}
    start, lost, broken, done = 1, 0, 0, 0
    for _ in range(times):
        writer = subprocess.Popen(child("acknowledges", backend, folder, start), stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline().strip() == "ready"
        time.sleep(rng.uniform(0.05, 0.6))
        writer.send_signal(signal.SIGKILL)
        for line in writer.stdout.read().splitlines():
            acknowledged[int(line) % 50] = int(line)
            done += 1
        writer.wait()
        start = max(acknowledged.values(), default=start) + 2
        state = ask("checks", backend, folder, 0)
        lost += sum(state["last"].get(str(batch), -1) < generation for batch, generation in acknowledged.items())
        broken += not state["whole"] or state["twice"] > 0
    return {"kills": times, "acknowledged_batches": done, "lost": lost, "stores_not_whole": broken}


def durable_calls(backend: str, folder: Path) -> dict[str, Any] | None:
    """Count the calls that force data to the disk while 20 batches are written, by strace."""
    if shutil.which("strace") is None:
        return None
    trace = folder.with_suffix(".strace")
    prefix = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync,sync_file_range,msync", "-o", str(trace)]
    writer = subprocess.Popen(child("acknowledges", backend, folder, 1, prefix), stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline().strip() == "ready"
    before = len(trace.read_text().splitlines())
    for _ in range(20):
        writer.stdout.readline()
    after = len(trace.read_text().splitlines())
    subprocess.run(["pkill", "-KILL", "-P", str(writer.pid)], check=False)
    writer.kill()
    writer.communicate()
    return {"fsyncs_per_write": round((after - before) / 20, 2)}


def fill_the_disk(backend: str, folder: Path) -> dict[str, Any] | None:
    """Write into a tmpfs of 8 MB until it is full; then look whether what was acknowledged is there."""
    if os.geteuid() != 0:
        return None
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        (folder / "reserve").write_bytes(b"0" * 1_000_000)
        writer = subprocess.run(
            child("fills", backend, folder / "store", 1),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        lines = writer.stdout.split()[1:]
        (folder / "reserve").unlink()
        last = {line: int(line) for line in lines}
        try:
            state = ask("checks", backend, folder / "store", 0)
        except RuntimeError as error:
            return {"acknowledged": len(lines), "readable_after": False, "error": str(error)[-300:]}
        kept = all(state["last"].get(batch, -1) >= generation for batch, generation in last.items())
        said = writer.stderr.strip().splitlines()[-1].split(", /")[0][:200]
        return {"acknowledged": len(lines), "readable_after": True, "all_there": kept and state["whole"], "said": said}
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def time_all(backend: str, items: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="xcrossrec-stores-") as place:
        folder, served = Path(place) / backend, Path(place) / "served"
        found = ask("writes", backend, folder, items)
        found |= ask("opens", backend, folder, items)
        found |= ask("searches", backend, folder, items)
        if backend == "sqlite":
            found["whole_store"] = ask("serves", backend, served, items) | ask("rests", backend, served, items)
    return found


def least(runs: Sequence[Any]) -> Any:
    """The least of each number: what other work on the machine disturbed least."""
    if isinstance(runs[0], dict):
        return {name: least([run[name] for run in runs]) for name in runs[0]}
    return min(runs)


def break_all(backend: str, kills: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="xcrossrec-stores-") as place:
        return {
            "kill": kill_in_the_middle(backend, Path(place) / "killed", kills),
            "durable": durable_calls(backend, Path(place) / "traced"),
            "full_disk": fill_the_disk(backend, Path(place) / "full"),
        }


def compare(options: argparse.Namespace, backend: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if options.part != "faults":
        found |= least([time_all(backend, options.items) for _ in range(options.repeats)])
    if options.part != "timed":
        found |= break_all(backend, options.kills)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3, help="the least of each time is kept")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--only", choices=BACKENDS)
    parser.add_argument("--part", choices=("timed", "faults", "both"), default="both")
    parser.add_argument("--child", nargs=4, metavar=("KIND", "BACKEND", "FOLDER", "NUMBER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.items < 1000:
        parser.error(f"--items is {options.items}: the writes need at least 1000")
    if options.child:
        kind, backend, folder, number = options.child
        print(json.dumps(CHILDREN[kind](backend, Path(folder), int(number))), flush=True)
        return
    import sqlite3

    result: dict[str, Any] = {"items": options.items, "dim": DIM, "sqlite": sqlite3.sqlite_version, "stores": {}}
    for backend in (options.only,) if options.only else BACKENDS:
        result["stores"][backend] = compare(options, backend)
        print(json.dumps({backend: result["stores"][backend]}, indent=2), flush=True)
    if options.out:
        if options.out.exists():  # keep the other parts' numbers
            before = json.loads(options.out.read_text(encoding="utf-8"))["stores"]
            stores = result["stores"]
            result["stores"] = {name: before.get(name, {}) | stores.get(name, {}) for name in {**before, **stores}}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
