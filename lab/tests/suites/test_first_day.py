"""The first day in a new category: who is asked about, and who may be fitted to."""

from __future__ import annotations

import polars as pl
import pytest
import torch

from xcrossrec import Domain, build_domain
from xcrossrec_lab.suites import day_one
from xcrossrec_lab.suites.day_one import METHODS, Category, Pair

DIM = 16


def category(name: str, users: range) -> Category:
    """Users of even number buy of one half of the items, the others of the other."""
    rng = torch.Generator().manual_seed(len(name))
    items = [{"item_id": f"{name}{n}", "title": f"{name} {n}", "brand": "", "category": ""} for n in range(80)]
    rows = [
        {"user_id": f"u{user}", "item_id": f"{name}{40 * (user % 2) + int(n)}", "position": p}
        for user in users
        for p, n in enumerate(torch.randperm(40, generator=rng)[:5])
    ]
    domain: Domain = build_domain(name, items, {"train": pl.DataFrame(rows)}, text="{title}")
    raw = torch.randn(80, DIM, generator=rng)
    raw[:40, 0] += 3
    sequences = domain.sequences("train")
    return Category(domain, raw, dict(zip(sequences.user_ids, sequences.rows, strict=True)))


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    monkeypatch.setattr(day_one, "ASKED", 40)
    monkeypatch.setattr(day_one, "_STUDIED", 20)
    return Pair.of(category("pan", range(150)), category("rake", range(30, 200)))


def test_nobody_who_is_asked_about_is_fitted_to(pair: Pair) -> None:
    assert len(pair.asked) == 40
    assert len(pair.others) == 80
    assert not {*pair.asked} & {*pair.others}
    domain = pair.domain()
    assert not {*pair.asked} & {*domain.frame("train")["user_id"]}
    assert {*domain.frame("test")["user_id"]} == {*pair.asked}


def test_a_planted_relation_is_found_by_the_ladder_alone(pair: Pair) -> None:
    found = pair.run(60)
    means = {name: result.of("full")["mrr"].to_numpy().mean() for name, result in found.items()}
    assert tuple(found) == METHODS
    assert means["ladder"] > 1.5 * means["popularity"]
    assert found["ladder"].info.rungs == {"other": 40}
