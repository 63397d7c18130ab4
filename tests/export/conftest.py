"""A model with everything and a domain to measure on, written once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from exported_models import IDS, SEQUENCES, TITLES, saved, table, with_everything
from xcrossrec.data import Domain, build_domain, write_domain
from xcrossrec.models import bundle


@pytest.fixture(scope="session")
def whole(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A merged model with everything."""
    return saved(with_everything(bundle.load(tiny_models.merged)), tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture(scope="session")
def domain(tmp_path_factory: pytest.TempPathFactory) -> tuple[Domain, Path]:
    """A domain of these items, with users to measure on, and its folder."""
    items = pl.DataFrame({"item_id": IDS, "title": TITLES})
    asked = {f"t{user}": [f"i{(user * 7 + 3 * step) % 12}" for step in range(3)] for user in range(8)}
    made = build_domain("tiny", items, {"train": table(SEQUENCES), "test": table(asked)})
    write_domain(made, folder := tmp_path_factory.mktemp("domain") / "tiny")
    return made, folder
