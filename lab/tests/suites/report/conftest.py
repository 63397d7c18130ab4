from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec import Evaluation
from xcrossrec.evaluation.result import RESULT_SCHEMA, EvaluationInfo
from xcrossrec.metrics.ranking import per_user_metrics
from xcrossrec.types import NEGATIVES
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

METHODS = ("popularity", "mean-of-sources", "lora", "lora-from-source", "xcross")


USERS = 60


def evaluation(rank: np.ndarray, kinds: Sequence[str] = NEGATIVES) -> Evaluation:
    frames = []
    for kind in kinds:
        columns = {
            "user_id": [f"u{n:03d}" for n in range(len(rank))],
            "negatives": [kind] * len(rank),
            "candidates": np.full(len(rank), 30),
            "rank": rank,
            **per_user_metrics(rank),
            "seen_in_source": [n % 10 == 0 for n in range(len(rank))],
        }
        frames.append(pl.DataFrame(columns, schema=RESULT_SCHEMA))
    info = EvaluationInfo("s", "garden", "f", "validation", 0, "0", 1.0)
    return Evaluation(pl.concat(frames), info)


def summary(found: Evaluation) -> dict[str, Any]:
    """What of a summary a report reads, without intervals, which take most of the time."""
    means = {kind: {"mrr": found.of(kind)["mrr"].mean()} for kind in found.negatives}
    return {"fingerprint": found.info.fingerprint, "metrics": means}


def write_cells(suite: Suite, files: CellFiles, rank_of) -> None:
    for cell in suite.cells():
        found = evaluation(rank_of(cell), suite.negatives)
        record = {
            "seed": cell.seed, "users": max(cell.budget, 0), "commit": "abc",
            "trained_parameters": {"lora": 300, "xcross": 120}.get(cell.method, 0), "head_parameters": 20,
            "report": {"parameters": {"stream_weights": 2}} if cell.method == "xcross" else {},
            "fit": {"cpu_s": 2.0, "wall_s": 3.0}, "peak_memory_mib": 900.0, "metrics": summary(found),
            "integration_off": summary(found) if cell.method == "xcross" else None,
            "integration_map": {"pairs": ["a to b", "b to a"], "layers": 2 * [{"a to b": 0.1, "b to a": 0.2}]}
            if cell.method == "xcross" else None,
        }  # fmt: skip
        files.write(cell, found, record)


def ranks(first: float, cell) -> np.ndarray:
    """The first so many users of 60 have rank 1, the others 10."""
    return np.where(np.arange(USERS) < first, 1, 10)


@pytest.fixture
def points(suite_file, tmp_path: Path) -> Points:
    suite, files = Suite.read(suite_file(METHODS, "128, 512", "0, 1")), CellFiles(tmp_path / "run")
    start = {"xcross": 30, "lora": 10, "lora-from-source": 30, "mean-of-sources": 5, "popularity": 0}
    write_cells(suite, files, lambda cell: ranks(start[cell.method] + (20 if cell.budget == 512 else 0), cell))
    return Points(suite, files)


def two_targets(suite_file, seeds: str = "0", budgets: str = "128") -> Suite:
    """A suite of two targets, of which the second lacks TF-IDF."""
    path = suite_file(METHODS, budgets, seeds)
    path.write_text(
        path.read_text().replace('targets = ["garden"]', 'targets = ["garden", "shed"]')
        + '\n[[grid]]\ntargets = ["garden"]\nmethods = ["tfidf"]\nbudgets = [128]\nseeds = [0]\n'
    )
    return Suite.read(path)
