from dataclasses import replace
from pathlib import Path

import pytest

from xcrossrec import ConfigError, read_domain
from xcrossrec.models.model import encoder_of
from xcrossrec_lab.methods import KINDS
from xcrossrec_lab.suites.cell_process import make_task, run_cell
from xcrossrec_lab.suites.cells import ALL, NO_BUDGET, Cell, CellFiles
from xcrossrec_lab.suites.suite import Suite

EVIDENCE = Path(__file__).resolve().parents[2] / "evidence"


def test_cells_come_once_in_the_grids_order(suite_file) -> None:
    suite = Suite.read(suite_file(budgets='16, "all"', seeds="0, 1"))
    names = [cell.name for cell in suite.cells()]
    assert names[:5] == [
        "garden/none/popularity/16-s0",
        "garden/none/tfidf/no-s0",
        "garden/kitchen+camping/mean-of-sources/no-s0",
        "garden/none/lora/16-s0",
        "garden/kitchen+camping/xcross/16-s0",
    ]
    assert len(names) == len(set(names))
    assert "garden/none/popularity/all-s0" in names
    assert "garden/none/popularity/all-s1" not in names, "no seed changes counts over all users"
    assert "garden/none/lora/all-s1" in names


def test_epochs_follow_the_budget(suite_file) -> None:
    text = suite_file().read_text().replace("16 = 1", "16 = 9\n64 = 4\nall = 2")
    path = suite_file()
    path.write_text(text)
    suite = Suite.read(path)
    assert [suite.training_for(budget, 3).epochs for budget in (8, 16, 40, 64, 5000, ALL)] == [9, 9, 9, 4, 4, 2]
    assert suite.training_for(16, 3).seed == 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', 'nam = "tiny"', "unknown entry 'nam'"),
        ('"popularity",', '"popular",', "names a method 'popular' that has no"),
        ("[methods.tfidf]", '[methods.tfidf]\nkind = "bm25"', "of an unknown kind 'bm25'"),
        ("budgets = [16]", "budgets = [1]", "a budget is 1: give a number of users from 2 up"),
        ("budgets = [16]", "", "has no budgets"),
        ('targets = ["garden"]', 'targets = ["kitchen"]', "unused"),
        ("[epochs]\n16 = 1", "[epochs]\nmany = 1", "maps budgets to whole numbers"),
        ('warm = ["lora-from-source"]', 'warm = ["warm"]', r"\[report\] names a method 'warm'"),
        ("batch_users = 16", "batch = 16", "unknown training setting 'batch'"),
        ("[[grid]]", "[[grids]]", "unknown entry 'grids'"),
        ('name = "tiny"', 'encoding = "fp16"', "encoding 'fp16' in a suite: choose one of fp32, bf16"),
        ("[methods.tfidf]", '["methods"."a/b"]', "is called 'a/b'|of an unknown kind"),
    ],
)
def test_mistakes_are_named(suite_file, old: str, new: str, message: str) -> None:
    path = suite_file()
    if message == "unused":
        new, message = new + '\nsources = { kitchen = ["kitchen"] }', "cannot be read|source of itself"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        Suite.read(path)


def test_the_encoding_is_that_of_every_cells_ranking(suite_file, tmp_path: Path) -> None:
    path = suite_file(("untrained",))
    text = path.read_text()
    for lines, encoding in (("", "fp32"), ('encoding = "bf16"\n', "bf16")):
        path.write_text(lines + text)
        suite = Suite.read(path)
        (cell,) = suite.cells()
        task = make_task(suite, cell, read_domain(suite.data / "garden"), tmp_path)
        assert (suite.encoding, task.encoding) == (encoding, encoding)
        scorer = KINDS["untrained"].load()(task).scorer
        assert encoder_of(scorer.model).precision == encoding


def test_a_method_may_have_a_rate_of_its_own_for_the_head(suite_file, tmp_path: Path) -> None:
    suite = Suite.read(suite_file())
    (cell,) = (cell for cell in suite.cells() if cell.method == "lora")
    target = read_domain(suite.data / "garden")
    common = make_task(suite, cell, target, tmp_path)
    rates = {"head_learning_rate": 2e-4, "target_learning_rate": 3e-4}
    task = make_task(suite.with_settings({"lora": rates}), cell, target, tmp_path)
    assert task.training == replace(common.training, **rates)
    assert task.settings == common.settings


@pytest.mark.parametrize(("own", "expected"), [({}, "shared"), ({"pair_attention": "joint"}, "joint")])
def test_pairs_are_read_as_the_suite_says_unless_the_method_says_otherwise(
    suite_file, tmp_path: Path, own: dict[str, str], expected: str
) -> None:
    path = suite_file(("lora",))
    path.write_text('scoring = "pair"\npair_attention = "shared"\nnegatives = ["uniform"]\n' + path.read_text())
    suite = Suite.read(path).with_settings({"lora": own})
    (cell,) = suite.cells()
    task = make_task(suite, cell, read_domain(suite.data / "garden"), tmp_path)
    assert task.attention == expected
    assert "pair_attention" not in task.settings
    record = run_cell(suite, CellFiles(tmp_path / "out"), cell)
    assert record["pair"] == {"attention": expected, "start": "similarity"}
    assert record["settings"] == suite.methods["lora"].settings


def test_a_methods_unknown_pair_attention_is_refused_with_the_suite(suite_file) -> None:
    path = suite_file(("lora",))
    path.write_text(path.read_text().replace("[methods.lora]", '[methods.lora]\npair_attention = "jiont"'))
    with pytest.raises(ConfigError, match="method 'lora': 'jiont' in a suite: choose one of joint, shared"):
        Suite.read(path)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.toml cannot be read"):
        Suite.read(tmp_path / "nothing.toml")
    (tmp_path / "broken.toml").write_text("name =")
    with pytest.raises(ConfigError, match=r"broken\.toml cannot be read"):
        Suite.read(tmp_path / "broken.toml")


def test_names_of_cells() -> None:
    assert Cell("toys", (), "tfidf", NO_BUDGET, 0).name == "toys/none/tfidf/no-s0"
    assert Cell("toys", ("a", "b"), "lora", ALL, 2).name == "toys/a+b/lora/all-s2"


@pytest.mark.parametrize("path", sorted(EVIDENCE.glob("*.toml")), ids=lambda path: path.name)
def test_the_suites_that_are_shipped_read(path: Path) -> None:
    assert Suite.read(path).cells()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_its_function(kind: str) -> None:
    assert callable(KINDS[kind].load())
