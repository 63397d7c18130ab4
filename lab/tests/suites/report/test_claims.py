from pathlib import Path

import numpy as np
import pytest

from xcrossrec.metrics.significance import PairedComparison
from xcrossrec_lab.report import tables
from xcrossrec_lab.report.claims import (
    Curve,
    DataRatio,
    Duel,
    Relative,
    cross_domain_rivals,
    data_ratios,
    data_verdict,
    duels,
    duels_together,
    parameters_verdict,
    rivals_verdict,
    seed_differences,
)
from xcrossrec_lab.report.page import write_report
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

from .conftest import USERS, ranks, two_targets, write_cells


def test_differences_seed_by_seed(suite_file, tmp_path: Path) -> None:
    suite, files = two_targets(suite_file, seeds="0, 1"), CellFiles(tmp_path / "run")
    better = {("garden", 0): 60, ("garden", 1): 30, ("shed", 0): 30, ("shed", 1): 60}  # xcross's users of rank 1

    def rank_of(cell) -> np.ndarray:
        return ranks(better[cell.target, cell.seed] if cell.method == "xcross" else 0, cell)

    write_cells(suite, files, rank_of)
    points = Points(suite, files)
    assert seed_differences(points, "garden", "xcross", "lora", 128, "full") == pytest.approx({0: 0.9, 1: 0.45})
    assert seed_differences(points, "garden", "xcross", "tfidf", 512, "full") == {}, "no cell of xcross there"
    rows = tables.seeds_table(points, "xcross", ["lora"], "full").splitlines()[2:]
    assert rows == [
        "| 128 | lora | garden | +.900 (seed 0), +.450 (seed 1) | +.675 | .3182 |",
        "| 128 | lora | shed | +.450 (seed 0), +.900 (seed 1) | +.675 | .3182 |",
        "| 128 | lora | mean of these 2 | +.675 (seed 0), +.675 (seed 1) | +.675 | .0000 |",
    ]
    (tmp_path / "run" / "cells" / "shed" / "none" / "lora" / "128-s1.json").unlink()
    rows = tables.seeds_table(Points(suite, files), "xcross", ["lora"], "full").splitlines()[2:]
    assert len(rows) == 1, "one seed shows no spread"


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
    assert DataRatio(128, 0.2, 512.0, at_floor=True).text() == "not measured", "ours has no cell with so few users"


def test_curves_interpolate_on_the_logarithm() -> None:
    curve = Curve((128, 512), (0.2, 0.3))
    assert curve.users_to_reach(0.25) == pytest.approx(256)
    assert curve.users_to_reach(0.1) == 128
    assert curve.users_to_reach(0.31) is None
    assert Curve((), ()).users_to_reach(0.1) is None


def comparison(difference: float) -> PairedComparison:
    return PairedComparison(difference, (difference, difference), 0.0, 60)


def test_verdicts_of_the_claims(points: Points) -> None:
    assert parameters_verdict(points, "xcross", "lora", "garden") == "does not hold", (
        "100 of 280 is more than a quarter"
    )
    record = points.find("garden", "xcross", 512).records[0]
    assert record["seed"] == 0
    record["trained_parameters"] = 20 + 70 + 2  # a quarter of LoRA's 280, and two streams' weights
    assert parameters_verdict(points, "xcross", "lora", "garden") == "holds"
    record["trained_parameters"] += 1
    assert parameters_verdict(points, "xcross", "lora", "garden") == "does not hold"
    assert parameters_verdict(points, "xcross", "tfidf", "garden") == "not run"
    assert [Relative(0.0, i).verdict for i in ((-0.01, 0.1), (-0.03, 0.1), (-0.1, -0.02))] == [
        "holds", "open", "does not hold",
    ]  # fmt: skip
    assert data_verdict(points, "xcross", "lora", "garden") == "holds", "30 users of rank 1 at 128 as LoRA at 512"
    assert data_verdict(points, "lora", "xcross", "garden") == "does not hold"
    assert data_verdict(points, "xcross", "mean-of-sources", "garden") == "open", "more users give the rival nothing"
    better, even, worse = (
        Duel("garden", "full", 128, "lora", comparison(sign), p)
        for sign, p in ((1.0, 0.001), (1.0, 0.5), (-1.0, 0.001))
    )
    assert [rivals_verdict(found) for found in ([better, better], [better, even], [better, even, worse], [])] == [
        "holds", "open", "does not hold", "not run",
    ]  # fmt: skip


def test_averages_are_of_the_same_targets(suite_file, tmp_path: Path) -> None:
    suite, files = two_targets(suite_file), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(60 if cell.target == "shed" else 0, cell))
    averages = tables.averages_table(Points(suite, files), "uniform")
    assert "| method | 128 users, 2 targets |" in averages
    assert "| lora | **.5500** |" in averages
    assert "tfidf" not in averages, "it lacks the shed"


def test_all_targets_users_are_taken_together(suite_file, tmp_path: Path) -> None:
    suite, files = two_targets(suite_file), CellFiles(tmp_path / "run")
    better = {"garden": 60, "shed": 30}  # users for whom xcross is right at once
    write_cells(suite, files, lambda cell: ranks(better[cell.target] if cell.method == "xcross" else 0, cell))
    points = Points(suite, files)
    found = {duel.rival: duel for duel in duels_together(points, "xcross", "full")}
    assert set(found) == {"popularity", "mean-of-sources", "lora", "lora-from-source"}, "tfidf lacks the shed"
    means = [
        points.find(target, "xcross", 128).mean("full") - points.find(target, "lora", 128).mean("full")
        for target in ("garden", "shed")
    ]
    assert found["lora"].found.difference == pytest.approx(np.mean(means))  # as many users on either
    assert found["lora"].found.users == 2 * USERS
    assert found["lora"].adjusted == pytest.approx(min(1, 4 * found["lora"].found.p_value))
    table = tables.together_table(points, "xcross", "full")
    assert f"| rival | 128 users ({2 * USERS:,} ranked) | 512 users | 2,048 users |" in table
    assert "better |" in table
    suite.report["forms"] = ["lora"]
    of_form = tables.together_table(points, "lora", "full")
    assert "| xcross |" in of_form
    assert of_form in write_report(suite, files, tmp_path / "page").read_text()


def test_all_users_of_the_targets_have_a_column_where_a_method_had_them(suite_file, tmp_path: Path) -> None:
    suite, files = two_targets(suite_file, budgets='128, "all"'), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(60 if cell.method == "xcross" and not cell.budget else 0, cell))
    table = tables.together_table(Points(suite, files), "xcross", "full").splitlines()
    assert table[0].endswith(f"| 512 users | 2,048 users | all users ({2 * USERS:,} ranked) |")
    row = next(line for line in table if line.startswith("| lora |"))
    assert "+.000 [+.000, +.000] even" in row
    assert row.endswith("| +.900 [+.900, +.900] better |")


def test_fewer_users_of_ours_beside_all_of_a_rivals(suite_file, tmp_path: Path) -> None:
    suite, files = two_targets(suite_file, budgets='128, "all"'), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(60 if cell.method == "lora" and not cell.budget else 0, cell))
    (tmp_path / "run" / "cells" / "shed" / "none" / "lora" / "all-s0.json").unlink()
    table = tables.fewer_users_table(Points(suite, files), "xcross", ["lora", "lora-from-source"]).splitlines()
    assert table[0] == "| minus all users' | negatives | users of xcross | garden | shed |"
    assert "| lora | popularity | 128 | -.900 [-.900, -.900] |  |" in table
    assert "| lora-from-source | popularity | all | +.000 [+.000, +.000] | +.000 [+.000, +.000] |" in table
    assert len(table) == 2 + 2 * 3 * 2, "two rivals, three kinds of negatives, two numbers of users"


def test_each_set_of_sources_has_rows(suite_file, tmp_path: Path) -> None:
    path = suite_file(("mean-of-sources", "xcross"), "128", "0")
    more = '\n[[grid]]\ntargets = ["garden"]\nsources = { garden = ["kitchen", "camping", "shed"] }\n'
    path.write_text(path.read_text() + more + 'methods = ["mean-of-sources", "xcross"]\nbudgets = [128]\nseeds = [0]\n')
    suite, files = Suite.read(path), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(len(cell.sources) * (10 if cell.method == "xcross" else 1), cell))
    points = Points(suite, files)
    assert points.source_sets("garden") == [("kitchen", "camping"), ("kitchen", "camping", "shed")]
    rivals = tables.rivals_table(points, "xcross")
    assert "| full | garden | kitchen+camping | mean-of-sources | +.270" in rivals
    assert "| full | garden | kitchen+camping+shed | mean-of-sources | +.405" in rivals
    accuracy = tables.accuracy_table(points, "garden", "full")
    assert "| xcross (kitchen+camping+shed) | 120 | .550" in accuracy
    assert "full, more sources | holds |" in tables.claims_table(points, "xcross", [])
    assert tables.claims_table(points, "xcross", []).count("| holds |") == 4
