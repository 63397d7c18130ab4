from pathlib import Path

import numpy as np
import pytest

from xcrossrec_lab.report import tables
from xcrossrec_lab.report.figures import (
    accuracy_against,
)
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import USERS, ranks, write_cells


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
    assert point.by_seed("full") == {0: 1.0, 1: 0.5}
    assert point.spread("full") == pytest.approx(np.std([1.0, 0.5], ddof=1))
    table = tables.accuracy_table(Points(suite, files), "garden", "full")
    assert "| lora | 300 | .750 ±.000 (sd .3536 over 2 seeds) |" in table


def test_cells_of_a_gpu_have_no_share_in_processor_seconds(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("lora", "xcross"), "128", "0, 1")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    for cell in suite.cells():
        record = files.read(cell)
        if cell.method == "xcross" or cell.seed == 1:
            record |= {"accelerator": "NVIDIA H100", "fit": {"cpu_s": 90.0, "wall_s": 9.0}}
        files.write(cell, files.evaluation(cell), record)
    points = Points(suite, files)
    assert [points.find("garden", method, 128).cpu_s for method in ("lora", "xcross")] == [2.0, None]
    table = tables.compute_table(points, "garden", 128)
    assert "| lora | 300 | 2 | 900 |" in table
    assert "| xcross | 120 | - | 900 |" in table
    assert accuracy_against(points, "cpu_s", 128, tmp_path / "seconds.png")
    assert (tmp_path / "seconds.png").stat().st_size > 1000
    for cell in suite.cells():
        files.write(cell, files.evaluation(cell), files.read(cell) | {"accelerator": "NVIDIA H100"})
    assert not accuracy_against(Points(suite, files), "cpu_s", 128, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
