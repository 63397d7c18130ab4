"""A tiny base, a tiny domain and settings that train in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from model_families import FAMILIES, write_base
from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain, build_domain

ITEMS = 24
TITLES = [f"w{row} w{row % 5 + 25} w{row % 3 + 31}" for row in range(ITEMS)]
SMALL: dict[str, Any] = {
    "epochs": 2,
    "batch_users": 16,
    "learning_rate": 1e-2,
    "sampled_negatives": 4,
    "pair_negatives": 2,
    "holdout_share": 0.2,
    "patience": 5,
    "precision": "fp32",
}


def small(**changes: Any) -> TrainingConfig:
    return TrainingConfig(**{**SMALL, **changes})


def make_domain(name: str, users: int = 48, *, seed: int = 0) -> Domain:
    """Users who walk on from an item to one of like number."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item = int(rng.integers(ITEMS))
        for position in range(int(rng.integers(3, 6))):
            rows.append((f"{name}-u{user}", f"i{item}", position))
            item = (item + int(rng.integers(1, 4))) % ITEMS
    train = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)], "title": TITLES})
    return build_domain(name, items, {"train": train})


@pytest.fixture(scope="session")
def domain_named() -> Callable[..., Domain]:
    return make_domain


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainingConfig]:
    return small


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_base(tmp_path_factory.mktemp("training") / "base", FAMILIES["bert"]))


@pytest.fixture(scope="session")
def target_domain() -> Domain:
    return make_domain("target", seed=7)


@pytest.fixture(scope="session")
def two_sources(tmp_path_factory: pytest.TempPathFactory, tiny_base: str) -> list[Path]:
    """Two adapters trained on domains of their own; r=8 on query and value."""
    from xcrossrec.training.source import train_source

    folders = []
    for seed, name in enumerate(("first", "second")):
        folder = tmp_path_factory.mktemp("sources") / name
        train_source(make_domain(name, seed=seed), folder, config=small(seed=seed), base=tiny_base, show_progress=False)
        folders.append(folder)
    return folders
