"""Floors on real data: a fault in data, candidates or metrics moves them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from xcrossrec.baselines.named import scorer_for
from xcrossrec.data.domain import Domain
from xcrossrec.evaluation import evaluate

FLOORS = {  # Hit@1 on tools: uniform, popularity
    "popularity": (0.095, 0.011),
    "itemknn": (0.064, 0.054),
    "tfidf": (0.126, 0.123),
}


@pytest.fixture(scope="module")
def tools(amazon_dir: Path) -> Domain:
    def read(name: str) -> pl.DataFrame:
        text = dict.fromkeys(("user_id", "item_id", "title"), pl.String)
        columns = pl.read_csv(amazon_dir / "tools" / f"{name}.csv.gz", n_rows=0).columns
        overrides = {column: kind for column, kind in text.items() if column in columns}
        return pl.read_csv(amazon_dir / "tools" / f"{name}.csv.gz", schema_overrides=overrides)

    items = read("items").with_columns(pl.col("title").fill_null(""))
    return Domain("tools", items, {"train": read("train"), "validation": read("validation")})


@pytest.mark.real_data
@pytest.mark.parametrize("baseline", FLOORS)
def test_floors_of_the_protocol_are_met(baseline: str, tools: Domain) -> None:
    result = evaluate(
        scorer_for(f"baseline:{baseline}", tools).scorer, tools, "validation", negatives=("uniform", "popularity")
    )
    found = tuple(result.of(kind)["hit@1"].mean() for kind in ("uniform", "popularity"))
    assert result.frame["user_id"].n_unique() == 1096
    assert found == pytest.approx(FLOORS[baseline], abs=0.02)
