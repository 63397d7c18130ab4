"""A suite on a domain of fifty users, with the tiny base and its two adapters as sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from xcrossrec import build_domain, write_domain

ITEMS = 40
SUITE = """
name = "tiny"
data = "{data}"
adapters = "{adapters}"
out = "{out}"
base = "{base}"

[training]
batch_users = 16
projection_rank = 2
precision = "fp32"

[epochs]
16 = 1

[methods.popularity]
[methods.tfidf]
[methods.untrained]
[methods.mean-of-sources]
[methods.source-1]
kind = "source"
[methods.lora]
learning_rate = 1e-2
[methods.lora-from-source]
[methods.head]
[methods.xcross]
learning_rate = 1e-2
ablate = true
[methods.shuffled]
kind = "untrained"
shuffle_titles = true

[report]
ours = "xcross"
lora = "lora"
warm = ["lora-from-source"]

[[grid]]
targets = ["garden"]
sources = {{ garden = ["kitchen", "camping"] }}
methods = [{methods}]
budgets = [{budgets}]
seeds = [{seeds}]
"""
METHODS = ("popularity", "tfidf", "mean-of-sources", "lora", "xcross")


def sequences(users: int, prefix: str, seed: int) -> pl.DataFrame:
    """Users who walk on from an item to one of like number; items of like number share words."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        item = int(rng.integers(ITEMS))
        for position in range(int(rng.integers(3, 6))):
            rows.append((f"{prefix}{user}", f"i{item}", position))
            item = (item + int(rng.integers(1, 3))) % ITEMS
    return pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")


@pytest.fixture(scope="session")
def suite_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("suites") / "data"
    titles = [f"{'abcdefgh'[row // 5]}{'abcdefgh'[row // 5]} {'klmno'[row % 5]}" for row in range(ITEMS)]
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)], "title": titles})
    splits = {"train": sequences(50, "t", 0), "validation": sequences(30, "v", 1)}
    write_domain(build_domain("garden", items, splits), folder / "garden")
    return folder


@pytest.fixture
def suite_file(tmp_path: Path, suite_data: Path, tiny_models) -> Callable[..., Path]:
    """Write a suite; its run's folder is ``tmp_path / "run"``."""
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    for name, source in zip(("kitchen", "camping"), tiny_models.sources, strict=True):
        (adapters / name).symlink_to(source)

    def write(methods: tuple[str, ...] = METHODS, budgets: str = "16", seeds: str = "0", more: str = "") -> Path:
        path = tmp_path / "suite.toml"
        text = SUITE.format(
            data=suite_data,
            adapters=adapters,
            out=tmp_path / "run",
            base=tiny_models.base,
            methods=", ".join(f'"{name}"' for name in methods),
            budgets=budgets,
            seeds=seeds,
        )
        path.write_text(text + more)
        return path

    return write
