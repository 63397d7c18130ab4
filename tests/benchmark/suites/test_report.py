import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from xcrossrec.benchmark.cells import CellFiles
from xcrossrec.benchmark.report import tables
from xcrossrec.benchmark.report.claims import Curve, cross_domain_rivals, data_ratios, duels
from xcrossrec.benchmark.report.points import Points
from xcrossrec.benchmark.suite import Suite
from xcrossrec.cli import app
from xcrossrec.evaluation import Evaluation
from xcrossrec.evaluation.result import RESULT_SCHEMA, EvaluationInfo
from xcrossrec.exceptions import DataError
from xcrossrec.metrics.ranking import per_user_metrics
from xcrossrec.metrics.significance import holm_adjusted

METHODS = ("popularity", "mean-of-sources", "lora", "lora-from-source", "xcross")
USERS = 60


def evaluation(rank: np.ndarray) -> Evaluation:
    frames = []
    for kind in ("uniform", "popularity", "full"):
        columns = {
            "user_id": [f"u{n:03d}" for n in range(len(rank))],
            "negatives": [kind] * len(rank),
            "candidates": np.full(len(rank), 30),
            "rank": rank,
            **per_user_metrics(rank),
            "seen_in_source": [n % 10 == 0 for n in range(len(rank))],
        }
        frames.append(pl.DataFrame(columns, schema=RESULT_SCHEMA))
    info = EvaluationInfo("s", "garden", "f", "validation", 0, "0", 1.0)
    return Evaluation(pl.concat(frames), info)


def write_cells(suite: Suite, files: CellFiles, rank_of) -> None:
    for cell in suite.cells():
        found = evaluation(rank_of(cell))
        record = {
            "seed": cell.seed, "users": max(cell.budget, 0), "commit": "abc",
            "trained_parameters": {"lora": 300, "xcross": 120}.get(cell.method, 0), "head_parameters": 20,
            "fit": {"cpu_s": 2.0, "wall_s": 3.0}, "peak_memory_mib": 900.0, "metrics": found.summary(),
            "integration_off": found.summary() if cell.method == "xcross" else None,
            "integration_map": {"pairs": ["a to b", "b to a"], "layers": 2 * [{"a to b": 0.1, "b to a": 0.2}]}
            if cell.method == "xcross" else None,
        }  # fmt: skip
        files.write(cell, found, record)


def ranks(first: float, cell) -> np.ndarray:
    """The first so many users of 60 have rank 1, the others 10."""
    return np.where(np.arange(USERS) < first, 1, 10)


@pytest.fixture
def points(suite_file, tmp_path: Path) -> Points:
    suite, files = Suite.read(suite_file(METHODS, "128, 512", "0, 1")), CellFiles(tmp_path / "run")
    start = {"xcross": 30, "lora": 10, "lora-from-source": 30, "mean-of-sources": 5, "popularity": 0}
    write_cells(suite, files, lambda cell: ranks(start[cell.method] + (20 if cell.budget == 512 else 0), cell))
    return Points(suite, files)


def test_points_average_seeds_and_find_budgetless_methods(points: Points) -> None:
    found = points.find("garden", "xcross", 128)
    assert found is not None
    assert found.seeds == [0, 1]
    assert found.mean("popularity") == pytest.approx((30 * 1 + 30 * 0.1) / 60)
    assert (found.parameters, found.body_parameters) == (120, 100)
    assert points.find("garden", "mean-of-sources", 512) is points.find("garden", "mean-of-sources", 128)
    assert points.find("garden", "lora", 2048) is None
    assert int(found.unseen().sum()) == 54


def test_seeds_are_averaged_user_by_user(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("lora",), "16", "0, 1")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: np.full(USERS, 1 + cell.seed))
    point = Points(suite, files).find("garden", "lora", 16)
    assert point is not None
    assert point.per_user("full") == pytest.approx(np.full(USERS, 0.75))
    assert point.by_seed("full") == [1.0, 0.5]


def test_duels_are_paired_and_corrected(points: Points) -> None:
    assert cross_domain_rivals(points, "garden") == ["mean-of-sources", "lora-from-source"]
    found = {
        (duel.rival, duel.budget): duel
        for duel in duels(points, "xcross", "garden", "full", ["lora", "lora-from-source"])
    }
    assert found["lora", 128].verdict == "better"
    assert found["lora", 128].adjusted >= found["lora", 128].found.p_value * 2
    assert found["lora-from-source", 512].verdict == "even"
    assert found["lora-from-source", 512].found.difference == 0


def test_data_ratio_at_every_point_of_the_rivals_curve(points: Points) -> None:
    first, second = data_ratios(points, "xcross", "lora", "garden", "popularity")
    assert (first.own_users, first.at_floor, first.text()) == (128.0, True, "≤1.00")
    assert second.own_users == 128.0, "lora's 30 users of rank 1 at 512 are ours at 128"
    assert second.text() == "≤0.25"


def test_curves_interpolate_on_the_logarithm() -> None:
    curve = Curve((128, 512), (0.2, 0.3))
    assert curve.users_to_reach(0.25) == pytest.approx(256)
    assert curve.users_to_reach(0.1) == 128
    assert curve.users_to_reach(0.31) is None
    assert Curve((), ()).users_to_reach(0.1) is None


def test_tables_show_what_the_cells_say(points: Points) -> None:
    assert "100 of 280 = 35.7%" in tables.parameters_table(points, "xcross", "lora")
    table = tables.accuracy_table(points, "garden", "popularity")
    assert "| xcross | 120 | .550 ±" in table
    assert "better" in tables.rivals_table(points, "xcross")
    assert "| garden | lora | 60 | +.300 | 54 |" in tables.unseen_table(points, "xcross", ["lora"], 128)
    assert "| garden | xcross | kitchen+camping | 128 | .550 | .550 | +.000 |" in tables.ablation_table(points)
    assert (tables.signed(-0.0123), tables.signed(0.2), tables.short(1.5)) == ("-.012", "+.200", "1.500")


def test_report_command_writes_page_and_figures(suite_file, tmp_path: Path, points: Points) -> None:
    result = CliRunner().invoke(
        app, ["benchmark", "report", str(tmp_path / "suite.toml"), "--to", str(tmp_path / "page")]
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page" / "README.md").read_text()
    suite = Suite.read(tmp_path / "suite.toml")
    records = json.loads((tmp_path / "page" / "cells.json").read_text())
    assert len(records) == len(suite.cells())
    assert f"{len(records)} of {len(records)} cells are complete" in page
    for picture in tmp_path.glob("page/*.png"):
        assert picture.name in page
    assert {"curves-garden.png", "parameters-128.png", "map-xcross-128.png"} <= {
        p.name for p in tmp_path.glob("page/*.png")
    }


def test_a_report_without_cells_says_what_to_run(suite_file, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["benchmark", "report", str(suite_file())])
    assert result.exit_code == 2
    assert "no cell of 'tiny' is complete" in result.stderr


@given(st.lists(st.floats(0, 1), max_size=12))
def test_holm_is_between_plain_and_bonferroni(p_values: list[float]) -> None:
    adjusted = holm_adjusted(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1.0, p * len(p_values)) or q == max(
            adjusted[i] for i in range(len(p_values)) if p_values[i] <= p
        )
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert all(adjusted[a] <= adjusted[b] for a, b in itertools.pairwise(order))


def test_holm_by_hand() -> None:
    assert holm_adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    with pytest.raises(DataError, match=r"p-value is 1\.5"):
        holm_adjusted([1.5])
