"""Settings are chosen by the loss on users set aside, once, before anybody is ranked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from xcrossrec import ConfigError
from xcrossrec_lab.cli import app
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.suites.tuning import chosen_settings, prepared, trial_losses

TUNING = """
[tuning]
target = "garden"
sources = ["kitchen", "camping"]
budget = 40
seed = 9
"""


def searching(suite_file, more: str = TUNING) -> Path:
    path: Path = suite_file(("lora", "popularity"), more=more)
    search = "[methods.lora]\nsearch.learning_rate = [1e-2, 1e-9]"
    path.write_text(path.read_text().replace("[methods.lora]\nlearning_rate = 1e-2", search))
    return path


def write_losses(suite: Suite, losses: dict[str, float | None]) -> None:
    tuning = suite.for_tuning()
    for cell in tuning.cells():
        trial = cell.method.split("@")[1]
        if trial in losses:
            CellFiles(tuning.out).write(cell, None, {"report": {"best_loss": losses[trial]}})


def test_the_lowest_loss_chooses(suite_file) -> None:
    suite = Suite.read(searching(suite_file))
    write_losses(suite, {"learning_rate=0.01": 2.0, "learning_rate=1e-09": 1.5})
    assert chosen_settings(suite) == {"lora": {"learning_rate": 1e-9}}
    assert prepared(suite, suite.out, tune=False).methods["lora"].settings == {"learning_rate": 1e-9}
    assert [cell.name for cell in suite.for_tuning().cells()] == [
        "garden/none/lora@learning_rate=0.01/40-s9",
        "garden/none/lora@learning_rate=1e-09/40-s9",
    ]


def test_a_search_that_is_not_finished_stops_the_run(suite_file) -> None:
    suite = Suite.read(searching(suite_file))
    with pytest.raises(ConfigError, match=r"'lora' has not tried learning_rate=0\.01: run `xcrossrec-lab tune`"):
        prepared(suite, suite.out, tune=False)
    write_losses(suite, {"learning_rate=0.01": None, "learning_rate=1e-09": None})
    with pytest.raises(ConfigError, match="no trial of method 'lora' reports a loss"):
        chosen_settings(suite)


def test_several_settings_are_combined(suite_file) -> None:
    path = searching(suite_file)
    path.write_text(path.read_text().replace("[1e-2, 1e-9]", "[1e-2, 1e-9]\nsearch.rank = [1, 2, 3]"))
    entry = Suite.read(path).methods["lora"]
    assert len(entry.trials()) == 6
    assert entry.trials()["learning_rate=0.01,rank=2"] == {"learning_rate": 0.01, "rank": 2}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TUNING, "", "'lora' has a search, but no"),
        ("budget = 40", "", r"\[tuning\] has no budget"),
        ("seed = 9", "seeds = [9]", "unknown entry 'seeds'"),
        ("[1e-2, 1e-9]", "1e-2", "the search of method 'lora' is"),
        ("search.learning_rate", "learning_rate = 1.0\nsearch.learning_rate", "both has and searches 'learning_rate'"),
    ],
)
def test_mistakes_are_named(suite_file, old: str, new: str, message: str) -> None:
    path = searching(suite_file)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        Suite.read(path)


@pytest.mark.integration
def test_tune_then_run(suite_file, tmp_path: Path) -> None:
    path = searching(suite_file)
    refused = CliRunner().invoke(app, ["run", str(path)])
    assert refused.exit_code == 2
    assert "xcrossrec-lab tune" in refused.stderr
    result = CliRunner().invoke(app, ["tune", str(path), "--workers", "2"])
    assert result.exit_code == 0, result.output
    suite = Suite.read(path)
    losses = trial_losses(suite)["lora"]
    best = min(losses, key=lambda trial: losses[trial])
    assert [line.split()[1] for line in result.stdout.splitlines() if "<- chosen" in line] == [best]
    assert len(set(losses.values())) == 2, "a rate of 1e-9 learns nothing, one of 1e-2 does"
    records = [json.loads(file.read_text()) for file in (tmp_path / "run" / "tuning").rglob("*.json")]
    assert len(records) == 2
    assert not any("metrics" in record for record in records), "nobody is ranked"
    assert not list((tmp_path / "run").rglob("*.parquet"))


def test_a_suite_without_search_has_nothing_to_tune(suite_file) -> None:
    result = CliRunner().invoke(app, ["tune", str(suite_file())])
    assert result.exit_code == 2
    assert "no method of 'tiny' has a search" in result.stderr
