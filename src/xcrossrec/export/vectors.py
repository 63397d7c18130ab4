"""Item vectors with their ids as Parquet, for any vector database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float32

from xcrossrec.catalogue import BlockEncoder, StoredItem
from xcrossrec.export.folders import Encode
from xcrossrec.models.model import encoder_of
from xcrossrec.prompts import item_texts
from xcrossrec.types import ITEM, TITLE

ITEMS = "items.parquet"
VECTOR, OF_HISTORY = "vector", "history_vector"


def write_vectors(
    encode: BlockEncoder, items: Sequence[StoredItem], vectors: Float32[np.ndarray, "item dim"], folder: Path
) -> None:
    """Write id, title and unit vector of each item; where the model's prompts differ also its vector in a history."""
    kind, encoder = pl.Array(pl.Float32, vectors.shape[1]), encoder_of(encode.model)
    columns: dict[str, Any] = {ITEM: [item.item_id for item in items], TITLE: [item.title for item in items]}
    columns[VECTOR] = pl.Series(vectors, dtype=kind)
    if encoder.recipe.apart:
        texts = item_texts([item.read(encoder.text) for item in items])
        columns[OF_HISTORY] = pl.Series(encode.texts(texts, as_history=True), dtype=kind)
    pl.DataFrame(columns).write_parquet(folder / ITEMS)


def read_vectors(folder: Path, ids: Sequence[str]) -> Encode:
    """Of items by their ids, whatever texts are asked for."""
    table = pl.DataFrame({ITEM: ids}).join(pl.read_parquet(folder / ITEMS), on=ITEM, how="left", maintain_order="left")

    def encode(texts: Sequence[str], as_history: bool) -> Float32[np.ndarray, "item dim"]:
        column = OF_HISTORY if as_history and OF_HISTORY in table.columns else VECTOR
        found: Float32[np.ndarray, "item dim"] = table[column].to_numpy()
        return found

    return encode
