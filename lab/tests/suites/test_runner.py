import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from elsewhere import Elsewhere
from xcrossrec import ConfigError, DataError, read_domain
from xcrossrec_lab.cli import app
from xcrossrec_lab.suites.cell_process import commit, cut_to_budget, run_cell, shuffle_titles
from xcrossrec_lab.suites.cells import ALL, CellFiles
from xcrossrec_lab.suites.runner import Progress, run, select
from xcrossrec_lab.suites.suite import Suite

pytestmark = pytest.mark.integration


def cell_of(suite: Suite, method: str):
    return next(cell for cell in suite.cells() if cell.method == method)


def test_a_cell_records_what_the_issue_asks_for(suite_file, tmp_path: Path) -> None:
    suite = Suite.read(suite_file(("xcross", "lora", "popularity")))
    files = CellFiles(tmp_path / "run")
    record = run_cell(suite, files, cell_of(suite, "xcross"))
    assert json.loads(files.record(cell_of(suite, "xcross")).read_text()) == json.loads(json.dumps(record))
    assert record["users"] == record["training"]["batch_users"] == 16
    assert record["data_fingerprint"] == read_domain(suite.data / "garden").fingerprint
    assert record["fit"]["cpu_s"] > 0
    assert record["peak_memory_mib"] > 100
    body = record["trained_parameters"] - record["head_parameters"]
    layers, dim = 2, 32
    assert body == layers * 4 * 2 * dim + 2, "integrators of two layers, and two stream weights"
    assert set(record["metrics"]["metrics"]) == {"uniform", "popularity", "full"}
    assert record["integration_off"]["users"] == record["metrics"]["users"]
    assert [set(layer) for layer in record["integration_map"]["layers"]] == 2 * [
        set(record["integration_map"]["pairs"])
    ]
    assert files.evaluation(cell_of(suite, "xcross")).summary()["metrics"] == record["metrics"]["metrics"]
    assert not any((tmp_path / "run" / "work").iterdir()), "the scratch folder stays empty"


def test_a_record_says_where_it_ran(suite_file, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = Suite.read(suite_file(("popularity",)))
    monkeypatch.setenv("XCROSSREC_COMMIT", "0123abc")
    commit.cache_clear()
    try:
        record = run_cell(suite, CellFiles(tmp_path / "run"), cell_of(suite, "popularity"))
    finally:
        commit.cache_clear()
    assert record["commit"] == "0123abc"
    assert (record["accelerator"] is not None) == torch.cuda.is_available()


def test_a_retired_method_is_refused_with_the_commit_at_which_it_runs(suite_file, tmp_path: Path) -> None:
    path = suite_file(("popularity", "xcross"))
    path.write_text(path.read_text().replace("[methods.xcross]", '[methods.xcross]\nretired = "0123abc"'))
    suite, files = Suite.read(path), CellFiles(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"'xcross' is retired.* check out commit 0123abc"):
        run_cell(suite, files, cell_of(suite, "xcross"))
    assert not files.root.exists()
    run_cell(suite, files, cell_of(suite, "popularity"))
    assert files.done(cell_of(suite, "popularity")), "what is not retired runs"


def test_the_same_cell_twice_gives_the_same_ranks(suite_file, tmp_path: Path) -> None:
    suite = Suite.read(suite_file())
    cell = cell_of(suite, "lora")
    first, second = CellFiles(tmp_path / "a"), CellFiles(tmp_path / "b")
    run_cell(suite, first, cell)
    run_cell(suite, second, cell)
    assert first.evaluation(cell).frame.equals(second.evaluation(cell).frame)


def test_a_budget_leaves_no_other_user(suite_data: Path) -> None:
    domain = read_domain(suite_data / "garden")
    cut = cut_to_budget(domain, 16, 3)
    assert set(cut.sequences("train").user_ids) == set(domain.sequences("train").take(16, 3).user_ids)
    assert cut.splits == ("train",), "validation users are out of a method's reach"
    assert cut.titles == domain.titles
    assert cut_to_budget(domain, ALL, 3).frame("train").equals(domain.frame("train"))


def test_shuffled_titles_keep_the_interactions(suite_data: Path) -> None:
    domain = read_domain(suite_data / "garden")
    dealt = shuffle_titles(domain, 0)
    assert sorted(dealt.titles) == sorted(domain.titles)
    assert sum(a == b for a, b in zip(dealt.titles, domain.titles, strict=True)) < 10
    assert dealt.frame("train").equals(domain.frame("train"))


def test_shuffled_titles_change_what_a_reader_scores(suite_file, tmp_path: Path) -> None:
    suite = Suite.read(suite_file(("untrained", "shuffled")))
    files = CellFiles(tmp_path / "run")
    plain, dealt = (run_cell(suite, files, cell_of(suite, name)) for name in ("untrained", "shuffled"))
    assert plain["metrics"]["metrics"] != dealt["metrics"]["metrics"]


def test_a_run_goes_on_where_it_was_killed(suite_file, tmp_path: Path) -> None:
    path, out = suite_file(("popularity", "tfidf", "mean-of-sources")), tmp_path / "run"
    command = [sys.executable, "-W", "ignore", "-m", "xcrossrec_lab.cli", "run", str(path)]
    runner = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    suite, files = Suite.read(path), CellFiles(out)
    first, *others = suite.cells()
    deadline = time.monotonic() + 120
    while not files.done(first) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(runner.pid, signal.SIGKILL)
    runner.wait()
    assert files.done(first)
    kept = files.record(first).stat().st_mtime_ns
    state = run(path, out)
    assert (state.done, state.failed) == (3, [])
    assert state.finished_now <= 2
    assert files.record(first).stat().st_mtime_ns == kept, "what was finished is not run again"
    assert all(files.done(cell) for cell in others)


def test_a_cell_that_fails_says_why_and_the_others_go_on(suite_file, tmp_path: Path) -> None:
    path, out = suite_file(("source-1", "popularity")), tmp_path / "run"
    path.write_text(path.read_text().replace('kind = "source"', 'kind = "source"\nnumber = 7'))
    state = run(path, out, workers=2)
    assert (state.done, state.failed) == (1, ["garden/kitchen+camping/source-1/no-s0"])
    log = CellFiles(out).failure(Suite.read(path).cells()[0])
    assert "source number 7 of 2 sources" in log.read_text()
    result = CliRunner().invoke(app, ["status", str(path)])
    assert "failed   garden/kitchen+camping/source-1/no-s0" in result.stdout
    assert "1 of 2 cells are complete, 1 failed" in result.stdout


def test_a_cell_is_an_engines_task(suite_file, tmp_path: Path) -> None:
    path, out, engine = suite_file(("popularity",)), tmp_path / "run", Elsewhere()
    state = run(path, out, engine=engine, threads=3)
    assert (state.done, state.failed) == (1, [])
    assert CellFiles(out).read(Suite.read(path).cells()[0])["threads"] == "3"
    assert not list(out.rglob("*.log"))
    assert run(path, out, engine=engine).finished_now == 0
    assert len(engine.worked) == 1, "what is finished is not run again"


def servers() -> list[int]:
    """The living servers that this process has started."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and "xcrossrec_lab.suites.cell_server" in (folder / "cmdline").read_text():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def test_cells_are_forked_from_one_server_with_the_threads_asked_for(suite_file, tmp_path: Path) -> None:
    path, out = suite_file(("popularity", "tfidf", "mean-of-sources")), tmp_path / "run"
    state = run(path, out, workers=2, threads=3)
    assert (state.done, state.failed) == (3, [])
    files, cells = CellFiles(out), Suite.read(path).cells()
    assert {files.read(cell)["threads"] for cell in cells} == {"3"}
    assert all(files.read(cell)["peak_memory_mib"] > 100 for cell in cells)
    assert not list(out.rglob("*.log"))
    assert "OMP_NUM_THREADS" not in os.environ or os.environ["OMP_NUM_THREADS"] != "3", "the runner keeps its own"


def test_a_server_that_dies_fails_its_cells_alone(suite_file, tmp_path: Path) -> None:
    path, out = suite_file(("popularity", "tfidf")), tmp_path / "run"
    killed: list[int] = []

    def kill_first(state: Progress) -> None:
        if state.running and not killed:
            killed.extend(servers())
            os.kill(killed[0], signal.SIGKILL)

    state = run(path, out, progress=kill_first)
    first, second = Suite.read(path).cells()
    assert state.failed == [first.name]
    assert "ended with code -256" in CellFiles(out).failure(first).read_text()
    assert CellFiles(out).done(second), "another server took the next cell"


def test_an_interrupted_run_leaves_no_process(suite_file, tmp_path: Path) -> None:
    path = suite_file(("lora",))
    started: list[int] = []

    def interrupt(state: Progress) -> None:
        started.extend(servers())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(path, tmp_path / "run", progress=interrupt)
    assert len(started) == 1
    assert servers() == []


def test_mistakes_of_a_run(suite_file, tmp_path: Path) -> None:
    path = suite_file()
    with pytest.raises(ConfigError, match="0 workers are asked for"):
        run(path, tmp_path / "run", workers=0)
    with pytest.raises(ConfigError, match="no cell of 'tiny' fits 'toys/"):
        select(Suite.read(path), ["toys/*"])
    assert [cell.method for cell in select(Suite.read(path), ["*/lora/*"])] == ["lora"]
    with pytest.raises(DataError, match="cannot be read"):
        CellFiles(tmp_path).read(Suite.read(path).cells()[0])


def test_two_runs_do_not_share_a_folder(suite_file, tmp_path: Path) -> None:
    import fcntl

    path, out = suite_file(), tmp_path / "run"
    out.mkdir()
    with (out / "run.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="another run is at work"):
            run(path, out)


def test_a_source_without_adapter_is_named(suite_file, tmp_path: Path) -> None:
    path = suite_file(("mean-of-sources",))
    (tmp_path / "adapters" / "camping").unlink()
    suite = Suite.read(path)
    with pytest.raises(ConfigError, match=r"source 'camping' has no adapter at .*xcrossrec-lab sources"):
        run_cell(suite, CellFiles(tmp_path / "run"), suite.cells()[0])


def test_sources_are_trained_once(suite_file, tmp_path: Path, suite_data: Path) -> None:
    path = suite_file(("mean-of-sources",))
    text = path.read_text().replace(
        "[training]", "[sources]\nbudget = 20\nepochs = 1\nprecision = 'fp32'\n\n[training]"
    )
    path.write_text(text)
    data = tmp_path / "data"
    data.mkdir()
    for name in ("garden", "camping"):
        (data / name).symlink_to(suite_data / "garden")
    path.write_text(text.replace(str(suite_data), str(data)))
    (tmp_path / "adapters" / "camping").unlink()
    first = CliRunner().invoke(app, ["sources", str(path)])
    again = CliRunner().invoke(app, ["sources", str(path)])
    assert (first.exit_code, first.stdout) == (0, "1 sources trained\n")
    assert (again.exit_code, again.stdout) == (0, "0 sources trained\n")
    manifest = json.loads((tmp_path / "adapters" / "camping" / "xcrossrec.json").read_text())
    assert manifest["training"]["budget"] == 20
