from pathlib import Path

import pytest

from xcrossrec_lab.report import tables
from xcrossrec_lab.report.claims import (
    relative_over,
    relative_to,
    shuffled_pairs,
)
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import ranks, write_cells


def test_tables_show_what_the_cells_say(points: Points) -> None:
    assert "100 of 280 = 35.7%" in tables.parameters_table(points, "xcross", "lora")
    table = tables.accuracy_table(points, "garden", "popularity")
    assert "| xcross | 120 | .550 ±" in table
    assert "better" in tables.rivals_table(points, "xcross")
    assert "| garden | lora | 60 | +.300 | 54 |" in tables.unseen_table(points, "xcross", ["lora"], 128)
    ablations = tables.ablation_table(points)
    assert "| garden | xcross | kitchen+camping | 128 | 0 | .550 | .550 | +.000 |" in ablations, "without an interval"
    record = next(point for point in points if point.method == "xcross").records[1]
    record["integration_off"]["mixing_adds"] = {"popularity": {"mrr": {"difference": 0.0123, "ci": [-0.001, 0.02]}}}
    assert "| 128 | 1 | .550 | .550 | +.012 [-.001, +.020] |" in tables.ablation_table(points)
    assert (tables.signed(-0.0123), tables.signed(0.2), tables.short(1.5)) == ("-.012", "+.200", "1.500")


def test_claims_averages_and_parameters_in_tables(points: Points) -> None:
    claims = tables.claims_table(points, "xcross", ["lora", "lora-from-source"])
    assert "| half of `lora`'s users or less for its MRR | holds |" in claims
    assert "| half of `lora-from-source`'s users or less for its MRR | open |" in claims
    assert "method, full, the first sources | open |" in claims
    averages = tables.averages_table(points, "full")
    assert averages.startswith("| method | 128 users, 1 targets | 512 users, 1 targets |")
    assert "| lora-from-source | **.5500** | **.8500** |" in averages
    assert "| tfidf |" not in averages
    parameters = tables.parameters_table(points, "xcross", "lora")
    assert "| garden | 512, the most both have | 100 of 280 = 35.7% |" in parameters
    assert "| yes | holds |" in parameters


def test_mrr_relative_to_lora_by_target_and_together(points: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    mine, other = (points.find("garden", name, 512) for name in ("xcross", "lora"))
    assert mine is not None
    assert other is not None
    alone = relative_to(mine, other)
    assert alone.value == pytest.approx(mine.mean("popularity") / other.mean("popularity") - 1)
    both = relative_over([(mine, other), (other, mine)], "popularity")
    assert both.value == pytest.approx(0.0), "each user is on both sides"
    assert both.interval[0] < 0 < both.interval[1]
    table = tables.relative_table(points, "xcross", "lora")
    assert f"| 512 | garden | {relative_to(mine, other, 'uniform').value:+.1%} [" in table
    assert "together" not in table
    monkeypatch.setattr(points, "targets", ["garden", "garden"])
    assert "| 512 | these 2 together |" in tables.relative_table(points, "xcross", "lora")


def test_titles_dealt_out_anew_stand_beside_chance(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("untrained", "shuffled"), "128", "0")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30 if cell.method == "untrained" else 0, cell))
    points = Points(suite, files)
    assert shuffled_pairs(points) == [("untrained", "shuffled")]
    point = points.find("garden", "untrained", 128)
    assert point is not None
    assert point.chance("popularity") == pytest.approx(sum(1 / rank for rank in range(1, 31)) / 30)
    rows = tables.permutation_table(points).splitlines()
    assert len(rows) == 2 + 3, "a row a kind of negatives"
    assert "| garden | untrained |  | popularity | .5500 | .1000 | .1332 | +.450 [" in "".join(rows)
