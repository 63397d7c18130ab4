"""The bridge between categories, against loops over customers and items."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from xcrossrec.exceptions import BundleError
from xcrossrec.models import bridge as module
from xcrossrec.models.bridge import Bridge

DIM, ITEMS, CUSTOMERS = 6, 30, 25
IDS = [f"i{row}" for row in range(ITEMS)]


def unit(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


@pytest.fixture
def vectors() -> torch.Tensor:
    return unit(torch.randn(ITEMS, DIM, generator=torch.Generator().manual_seed(0)))


@pytest.fixture
def elsewhere() -> torch.Tensor:
    return torch.randn(CUSTOMERS, DIM, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def bought() -> list[list[int]]:
    rng = np.random.default_rng(2)
    return [rng.integers(0, ITEMS, rng.integers(1, 5)).tolist() for _ in range(CUSTOMERS)]


@pytest.fixture
def bridge(vectors: torch.Tensor, elsewhere: torch.Tensor, bought: list[list[int]]) -> Bridge:
    return Bridge.fit(elsewhere, bought, vectors, IDS)


def slow_scores(
    vectors: torch.Tensor, elsewhere: torch.Tensor, bought: list[list[int]], asked: torch.Tensor
) -> list[float]:
    """The docstring's formula, one customer and one item after another."""
    mean = elsewhere.mean(0)
    x = (elsewhere - mean).double().numpy()
    y = np.array([np.mean([vectors[row].double().numpy() for row in rows], axis=0) for rows in bought])
    ridge = np.linalg.inv(x.T @ x + 3 * np.eye(DIM)) @ x.T @ (y - y.mean(0))

    def foretold(vector: np.ndarray) -> np.ndarray:
        found = vector @ ridge
        return np.asarray(found / np.linalg.norm(found))

    own = foretold((asked - mean).double().numpy())
    like = [math.exp(4 * float(own @ foretold(each))) for each in x]
    weight = dict.fromkeys(range(ITEMS), 0.0)
    for share, rows in zip(like, bought, strict=True):
        for row in rows:
            weight[row] += share / sum(like) / len(rows)
    scores = []
    for item in range(ITEMS):
        nearest = sorted((row for row in weight if weight[row]), key=lambda row: -float(vectors[item] @ vectors[row]))
        total = sum(weight[row] * math.exp(20 * float(vectors[item] @ vectors[row]) - 20) for row in nearest[:16])
        scores.append(math.log(total) / 20 + 1)
    return scores


def test_scores_are_those_of_the_formula(
    bridge: Bridge, vectors: torch.Tensor, elsewhere: torch.Tensor, bought: list[list[int]]
) -> None:
    asked = torch.randn(3, DIM, generator=torch.Generator().manual_seed(3))
    weights = bridge.weigh(asked)
    assert weights.sum(1).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    for own, history in zip(weights, asked, strict=True):
        expected = slow_scores(vectors, elsewhere, bought, history)
        assert bridge.near(vectors).scores(own).tolist() == pytest.approx(expected, abs=1e-4)


def test_what_weighs_most_is_named(bridge: Bridge, elsewhere: torch.Tensor) -> None:
    weights = bridge.weigh(elsewhere[:1])[0]
    named = bridge.heaviest(weights, 2)
    assert [share for _, share in named] == sorted(weights.tolist(), reverse=True)[:2]
    assert named[0][0] == bridge.item_ids[int(weights.argmax())]


def test_the_leads_bought_most_are_kept(
    vectors: torch.Tensor, elsewhere: torch.Tensor, bought: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_LEADS", 4)
    few = Bridge.fit(elsewhere, bought, vectors, IDS)
    counts = np.bincount([row for rows in bought for row in rows], minlength=ITEMS)
    assert len(few.item_ids) == 4
    assert sorted(counts[[int(item[1:]) for item in few.item_ids]]) == sorted(counts)[-4:]
    assert len(few.customers) == sum(any(f"i{row}" in few.item_ids for row in rows) for rows in bought)


def test_it_is_kept_on_disk(bridge: Bridge, elsewhere: torch.Tensor, tmp_path: Path) -> None:
    bridge.save(tmp_path)
    read = Bridge.load(tmp_path, DIM)
    assert read.item_ids == bridge.item_ids
    torch.testing.assert_close(read.weigh(elsewhere), bridge.weigh(elsewhere), rtol=1e-5, atol=1e-7)
    with pytest.raises(BundleError, match="holds no bridge of 7 dimensions"):
        Bridge.load(tmp_path, 7)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda table: table.head(5), "holds no bridge of 6 dimensions"),
        (lambda table: table.reverse(), "holds no bridge of 6 dimensions"),
        (lambda table: table.rename({"lead": "row"}), "is no table of customers, leads and items"),
        (lambda table: table.with_columns(pl.lit(None, pl.String).alias("item_id")), "holds no bridge"),
    ],
)
def test_a_damaged_one_is_refused(bridge: Bridge, tmp_path: Path, change: object, match: str) -> None:
    bridge.save(tmp_path)
    table = pl.read_parquet(tmp_path / "bridge.parquet")
    change(table).write_parquet(tmp_path / "bridge.parquet")  # type: ignore[operator]
    with pytest.raises(BundleError, match=match):
        Bridge.load(tmp_path, DIM)
