"""Every text method alone and with co-purchases, beside methods that know purchases alone, as the budget grows.

    python -m xcrossrec_lab.suites.growth lab/evidence/growth.toml [--only PATTERN ...] [--fit-only]

A suite's text methods are fitted once each and kept as the catalogue's vectors, so that another form of the co-purchase
term ranks anew without any training. Ranked are the last items of some users of the split, the same for all. What is
finished is not run again.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int
from safetensors.torch import load_file, save_file

from xcrossrec import ConfigError, Domain, Evaluation, Scorer, evaluate, read_domain
from xcrossrec.baselines.named import MeanScorer
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.scoring import check_rows
from xcrossrec.types import USER
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.methods.purchases import chosen, fixed
from xcrossrec_lab.suites.cell_process import commit, make_task
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, Cell
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.task import Fitted, Task

RANKED_USERS = 5000
"""Users of the split whose last items are ranked, drawn once; all where there are fewer."""

CO = "-co"
"""Behind a text method's name: with the co-purchase term, its weight chosen as `train target` chooses it."""

LATER = "-later"
"""As trained with the most users that it is trained with, and the purchases of more users, counted later and without
training; weight as chosen with these."""

LEARNED = "-learned"
"""The same with all that all users bought before the item that is ranked."""

_DRAW = 0
_BATCH = 256


class VectorScorer:
    """A `dual` method of which the catalogue's vectors and the head are left; the mean of several where it had several.

    Args:
        parts: each a catalogue's unit vectors and the head's tensors.
        name: what tables call it.
    """

    def __init__(self, parts: Sequence[tuple[Float32[torch.Tensor, "item dim"], HistoryMatcher]], name: str) -> None:
        self.parts = tuple(parts)
        self.name = name

    @classmethod
    def of(cls, scorer: Scorer) -> VectorScorer | None:
        """What is left of a fitted method's scorer; None where it is no `dual` model's."""
        inner = scorer.scorers if isinstance(scorer, MeanScorer) else (scorer,)
        if not all(isinstance(each, ModelScorer) and hasattr(each.inner, "vectors") for each in inner):
            return None
        return cls([(each.inner.vectors, each.inner.matcher) for each in inner], scorer.name)  # type: ignore[attr-defined]

    def save(self, path: Path) -> None:
        """Write vectors and heads."""
        tensors = {
            f"{number}.{name}": value.contiguous()
            for number, (vectors, matcher) in enumerate(self.parts)
            for name, value in {"vectors": vectors, **matcher.state_dict()}.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".part")
        save_file(tensors, temporary)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path, name: str) -> VectorScorer:
        """Read back."""
        tensors, parts = load_file(path), []
        for number in range(len({key.split(".")[0] for key in tensors})):
            part = {key.split(".", 1)[1]: value for key, value in tensors.items() if key.startswith(f"{number}.")}
            vectors, matcher = part.pop("vectors"), HistoryMatcher()
            matcher.load_state_dict(part)
            parts.append((vectors, matcher.eval()))
        return cls(parts, name)

    @torch.inference_mode()
    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`. An empty history scores every item 0.

        Raises:
            DataError: an item row outside the catalogue.
        """
        n_items = len(self.parts[0][0])
        check_rows(histories, candidates, n_items)
        width = n_items if candidates is None else candidates.shape[1]
        scores = np.zeros((len(histories), width), dtype=np.float32)
        for vectors, matcher in self.parts:
            for user, history in enumerate(histories):
                if len(history):
                    items = vectors if candidates is None else vectors[torch.from_numpy(candidates[user])]
                    similarity = items @ vectors[list(history)].t()
                    pooled = matcher.pool(similarity, torch.ones_like(similarity, dtype=torch.bool))
                    scores[user] += pooled.numpy() / len(self.parts)
        return scores

    def of_items(self, rows: Sequence[int]) -> VectorScorer:
        """The same of some of the items, whose rows are counted anew."""
        return VectorScorer([(vectors[list(rows)], matcher) for vectors, matcher in self.parts], self.name)


class Remembered:
    """A scorer that scores the whole catalogue for a history once.

    Args:
        scorer: that does so.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.name = scorer.name
        self._known: dict[tuple[tuple[int, ...], ...], Float32[np.ndarray, "user item"]] = {}

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`."""
        if candidates is not None:
            return np.take_along_axis(self.score(histories), candidates, axis=1)
        asked = tuple(tuple(history) for history in histories)
        if asked not in self._known:
            self._known[asked] = self.scorer.score(histories)
        return self._known[asked]


@dataclass(frozen=True)
class Files:
    """Where a run's results lie.

    Attributes:
        root: the run's folder.
    """

    root: Path

    def results(self, cell: Cell) -> Path:
        """A cell's ranks."""
        return self.root / "cells" / f"{cell.name}.parquet"

    def record(self, cell: Cell) -> Path:
        """What else is known of it; written last."""
        return self.results(cell).with_suffix(".json")

    def vectors(self, cell: Cell) -> Path:
        """A text method's."""
        return self.root / "vectors" / f"{cell.name}.safetensors"

    def write(self, cell: Cell, evaluation: Evaluation, record: dict[str, Any]) -> None:
        """Keep a finished cell."""
        self.record(cell).parent.mkdir(parents=True, exist_ok=True)
        evaluation.save(self.results(cell))
        temporary = self.record(cell).with_suffix(".part")
        temporary.write_text(json.dumps(record, indent=1), encoding="utf-8")
        temporary.replace(self.record(cell))


def with_copurchases(cell: Cell, budgets: Sequence[tuple[int, int]]) -> list[Cell]:
    """The cells of a text method with co-purchases of budgets and draws."""
    cells = []
    for budget, seed in budgets:
        own = cell.budget in (NO_BUDGET, budget)
        named = [CO if own else LATER, *([LEARNED] if budget == ALL else [])]
        cells += [replace(cell, method=cell.method + suffix, budget=budget, seed=seed) for suffix in named]
    return cells


def asked_cells(suite: Suite) -> Iterator[tuple[Cell, list[tuple[int, int]]]]:
    """Every cell of a suite with the budgets and seeds whose purchases are to be added to it.

    Of a method that learns nothing all of the grid; else its own and, for the most users that the method is trained
    with, those of more users.
    """
    every = sorted({budget for part in suite.grid for budget in part.budgets}, key=_users)
    trained = {(c.target, c.method): c.budget for c in sorted(suite.cells(), key=lambda c: _users(c.budget))}
    wanted: dict[Cell, list[tuple[int, int]]] = {}
    for part in suite.grid:
        for cell in suite._cells_of(part):
            grid = [(budget, seed) for budget in part.budgets for seed in (part.seeds if budget != ALL else (0,))]
            found = wanted.setdefault(cell, [])
            own = grid if cell.budget == NO_BUDGET else [(cell.budget, cell.seed)]
            if cell.budget == trained[cell.target, cell.method]:
                own = own + [(budget, cell.seed) for budget in every if _users(budget) > _users(cell.budget) != 0]
            found.extend(pair for pair in own if pair not in found)
    yield from wanted.items()


def _users(budget: int) -> float:
    return {ALL: np.inf, NO_BUDGET: 0}.get(budget, budget)


def ranked_domain(suite: Suite, domain: Domain) -> Domain:
    """A target whose split has the users that are ranked and no others."""
    frame = domain.frame(suite.split)
    users = frame[USER].unique(maintain_order=True)
    if len(users) > RANKED_USERS:
        chosen = np.random.default_rng(_DRAW).permutation(len(users))[:RANKED_USERS]
        frame = frame.filter(frame[USER].is_in(users.gather(sorted(chosen.tolist())).to_list()))
    manifest = {key: value for key, value in domain.manifest.items() if key != "fingerprint"}
    return replace(domain, interactions={"train": domain.frame("train"), suite.split: frame}, manifest=manifest)


def run(suite: Suite, only: Sequence[str] = (), *, fit_only: bool = False) -> None:
    """Fit and rank what is missing.

    Args:
        suite: of `dual` methods.
        only: patterns of the names of cells without co-purchases.
        fit_only: keep the vectors, rank nobody.

    Raises:
        ConfigError: a pattern fits no cell.
    """
    files = Files(suite.out)
    for cell, budgets in _chosen(suite, only):
        further = with_copurchases(cell, budgets) if _is_text(suite, cell) else []
        missing = [each for each in further if not files.record(each).exists()]
        if files.record(cell).exists() and not missing:
            continue
        print(cell.name, flush=True)
        scorer, record = _fitted(suite, files, cell)
        if fit_only:
            continue
        domain = read_domain(suite.data / cell.target)
        ranked = ranked_domain(suite, domain)
        remembered = Remembered(scorer)
        if not files.record(cell).exists():
            files.write(cell, _rank(suite, files, remembered, ranked), record)
        for each in missing:
            _rank_with_purchases(suite, files, cell, each, remembered, ranked, record)


def _chosen(suite: Suite, only: Sequence[str]) -> list[tuple[Cell, list[tuple[int, int]]]]:
    cells = list(asked_cells(suite))
    for pattern in only:
        if not any(fnmatch(cell.name, pattern) for cell, _ in cells):
            raise ConfigError(f"no cell of {suite.name!r} fits {pattern!r}: names look like {cells[0][0].name}")
    return [found for found in cells if not only or any(fnmatch(found[0].name, pattern) for pattern in only)]


def _is_text(suite: Suite, cell: Cell) -> bool:
    return suite.methods[cell.method].kind not in COUNTING


COUNTING = ("popularity", "itemknn", "ease", "sasrec", "bsarec", "copurchase")
"""Kinds that know purchases alone."""


def _fitted(suite: Suite, files: Files, cell: Cell) -> tuple[Scorer, dict[str, Any]]:
    """A cell's method, from its vectors where it was fitted before, and what is known of its training."""
    path = files.vectors(cell)
    about = path.with_suffix(".json")
    if about.exists():
        return VectorScorer.load(path, cell.method), json.loads(about.read_text(encoding="utf-8"))
    (files.root / "work").mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=files.root / "work"))
    try:
        task = make_task(suite, cell, read_domain(suite.data / cell.target), work)
        wall, cpu = time.perf_counter(), time.process_time()
        fitted = KINDS[suite.methods[cell.method].kind].load()(task)
        record = _record(cell, task, fitted) | {
            "wall_s": round(time.perf_counter() - wall, 1),
            "cpu_s": round(time.process_time() - cpu, 1),
        }
        kept = VectorScorer.of(fitted.scorer)
        if kept is None:
            return fitted.scorer, record
        kept.save(path)
        about.write_text(json.dumps(record, indent=1), encoding="utf-8")
        return kept, record
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _record(cell: Cell, task: Task, fitted: Fitted) -> dict[str, Any]:
    return {
        "method": cell.method,
        "users": None if cell.budget == NO_BUDGET else len(task.users),
        "settings": dict(task.settings),
        "trained_parameters": fitted.trained_parameters,
        "report": json.loads(json.dumps(dict(fitted.report), default=str)),
        "data_fingerprint": task.target.fingerprint if cell.budget == NO_BUDGET else None,
        "commit": commit(),
    }


def _rank(suite: Suite, files: Files, scorer: Scorer, ranked: Domain) -> Evaluation:
    directory = files.root / "ranked" / ranked.name
    return evaluate(
        scorer,
        ranked,
        suite.split,
        negatives=suite.negatives,
        seed=suite.candidate_seed,
        directory=directory,
        batch_users=_BATCH,
    )


def _rank_with_purchases(
    suite: Suite,
    files: Files,
    plain: Cell,
    cell: Cell,
    text: Remembered,
    ranked: Domain,
    record: dict[str, Any],
) -> None:
    domain = read_domain(suite.data / cell.target)
    task = make_task(suite, replace(plain, budget=cell.budget, seed=cell.seed), domain, files.root / "work")
    assert isinstance(text.scorer, VectorScorer)
    suffix = cell.method.removeprefix(plain.method)
    if suffix in (CO, LATER):
        scorer = chosen(task, text, text.scorer.of_items)
    else:
        counted = domain.frame("validation" if suite.split == "test" else "train")
        known = files.record(replace(cell, method=plain.method + (CO if plain.budget == NO_BUDGET else LATER)))
        scorer = replace(fixed(task, text, counted), weight=json.loads(known.read_text(encoding="utf-8"))["weight"])
    evaluation = _rank(suite, files, Remembered(scorer), ranked)
    about = {"method": cell.method, "users": len(task.users), **scorer.about}
    files.write(cell, evaluation, record | about)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a suite."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("suite", type=Path)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--fit-only", action="store_true")
    given = parser.parse_args(arguments)
    run(Suite.read(given.suite), given.only, fit_only=given.fit_only)


if __name__ == "__main__":
    main()
