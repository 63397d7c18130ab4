"""One cell's task on the tiny models: a target, two sources with data of their own, settings that train in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec import Domain, TrainingConfig, build_domain, write_domain
from xcrossrec_lab.task import Source, Task

ITEMS = 24
TITLES = [f"w{row} b{row % 5} k{row % 3}" for row in range(ITEMS)]
TRAINING: dict[str, Any] = {
    "epochs": 2,
    "batch_users": 16,
    "sampled_negatives": 4,
    "pair_negatives": 2,
    "holdout_share": 0.2,
    "patience": 5,
    "precision": "fp32",
    "projection_rank": 4,
}


def walks(name: str, users: int, seed: int) -> Domain:
    """Users who walk on from an item to one of like number."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item = int(rng.integers(ITEMS))
        for position in range(int(rng.integers(3, 6))):
            rows.append((f"{name}-u{user}", f"{name}-i{item}", position))
            item = (item + int(rng.integers(1, 4))) % ITEMS
    train = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    items = pl.DataFrame({"item_id": [f"{name}-i{row}" for row in range(ITEMS)], "title": TITLES})
    return build_domain(name, items, {"train": train})


@pytest.fixture(scope="session")
def source_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source-data")
    for seed, name in enumerate(("kitchen", "camping")):
        write_domain(walks(name, 48, seed), folder / name)
    return folder


@pytest.fixture
def make_task(tiny_models: Any, source_data: Path, tmp_path: Path) -> Callable[..., Task]:
    """Make a task; any of its fields may be given, ``training`` as a mapping of changes."""

    def make(**changes: Any) -> Task:
        seed = changes.get("seed", 0)
        work = changes.pop("work", tmp_path / "work" / "cell")
        work.mkdir(parents=True, exist_ok=True)
        training = TrainingConfig(**{**TRAINING, "seed": seed, **changes.pop("training", {})})
        sources = tuple(Source(folder.name, folder, source_data / folder.name) for folder in tiny_models.sources)
        fields = {
            "target": walks("target", changes.pop("users", 48), 7),
            "sources": sources,
            "seed": seed,
            "work": work,
            "training": training,
            "base": str(tiny_models.base),
        }
        return Task(**{**fields, **changes})

    return make
