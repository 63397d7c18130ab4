"""Compare vector search libraries on one set of vectors: recall, latency, build, disk, reopening, memory.

    python -m xcrossrec_lab.speed.compare_indexes --vectors million.npy --queries queries.npy --library usearch-i8

Each library runs in a process of its own, in an environment that has it (none is a dependency of this project).
Vectors and queries come from ``million.py``. Prints one JSON object: the least effort, out of the library's list, whose
top-100 has a recall of at least .95 against exact search, and the latency of one query after another at that effort.
Build time is in CPU seconds, so that other work on the machine does not count; on n idle cores divide by n at best.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

K = 100
RECALL = 0.95
THREADS = 2

Search = Callable[[np.ndarray, int], np.ndarray]
"""Rows of the K best for one query (dim,) at an effort."""


@dataclass(frozen=True)
class Library:
    """How one library builds an index into a folder, and reopens it; ``efforts`` from low to high."""

    build: Callable[[np.ndarray, Path], None]
    reopen: Callable[[Path, np.ndarray], Search]
    efforts: tuple[int, ...]


def _usearch(dtype: str) -> Library:
    def build(vectors: np.ndarray, folder: Path) -> None:
        from usearch.index import Index

        index = Index(
            ndim=vectors.shape[1], metric="cos", dtype=dtype, connectivity=16, expansion_add=128, expansion_search=64
        )
        index.add(np.arange(len(vectors)), vectors, threads=THREADS)
        index.save(str(folder / "index"))

    def reopen(folder: Path, vectors: np.ndarray) -> Search:
        from usearch.index import Index

        index = Index.restore(str(folder / "index"), view=True)

        def search(query: np.ndarray, effort: int) -> np.ndarray:
            index.expansion_search = effort
            return index.search(query, K, threads=1).keys.astype(np.int64)

        return search

    return Library(build, reopen, (100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400))


def _hnswlib() -> Library:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.init_index(max_elements=len(vectors), M=16, ef_construction=128, random_seed=0)
        index.add_items(vectors, num_threads=THREADS)
        index.save_index(str(folder / "index"))

    def reopen(folder: Path, vectors: np.ndarray) -> Search:
        import hnswlib

        index = hnswlib.Index(space="ip", dim=vectors.shape[1])
        index.load_index(str(folder / "index"))

        def search(query: np.ndarray, effort: int) -> np.ndarray:
            index.set_ef(effort)
            return index.knn_query(query, k=K, num_threads=1)[0][0].astype(np.int64)

        return search

    return Library(build, reopen, (100, 150, 200, 300, 400, 600, 800, 1200, 1600, 2400))


def _faiss(spec: str, efforts: tuple[int, ...], parameter: str, rescore: int = 0) -> Library:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        index = faiss.index_factory(vectors.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
        rng = np.random.default_rng(0)
        sample = vectors[np.sort(rng.choice(len(vectors), min(len(vectors), 100_000), replace=False))]
        index.train(sample)
        for start in range(0, len(vectors), 100_000):
            index.add(vectors[start : start + 100_000])
        faiss.write_index(index, str(folder / "index"))

    def reopen(folder: Path, vectors: np.ndarray) -> Search:
        import faiss

        faiss.omp_set_num_threads(THREADS)
        index = faiss.read_index(str(folder / "index"))
        space = faiss.ParameterSpace()

        def search(query: np.ndarray, effort: int) -> np.ndarray:
            if parameter:
                space.set_index_parameter(index, parameter, effort)
            found = index.search(query[None], rescore or K)[1][0]
            if not rescore:
                return found
            found = found[found >= 0]
            return found[np.argsort(-(vectors[found] @ query))[:K]]

        return search

    return Library(build, reopen, efforts)


def _voyager() -> Library:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import voyager

        index = voyager.Index(
            voyager.Space.InnerProduct,
            num_dimensions=vectors.shape[1],
            M=16,
            ef_construction=128,
            storage_data_type=voyager.StorageDataType.Float8,
        )
        index.add_items(vectors, num_threads=THREADS)
        index.save(str(folder / "index"))

    def reopen(folder: Path, vectors: np.ndarray) -> Search:
        import voyager

        index = voyager.Index.load(str(folder / "index"))

        def search(query: np.ndarray, effort: int) -> np.ndarray:
            return index.query(query, k=K, query_ef=effort)[0].astype(np.int64)

        return search

    return Library(build, reopen, (100, 200, 400, 800, 1600))


def _lancedb(kind: str) -> Library:
    def build(vectors: np.ndarray, folder: Path) -> None:
        import lancedb
        import pyarrow as pa

        dim = vectors.shape[1]
        batches = (
            pa.table(
                {
                    "row": np.arange(start, min(start + 100_000, len(vectors))),
                    "vector": pa.FixedSizeListArray.from_arrays(
                        pa.array(vectors[start : start + 100_000].reshape(-1)), dim
                    ),
                }
            )
            for start in range(0, len(vectors), 100_000)
        )
        connection = lancedb.connect(folder)
        table = connection.create_table("items", next(batches))
        for batch in batches:
            table.add(batch)
        partitions = max(1, int(len(vectors) ** 0.5))
        if kind == "IVF_HNSW_SQ":
            partitions = max(1, len(vectors) // 500_000)
        table.create_index(metric="dot", vector_column_name="vector", index_type=kind, num_partitions=partitions)

    def reopen(folder: Path, vectors: np.ndarray) -> Search:
        import lancedb

        table = lancedb.connect(folder).open_table("items")

        def search(query: np.ndarray, effort: int) -> np.ndarray:
            asked = table.search(query, vector_column_name="vector").distance_type("dot").select(["row"]).limit(K)
            graph = kind == "IVF_HNSW_SQ"
            asked = asked.nprobes(20).ef(effort) if graph else asked.nprobes(effort).refine_factor(5)
            return asked.to_arrow()["row"].to_numpy().astype(np.int64)

        return search

    efforts = (100, 200, 400, 800, 1600) if kind == "IVF_HNSW_SQ" else (20, 40, 80, 120, 200, 300, 500)
    return Library(build, reopen, efforts)


_PROBES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512)
LIBRARIES: dict[str, Library] = {
    "usearch-i8": _usearch("i8"),
    "usearch-bf16": _usearch("bf16"),
    "hnswlib": _hnswlib(),
    "faiss-flat-sq8": _faiss("SQ8", (1,), ""),
    "faiss-ivf1024-sq8": _faiss("IVF1024,SQ8", _PROBES, "nprobe"),
    "faiss-ivf1024-pqfs-rescored": _faiss("IVF1024,PQ192x4fs", _PROBES, "nprobe", rescore=400),
    "faiss-rabitq-rescored": _faiss("IVF1024,RaBitQ", _PROBES, "nprobe", rescore=1000),
    "faiss-hnsw16-sq8": _faiss("HNSW16,SQ8", (100, 200, 400, 800, 1600), "efSearch"),
    "voyager-e4m3": _voyager(),
    "lancedb-ivf-pq": _lancedb("IVF_PQ"),
    "lancedb-ivf-hnsw-sq": _lancedb("IVF_HNSW_SQ"),
}


def exact(vectors: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The K best rows of every query, by the whole product."""
    scores = np.concatenate([queries @ part.T for part in np.array_split(vectors, -(-len(vectors) // 50_000))], axis=1)
    return np.argpartition(scores, -K, axis=1)[:, -K:]


def recall(found: list[np.ndarray], truth: np.ndarray) -> float:
    """Mean share of the exact K best that were found."""
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)]))


def measure(library: Library, vectors: np.ndarray, queries: np.ndarray, folder: Path) -> dict[str, Any]:
    """Build, reopen, find the least effort that reaches the recall, time it."""
    truth = exact(vectors, queries)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    before = time.process_time()
    library.build(vectors, folder)
    built = time.process_time() - before
    start = time.perf_counter()
    search = library.reopen(folder, vectors)
    search(queries[0], library.efforts[0])
    reopened = time.perf_counter() - start
    effort, reached = _least_effort(library, search, queries, truth)
    times, found = [], []
    for query in queries:
        start = time.perf_counter()
        found.append(search(query, effort))
        times.append(1000 * (time.perf_counter() - start))
    return {
        "items": len(vectors),
        "queries": len(queries),
        "build_cpu_s": round(built, 1),
        "disk_mb": round(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 2**20),
        "reopen_and_first_query_s": round(reopened, 3),
        "effort": effort,
        "recall": round(recall(found, truth), 4),
        "recall_by_effort": reached,
        "p50_ms": round(float(np.percentile(times, 50)), 2),
        "p95_ms": round(float(np.percentile(times, 95)), 2),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def _least_effort(
    library: Library, search: Search, queries: np.ndarray, truth: np.ndarray
) -> tuple[int, dict[int, float]]:
    reached: dict[int, float] = {}
    for effort in library.efforts:
        reached[effort] = round(recall([search(query, effort) for query in queries], truth), 4)
        if reached[effort] >= RECALL:
            break
    return effort, reached


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, required=True, help="float32 unit vectors, .npy")
    parser.add_argument("--queries", type=Path, required=True, help="float32 unit vectors, .npy")
    parser.add_argument("--library", choices=sorted(LIBRARIES), required=True)
    parser.add_argument("--items", type=int, help="only so many vectors")
    parser.add_argument("--work", type=Path, default=Path("/tmp/compare_indexes"), help="where indexes are written")
    options = parser.parse_args()
    vectors = np.array(np.load(options.vectors, mmap_mode="r")[: options.items])
    queries = np.load(options.queries)[:500]
    result = measure(LIBRARIES[options.library], vectors, queries, options.work / options.library)
    print(json.dumps({"library": options.library, **result}))


if __name__ == "__main__":
    main()
