"""The two kinds of models, `dual` and `pair`: all that differs between them is asked of one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from sentence_transformers import CrossEncoder

from xcrossrec.exceptions import ConfigError
from xcrossrec.models.dual import DualKind
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.model import Model
from xcrossrec.models.pair import PairKind
from xcrossrec.types import PairStart, Scoring

ModelKind: TypeAlias = DualKind | PairKind
"""A way to score: its head, its scorer, and the vectors of items where it has any."""

KINDS: Mapping[Scoring, ModelKind] = {kind.name: kind for kind in (DualKind(), PairKind())}


def kind_named(scoring: Scoring) -> ModelKind:
    """The kind of a name (ConfigError: there is none)."""
    if scoring not in KINDS:
        raise ConfigError(f"unknown scoring {scoring!r}: choose {' or '.join(KINDS)}")
    return KINDS[scoring]


def kind_of(model: Model) -> ModelKind:
    """The kind of a model."""
    return KINDS["pair" if isinstance(model, CrossEncoder) else "dual"]


def build_model(encoder: TitleEncoder, *, scoring: Scoring = "dual", pair_start: PairStart = "similarity") -> Model:
    """Put an untrained head on an encoder.

    Args:
        encoder: one language model, or several integrated ones.
        scoring: ``dual`` gives a ``SentenceTransformer`` (unit vector per text), ``pair`` a ``CrossEncoder``
            (score per history and candidate).
        pair_start: whether a `pair` head starts from the ``similarity`` or ``fresh``.

    Raises:
        ConfigError: unknown scoring.
    """
    kind = kind_named(scoring)
    return kind.assemble([encoder, *kind.head(encoder, pair_start)])
