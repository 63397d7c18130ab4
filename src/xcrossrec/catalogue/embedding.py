"""Which vectors a model makes of a catalogue's titles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Float32
from sentence_transformers import CrossEncoder

from xcrossrec.catalogue.base import Catalogue
from xcrossrec.catalogue.fingerprint import vector_fingerprint
from xcrossrec.models.bundle import Model, encoder_of
from xcrossrec.models.scorer import encode_titles
from xcrossrec.prompts import item_texts

PAIR_FINGERPRINT = "pair"
"""Of every `pair` model: it has no vectors, so any of them may read a catalogue's titles."""


def fingerprint_of(model: Model) -> str:
    """What a catalogue records of the model that its vectors come from."""
    return PAIR_FINGERPRINT if isinstance(model, CrossEncoder) else vector_fingerprint(model)


def dim_of(model: Model) -> int:
    """The vector size; 0 for a `pair` model, which has no vectors."""
    return 0 if isinstance(model, CrossEncoder) else encoder_of(model).dim


def encode_items(model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
    """Encode the titles of items, an empty one too; no columns for a `pair` model.

    Args:
        model: `dual` or `pair`.
        titles: of items, as a catalogue holds them.
    """
    if isinstance(model, CrossEncoder):
        return np.empty((len(titles), 0), dtype=np.float32)
    vectors: Float32[np.ndarray, "item dim"] = encode_titles(model, item_texts(titles)).numpy()
    return vectors


C = TypeVar("C", bound=Catalogue)


def embed_again(catalogue: C, model: Model) -> C:
    """Give a catalogue another model's vectors while it is served; see :meth:`Catalogue.embed_again`."""
    return catalogue.embed_again(
        fingerprint=fingerprint_of(model), dim=dim_of(model), encode=lambda titles: encode_items(model, titles)
    )
