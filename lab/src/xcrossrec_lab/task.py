"""What a cell of a suite gives a method, and what the method gives back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from xcrossrec import ConfigError, Domain, Scorer, TrainingConfig, read_domain
from xcrossrec.data.domain import Sequences
from xcrossrec.models.base import DEFAULT_BASE
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model
from xcrossrec.models.pair_attention import choose_pair_attention
from xcrossrec.types import EncodingPrecision, PairAttention, PairStart, Scoring


@dataclass(frozen=True)
class Source:
    """An established domain.

    Attributes:
        name: of the domain.
        adapter: folder of its adapter, from `train source`.
        data: folder of its domain, for methods that learn from the sources' interactions.
    """

    name: str
    adapter: Path
    data: Path

    def domain(self) -> Domain:
        """Read its interactions."""
        return read_domain(self.data)


@dataclass(frozen=True)
class Task:
    """One cell's work: learn from the budget's users of the target, then score its catalogue.

    Attributes:
        target: the new domain, with its training users cut to the budget: nothing else may be learned from.
        sources: the established domains.
        seed: of the draw of users, of initialisation and order.
        work: scratch folder of the cell.
        training: settings of what trains an encoder (epochs depend on the budget); methods put their own
            learning rate in.
        settings: the method's own, from the suite.
        base: name of the base model.
        scoring: ``dual`` or ``pair``.
        pair_attention: who sees whom in a pair; None takes the base's default.
        pair_start: whether a `pair` head starts from the ``similarity`` or ``fresh``.
        encoding: precision of the ranking's encoding, the same for every method.
    """

    target: Domain
    sources: tuple[Source, ...]
    seed: int
    work: Path
    training: TrainingConfig
    settings: Mapping[str, Any] = field(default_factory=dict)
    base: str = DEFAULT_BASE
    scoring: Scoring = "dual"
    pair_attention: PairAttention | None = None
    pair_start: PairStart = "similarity"
    encoding: EncodingPrecision = "fp32"

    @property
    def users(self) -> Sequences:
        """The budget's users."""
        return self.target.sequences("train")

    def centered(self, model: Model) -> Model:
        """Center a model on the target's catalogue, as training does it, unless the suite's settings say no."""
        return kind_of(model).centered(model, self.target.texts) if self.training.center else model

    @property
    def attention(self) -> PairAttention:
        """Who sees whom in a pair, settled: whatever builds an encoder asks here, so that all methods encode alike."""
        return choose_pair_attention(self.pair_attention, self.scoring)

    def setting(self, name: str, default: Any) -> Any:
        """One of the method's own settings."""
        return self.settings.get(name, default)


@dataclass(frozen=True)
class Fitted:
    """A method after its training.

    Attributes:
        scorer: bound to the target's catalogue.
        trained_parameters: scalars that the target's users trained (counted on the live modules).
        head_parameters: how many of them belong to the head (matcher, projection), which all methods have alike.
        uses_sources: whether the sources' users had a part in it.
        report: what else the cell should record (chosen source, losses, weights), as plain values.
        model: the trained model, for maps and ablations; None where there is none.
    """

    scorer: Scorer
    trained_parameters: int = 0
    head_parameters: int = 0
    uses_sources: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)
    model: Model | None = None


class Method(Protocol):
    """Learns one cell's task."""

    def __call__(self, task: Task) -> Fitted:
        """Fit and give a scorer of the target's catalogue."""
        ...


def check_settings(task: Task, known: set[str]) -> None:
    """Refuse settings that a method does not have.

    Raises:
        ConfigError: names the first unknown one.
    """
    if unknown := sorted(set(task.settings) - known - {"learning_rate", "ablate"}):
        raise ConfigError(f"unknown setting {unknown[0]!r} of a suite's method: known are {', '.join(sorted(known))}")
