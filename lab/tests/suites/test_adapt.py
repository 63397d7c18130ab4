"""Shops with few customers: what they have, who is kept as the truth, and what the page says of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec import build_domain, write_domain
from xcrossrec_lab.report.adapt import covers, page
from xcrossrec_lab.suites import adapt as suite
from xcrossrec_lab.suites.adapt import Shop


@pytest.fixture
def evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Thirty users of six purchases each, as both releases have them."""
    monkeypatch.setattr(suite, "OUTSIDERS", 9)
    items = [{"item_id": f"i{n}", "title": f"thing {n}"} for n in range(40)]
    rows = pl.DataFrame(
        [{"user_id": f"u{u}", "item_id": f"i{(u + p) % 40}", "position": p} for u in range(30) for p in range(6)]
    )
    cut = {"test": 6, "validation": 5, "train": 4}
    last_out = {name: rows.filter(pl.col("position") < most) for name, most in cut.items()}
    of_users = {"train": rows.filter(pl.col("user_id") != "u3"), "validation": rows.filter(pl.col("user_id") == "u3")}
    write_domain(build_domain("toys-fields", items, last_out), tmp_path / "text-data" / "toys-fields")
    write_domain(build_domain("toys", items, of_users), tmp_path / "data" / "toys")
    return tmp_path


@pytest.mark.parametrize(("target", "strangers"), [("toys-fields", 9), ("toys", 1)])
def test_a_shop_knows_its_customers_alone(target: str, strangers: int, evidence: Path) -> None:
    domain, outsiders = Shop(target, 8).domain(evidence)
    customers = set(domain.frame("train")["user_id"])
    assert len(customers) == 8
    assert len(outsiders) == strangers
    assert not customers & outsiders
    assert set(domain.frame("validation")["user_id"]) == customers
    assert set(domain.frame("test")["user_id"]) == customers | outsiders
    lengths = {split: set(map(len, domain.sequences(split).rows)) for split in domain.splits}
    assert lengths == {"train": {4}, "validation": {5}, "test": {6}}
    assert domain.sequences("test").rows[0][:4] == domain.sequences("train").rows[0]


def test_sources_are_of_the_same_release(tmp_path: Path) -> None:
    assert [each.name for each in Shop("toys", 8).sources(tmp_path)] == ["electronics", "sports", "tools"]
    assert [each.name for each in Shop("toys-fields", 8).sources(tmp_path)] == ["beauty-fields", "sports-fields"]


def test_a_promise_is_made_on_the_customers_and_held_against_both(tmp_path: Path) -> None:
    users = np.array([*(f"u{n}" for n in range(20)), *(f"v{n}" for n in range(10))])
    of_customers = np.where([name.startswith("u") for name in users], 1.0, 3.0)
    points = {str(n): of_customers * (0.1 + 0.01 * place) for place, n in enumerate((64, 128, 256, 512))}
    pl.DataFrame(points).write_parquet(tmp_path / "curve.parquet")
    found = suite._promise(tmp_path / "curve.parquet", users, frozenset(users[20:]))
    assert found is not None
    assert (found["from"], found["to"]) == (256, 512)
    assert found["promise"][0] == pytest.approx(0.01)
    assert (found["came"], found["truth"]) == (pytest.approx(0.01), pytest.approx(0.03))
    assert suite._promise(tmp_path / "absent.parquet", users, frozenset()) is None


def a_run(shop: str, true: float, promised: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "shop": shop,
        "chosen": "merged",
        "over": "base",
        "best": "lora",
        "best_simple": "base",
        "candidates": {name: {"truth": value} for name, value in (("base", 0.1), ("merged", 0.2), ("source-a", 0.15))},
        "stated": [0.01, 0.0, 0.02],
        "true_gain": [true, true, true],
        "regret": [0.003, -0.001, 0.007],
        "minus_best_simple": [true, true - 0.01, true + 0.01],
        "own_minus_best_simple": [true, true - 0.02, true + 0.02],
        "promise": {"from": 256, "to": 512, "promise": list(promised), "came": 0.01, "truth": 0.03},
    }


def test_the_page_counts_what_held() -> None:
    runs = [a_run("held", 0.015, (0.01, 0.0, 0.02)), a_run("missed", -0.03, (0.05, 0.04, 0.06))]
    assert [covers(each) for each in runs] == [True, False]
    text = page(runs)
    assert "for sure, in 1 (missed); the lowest\n  difference is -0.0300 [-0.0400, -0.0200] (missed)" in text
    assert "customers who report:\n  in 1 (missed)." in text
    assert "holds the true gain in 1 of 2" in text
    assert "held in 1 of 2 on the shop's own customers, and in\n  0 on the others" in text
    assert "| held | 0.1500 | 0.1000 | 0.2000 |" in text
