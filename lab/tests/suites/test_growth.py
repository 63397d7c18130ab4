"""A growth suite on the tiny models: what is fitted once, what purchases add, what the page says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from xcrossrec import ConfigError, build_domain, write_domain
from xcrossrec.copurchase import CoPurchases
from xcrossrec.types import ITEM
from xcrossrec_lab.methods.purchases import PurchasesScorer
from xcrossrec_lab.report.growth import OURS, Point, Points, main, page
from xcrossrec_lab.suites import growth
from xcrossrec_lab.suites.suite import Suite

ITEMS = 40
SUITE = """
data = "{data}"
adapters = "{adapters}"
out = "{out}"
base = "{base}"
split = "test"
[training]
precision = "fp32"
[methods.popularity]
[methods.untrained-centered]
kind = "untrained"
[[grid]]
targets = ["beauty"]
methods = ["untrained-centered", "popularity"]
budgets = [16, "all"]
seeds = [0, 1]
"""


@pytest.fixture(scope="module")
def suite(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Run to its end: forty users, each of whom walks on from one item to the next."""
    folder = tmp_path_factory.mktemp("growth")
    rng = np.random.default_rng(0)
    walks = {f"u{user}": [int(rng.integers(ITEMS)) + step for step in range(6)] for user in range(40)}
    splits: Any = {name: _table(walks, length) for name, length in (("train", 4), ("validation", 5), ("test", 6))}
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(ITEMS)], "title": [f"w{row}" for row in range(ITEMS)]})
    write_domain(build_domain("beauty", items, splits), folder / "data" / "beauty")
    path = folder / "growth.toml"
    places = {name: folder / name for name in ("data", "adapters", "out")}
    path.write_text(SUITE.format(base=tiny_models.base, **places), encoding="utf-8")
    found = Suite.read(path)
    growth.run(found)
    return found


def _table(walks: dict[str, list[int]], length: int) -> Any:
    rows = [
        (user, f"i{item % ITEMS}", place) for user, items in walks.items() for place, item in enumerate(items[:length])
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")


def names(suite: Suite) -> list[str]:
    root = suite.out / "cells"
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.json"))


def test_every_text_is_ranked_alone_and_with_the_purchases_of_each_budget(suite: Suite) -> None:
    start = "beauty/none"
    assert names(suite) == [
        *(f"{start}/popularity/{budget}" for budget in ("16-s0", "16-s1", "all-s0")),
        *(f"{start}/untrained-centered-co/{budget}" for budget in ("16-s0", "16-s1", "all-s0")),
        f"{start}/untrained-centered-learned/all-s0",
        f"{start}/untrained-centered/no-s0",
    ]


def test_what_is_finished_is_not_run_again_and_vectors_rank_anew(suite: Suite, capsys: Any) -> None:
    capsys.readouterr()
    growth.run(suite)
    assert capsys.readouterr().out == ""
    (cell, _) = next(iter(growth.asked_cells(suite)))
    files = growth.Files(suite.out)
    (again,) = growth.with_copurchases(cell, [(16, 0)])
    before = files.results(again).read_bytes(), json.loads(files.record(again).read_text())
    files.record(again).unlink()
    files.results(again).unlink()
    growth.run(suite, ["*untrained*"])
    assert json.loads(files.record(again).read_text()) == before[1]
    assert pl.read_parquet(files.results(again)).equals(pl.read_parquet(before[0]))


def test_kept_vectors_score_as_the_model_did(suite: Suite) -> None:
    (cell, _) = next(iter(growth.asked_cells(suite)))
    kept = growth.VectorScorer.load(growth.Files(suite.out).vectors(cell), "kept")
    found = kept.score([[3, 5], []])
    vectors, matcher = kept.parts[0]
    cosines = vectors.numpy() @ vectors.numpy()[[3, 5]].T
    sharpness = matcher.sharpness.item()
    expected = np.log(np.exp(sharpness * cosines).mean(1)) / sharpness
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert not found[1].any()
    np.testing.assert_array_equal(kept.score([[3, 5]], np.array([[7, 0]])), found[:1, [7, 0]])


def test_purchases_add_their_score_by_row() -> None:
    table = pl.DataFrame({"user_id": ["u", "u"], ITEM: ["a", "b"]})
    counts = CoPurchases.count(table)
    scorer = PurchasesScorer(None, counts, ["c", "b", "a"], 2.0)
    expected = np.zeros((2, 3))
    expected[0, 1] = 2.0 * counts.scores(["a"])["b"]
    np.testing.assert_allclose(scorer.score([[2], []]), expected, rtol=1e-6)
    np.testing.assert_allclose(scorer.score([[2]], np.array([[1, 0]])), expected[:1, [1, 0]], rtol=1e-6)


def test_the_page_has_every_method_and_what_purchases_add(suite: Suite) -> None:
    text = page(Points(suite), ["untrained-centered-co"])
    for row in (
        "| method | 16 users | all users |",
        "| untrained-centered + co-purchases | ",
        "| beauty | untrained-centered + co-purchases | untrained-centered | ",
        "| beauty | popularity | ",
        "40 users ranked",
    ):
        assert row in text
    assert "| TIGER (arXiv 2305.05065) | .0648 / .0384 |" in text


def test_methods_are_compared_over_the_draws_that_both_have(suite: Suite) -> None:
    points = Points(suite)
    ours, other = points.get("beauty", "untrained-centered-co", 16), points.get("beauty", "popularity", 16)
    text, every = points.get("beauty", "untrained-centered", 16), points.get("beauty", "untrained-centered-co", 0)
    assert ours is not None and other is not None and text is not None and every is not None  # noqa: PT018
    assert (ours.drawn, other.drawn, text.drawn, every.drawn) == (True, True, False, False)
    first = Point("beauty", "popularity", 16, True, {0: other.draws[0]})
    mine, theirs = ours.beside(first)
    np.testing.assert_array_equal(mine, Point("beauty", "", 16, True, {0: ours.draws[0]}).ndcg)
    np.testing.assert_array_equal(theirs, first.ndcg)
    np.testing.assert_array_equal(ours.beside(text)[0], ours.ndcg)


def test_the_page_is_written_with_the_records_beside_it(suite: Suite, tmp_path: Path) -> None:
    main([str(suite.out.parent / "growth.toml"), "--to", str(tmp_path / "README.md")])
    assert (tmp_path / "README.md").read_text() == page(Points(suite), OURS)
    known = json.loads((tmp_path / "cells.json").read_text())
    assert list(known) == names(suite)
    assert known["beauty/none/untrained-centered-co/16-s1"]["users"] == 16
    assert "weight" in known["beauty/none/untrained-centered-co/16-s1"]


def test_a_pattern_that_fits_nothing_is_refused(suite: Suite) -> None:
    with pytest.raises(ConfigError, match="no cell of 'growth' fits 'camping/"):
        growth.run(suite, ["camping/*"])
