"""The made-up large shop: sizes as stated, customers in common, and an import that takes it."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from xcrossrec_lab.speed.large_shop import CATEGORIES, write_shop


def test_a_hundredth_of_the_shop(tmp_path: Path) -> None:
    write_shop(tmp_path, 0.01)
    users = {}
    for each in CATEGORIES:
        items, bought = (pl.read_csv(tmp_path / f"{each.name}{end}.csv") for end in ("-items", ""))
        assert items.height == each.items // 100
        assert 0.8 < bought.height / (each.purchases / 100) < 1.2
        assert set(bought["item_id"]) <= set(items["item_id"])
        assert bought["timestamp"].is_between(*each.times).all()
        assert items["title"].str.split(" ").list.len().is_between(6, 20).all()
        users[each.name] = set(bought["user_id"])
    assert len(users["garden"] & (users["kitchen"] | users["camping"])) > 0.8 * len(users["garden"])
    again = pl.read_csv(tmp_path / "garden.csv")
    write_shop(tmp_path, 0.01)
    assert pl.read_csv(tmp_path / "garden.csv").equals(again)
