"""A catalogue on PostgreSQL does what every catalogue does, held by each process or searched in the database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from catalogue_contract import MODEL, CatalogueContract
from xcrossrec.catalogue import Catalogue, StoredItem
from xcrossrec.catalogue.postgres import PostgresCatalogue
from xcrossrec.catalogue.postgres import catalogue as module


class TestHeld(CatalogueContract):
    """Few items: every process holds them."""

    @pytest.fixture(autouse=True)
    def _url(self, postgres: str) -> None:
        self.url = postgres

    def make(self, folder: Path, dim: int, items: Sequence[StoredItem], vectors: np.ndarray) -> Catalogue:
        return PostgresCatalogue.create(self.url, items, vectors, fingerprint=MODEL)

    def reopened(self, store: Catalogue) -> Catalogue:
        store.close()
        return PostgresCatalogue.open(self.url, fingerprint=store.fingerprint)


class TestSearched(TestHeld):
    """Many items, so to say: the database searches."""

    @pytest.fixture(autouse=True)
    def _searched(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "must_index", lambda items, dim: dim > 0)

    def test_many_small_writes_are_merged(self, store: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
        """Nothing stands apart."""

    def test_what_is_written_while_the_base_is_made_is_not_lost(
        self, store: Catalogue, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nothing is merged."""
