import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from xcrossrec.data import read_domain
from xcrossrec.evaluation import evaluate
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec_lab.cli import app
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.kept import keep, restore
from xcrossrec_lab.suites.suite import Suite

METHODS = ("popularity", "lora", "mean-of-sources")


class Shuffled:
    """Scores drawn anew for each cell."""

    name = "shuffled"

    def __init__(self, seed: int, n_items: int) -> None:
        self._rng, self._n_items = np.random.default_rng(seed), n_items

    def score(self, histories, candidates):
        scores = self._rng.integers(0, 20, size=(len(histories), self._n_items)).astype(np.float64)
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)


@pytest.fixture
def write_run(suite_file: Callable[..., Path], tmp_path: Path) -> Callable[..., tuple[Suite, CellFiles]]:
    """Write the cells of a suite into a run's folder, with ranks as evaluation makes them."""

    def write(methods: tuple[str, ...] = METHODS, folder: str = "run", seed: int = 0) -> tuple[Suite, CellFiles]:
        suite, files = Suite.read(suite_file(methods, "16", "0, 1")), CellFiles(tmp_path / folder)
        domain = read_domain(suite.data / "garden")
        for number, cell in enumerate(suite.cells()):
            scorer = Shuffled(seed + number, domain.items.height)
            seen = {"v1", "v4"} if cell.sources else None
            found = evaluate(scorer, domain, suite.split, negatives=suite.negatives, seen_users=seen)
            record = {"cell": cell.name, "seed": cell.seed, "data_fingerprint": domain.fingerprint}
            files.write(cell, found, record | {"metrics": found.summary()})
        return suite, files

    return write


def test_what_is_kept_comes_back_equal(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    kept = keep(suite, files, tmp_path / "kept")
    assert (kept.from_run, kept.from_before) == (len(suite.cells()), 0)
    back = CellFiles(tmp_path / "back")
    assert restore(suite, back, tmp_path / "kept").written == len(suite.cells())
    for cell in suite.cells():
        assert back.evaluation(cell).frame.equals(files.evaluation(cell).frame)
        assert back.evaluation(cell).summary() == files.evaluation(cell).summary()
        assert back.record(cell).read_bytes() == files.record(cell).read_bytes()
    again = restore(suite, back, tmp_path / "kept")
    assert (again.written, again.present) == (0, len(suite.cells()))


def test_no_id_of_a_user_is_kept(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    keep(suite, files, tmp_path / "kept")
    frame = pl.read_parquet(tmp_path / "kept" / "ranks" / "garden.parquet")
    assert frame.columns == ["negatives", "cell", "user", "rank", "candidates", "seen"]
    assert set(frame["user"]) == set(range(30))
    texts = set(frame["cell"]) | set(frame["negatives"])
    assert texts == {cell.name for cell in suite.cells()} | {"uniform", "popularity", "full"}
    assert frame["rank"].dtype == pl.UInt16


def test_kept_cells_that_the_run_lacks_stay_and_others_are_replaced(write_run, tmp_path: Path) -> None:
    suite, files = write_run(("popularity", "lora"))
    keep(suite, files, tmp_path / "kept")
    later, of_later = write_run(("lora", "tfidf"), "later", seed=100)
    kept = keep(later, of_later, tmp_path / "kept")
    assert (kept.from_run, kept.from_before) == (3, 2), "two seeds of popularity are from before"
    both, back = Suite.read(tmp_path / "suite.toml"), CellFiles(tmp_path / "back")
    done = restore(both, back, tmp_path / "kept")
    assert (done.written, done.not_in_suite) == (3, 2)
    for cell in later.cells():
        assert back.evaluation(cell).frame.equals(of_later.evaluation(cell).frame)
    assert len(json.loads((tmp_path / "kept" / "cells.json").read_text())) == 5
    assert not list(tmp_path.glob("kept/**/.*")), "nothing half-written stays"


def test_other_data_is_refused_before_anything_is_written(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    keep(suite, files, tmp_path / "kept")
    path = tmp_path / "kept" / "cells.json"
    records = json.loads(path.read_text())
    records[-1]["data_fingerprint"] = "0123abcd"
    path.write_text(json.dumps(records))
    present = read_domain(suite.data / "garden").fingerprint
    with pytest.raises(DataError, match=f"fingerprint 0123abcd, but .*garden has {present}"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    assert not (tmp_path / "back").exists()
    records[-1] |= {"data_fingerprint": present, "metrics": records[-1]["metrics"] | {"seed": 7}}
    path.write_text(json.dumps(records))
    with pytest.raises(DataError, match="candidates of seed 7, the suite says 'validation' and 0"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")


def test_mistakes_with_kept_cells(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    with pytest.raises(DataError, match="no kept cells in"):
        restore(suite, files, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no cell of 'tiny' is complete"):
        keep(suite, CellFiles(tmp_path / "empty"), tmp_path / "kept")
    keep(suite, files, tmp_path / "kept")
    ranks = tmp_path / "kept" / "ranks" / "garden.parquet"
    whole = pl.read_parquet(ranks)
    whole.filter(pl.col("user") != 3).write_parquet(ranks)
    with pytest.raises(DataError, match="are of 29 users, not 30"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    whole.filter(pl.col("cell") != suite.cells()[0].name).write_parquet(ranks)
    with pytest.raises(DataError, match=f"record of {suite.cells()[0].name} without its ranks"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    ranks.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"garden\.parquet cannot be read"):
        keep(suite, files, tmp_path / "kept")


def test_trials_of_a_search_are_kept_too(write_run, suite_file, tmp_path: Path) -> None:
    write_run(("lora",))
    path = tmp_path / "suite.toml"
    searched = path.read_text().replace(
        "[methods.lora]\nlearning_rate = 1e-2", "[methods.lora]\nsearch.learning_rate = [1e-3, 1e-2]"
    )
    path.write_text(
        searched + '\n[tuning]\ntarget = "garden"\nsources = ["kitchen", "camping"]\nbudget = 16\nseed = 0\n'
    )
    suite, files = Suite.read(path), CellFiles(tmp_path / "run")
    tuning = suite.for_tuning()
    fingerprint = read_domain(suite.data / "garden").fingerprint
    for cell in tuning.cells():
        record = {"cell": cell.name, "data_fingerprint": fingerprint, "report": {"best_loss": 1.0}}
        CellFiles(tuning.out).write(cell, None, record)
    keep(suite, files, tmp_path / "kept")
    done = restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    assert (done.written, done.trials) == (2, 2)
    for cell in tuning.cells():
        back = CellFiles(tmp_path / "back" / "tuning").read(cell)
        assert back == CellFiles(tuning.out).read(cell)


def test_commands_keep_and_restore(write_run, tmp_path: Path) -> None:
    write_run()
    suite, kept, back = (str(tmp_path / name) for name in ("suite.toml", "kept", "back"))
    first = CliRunner().invoke(app, ["keep", suite, "--to", kept])
    assert first.exit_code == 0, first.output
    assert "5 cells of the run, 0 from before" in first.stdout
    again = CliRunner().invoke(app, ["restore", suite, "--from", kept, "--out", back])
    assert "5 cells restored, 0 were complete already, 0 skipped" in again.stdout
    status = CliRunner().invoke(app, ["status", suite, "--out", back])
    assert "5 of 5 cells are complete" in status.stdout
