"""Finished cells in a small folder that can be committed, and back: no user's id is in it.

``cells.json.xz`` has the records, ``ranks/TARGET.xz`` each user's rank, number of candidates and whether a source has
seen the user (:mod:`xcrossrec_lab.suites.rank_file`). A user is a number: the place among the ranked users' ids in
alphabetic order. Metrics are not kept, ranks give them back exactly. ``tuning.json.xz`` has the records of a search's
trials, if there is a search.
"""

from __future__ import annotations

import json
import lzma
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xcrossrec import ConfigError, DataError, Domain, Evaluation, read_domain
from xcrossrec.evaluation.result import KIND, RESULT_SCHEMA, SEEN, EvaluationInfo
from xcrossrec.metrics.ranking import per_user_metrics
from xcrossrec.types import USER
from xcrossrec_lab.suites.cells import Cell, CellFiles, PerUser
from xcrossrec_lab.suites.rank_file import NOBODY_KNOWS, Ranks, read_ranks, write_ranks
from xcrossrec_lab.suites.ranked import ranked_users
from xcrossrec_lab.suites.suite import Suite

RECORDS = "cells.json.xz"
TRIALS = "tuning.json.xz"
RANKS = "ranks"


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
    tables = {}
    for target in dict.fromkeys(cell.target for cell in done):
        place, table = _Place(suite, target), read_ranks(_rank_file(directory, target))
        for cell in done:
            if cell.target == target:
                for kind, ranks in _ranks_of(place, cell, files).items():
                    table.setdefault(kind, {})[cell.name] = ranks
        tables[target] = table
    for target, table in tables.items():
        write_ranks(_rank_file(directory, target), table)
    count = _write_records(directory, suite, files)
    _keep_trials(suite, files, directory)
    size = sum(path.stat().st_size for path in (directory / RANKS).glob("*.xz"))
    return Kept(len(done), count - len(done), size)


def _write_records(directory: Path, suite: Suite, files: CellFiles) -> int:
    """Write the records of the run's complete cells beside those that are kept already; gives their number."""
    records = _read_records(directory / RECORDS)
    records |= {cell.name: files.read(cell) for cell in suite.cells() if files.done(cell)}
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
    found = KeptCells(directory)
    for cell in missing:
        places[cell.target].check(cell, kept[cell.name])
        found.ranks(cell)
    trials = _missing_trials(suite, files, directory)
    for cell in missing:
        record = kept[cell.name]
        files.write(cell, _evaluation_of(places[cell.target], cell, record, found.ranks(cell)), record)
    for of_trial, trial, loss in trials:
        of_trial.write(trial, None, loss)
    return Restored(len(missing), len(cells) - len(missing), len(kept) - len(cells), len(trials))


class KeptCells:
    """What a folder keeps, for a report; the data are not needed.

    Args:
        root: what :func:`keep` wrote.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._tables: dict[str, dict[str, dict[str, Ranks]]] = {}

    @cached_property
    def _records(self) -> dict[str, dict[str, Any]]:
        return _read_records(self.root / RECORDS)

    def done(self, cell: Cell) -> bool:
        """Whether the cell is kept."""
        return cell.name in self._records

    def read(self, cell: Cell) -> dict[str, Any]:
        """Its record."""
        return self._records[cell.name]

    def ranks(self, cell: Cell) -> dict[str, Ranks]:
        """Its ranks by kind of negatives.

        Raises:
            DataError: there are none.
        """
        if cell.target not in self._tables:
            self._tables[cell.target] = read_ranks(_rank_file(self.root, cell.target))
        found = {kind: cells[cell.name] for kind, cells in self._tables[cell.target].items() if cell.name in cells}
        if not found:
            raise DataError(f"{self.root} has the record of {cell.name} without its ranks: take both from one commit")
        return found

    def per_user(self, cell: Cell) -> dict[str, PerUser]:
        """Its results by kind of negatives."""
        return {kind: _results(ranks).drop("rank") for kind, ranks in self.ranks(cell).items()}


def _results(ranks: Ranks) -> pl.DataFrame:
    seen = pl.Series(ranks.seen == 1).set(pl.Series(ranks.seen == NOBODY_KNOWS), None)
    return pl.DataFrame(
        {"candidates": ranks.candidates, "rank": ranks.rank, **per_user_metrics(ranks.rank), SEEN: seen},
        schema={name: RESULT_SCHEMA[name] for name in RESULT_SCHEMA if name not in (USER, KIND)},
    )


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
    def users(self) -> list[str]:
        """The ranked users' ids in the domain's order, in which results have them."""
        return list(self.ranked.sequences(self.suite.split).user_ids)

    @cached_property
    def alphabetic(self) -> list[int]:
        """For each number of a user the place in the domain's order."""
        return sorted(range(len(self.users)), key=lambda place: self.users[place])

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


def _ranks_of(place: _Place, cell: Cell, files: CellFiles) -> dict[str, Ranks]:
    place.check(cell, files.read(cell))
    evaluation = files.evaluation(cell)
    found: dict[str, Ranks] = {}
    for kind in evaluation.negatives:
        frame = evaluation.of(kind).sort(USER)
        if frame[USER].to_list() != [place.users[number] for number in place.alphabetic]:
            raise DataError(f"the results of {cell.name} are not of the split's {len(place.users)} users: run it again")
        seen = frame[SEEN].cast(pl.UInt8).fill_null(NOBODY_KNOWS).to_numpy()
        rank, candidates = (frame[name].to_numpy().astype(np.int64) for name in ("rank", "candidates"))
        found[kind] = Ranks(rank, candidates, seen)
    return found


def _evaluation_of(place: _Place, cell: Cell, record: Mapping[str, Any], found: Mapping[str, Ranks]) -> Evaluation:
    frames = []
    number_of = np.argsort(place.alphabetic)
    for kind in (kind for kind in place.suite.negatives if kind in found):
        frame = _results(found[kind])
        if frame.height != len(place.users):
            raise DataError(
                f"the kept ranks of {cell.name} are of {frame.height} users, not {len(place.users)}: keep it again"
            )
        named = frame[number_of].with_columns(pl.Series(USER, place.users), pl.lit(kind).alias(KIND))
        frames.append(named.select(pl.col(name).cast(dtype) for name, dtype in RESULT_SCHEMA.items()))
    said = record["metrics"]
    names = ("scorer", "domain", "fingerprint", "split", "seed", "version", "wall_s", "simulated")
    later = {name: said.get(name) for name in ("lists", "rungs", "train_after")}
    info = EvaluationInfo(**{name: said[name] for name in names}, **later)
    return Evaluation(pl.concat(frames), info)


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
        return {str(record.get("cell")): record for record in json.loads(lzma.decompress(path.read_bytes()))}
    except (OSError, ValueError, AttributeError, TypeError, lzma.LZMAError) as error:
        raise DataError(f"{path} cannot be read ({error}): take it from the last commit") from error


def _write_json(path: Path, records: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(lzma.compress(json.dumps([record for _, record in records], indent=1).encode()))
    temporary.replace(path)


def _rank_file(directory: Path, target: str) -> Path:
    return directory / RANKS / f"{target}.xz"
