"""Top 100 of a million vectors: our exact search, against one float32 product and a library's approximate one."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

from xcrossrec_lab.speed.harness import Figure, Measured, Settings
from xcrossrec_lab.speed.million import vectors

GOAL_MS = 30.0
RECALL = 0.95
K = 100

Search = Callable[[np.ndarray], np.ndarray]


def measure_search(settings: Settings) -> Measured:
    """Time several hundred different queries, one after another, the arms in turn query by query."""
    items, asked, titles = (20_000, 20, 100) if settings.quick else (1_000_000, 500, 1_000_000)
    catalogue, queries = vectors(settings.shared / "data" / "amazon", settings.work, items, titles)
    queries = queries[:asked]
    ours, details = _ours(catalogue)
    arms: dict[str, Search] = {"xcrossrec": ours, "exact-float32": _exact(catalogue)}
    if (rival := _rival(catalogue, details, settings.quick)) is not None:
        arms["faiss-ivf-sq8"] = rival
    milliseconds, found = _timed(arms, queries)
    for name, times in milliseconds.items():
        details.setdefault(name, {}).update(
            recall=_recall(found[name], found["exact-float32"]),
            p50_ms=round(float(np.percentile(times, 50)), 2),
            p95_ms=round(float(np.percentile(times, 95)), 2),
        )
    parts = np.array_split(milliseconds["xcrossrec"], settings.repetitions)
    p95s = [float(np.percentile(part, 95)) for part in parts]
    spread = (float(np.percentile(p95s, 25)), float(np.percentile(p95s, 75)))
    reached = details["xcrossrec"]["recall"] >= RECALL
    return Measured(details["xcrossrec"]["p95_ms"], spread, {"items": items, "queries": asked, **details}, reached)


def _ours(catalogue: np.ndarray) -> tuple[Search, dict[str, Any]]:
    """Build and search."""
    import torch

    from xcrossrec.catalogue.segment import Segment, table_of_rows

    start = time.perf_counter()
    segment = Segment.build(table_of_rows([]), torch.from_numpy(catalogue))
    built = time.perf_counter()
    allowed = np.ones(len(catalogue), dtype=np.bool_)

    def search(query: np.ndarray) -> np.ndarray:
        found: np.ndarray = segment.search(torch.from_numpy(query[None]), K, pool=lambda own: own[0], allowed=allowed)[
            0
        ]
        return found

    search(catalogue[0])
    details = {
        "build_s": round(built - start, 2),
        "first_query_s": round(time.perf_counter() - built, 3),
        "integers": segment.codes is not None,
    }
    return search, {"xcrossrec": details}


def _exact(catalogue: np.ndarray) -> Search:
    import torch

    whole = torch.from_numpy(catalogue)
    return lambda query: torch.topk(whole @ torch.from_numpy(query), K).indices.numpy()


def _rival(catalogue: np.ndarray, details: dict[str, Any], quick: bool) -> Search | None:
    """FAISS, inverted lists of 8-bit codes, at the least number of lists that reaches the recall."""
    if find_spec("faiss") is None:
        print("RIVAL ABSENT: faiss-cpu is not installed, so no library was timed beside ours", file=sys.stderr)
        return None
    import faiss

    start = time.perf_counter()
    lists = 64 if quick else 1024
    index = faiss.index_factory(catalogue.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    index.train(np.ascontiguousarray(catalogue[:: max(1, len(catalogue) // 100_000)]))
    index.add(catalogue)
    build_s = round(time.perf_counter() - start, 2)
    exact, probe = _exact(catalogue), catalogue[:: len(catalogue) // 50]
    for nprobe in (16, 32, 64, 128, 192, 256, 384, 512):
        index.nprobe = min(nprobe, lists)
        found = [index.search(query[None], K)[1][0] for query in probe]
        if _recall(found, [exact(query) for query in probe]) >= RECALL:
            break
    details["faiss-ivf-sq8"] = {"build_s": build_s, "nprobe": index.nprobe}
    return lambda query: index.search(query[None], K)[1][0]


def _timed(arms: dict[str, Search], queries: np.ndarray) -> tuple[dict[str, list[float]], dict[str, list[np.ndarray]]]:
    times: dict[str, list[float]] = {name: [] for name in arms}
    found: dict[str, list[np.ndarray]] = {name: [] for name in arms}
    for search in arms.values():
        search(queries[0])
    for query in queries:
        for name, search in arms.items():
            start = time.perf_counter()
            rows = search(query)
            times[name].append(1000 * (time.perf_counter() - start))
            found[name].append(rows)
    return times, found


def _recall(found: list[np.ndarray], truth: list[np.ndarray]) -> float:
    return round(float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, truth, strict=True)])), 4)


FIGURES = (
    Figure(
        name="search",
        title="Top 100 of 1 million vectors, recall at least .95 against exact search",
        goal=GOAL_MS,
        better="lower",
        unit="ms p95",
        measure=measure_search,
    ),
)
