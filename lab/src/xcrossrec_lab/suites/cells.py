"""One cell of a suite: its name, its place on disk, and what is recorded of it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import polars as pl

from xcrossrec import DataError, Evaluation
from xcrossrec.evaluation.result import SEEN
from xcrossrec.metrics.ranking import METRICS
from xcrossrec.types import USER

ALL = 0
"""The budget that stands for all training users."""

NO_BUDGET = -1
"""The budget of a method that learns nothing from the target's users."""

NO_SOURCES = "none"

PerUser: TypeAlias = pl.DataFrame
"""One kind's results, a row a user in the order of their ids: ``candidates``, the metrics, ``seen_in_source``."""


@dataclass(frozen=True, order=True)
class Cell:
    """One target, method, budget and seed.

    Attributes:
        target: the new domain's name.
        sources: the established domains' names; empty for a method that uses none.
        method: its name in the suite.
        budget: users to learn from; :data:`ALL` or :data:`NO_BUDGET`.
        seed: of users, initialisation and order.
    """

    target: str
    sources: tuple[str, ...]
    method: str
    budget: int
    seed: int

    @property
    def budget_name(self) -> str:
        """The budget as a word: a number, ``all`` or ``no``."""
        return {ALL: "all", NO_BUDGET: "no"}.get(self.budget, str(self.budget))

    @property
    def name(self) -> str:
        """A path-like name without spaces, such as ``toys/electronics+sports/lora/512-s0``."""
        sources = "+".join(self.sources) or NO_SOURCES
        return f"{self.target}/{sources}/{self.method}/{self.budget_name}-s{self.seed}"


@dataclass(frozen=True)
class CellFiles:
    """Where the cells of a run lie.

    Attributes:
        root: the run's folder.
    """

    root: Path

    def record(self, cell: Cell) -> Path:
        """The cell's JSON; it is written last, so a cell that has it is complete."""
        return self.root / "cells" / f"{cell.name}.json"

    def results(self, cell: Cell) -> Path:
        """The cell's per-user results."""
        return self.record(cell).with_suffix(".parquet")

    def failure(self, cell: Cell) -> Path:
        """What the last failed attempt printed."""
        return self.record(cell).with_suffix(".failed")

    def done(self, cell: Cell) -> bool:
        """Whether the cell is complete."""
        return self.record(cell).exists()

    def write(self, cell: Cell, evaluation: Evaluation | None, record: Mapping[str, Any]) -> None:
        """Write results (if there are any), then the record, each beside its place and renamed."""
        path = self.record(cell)
        path.parent.mkdir(parents=True, exist_ok=True)
        if evaluation is not None:
            evaluation.save(self.results(cell))
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        temporary.replace(path)
        self.failure(cell).unlink(missing_ok=True)

    def read(self, cell: Cell) -> dict[str, Any]:
        """Read a cell's record.

        Raises:
            DataError: it is absent or damaged.
        """
        path = self.record(cell)
        try:
            record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"the cell {path} cannot be read ({error}): delete it and run the suite again") from error
        return record

    def evaluation(self, cell: Cell) -> Evaluation:
        """Read a cell's per-user results."""
        return Evaluation.load(self.results(cell))

    def per_user(self, cell: Cell) -> dict[str, PerUser]:
        """Its results by kind of negatives."""
        found = self.evaluation(cell)
        return {kind: found.of(kind).sort(USER).select("candidates", *METRICS, SEEN) for kind in found.negatives}


class Cells(Protocol):
    """Complete cells, in a run's folder or among kept ones."""

    @property
    def root(self) -> Path:
        """Where they lie."""
        ...

    def done(self, cell: Cell) -> bool:
        """Whether the cell is complete."""
        ...

    def read(self, cell: Cell) -> dict[str, Any]:
        """A complete cell's record."""
        ...

    def per_user(self, cell: Cell) -> dict[str, PerUser]:
        """A complete cell's results by kind of negatives."""
        ...
