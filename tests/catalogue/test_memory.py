"""A catalogue in memory does what every catalogue does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from catalogue_contract import MergingContract
from catalogue_parts import MODEL
from xcrossrec.catalogue import Catalogue, StoredItem


class TestMemory(MergingContract):
    def make(self, folder: Path, dim: int, items: Sequence[StoredItem], vectors: np.ndarray) -> Catalogue:
        return Catalogue.in_memory(items, vectors, MODEL)
