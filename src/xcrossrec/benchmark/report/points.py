"""Cells of one target, method and budget, their seeds taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Bool, Float64

from xcrossrec.benchmark.cells import ALL, NO_BUDGET, Cell, CellFiles
from xcrossrec.benchmark.suite import Suite
from xcrossrec.evaluation import Evaluation
from xcrossrec.metrics.significance import bootstrap_interval
from xcrossrec.types import USER, Negatives

METRIC = "mrr"
_SEEN = "seen_in_source"


@dataclass(frozen=True, eq=False)
class Point:
    """One method at one budget on one target.

    Attributes:
        target: the new domain.
        sources: the established ones; empty for a method without.
        method: its name in the suite.
        budget: see :class:`xcrossrec.benchmark.cells.Cell`.
        records: one a seed.
        evaluations: one a seed, of the same users.
    """

    target: str
    sources: tuple[str, ...]
    method: str
    budget: int
    records: tuple[dict[str, Any], ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds there are."""
        return [int(record["seed"]) for record in self.records]

    def per_user(self, negatives: Negatives, metric: str = METRIC) -> Float64[np.ndarray, " user"]:
        """The metric of each user, averaged over the seeds; users in the order of the first."""
        values = np.stack([_values(evaluation, negatives, metric) for evaluation in self.evaluations])
        mean: Float64[np.ndarray, " user"] = values.mean(axis=0)
        return mean

    def by_seed(self, negatives: Negatives, metric: str = METRIC) -> list[float]:
        """The mean over the users, one a seed."""
        return [float(_values(evaluation, negatives, metric).mean()) for evaluation in self.evaluations]

    def mean(self, negatives: Negatives, metric: str = METRIC) -> float:
        """The mean over users and seeds."""
        return float(self.per_user(negatives, metric).mean())

    def interval(self, negatives: Negatives, metric: str = METRIC) -> tuple[float, float]:
        """The 95% bootstrap interval over the users."""
        return bootstrap_interval(self.per_user(negatives, metric), rng=np.random.default_rng(0))

    def unseen(self) -> Bool[np.ndarray, " user"]:
        """Which users no source has seen in training; all of them for a method without sources."""
        frame = _sorted(self.evaluations[0], self.evaluations[0].negatives[0])
        return ~frame[_SEEN].fill_null(False).to_numpy()

    @property
    def parameters(self) -> int:
        """Scalars trained on the target, the head's included."""
        return int(self.records[0]["trained_parameters"])

    @property
    def body_parameters(self) -> int:
        """Scalars trained on the target without the head's, which all methods have alike."""
        return self.parameters - int(self.records[0]["head_parameters"])

    @property
    def cpu_s(self) -> float:
        """Processor seconds of the training, mean over the seeds."""
        return float(np.mean([record["fit"]["cpu_s"] for record in self.records]))


def _values(evaluation: Evaluation, negatives: Negatives, metric: str) -> Float64[np.ndarray, " user"]:
    return np.asarray(_sorted(evaluation, negatives)[metric].to_numpy(), dtype=np.float64)


def _sorted(evaluation: Evaluation, negatives: Negatives) -> pl.DataFrame:
    return evaluation.of(negatives).sort(USER)


class Points:
    """All points of a suite that are complete.

    Args:
        suite: names the cells.
        files: where they lie.
    """

    def __init__(self, suite: Suite, files: CellFiles) -> None:
        self.suite = suite
        groups: dict[tuple[str, tuple[str, ...], str, int], list[Cell]] = {}
        for cell in suite.cells():
            if files.done(cell):
                groups.setdefault((cell.target, cell.sources, cell.method, cell.budget), []).append(cell)
        self._points = [
            Point(*key, tuple(files.read(cell) for cell in cells), tuple(files.evaluation(cell) for cell in cells))
            for key, cells in groups.items()
        ]

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Any:
        return iter(self._points)

    @cached_property
    def targets(self) -> list[str]:
        """In the suite's order."""
        return list(dict.fromkeys(point.target for point in self._points))

    @cached_property
    def budgets(self) -> list[int]:
        """Those of methods that learn, ascending, all users last."""
        found = {point.budget for point in self._points if point.budget != NO_BUDGET}
        return sorted(found - {ALL}) + ([ALL] if ALL in found else [])

    def methods(self, target: str) -> list[str]:
        """Methods with a point on a target, in the suite's order."""
        present = {point.method for point in self._points if point.target == target}
        return [name for name in self.suite.methods if name in present]

    def find(self, target: str, method: str, budget: int, sources: Sequence[str] | None = None) -> Point | None:
        """A point, or None; a method without budget has the same one at every budget.

        Args:
            target: the new domain.
            method: its name.
            budget: users.
            sources: which; None takes those of the suite's first part.
        """
        wanted = tuple(self.main_sources(target) if sources is None else sources)
        for point in self._points:
            same = point.target == target and point.method == method and point.budget in (budget, NO_BUDGET)
            if same and point.sources in ((), wanted):
                return point
        return None

    def main_sources(self, target: str) -> tuple[str, ...]:
        """The sources that the first part of the grid gives a target."""
        return next((tuple(part.sources[target]) for part in self.suite.grid if target in part.sources), ())

    def users(self, target: str, budget: int) -> int:
        """The number of users behind a budget."""
        if budget != ALL:
            return budget
        counts = [p.records[0]["users"] for p in self._points if p.target == target and p.budget == ALL]
        return int(counts[0]) if counts else 0
