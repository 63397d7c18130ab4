"""Settings of training: types, defaults, meaning and bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self, TypeAlias, get_args

from xcrossrec.arguments import checked
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import FORMS, Form, Scoring

Precision: TypeAlias = Literal["auto", "fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


@dataclass(frozen=True)
class TrainingConfig:
    """How one stage trains; each stage has its own defaults (see the functions below).

    Attributes:
        epochs: passes over the training users, at most (early stopping may end sooner).
        batch_users: users per step, over all processes; their items are each other's negatives.
        accumulate: batches whose gradients are averaged for one step; negatives are from the same batch.
        learning_rate: AdamW's, for a source's LoRA or for X-Cross's integrators.
        head_learning_rate: AdamW's, for the head's scalars, the pair head, the stream weights and the scale.
        projection_learning_rate: AdamW's, for a `dual` head's projection.
        target_learning_rate: AdamW's, for the target's own LoRA over merged sources.
        projection_rank: rank of a `dual` head's projection; 0 trains none.
        center: subtract the catalogue's mean vector from every title's (`dual` scoring only).
        sampled_negatives: catalogue items drawn uniformly per step, in addition to the batch's items.
        pair_negatives: negative candidates for each user (`pair` scoring only).
        holdout_share: share of the users that is held out for early stopping, 8 to 256 users.
        patience: epochs without a lower loss on the held-out users before training stops.
        precision: ``fp32``, ``bf16`` (mixed precision; weights stay float32), or ``auto``: bf16 where the
            processor multiplies it natively.
        seed: of sampling, order and initialisation.

    Raises:
        ConfigError: a setting of another type, or outside its range.
    """

    epochs: int = 4
    batch_users: int = 32
    accumulate: int = 1
    learning_rate: float = 5e-4
    head_learning_rate: float = 1e-2
    projection_learning_rate: float = 1e-3
    target_learning_rate: float = 1e-3
    projection_rank: int = 0
    center: bool = True
    sampled_negatives: int = 32
    pair_negatives: int = 7
    holdout_share: float = 0.15
    patience: int = 2
    precision: Precision = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if isinstance(value, bool) != (kind is bool) or not isinstance(value, (int, kind)):
                raise ConfigError(f"{field.name} is {value!r}: expected {kind.__name__}")
        rates = ("learning_rate", "head_learning_rate", "projection_learning_rate", "target_learning_rate")
        for name in ("epochs", "batch_users", "accumulate", *rates, "patience", "pair_negatives"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give a finite value above 0")
        for name in ("sampled_negatives", "projection_rank", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}: give 0 or more")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision is {self.precision!r}: choose one of {', '.join(PRECISIONS)}")
        if not 0 <= self.holdout_share < 0.9:
            raise ConfigError(f"holdout_share is {self.holdout_share!r}: give at least 0 and less than 0.9")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, Any], **defaults: Any) -> Self:
        """Make a configuration from a mapping, such as a TOML table, and defaults (ConfigError: an unknown key)."""
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(settings) - known):
            raise ConfigError(f"unknown training setting {unknown[0]!r}: known are {', '.join(sorted(known))}")
        return cls(**{**defaults, **settings})


@checked
def source_config(**changes: Any) -> TrainingConfig:
    """Defaults for LoRA on a domain (``train source``); ConfigError: a change that is unknown or out of range."""
    return TrainingConfig.from_mapping(changes, epochs=3, learning_rate=5e-4)


@dataclass(frozen=True)
class Integration:
    """How several sources become one model; stored in the bundle.

    Attributes:
        form: ``merged`` averages the sources' updates into one stream, which needs one encoder pass per text and ranks
            as well with few users and better with many (docs/evidence.md); ``xcross`` is the paper's.
        rank: of the target's own LoRA (``merged``).
        top_layers: number of last layers after which streams are integrated (``xcross``); None integrates after all,
            as in the paper. Two are as accurate as all six of MiniLM, with a third of the parameters and 60 to 70% of
            the time.

    Raises:
        ConfigError: an unknown form, a rank that is not from 1 to 1,024, or no whole number of layers above 0.
    """

    form: Form = "merged"
    rank: int = 2
    top_layers: int | None = 2

    def __post_init__(self) -> None:
        if not isinstance(self.form, str) or self.form not in FORMS:
            raise ConfigError(f"unknown form {self.form!r}: choose one of {', '.join(FORMS)} (xcross is the paper's)")
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or not 1 <= self.rank <= 1024:
            raise ConfigError(f"rank is {self.rank!r}: expected a whole number from 1 to 1,024")
        layers = self.top_layers
        if layers is not None and (isinstance(layers, bool) or not isinstance(layers, int) or layers < 1):
            raise ConfigError(f"top_layers is {layers!r}: expected a whole number above 0, or None for all layers")


_INTEGRATOR_RATE, _RATE_AFTER_ALL = 3e-4, 1e-4
"""Measured on Toys, integrating after the last two layers, and after all."""

_RATES_OF_TARGET_LORA: dict[Scoring, dict[int, float]] = {"dual": {0: 2e-3, 512: 4e-3, 8192: 8e-3}, "pair": {0: 2e-3}}
"""Of the target's own LoRA (rank 2), by the least number of users. The first is the best by the loss on users set aside
(lab/evidence/amazon-search-128.toml), the others are those of docs/evidence.md."""


@checked
def target_config(
    *, users: int = 0, scoring: Scoring = "dual", integration: Integration | None = None, **changes: Any
) -> TrainingConfig:
    """Defaults for a new domain (``train target``).

    Args:
        users: to train on; the more there are, the higher the rate of the target's own LoRA.
        scoring: in ``pair`` scoring that rate is one for all.
        integration: after all layers, integrators have a lower rate; None is any other.
        **changes: settings that differ from the defaults.

    Raises:
        ConfigError: a change that is unknown, or out of its range.
    """
    if scoring not in _RATES_OF_TARGET_LORA:
        raise ConfigError(f"scoring is {scoring!r}: choose dual or pair")
    rates = {
        "learning_rate": _INTEGRATOR_RATE if (integration or Integration()).top_layers else _RATE_AFTER_ALL,
        "target_learning_rate": _by_users(_RATES_OF_TARGET_LORA[scoring], users),
    }
    return TrainingConfig.from_mapping(changes, epochs=8, patience=3, projection_rank=16, **rates)


def _by_users(rates: Mapping[int, float], users: int) -> float:
    """The rate of the largest key that is not above ``users``."""
    if users < 0:
        raise ConfigError(f"users is {users}: give 0 or more")
    return rates[max(least for least in rates if least <= users)]


_RIVAL_RATES = {0: 1e-3, 2048: 3e-3}
"""Of LoRA on the target, by the least number of users: the better of two on four targets (docs/evidence.md)."""


@checked
def rival_config(*, users: int = 0, **changes: Any) -> TrainingConfig:
    """Defaults for LoRA on the target (``--form lora``): as many epochs and the same head as the integration has.

    Args:
        users: to train on; with many its learning rate is higher.
        **changes: settings that differ from the defaults.

    Raises:
        ConfigError: a change that is unknown, or out of its range.
    """
    same = {name: getattr(target_config(), name) for name in ("epochs", "patience", "projection_rank")}
    return source_config(**{**same, "learning_rate": _by_users(_RIVAL_RATES, users), **changes})
