import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from xcrossrec import ConfigError, DataError, evaluate, read_domain
from xcrossrec_lab.cli import app
from xcrossrec_lab.suites.cells import CellFiles
from xcrossrec_lab.suites.kept import KeptCells, keep, restore
from xcrossrec_lab.suites.rank_file import Ranks, read_ranks, write_ranks
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


def records_in(folder: Path) -> list[dict[str, Any]]:
    return list(json.loads(lzma.decompress((folder / "cells.json.xz").read_bytes())))


def test_what_is_kept_comes_back_equal(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    kept = keep(suite, files, tmp_path / "kept")
    assert (kept.from_run, kept.from_before) == (len(suite.cells()), 0)
    back = CellFiles(tmp_path / "back")
    assert restore(suite, back, tmp_path / "kept").written == len(suite.cells())
    for cell in suite.cells():
        assert back.evaluation(cell).frame.equals(files.evaluation(cell).frame)
        assert replace(back.evaluation(cell).info, wall_s=0.0) == replace(files.evaluation(cell).info, wall_s=0.0)
        assert back.record(cell).read_bytes() == files.record(cell).read_bytes()
    again = restore(suite, back, tmp_path / "kept")
    assert (again.written, again.present) == (0, len(suite.cells()))


def test_no_id_of_a_user_is_kept(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    keep(suite, files, tmp_path / "kept")
    content = [lzma.decompress(path.read_bytes()) for path in (tmp_path / "kept").glob("**/*.xz")]
    assert len(content) == 2
    assert not any(user.encode() in text for text in content for user in ("v0", "v17", "t3"))
    table = read_ranks(tmp_path / "kept" / "ranks" / "garden.xz")
    assert set(table) == {"uniform", "popularity", "full"}
    assert all(set(cells) == {cell.name for cell in suite.cells()} for cells in table.values())


def test_kept_cells_are_reported_without_the_data(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    keep(suite, files, tmp_path / "kept")
    kept = KeptCells(tmp_path / "kept")
    for cell in suite.cells():
        assert kept.done(cell)
        assert kept.read(cell) == files.read(cell)
        found, wanted = kept.per_user(cell), files.per_user(cell)
        assert list(found) == list(wanted)
        assert all(found[kind].equals(wanted[kind]) for kind in wanted)


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
    assert len(records_in(tmp_path / "kept")) == 5
    assert not list(tmp_path.glob("kept/**/.*")), "nothing half-written stays"


def test_other_data_is_refused_before_anything_is_written(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    keep(suite, files, tmp_path / "kept")
    path = tmp_path / "kept" / "cells.json.xz"
    records = records_in(tmp_path / "kept")
    records[-1]["data_fingerprint"] = "0123abcd"
    path.write_bytes(lzma.compress(json.dumps(records).encode()))
    present = read_domain(suite.data / "garden").fingerprint
    with pytest.raises(DataError, match=f"fingerprint 0123abcd, but .*garden has {present}"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    assert not (tmp_path / "back").exists()
    records[-1] |= {"data_fingerprint": present, "metrics": records[-1]["metrics"] | {"seed": 7}}
    path.write_bytes(lzma.compress(json.dumps(records).encode()))
    with pytest.raises(DataError, match="candidates of seed 7, the suite says 'validation' and 0"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")


def test_mistakes_with_kept_cells(write_run, tmp_path: Path) -> None:
    suite, files = write_run()
    with pytest.raises(DataError, match="no kept cells in"):
        restore(suite, files, tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no cell of 'tiny' is complete"):
        keep(suite, CellFiles(tmp_path / "empty"), tmp_path / "kept")
    keep(suite, files, tmp_path / "kept")
    path = tmp_path / "kept" / "ranks" / "garden.xz"
    whole = read_ranks(path)
    write_ranks(path, {kind: {n: without_the_last(r) for n, r in cells.items()} for kind, cells in whole.items()})
    with pytest.raises(DataError, match="are of 29 users, not 30"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    first = suite.cells()[0].name
    write_ranks(path, {kind: {n: r for n, r in cells.items() if n != first} for kind, cells in whole.items()})
    with pytest.raises(DataError, match=f"record of {first} without its ranks"):
        restore(suite, CellFiles(tmp_path / "back"), tmp_path / "kept")
    path.write_bytes(b"no ranks")
    with pytest.raises(DataError, match=r"garden\.xz cannot be read"):
        keep(suite, files, tmp_path / "kept")


def without_the_last(ranks: Ranks) -> Ranks:
    return Ranks(ranks.rank[:-1], ranks.candidates[:-1], ranks.seen[:-1])


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
