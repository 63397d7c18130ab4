"""The figure "import": what is generated, that the arms agree, and a smoke test."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from xcrossrec_lab.speed.figures import import_data
from xcrossrec_lab.speed.figures.import_job import ours
from xcrossrec_lab.speed.figures.import_pandas import prepare
from xcrossrec_lab.speed.figures.import_reviews import Market, write_market
from xcrossrec_lab.speed.harness import Settings

ROWS = 5000


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Market:
    return write_market(tmp_path_factory.mktemp("market"), ROWS, seed=3)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in gzip.open(path, "rt", encoding="utf-8")]


def test_generated_reviews_have_the_releases_form_and_flaws(market: Market) -> None:
    reviews, metadata = lines(market.reviews), lines(market.metadata)
    assert len(reviews) == ROWS
    assert {"overall", "verified", "reviewTime", "reviewerID", "asin", "reviewText", "unixReviewTime"} <= set(
        reviews[0]
    )
    bought = Counter(review["asin"] for review in reviews)
    assert len(bought) == ROWS // 10
    assert max(bought.values()) > 5 * ROWS / len(bought)
    events = {(review["reviewerID"], review["asin"], review["unixReviewTime"]) for review in reviews}
    assert 0 < ROWS - len(events) < ROWS / 50
    assert any("title" not in item for item in metadata)
    assert any("&amp;" in str(item.get("title")) for item in metadata)
    assert len({item["asin"] for item in metadata}) < len(metadata)


def test_a_seed_writes_the_same_bytes(market: Market, tmp_path: Path) -> None:
    again = write_market(tmp_path, ROWS, seed=3)
    assert again.reviews.read_bytes() == market.reviews.read_bytes()
    assert again.metadata.read_bytes() == market.metadata.read_bytes()
    assert write_market(tmp_path, ROWS, seed=4).reviews.read_bytes() != market.reviews.read_bytes()


def test_too_few_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="rows is 9, expected 10 or more"):
        write_market(tmp_path, 9)


@pytest.mark.parametrize("core", [1, 2, 3])
def test_the_rival_makes_the_same_tables(market: Market, tmp_path: Path, core: int) -> None:
    ours()(market.reviews, market.metadata, tmp_path / "ours", core)
    prepare(market.reviews, market.metadata, tmp_path / "pandas", min_user=core, min_item=core)
    for table in import_data.TABLES:
        made, rival = (pl.read_parquet(tmp_path / arm / f"{table}.parquet") for arm in import_data.ARMS)
        assert made.height
        assert made.equals(rival.select(made.columns).cast(dict(made.schema)))


def test_smoke(tmp_path: Path) -> None:
    (figure,) = import_data.FIGURES
    measured = figure.measure(Settings(repetitions=1, work=tmp_path, quick=True))
    assert measured.ratio > 0
    assert measured.met_also
    assert [point["rows"] for point in measured.details["curve"]] == [2000, 2000]
    assert all(point[arm]["peak_mb"] > 10 for point in measured.details["curve"] for arm in import_data.ARMS)


def test_generated_files_are_used_again_if_size_and_seed_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = import_data._market(tmp_path, 100)
    written = made.reviews.stat().st_mtime_ns
    assert import_data._market(tmp_path, 100) == made
    assert made.reviews.stat().st_mtime_ns == written
    monkeypatch.setattr(import_data, "SEED", 1)
    import_data._market(tmp_path, 100)
    assert made.reviews.stat().st_mtime_ns > written


def test_a_rival_stopped_at_its_limit_bounds_the_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_data, "RIVAL_LIMIT_S", 30)
    runs = import_data.Runs(failed={"pandas": "stopped after 30 s"})
    for kept in (runs.seconds, runs.cpu_seconds, runs.peak_mb):
        kept["ours"].append(2.0)
    point = import_data._point(import_data.Stage(10, 1, 1), runs)
    assert point["ratio_at_least"] == 15
    assert "ratio" not in point
