import itertools
import json
import struct
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from xcrossrec.evaluation import Evaluation
from xcrossrec.evaluation.result import RESULT_SCHEMA, EvaluationInfo
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.metrics.ranking import per_user_metrics
from xcrossrec.metrics.significance import PairedComparison, bootstrap_interval, holm_adjusted
from xcrossrec.types import NEGATIVES
from xcrossrec_lab.cli import app
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
    relative_over,
    relative_to,
    rivals_verdict,
    seed_differences,
    shuffled_pairs,
)
from xcrossrec_lab.report.figures import (
    _drawn,
    _name_users,
    _panels,
    _pyplot,
    accuracy_against,
    budget_curves,
    integration_maps,
)
from xcrossrec_lab.report.page import write_report
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.report.resampling import compare_many, interval, relative_interval
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite

METHODS = ("popularity", "mean-of-sources", "lora", "lora-from-source", "xcross")
USERS = 60


def evaluation(rank: np.ndarray, kinds: Sequence[str] = NEGATIVES) -> Evaluation:
    frames = []
    for kind in kinds:
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
        found = evaluation(rank_of(cell), suite.negatives)
        record = {
            "seed": cell.seed, "users": max(cell.budget, 0), "commit": "abc",
            "trained_parameters": {"lora": 300, "xcross": 120}.get(cell.method, 0), "head_parameters": 20,
            "report": {"parameters": {"stream_weights": 2}} if cell.method == "xcross" else {},
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
    assert point.by_seed("full") == {0: 1.0, 1: 0.5}
    assert point.spread("full") == pytest.approx(np.std([1.0, 0.5], ddof=1))
    table = tables.accuracy_table(Points(suite, files), "garden", "full")
    assert "| lora | 300 | .750 ±.000 (sd .3536 over 2 seeds) |" in table


def test_streams_that_take_nothing_from_each_other_have_no_map(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("xcross",), "128")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    assert integration_maps(Points(suite, files), "xcross", 128, tmp_path / "map.png")
    for cell in suite.cells():
        nothing = {"pairs": ["a to b", "b to a"], "layers": 2 * [{"a to b": 0.0, "b to a": 0.0}]}
        files.write(cell, files.evaluation(cell), files.read(cell) | {"integration_map": nothing})
    assert not integration_maps(Points(suite, files), "xcross", 128, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


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


def test_figures_leave_out_what_lies_far_below_and_the_checks(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file((*METHODS, "shuffled"), "128, 512", "0")), CellFiles(tmp_path / "run")
    assert suite.methods["shuffled"].settings["shuffle_titles"] is True
    write_cells(suite, files, lambda cell: ranks(30, cell))
    points = Points(suite, files)
    assert {"popularity", "shuffled"} < set(points.methods("garden"))
    assert set(_drawn(points, "garden")) == set(points.methods("garden")) - {"popularity", "shuffled"}


def test_curves_have_a_panel_of_own_forms_and_loras_and_one_of_other_methods(points: Points, tmp_path: Path) -> None:
    own, others = _panels(points, "garden").values()
    assert set(own) == {"lora", "lora-from-source", "xcross"}
    assert "xcross" in others
    assert set(own) | set(others) == set(_drawn(points, "garden"))
    assert budget_curves(points, "garden", "popularity", tmp_path / "curves.png")
    width, height = struct.unpack(">II", (tmp_path / "curves.png").read_bytes()[16:24])
    assert width > 1.5 * height


def test_users_too_close_for_two_names_have_one() -> None:
    figure, axes = _pyplot().subplots()
    _name_users(axes, [2048, 128, 8769, 8192])
    _pyplot().close(figure)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["128", "2,048", "", "8,769"]


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


def test_other_forms_are_compared_with_lora_too(suite_file, tmp_path: Path, points: Points) -> None:
    path = tmp_path / "suite.toml"
    path.write_text(path.read_text().replace('ours = "xcross"', 'ours = "xcross"\nforms = ["lora"]'))
    suite = Suite.read(path)
    page = write_report(suite, CellFiles(tmp_path / "run"), tmp_path / "page").read_text()
    assert page.index("# Claims, about `lora`") > page.index("# Claims, about `xcross`")
    path.write_text(path.read_text().replace('"lora"]', '"absent"]', 1))
    with pytest.raises(ConfigError, match="a method 'absent' that has no"):
        Suite.read(path)


def test_a_suite_without_full_ranking_claims_nothing_about_it(suite_file, tmp_path: Path) -> None:
    path = suite_file(METHODS, "128", "0")
    path.write_text('negatives = ["uniform", "popularity"]\n' + path.read_text())
    suite, files = Suite.read(path), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    result = CliRunner().invoke(
        app, ["report", str(path), "--out", str(tmp_path / "run"), "--to", str(tmp_path / "page")]
    )
    assert result.exit_code == 0, result.output
    page = (tmp_path / "page" / "README.md").read_text()
    assert "cross-domain method, popularity, the first sources" in page
    assert "cross-domain method, full" not in page
    assert "| full | garden |" not in page


def two_targets(suite_file, seeds: str = "0", budgets: str = "128") -> Suite:
    """A suite of two targets, of which the second lacks TF-IDF."""
    path = suite_file(METHODS, budgets, seeds)
    path.write_text(
        path.read_text().replace('targets = ["garden"]', 'targets = ["garden", "shed"]')
        + '\n[[grid]]\ntargets = ["garden"]\nmethods = ["tfidf"]\nbudgets = [128]\nseeds = [0]\n'
    )
    return Suite.read(path)


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


def test_shared_draws_give_the_usual_intervals_and_p_values() -> None:
    rng = np.random.default_rng(5)
    values = [rng.normal(shift, 1.0, size=40) for shift in (0.0, 0.3, 1.0)]
    for value in values:
        assert interval(value) == pytest.approx(bootstrap_interval(value, rng=np.random.default_rng(0)), abs=1e-9)
    few = [value[:9] for value in values] + [np.zeros(9)]
    flips = np.array(list(itertools.product((-1.0, 1.0), repeat=9)))
    for value, found in zip(few, compare_many(few), strict=True):
        exact = np.mean(np.abs(flips @ value) >= abs(value.sum()) - 1e-9)
        assert found.p_value == pytest.approx(exact, abs=0.02)
        assert (found.difference, found.users) == (pytest.approx(value.mean()), 9)
    low, high = relative_interval(1.02 * np.ones(30), np.ones(30))
    assert (low, high) == pytest.approx((0.02, 0.02))
    assert compare_many([]) == []


def test_a_clear_difference_stays_one_among_hundreds_of_comparisons() -> None:
    rng = np.random.default_rng(6)
    clear = [rng.normal(0.5, 1.0, size=400) for _ in range(2)]  # ten standard errors
    nothing = [rng.normal(0.0, 1.0, size=400) for _ in range(298)]
    adjusted = holm_adjusted([found.p_value for found in compare_many([*clear, *nothing])])
    assert max(adjusted[:2]) < 1e-6
    assert min(adjusted[2:]) > 0.01


def test_report_command_writes_page_and_figures(suite_file, tmp_path: Path, points: Points) -> None:
    result = CliRunner().invoke(app, ["report", str(tmp_path / "suite.toml"), "--to", str(tmp_path / "page")])
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


def test_the_page_has_no_empty_table_and_no_heading_over_nothing(suite_file, tmp_path: Path) -> None:
    suite, files = Suite.read(suite_file(("lora", "xcross"), "128")), CellFiles(tmp_path / "run")
    write_cells(suite, files, lambda cell: ranks(30, cell))
    blocks = write_report(suite, files, tmp_path / "report").read_text().strip().split("\n\n")
    drawn = [block for block in blocks if block.startswith("|")]
    assert drawn
    assert all(len(block.splitlines()) > 2 for block in drawn)
    levels = [len(block) - len(block.lstrip("#")) for block in blocks]
    assert levels[-1] == 0
    assert all(here == 0 or after == 0 or after > here for here, after in pairwise(levels))
    assert not any("seed by seed" in block for block in blocks), "one seed has no spread"
    assert not list((tmp_path / "report").glob("curves-*")), "one number of users makes no curve"


def test_a_report_without_cells_says_what_to_run(suite_file, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", str(suite_file())])
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
