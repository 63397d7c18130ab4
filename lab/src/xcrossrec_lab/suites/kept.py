"""Finished cells in a small folder that can be committed, and back: no user's id is in it.

``cells.json`` has the records, ``ranks/TARGET.parquet`` a row a kind of negatives, cell and user: ``rank``,
``candidates`` and ``seen``. A user is a number: the place among the ranked users, in the domain's order. Metrics
are not kept, ranks give them back exactly. ``tuning.json`` has the records of a search's trials, if there is a search.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xcrossrec.data.domain import Domain
from xcrossrec.data.store import read_domain
from xcrossrec.evaluation import Evaluation, EvaluationInfo
from xcrossrec.evaluation.result import KIND, RESULT_SCHEMA, SEEN
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.metrics.ranking import per_user_metrics
from xcrossrec.types import NEGATIVES, USER
from xcrossrec_lab.suites.cells import Cell, CellFiles
from xcrossrec_lab.suites.ranked import ranked_users
from xcrossrec_lab.suites.suite import Suite

RECORDS = "cells.json"
TRIALS = "tuning.json"
RANKS = "ranks"

_COLUMNS: Mapping[str, pl.DataType] = {
    KIND: pl.Enum(NEGATIVES),
    "cell": pl.String(),
    "user": pl.UInt32(),
    "rank": pl.UInt32(),
    "candidates": pl.UInt32(),
    "seen": pl.Boolean(),
}
_SCHEMA = pl.Schema(_COLUMNS)
_ORDER = [KIND, "cell", "user"]  # like ranks beside like ones: a sixth smaller than cell by cell
_ZSTD_LEVEL = 19
_LARGEST_UINT16 = 65_535


@dataclass(frozen=True)
class Kept:
    """What :func:`keep` wrote.

    Attributes:
        from_run: cells of the run's folder.
        from_before: cells that the folder had and the run lacks.
        bytes: size of the ranks.
    """

    from_run: int
    from_before: int
    bytes: int


@dataclass(frozen=True)
class Restored:
    """What :func:`restore` did.

    Attributes:
        written: cells made anew in the run's folder.
        present: kept cells that were complete there already.
        not_in_suite: kept cells that the suite no longer has.
        trials: records of a search's trials made anew.
    """

    written: int
    present: int
    not_in_suite: int
    trials: int


def keep(suite: Suite, files: CellFiles, directory: Path) -> Kept:
    """Put the run's complete cells into a folder; those that it has and the run lacks stay.

    Args:
        suite: names the cells, the data and the split.
        files: the run's cells.
        directory: folder to write to; made if needed.

    Raises:
        ConfigError: no cell is complete.
        DataError: a cell was made from other data than the suite's, or a file is damaged.
    """
    done = [cell for cell in suite.cells() if files.done(cell)]
    if not done:
        raise ConfigError(f"no cell of {suite.name!r} is complete in {files.root}: run `xcrossrec-lab run` first")
    frames = {}
    for target in dict.fromkeys(cell.target for cell in done):
        place = _Place(suite, target)
        fresh = [_ranks_of(place, cell, files) for cell in done if cell.target == target]
        earlier = _read_ranks(directory, target)
        names = [cell.name for cell in done]
        frames[target] = pl.concat([earlier.filter(~pl.col("cell").is_in(names)), *fresh])
    for target, frame in frames.items():
        _write_ranks(directory, target, frame)
    count = write_records(directory, suite, files)
    _keep_trials(suite, files, directory)
    size = sum(path.stat().st_size for path in (directory / RANKS).glob("*.parquet"))
    return Kept(len(done), count - len(done), size)


def write_records(directory: Path, suite: Suite, files: CellFiles) -> int:
    """Write the records of the run's complete cells, and of those whose ranks the folder keeps.

    Returns:
        how many.
    """
    records = {cell.name: files.read(cell) for cell in suite.cells() if files.done(cell)}
    ranked = {name for path in sorted((directory / RANKS).glob("*.parquet")) for name in _names_in(path)}
    for name, record in _read_records(directory / RECORDS).items():
        if name in ranked:
            records.setdefault(name, record)
    order = {cell.name: number for number, cell in enumerate(suite.cells())}
    _write_json(directory / RECORDS, sorted(records.items(), key=lambda item: order.get(item[0], len(order))))
    return len(records)


def restore(suite: Suite, files: CellFiles, directory: Path) -> Restored:
    """Make a run's cells anew from a folder of kept ones, so that `run` and `report` go on from there.

    Nothing is written before everything has been checked.

    Args:
        suite: names the cells, the data and the split.
        files: the run's cells; complete ones stay as they are.
        directory: what :func:`keep` wrote.

    Raises:
        DataError: nothing is kept there, a file is damaged, or the suite's data, split or candidates are others.
    """
    kept = _read_records(directory / RECORDS)
    if not kept:
        raise DataError(f"no kept cells in {directory}: give a folder that `xcrossrec-lab keep` has written")
    cells = [cell for cell in suite.cells() if cell.name in kept]
    missing = [cell for cell in cells if not files.done(cell)]
    places = {target: _Place(suite, target) for target in dict.fromkeys(cell.target for cell in missing)}
    ranks = {target: _by_cell(_read_ranks(directory, target)) for target in places}
    for cell in missing:
        places[cell.target].check(cell, kept[cell.name])
        if cell.name not in ranks[cell.target]:
            raise DataError(f"{directory} has the record of {cell.name} without its ranks: take both from one commit")
    trials = _missing_trials(suite, files, directory)
    for cell in missing:
        record = kept[cell.name]
        files.write(cell, _evaluation_of(places[cell.target], cell, record, ranks[cell.target][cell.name]), record)
    for of_trial, trial, loss in trials:
        of_trial.write(trial, None, loss)
    return Restored(len(missing), len(cells) - len(missing), len(kept) - len(cells), len(trials))


class _Place:
    """A target as the suite's data has it now."""

    def __init__(self, suite: Suite, target: str) -> None:
        self.suite = suite
        self.target = target

    @cached_property
    def domain(self) -> Domain:
        return read_domain(self.suite.data / self.target)

    @cached_property
    def ranked(self) -> Domain:
        return ranked_users(self.suite, self.domain).domain

    @cached_property
    def users(self) -> pl.DataFrame:
        """The ranked users and their numbers."""
        ids = self.ranked.sequences(self.suite.split).user_ids
        return pl.DataFrame({USER: ids, "user": range(len(ids))}, schema={USER: pl.String, "user": pl.UInt32})

    def check(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Refuse a cell of other data, of another split or of other candidates."""
        self.check_data(cell, record)
        metrics, suite = record["metrics"], self.suite
        if (metrics["split"], metrics["seed"]) != (suite.split, suite.candidate_seed):
            raise DataError(
                f"the cell {cell.name} ranked split {metrics['split']!r} with candidates of seed {metrics['seed']}, "
                f"the suite says {suite.split!r} and {suite.candidate_seed}: give the suite that the cell belongs to"
            )
        if metrics["fingerprint"] != self.ranked.fingerprint:
            raise DataError(
                f"the cell {cell.name} ranked other users of {self.target!r} than the suite's grid leaves: "
                "delete the cell and run the suite again, or take back the budgets and seeds that the grid had"
            )

    def check_data(self, cell: Cell, record: Mapping[str, Any]) -> None:
        """Refuse a cell of other data."""
        made_from, present = record["data_fingerprint"], self.domain.fingerprint
        if made_from != present:
            raise DataError(
                f"the cell {cell.name} was made from data of fingerprint {made_from}, but "
                f"{self.suite.data / self.target} has {present}: import the same data, or leave the cell out"
            )


def _ranks_of(place: _Place, cell: Cell, files: CellFiles) -> pl.DataFrame:
    place.check(cell, files.read(cell))
    frame = files.evaluation(cell).frame.join(place.users, on=USER, how="left", maintain_order="left")
    if frame["user"].null_count() or frame.height % place.users.height:
        raise DataError(f"the results of {cell.name} are not of the split's {place.users.height} users: run it again")
    named = frame.with_columns(pl.lit(cell.name).alias("cell"), pl.col(SEEN).alias("seen"))
    return named.select(pl.col(name).cast(dtype) for name, dtype in _SCHEMA.items())


def _by_cell(ranks: pl.DataFrame) -> dict[str, pl.DataFrame]:
    return {str(name): frame for (name,), frame in ranks.partition_by("cell", as_dict=True).items()}


def _evaluation_of(place: _Place, cell: Cell, record: Mapping[str, Any], ranks: pl.DataFrame) -> Evaluation:
    kinds = [kind for kind in place.suite.negatives if (ranks[KIND] == kind).any()]
    users = np.arange(place.users.height)
    frames = []
    for kind in kinds:
        rows = ranks.filter(pl.col(KIND) == kind).sort("user")
        if not np.array_equal(rows["user"].to_numpy(), users):
            raise DataError(
                f"the kept ranks of {cell.name} are of {rows.height} users, not {users.size}: keep it again"
            )
        rank = rows["rank"].cast(pl.Int64).to_numpy()
        columns: dict[str, Any] = {
            USER: place.users[USER],
            KIND: [kind] * users.size,
            "candidates": rows["candidates"].cast(pl.Int64),
        }
        columns |= {"rank": rank, **per_user_metrics(rank), SEEN: rows["seen"]}
        frames.append(pl.DataFrame(columns, schema=RESULT_SCHEMA))
    said = record["metrics"]
    names = ("scorer", "domain", "fingerprint", "split", "seed", "version", "wall_s", "simulated")
    return Evaluation(pl.concat(frames), EvaluationInfo(**{name: said[name] for name in names}))


def _keep_trials(suite: Suite, files: CellFiles, directory: Path) -> None:
    placed = _trials(suite, files)
    if placed is None:
        return
    cells, of_trial = placed
    records: dict[str, Mapping[str, Any]] = dict(_read_records(directory / TRIALS))
    records |= {cell.name: of_trial.read(cell) for cell in cells if of_trial.done(cell)}
    if records:
        _write_json(directory / TRIALS, records.items())


def _missing_trials(suite: Suite, files: CellFiles, directory: Path) -> list[tuple[CellFiles, Cell, Mapping[str, Any]]]:
    placed = _trials(suite, files)
    kept = _read_records(directory / TRIALS)
    if placed is None or not kept:
        return []
    cells, of_trial = placed
    missing = [cell for cell in cells if cell.name in kept and not of_trial.done(cell)]
    places = {target: _Place(suite, target) for target in {cell.target for cell in missing}}
    for cell in missing:
        places[cell.target].check_data(cell, kept[cell.name])
    return [(of_trial, cell, kept[cell.name]) for cell in missing]


def _trials(suite: Suite, files: CellFiles) -> tuple[list[Cell], CellFiles] | None:
    if suite.tuning is None or not any(method.search for method in suite.methods.values()):
        return None
    tuning = suite.for_tuning()
    return tuning.cells(), CellFiles(files.root / tuning.out.relative_to(suite.out))


def _read_records(path: Path) -> dict[str, dict[str, Any]]:
    if not path.exists():
        return {}
    try:
        return {str(record.get("cell")): record for record in json.loads(path.read_text(encoding="utf-8"))}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{path} cannot be read ({error}): take it from the last commit") from error


def _write_json(path: Path, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps([record for _, record in records], indent=1), encoding="utf-8")
    temporary.replace(path)


def _names_in(path: Path) -> Sequence[str]:
    return list(_read(path, ["cell"])["cell"].unique())


def _read(path: Path, columns: Sequence[str]) -> pl.DataFrame:
    try:
        return pl.read_parquet(path, columns=list(columns))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read ({error}): take it from the last commit") from error


def _read_ranks(directory: Path, target: str) -> pl.DataFrame:
    path = directory / RANKS / f"{target}.parquet"
    if not path.exists():
        return pl.DataFrame(schema=_SCHEMA)
    return _read(path, list(_SCHEMA)).cast(_SCHEMA)


def _write_ranks(directory: Path, target: str, frame: pl.DataFrame) -> None:
    path = directory / RANKS / f"{target}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    small = [name for name in ("user", "rank", "candidates") if int(frame[name].max() or 0) <= _LARGEST_UINT16]  # type: ignore[arg-type]
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    frame.sort(_ORDER).with_columns(pl.col(small).cast(pl.UInt16), pl.col(KIND).cast(pl.String)).write_parquet(
        temporary,
        compression="zstd",
        compression_level=_ZSTD_LEVEL,
        statistics=False,
        row_group_size=max(1, frame.height),
    )
    temporary.replace(path)
