"""The two kinds of models, `dual` and `pair`: all that differs between them is asked of one object."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol

import numpy as np
from jaxtyping import Float32
from sentence_transformers import CrossEncoder
from torch import nn

from xcrossrec.exceptions import ConfigError
from xcrossrec.models.dual import DualKind, DualScorer
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.model import Model
from xcrossrec.models.pair import PairKind, PairScorer
from xcrossrec.types import EncodingPrecision, PairStart, Scoring


class ModelKind(Protocol):
    """A way to score: its head, its scorer, and the vectors of items where it has any."""

    name: ClassVar[Scoring]
    has_vectors: ClassVar[bool]

    def head(self, encoder: TitleEncoder, pair_start: PairStart) -> list[nn.Module]:
        """The modules behind an encoder, untrained."""
        ...

    def assemble(self, modules: Mapping[str, nn.Module]) -> Model:
        """Make the sentence-transformers model of encoder and head."""
        ...

    def scorer(self, model: Model, titles: Sequence[str]) -> DualScorer | PairScorer:
        """Bind a model to a catalogue's titles, in row order."""
        ...

    def dim(self, model: Model) -> int:
        """Size of an item's vector; 0 where there is none."""
        ...

    def encode_items(self, model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
        """Vectors of items, as a catalogue keeps them."""
        ...

    def with_projection(self, model: Model, rank: int, seed: int) -> Model:
        """Add the trained part of the head, where the kind has one; it changes nothing yet."""
        ...

    def centered(self, model: Model, titles: Sequence[str], *, precision: EncodingPrecision = "fp32") -> Model:
        """Center vectors on a catalogue, where the kind has any."""
        ...


KINDS: Mapping[Scoring, ModelKind] = {kind.name: kind for kind in (DualKind(), PairKind())}


def kind_named(scoring: Scoring) -> ModelKind:
    """The kind of a name.

    Raises:
        ConfigError: there is none of that name.
    """
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
    return assembled(kind, [encoder, *kind.head(encoder, pair_start)])


def assembled(kind: ModelKind, modules: Sequence[nn.Module] | Mapping[str, nn.Module]) -> Model:
    """Make a model that asks no hub for anything.

    Args:
        kind: `dual` or `pair`.
        modules: in order; a mapping names them.
    """
    named = modules if isinstance(modules, Mapping) else {str(n): module for n, module in enumerate(modules)}
    model = kind.assemble(OrderedDict(named))
    model.model_card_data.local_files_only = True
    return model
