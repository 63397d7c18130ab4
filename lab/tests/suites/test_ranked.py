from dataclasses import replace
from pathlib import Path

import pytest

from xcrossrec import ConfigError, DataError, read_domain
from xcrossrec_lab.report.points import Points
from xcrossrec_lab.suites.cell_process import run_cell
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.kept import keep, restore
from xcrossrec_lab.suites.ranked import ranked_users
from xcrossrec_lab.suites.suite import Suite


def suite_on_train(suite_file, methods=("tfidf", "lora"), budgets="8, 16", seeds="0, 1") -> Suite:
    return replace(Suite.read(suite_file(methods, budgets, seeds)), split="train")


def test_of_train_only_users_whom_no_cell_learns_from_are_ranked(suite_file) -> None:
    suite = suite_on_train(suite_file)
    domain = read_domain(suite.data / "garden")
    ranked = ranked_users(suite, domain)
    sequences = domain.sequences("train")
    drawn = {user for seed in (0, 1) for user in sequences.take(16, seed).user_ids}
    assert set(ranked.domain.sequences("train").user_ids) == set(sequences.user_ids) - drawn
    assert 50 > len(drawn) > 16
    assert ranked.directory is None, "candidates of the whole split are of other users"
    assert ranked.domain.titles == domain.titles


def test_other_splits_are_ranked_whole(suite_file) -> None:
    suite = Suite.read(suite_file())
    domain = read_domain(suite.data / "garden")
    ranked = ranked_users(suite, domain)
    assert ranked.domain is domain
    assert ranked.directory == suite.data / "garden"


@pytest.mark.parametrize(("budgets", "named"), [('"all"', "all"), ("16, 50", "50")])
def test_a_grid_that_learns_from_everybody_leaves_nobody_to_rank(
    suite_file, tmp_path: Path, budgets: str, named: str
) -> None:
    suite = suite_on_train(suite_file, budgets=budgets)
    message = rf"all 50 \(its largest budget is {named}\): leave out budgets or seeds, or rank 'validation'"
    with pytest.raises(ConfigError, match=message):
        ranked_users(suite, read_domain(suite.data / "garden"))
    with pytest.raises(ConfigError, match=message):
        run_cell(suite, CellFiles(tmp_path / "run"), suite.cells()[-1])
    assert not (tmp_path / "run").exists(), "refused before anything is trained"


@pytest.mark.integration
def test_cells_of_unused_users_are_kept_and_refused_when_the_grid_draws_others(suite_file, tmp_path: Path) -> None:
    suite, files = suite_on_train(suite_file, ("tfidf", "xcross"), "8", "0"), CellFiles(tmp_path / "run")
    for cell in suite.cells():
        record = run_cell(suite, files, cell)
        assert record["metrics"]["users"] == 42
        assert record["metrics"]["split"] == "train"
    assert record["integration_off"]["users"] == 42
    keep(suite, files, tmp_path / "kept")
    back = CellFiles(tmp_path / "back")
    assert restore(suite, back, tmp_path / "kept").written == 2
    for cell in suite.cells():
        assert back.evaluation(cell).frame.equals(files.evaluation(cell).frame)
    wider = suite_on_train(suite_file, ("tfidf", "xcross"), "8, 16", "0")
    with pytest.raises(DataError, match=r"garden/none/tfidf/no-s0 ranked other users of 'garden' than .* grid leaves"):
        keep(wider, files, tmp_path / "kept")
    run_cell(wider, files, wider.cells()[1])
    with pytest.raises(DataError, match=r"tfidf/no-s0 and .*xcross/8-s0 rank different users of 'garden'"):
        Points(wider, files)
