"""Which vectors a model makes of a catalogue's titles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float32

from xcrossrec.catalogue.base import Catalogue
from xcrossrec.catalogue.fingerprint import vector_fingerprint
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model

PAIR_FINGERPRINT = "pair"
"""Of every `pair` model: it has no vectors, so any of them may read a catalogue's titles."""


def fingerprint_of(model: Model) -> str:
    """What a catalogue records of the model that its vectors come from."""
    return vector_fingerprint(model) if kind_of(model).has_vectors else PAIR_FINGERPRINT


def dim_of(model: Model) -> int:
    """The vector size; 0 for a `pair` model, which has no vectors."""
    return kind_of(model).dim(model)


def encode_items(model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
    """Encode the titles of items, an empty one too; no columns for a `pair` model.

    Args:
        model: `dual` or `pair`.
        titles: of items, as a catalogue holds them.
    """
    return kind_of(model).encode_items(model, titles)


C = TypeVar("C", bound=Catalogue)


def embed_again(catalogue: C, model: Model) -> C:
    """Give a catalogue another model's vectors while it is served; see :meth:`Catalogue.embed_again`."""
    return catalogue.embed_again(
        fingerprint=fingerprint_of(model), dim=dim_of(model), encode=lambda titles: encode_items(model, titles)
    )
