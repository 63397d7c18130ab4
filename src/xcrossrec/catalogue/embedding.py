"""Catalogues and models: which vectors a model makes, and stores that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from sentence_transformers import CrossEncoder

from xcrossrec.catalogue.fingerprint import vector_fingerprint
from xcrossrec.catalogue.sqlite import SqliteCatalogue, StoredItem
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
        titles: of items, as :class:`StoredItem` holds them.
    """
    if isinstance(model, CrossEncoder):
        return np.empty((len(titles), 0), dtype=np.float32)
    vectors: Float32[np.ndarray, "item dim"] = encode_titles(model, item_texts(titles)).numpy()
    return vectors


def build_catalogue(
    model: Model, items: Sequence[StoredItem], folder: Path | str, *, overwrite: bool = False
) -> SqliteCatalogue:
    """Encode items and make a catalogue of them, as a whole or not at all.

    Args:
        model: `dual` or `pair`.
        items: each id once.
        folder: to make.
        overwrite: replace a catalogue that is already there, and not open.

    Raises:
        BundleError: the folder exists and may not be replaced.
        DataError: an id twice.
        StorageError: the disk refuses.
    """
    vectors = encode_items(model, [item.title for item in items])
    return SqliteCatalogue.create(
        folder, fingerprint=fingerprint_of(model), dim=dim_of(model), items=items, vectors=vectors, overwrite=overwrite
    )


def open_catalogue(model: Model, folder: Path | str) -> SqliteCatalogue:
    """Open a catalogue for a model.

    Raises:
        BundleError: no catalogue, damaged, open elsewhere, or of another model's vectors; see
            :meth:`SqliteCatalogue.open`.
    """
    return SqliteCatalogue.open(folder, fingerprint=fingerprint_of(model))


def embed_again(store: SqliteCatalogue, model: Model) -> SqliteCatalogue:
    """Give a catalogue another model's vectors while it is served; see :meth:`SqliteCatalogue.embed_again`."""
    return store.embed_again(
        fingerprint=fingerprint_of(model), dim=dim_of(model), encode=lambda titles: encode_items(model, titles)
    )
