"""A suite: which cells there are, in which order they run, with which settings; read from TOML."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

from xcrossrec import ConfigError, TrainingConfig
from xcrossrec.models.base import DEFAULT_BASE
from xcrossrec.types import (
    ENCODING_PRECISIONS,
    NEGATIVES,
    PAIR_ATTENTIONS,
    PAIR_STARTS,
    SPLITS,
    EncodingPrecision,
    Negatives,
    PairAttention,
    PairStart,
    Scoring,
    Split,
)
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, Cell

_TABLES = {
    *("name", "data", "adapters", "out", "base", "split", "negatives", "candidate_seed"),
    *("scoring", "pair_attention", "pair_start", "encoding"),
}
_PARTS = {"training", "epochs", "sources", "methods", "grid", "report", "tuning"}
_TUNING = {"target", "sources", "budget", "seed"}
_GRID = {"targets", "sources", "methods", "budgets", "seeds"}
_DEFAULT_EPOCHS = 8


@dataclass(frozen=True)
class MethodEntry:
    """A method of a suite.

    Attributes:
        name: what the report calls it.
        kind: one of :data:`xcrossrec_lab.methods.KINDS`.
        settings: its own settings.
        search: settings to choose among before the suite runs (``xcrossrec-lab tune``), each with its values.
        retired: the last commit at which the method runs; None for those that run now. Kept cells of a retired one
            give their pages as ever, and its settings say what it was.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    retired: str | None = None

    def refuse_if_retired(self) -> None:
        """Say where a retired method can be run.

        Raises:
            ConfigError: it is retired; names the commit.
        """
        if self.retired is not None:
            raise ConfigError(
                f"method {self.name!r} is retired, only its kept cells are left: to run it anew, "
                f"check out commit {self.retired}"
            )

    def trials(self) -> dict[str, dict[str, Any]]:
        """Every combination of the search, by a name made of the values."""
        names = list(self.search)
        combinations = [dict(zip(names, values, strict=True)) for values in product(*self.search.values())]
        return {",".join(f"{name}={value}" for name, value in each.items()): each for each in combinations if each}


@dataclass(frozen=True)
class Part:
    """A block of the grid: every combination of its lists, budgets outermost."""

    targets: tuple[str, ...]
    sources: Mapping[str, tuple[str, ...]]
    methods: tuple[str, ...]
    budgets: tuple[int, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Suite:
    """What to run.

    Attributes:
        name: of the suite.
        data: folder with one domain folder a name.
        adapters: folder with one source adapter a domain's name.
        out: the run's folder.
        base: base model.
        scoring: ``dual`` or ``pair``.
        pair_attention: who sees whom in a pair; None takes the base's default.
        pair_start: whether `pair` heads start from the ``similarity`` or ``fresh``.
        split: whose users are ranked; of ``train``, those whom no cell of the grid learns from.
        negatives: the protocols.
        candidate_seed: of the candidate lists, the same for every cell.
        encoding: precision in which titles are encoded for the ranking, ``fp32`` or ``bf16``, for every method.
        training: settings of every trained encoder.
        epochs: most passes, by budget; a budget takes those of the largest one that is not above it.
        source_training: settings and budget of the sources' adapters.
        methods: by name.
        grid: parts, in the order they run.
        tuning: the one place of the grid at which searched settings are chosen; None without a search.
        ranks: False for the trials of a search, which rank nobody: the loss on users set aside decides.
        report: which methods the report's claims are about: ``ours``, other ``forms`` of it, ``lora`` (one name, or
            several where it has several rates), ``warm``.
    """

    name: str
    data: Path
    adapters: Path
    out: Path
    base: str
    scoring: Scoring
    pair_attention: PairAttention | None
    pair_start: PairStart
    split: Split
    negatives: tuple[Negatives, ...]
    candidate_seed: int
    encoding: EncodingPrecision
    training: Mapping[str, Any]
    epochs: Mapping[int, int]
    source_training: Mapping[str, Any]
    methods: Mapping[str, MethodEntry]
    grid: tuple[Part, ...]
    report: Mapping[str, Any]
    tuning: Part | None = None
    ranks: bool = True

    @classmethod
    def read(cls, path: Path) -> Suite:
        """Read and check a suite; relative folders start where the command runs.

        Raises:
            ConfigError: no such file, not TOML, or an entry that is unknown or missing, named.
        """
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"the suite {path} cannot be read ({error}): give a TOML file, see docs/evidence.md"
            ) from error
        _refuse_unknown(found, _TABLES | _PARTS, str(path))
        suite = cls(
            name=_text(found, "name", path, path.stem),
            data=Path(_text(found, "data", path)),
            adapters=Path(_text(found, "adapters", path)),
            out=Path(_text(found, "out", path)),
            base=_text(found, "base", path, DEFAULT_BASE),
            scoring=_choice(found.get("scoring", "dual"), get_args(Scoring), "scoring"),
            pair_attention=_choice(found.get("pair_attention"), (None, *PAIR_ATTENTIONS), "pair_attention"),
            pair_start=_choice(found.get("pair_start", "similarity"), PAIR_STARTS, "pair_start"),
            split=_choice(found.get("split", "validation"), SPLITS, "split"),
            negatives=tuple(_choice(kind, NEGATIVES, "negatives") for kind in found.get("negatives", NEGATIVES)),
            candidate_seed=int(found.get("candidate_seed", 0)),
            encoding=_choice(found.get("encoding", "fp32"), ENCODING_PRECISIONS, "encoding"),
            training=dict(found.get("training", {})),
            epochs=_epochs(found.get("epochs", {})),
            source_training=dict(found.get("sources", {})),
            methods=_methods(found.get("methods", {})),
            grid=tuple(_part(part) for part in found.get("grid", [])),
            tuning=_tuning(found.get("tuning")),
            report=_report(found.get("report", {}), found.get("methods", {})),
        )
        suite._check()
        return suite

    def _check(self) -> None:
        self.training_for(ALL, 0)
        if self.tuning is None and (searched := [m.name for m in self.methods.values() if m.search]):
            raise ConfigError(f"method {searched[0]!r} has a search, but no [tuning] says on which target and budget")
        if not self.grid:
            raise ConfigError(f"the suite {self.name!r} has no [[grid]]: say which targets, methods, budgets and seeds")
        for part in self.grid:
            for method in part.methods:
                if method not in self.methods:
                    raise ConfigError(f"the grid names a method {method!r} that has no [methods.{method}] table")
            for target in part.targets:
                if target in part.sources.get(target, ()):
                    raise ConfigError(f"{target!r} is a source of itself in the grid: leave it out")

    def training_for(self, budget: int, seed: int) -> TrainingConfig:
        """Settings of an encoder's training at a budget."""
        return TrainingConfig.from_mapping(self.training, epochs=self._epochs_at(budget), patience=3, seed=seed)

    def _epochs_at(self, budget: int) -> int:
        if budget == ALL:
            return self.epochs.get(ALL, min(self.epochs.values(), default=_DEFAULT_EPOCHS))
        fitting = [known for known in self.epochs if ALL < known <= max(budget, 1)]
        return self.epochs[max(fitting)] if fitting else max(self.epochs.values(), default=_DEFAULT_EPOCHS)

    def cells(self) -> list[Cell]:
        """All cells, each once, in the order they run."""
        return list(dict.fromkeys(cell for part in self.grid for cell in self._cells_of(part)))

    def _cells_of(self, part: Part) -> Iterator[Cell]:
        for budget in part.budgets:
            for seed in part.seeds:
                for target in part.targets:
                    for method in part.methods:
                        yield self._cell(part, target, method, budget, seed)

    def _cell(self, part: Part, target: str, method: str, budget: int, seed: int) -> Cell:
        kind = KINDS[self.methods[method].kind]
        sources = part.sources.get(target, ()) if kind.uses_sources else ()
        if not kind.learns:
            budget, seed = NO_BUDGET, 0
        elif not kind.draws and budget == ALL:
            seed = 0
        return Cell(target, tuple(sources), method, budget, seed)

    def for_tuning(self) -> Suite:
        """The suite of the search's trials: one method for each combination, on users of the target's training.

        Raises:
            ConfigError: no method has a search.
        """
        entries = {
            f"{method.name}@{trial}": MethodEntry(
                f"{method.name}@{trial}", method.kind, {**method.settings, **settings}
            )
            for method in self.methods.values()
            for trial, settings in method.trials().items()
        }
        if not entries or self.tuning is None:
            raise ConfigError(
                f"no method of {self.name!r} has a search: give one, as in search.learning_rate = [1e-4, 1e-3]"
            )
        part = replace(self.tuning, methods=tuple(entries))
        return replace(self, methods=entries, grid=(part,), out=self.out / "tuning", ranks=False)

    def with_settings(self, chosen: Mapping[str, Mapping[str, Any]]) -> Suite:
        """The suite with settings for some of its methods; what a method has already stays."""
        methods = {
            name: replace(entry, settings={**chosen.get(name, {}), **entry.settings})
            for name, entry in self.methods.items()
        }
        return replace(self, methods=methods)

    def source_names(self) -> list[str]:
        """Every domain that is a source somewhere."""
        return sorted({source for cell in self.cells() for source in cell.sources})


def _refuse_unknown(found: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(set(found) - known):
        raise ConfigError(f"unknown entry {unknown[0]!r} in {where}: known are {', '.join(sorted(known))}")


def _text(found: Mapping[str, Any], key: str, path: Path, default: str | None = None) -> str:
    value = found.get(key, default)
    if not isinstance(value, str) or not value:
        raise ConfigError(f"{key} in {path} is {value!r}: give a text")
    return value


def _choice(value: Any, known: Sequence[Any], what: str) -> Any:
    if value not in known:
        raise ConfigError(f"{what} {value!r} in a suite: choose one of {', '.join(filter(None, known))}")
    return value


def _epochs(found: Mapping[str, Any]) -> dict[int, int]:
    try:
        return {ALL if key == "all" else int(key): int(value) for key, value in found.items()}
    except (TypeError, ValueError) as error:
        raise ConfigError(f"[epochs] maps budgets to whole numbers, got {dict(found)!r}") from error


def _methods(found: Mapping[str, Any]) -> dict[str, MethodEntry]:
    entries = {}
    for name, table in found.items():
        settings = dict(table)
        kind = settings.pop("kind", name)
        if kind not in KINDS:
            raise ConfigError(f"method {name!r} is of an unknown kind {kind!r}: known are {', '.join(sorted(KINDS))}")
        if any(part in name for part in "/+ ") or not name:
            raise ConfigError(f"a method is called {name!r}: use a name without blanks, slashes and plus signs")
        _choice(settings.get("pair_attention"), (None, *PAIR_ATTENTIONS), f"pair_attention of method {name!r}:")
        retired = settings.pop("retired", None)
        search = settings.pop("search", {})
        if not all(isinstance(values, list) and values for values in search.values()):
            raise ConfigError(f"the search of method {name!r} is {search!r}: give each setting a list of values")
        if double := sorted(set(search) & set(settings)):
            raise ConfigError(f"method {name!r} both has and searches {double[0]!r}: leave one out")
        searched = {key: tuple(values) for key, values in search.items()}
        entries[name] = MethodEntry(name, kind, settings, searched, retired)
    return entries


def _tuning(found: Mapping[str, Any] | None) -> Part | None:
    if found is None:
        return None
    _refuse_unknown(found, _TUNING, "[tuning]")
    if missing := sorted(_TUNING - set(found)):
        raise ConfigError(f"[tuning] has no {missing[0]}: give target, sources, budget and seed")
    target = str(found["target"])
    sources = {target: tuple(found["sources"])}
    return Part((target,), sources, (), (_budget(found["budget"]),), (int(found["seed"]),))


def _report(found: Mapping[str, Any], methods: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(found, {"ours", "forms", "lora", "warm"}, "[report]")
    lora = found.get("lora", [])
    loras = [lora] if isinstance(lora, str) else list(lora)
    named = [found.get("ours"), *loras, *found.get("forms", []), *found.get("warm", [])]
    if unknown := [name for name in named if name is not None and name not in methods]:
        raise ConfigError(f"[report] names a method {unknown[0]!r} that has no [methods.{unknown[0]}] table")
    return {**found, "lora": loras}


def _part(found: Mapping[str, Any]) -> Part:
    _refuse_unknown(found, _GRID, "[[grid]]")
    if missing := sorted(_GRID - {"sources"} - set(found)):
        raise ConfigError(f"a [[grid]] has no {missing[0]}: give targets, methods, budgets and seeds")
    targets = tuple(found["targets"])
    given = found.get("sources", {})
    return Part(
        targets=targets,
        sources={target: tuple(names) for target, names in given.items()},
        methods=tuple(found["methods"]),
        budgets=tuple(_budget(budget) for budget in found["budgets"]),
        seeds=tuple(int(seed) for seed in found["seeds"]),
    )


def _budget(budget: Any) -> int:
    if budget == "all":
        return ALL
    if not isinstance(budget, int) or budget < 2:
        raise ConfigError(f"a budget is {budget!r}: give a number of users from 2 up, or 'all'")
    return budget
