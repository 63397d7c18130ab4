"""Cells of one target, method and budget, their seeds taken together."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64

from xcrossrec import DataError
from xcrossrec.evaluation.result import SEEN
from xcrossrec.types import Negatives
from xcrossrec_lab.report.resampling import interval
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, Cell, Cells, PerUser
from xcrossrec_lab.suites.suite import Suite

METRIC = "mrr"
_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Point:
    """One method at one budget on one target.

    Attributes:
        target: the new domain.
        sources: the established ones; empty for a method without.
        method: its name in the suite.
        budget: see :class:`xcrossrec_lab.suites.cells.Cell`.
        records: one a seed.
        results: one a seed, of the same users.
    """

    target: str
    sources: tuple[str, ...]
    method: str
    budget: int
    records: tuple[dict[str, Any], ...]
    results: tuple[Mapping[str, PerUser], ...]

    @property
    def seeds(self) -> list[int]:
        """The seeds there are."""
        return [int(record["seed"]) for record in self.records]

    @cached_property
    def _per_user(self) -> dict[tuple[str, str], Float64[np.ndarray, " user"]]:
        return {}

    @cached_property
    def _intervals(self) -> dict[tuple[str, str], tuple[float, float]]:
        return {}

    def per_user(self, negatives: Negatives, metric: str = METRIC) -> Float64[np.ndarray, " user"]:
        """The metric of each user, averaged over the seeds; users in the order of their ids."""
        key = (negatives, metric)
        if key not in self._per_user:
            values = np.stack([_values(results, negatives, metric) for results in self.results])
            self._per_user[key] = values.mean(axis=0)
        return self._per_user[key]

    def by_seed(self, negatives: Negatives, metric: str = METRIC) -> dict[int, float]:
        """The mean over the users for each seed."""
        means = [float(_values(results, negatives, metric).mean()) for results in self.results]
        return dict(zip(self.seeds, means, strict=True))

    def spread(self, negatives: Negatives, metric: str = METRIC) -> float | None:
        """The standard deviation over the seeds of the mean over the users; None with one seed."""
        means = list(self.by_seed(negatives, metric).values())
        return float(np.std(means, ddof=1)) if len(means) > 1 else None

    def mean(self, negatives: Negatives, metric: str = METRIC) -> float:
        """The mean over users and seeds."""
        return float(self.per_user(negatives, metric).mean())

    def interval(self, negatives: Negatives, metric: str = METRIC) -> tuple[float, float]:
        """The 95% bootstrap interval over the users."""
        key = (negatives, metric)
        if key not in self._intervals:
            self._intervals[key] = interval(self.per_user(negatives, metric))
        return self._intervals[key]

    def chance(self, negatives: Negatives) -> float:
        """The MRR of a random order: the mean over users of (1 + 1/2 + ... + 1/n) / n for n candidates."""
        candidates = self.results[0][negatives]["candidates"].to_numpy()
        harmonic = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, candidates.max() + 1))])
        return float(np.mean(harmonic[candidates] / candidates))

    def unseen(self) -> Bool[np.ndarray, " user"]:
        """Which users no source has seen in training; all of them for a method without sources."""
        frame = next(iter(self.results[0].values()))
        return ~frame[SEEN].fill_null(False).to_numpy()

    @property
    def parameters(self) -> int:
        """Scalars trained on the target, the head's included."""
        return int(self.records[0]["trained_parameters"])

    @property
    def body_parameters(self) -> int:
        """Scalars trained on the target without the head's, which all methods have alike."""
        return self.parameters - int(self.records[0]["head_parameters"])

    @property
    def stream_weights(self) -> int:
        """How many of the body's are the streams' weights, a scalar a stream, which the paper's quarter leaves out."""
        return int(self.records[0]["report"].get("parameters", {}).get("stream_weights", 0))

    @property
    def cpu_s(self) -> float | None:
        """Processor seconds of the training, mean over the seeds that were trained without a GPU; None without any."""
        seconds = [record["fit"]["cpu_s"] for record in self.records if not record.get("accelerator")]
        return float(np.mean(seconds)) if seconds else None


def _values(results: Mapping[str, PerUser], negatives: Negatives, metric: str) -> Float64[np.ndarray, " user"]:
    return np.asarray(results[negatives][metric].to_numpy(), dtype=np.float64)


def _check_same_users(point: Point, first: Point) -> None:
    """Refuse cells of one target that rank different users.

    Raises:
        DataError: names two such cells.
    """
    ranked = first.records[0]["metrics"]["fingerprint"]
    for record in point.records:
        if record["metrics"]["fingerprint"] != ranked:
            raise DataError(
                f"the cells {first.records[0]['cell']} and {record['cell']} rank different users of {point.target!r}: "
                "delete those made before data or grid changed, and run the suite again"
            )


class Points:
    """All points of a suite that are complete.

    Args:
        suite: names the cells.
        files: where they lie.

    Raises:
        DataError: cells of one target rank different users.
    """

    def __init__(self, suite: Suite, files: Cells) -> None:
        self.suite = suite
        groups: dict[tuple[str, tuple[str, ...], str, int], list[Cell]] = {}
        for cell in suite.cells():
            if files.done(cell):
                groups.setdefault((cell.target, cell.sources, cell.method, cell.budget), []).append(cell)
        self._points = [
            Point(
                *key,
                tuple(files.read(cell) for cell in cells),
                tuple(files.per_user(cell) for cell in cells),
            )
            for key, cells in groups.items()
        ]
        self._by_key = dict(zip(groups, self._points, strict=True))
        for point in self._points:
            _check_same_users(point, next(p for p in self._points if p.target == point.target))
        self._remembered: dict[Hashable, Any] = {}

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
        keys = ((target, used, method, of) for used in ((), wanted) for of in (budget, NO_BUDGET))
        return next((self._by_key[key] for key in keys if key in self._by_key), None)

    def source_sets(self, target: str) -> list[tuple[str, ...]]:
        """The sets of sources that a target's points use: the first part's, then the others by size."""
        found = {point.sources for point in self._points if point.target == target and point.sources}
        main = self.main_sources(target)
        return [main, *sorted(found - {main}, key=lambda names: (len(names), names))]

    def remember(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Compute something once for the whole report."""
        if key not in self._remembered:
            self._remembered[key] = make()
        found: _T = self._remembered[key]
        return found

    def main_sources(self, target: str) -> tuple[str, ...]:
        """The sources that the first part of the grid gives a target."""
        return next((tuple(part.sources[target]) for part in self.suite.grid if target in part.sources), ())

    def users(self, target: str, budget: int) -> int:
        """The number of users behind a budget."""
        if budget != ALL:
            return budget
        counts = [p.records[0]["users"] for p in self._points if p.target == target and p.budget == ALL]
        return int(counts[0]) if counts else 0
