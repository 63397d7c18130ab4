"""The demo, on a tiny base and a handful of simulated users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.cli.demo import MARKER, SIMULATED, _verdict, claim
from xcrossrec.data import read_domain
from xcrossrec.evaluation import Evaluation
from xcrossrec.exceptions import DataError
from xcrossrec.models import bundle

RUNNER = CliRunner()


def test_the_demo_does_the_whole_job(tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["demo", "--out", "here", "--fast", "--base", str(tiny_models.base)]
    done = RUNNER.invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    out = tmp_path / "here"
    for rival in (
        "popularity",
        "TF-IDF of titles",
        "untrained base",
        "untrained base, centered",
        "kitchen alone",
        "mean of the sources",
        "LoRA on",
        "X-Cross's integrators",
    ):
        assert rival in done.stdout
    assert done.stdout.count(SIMULATED) == 2
    assert "Did it help?" in done.stdout
    assert "Best match in the history" in done.stdout
    assert "of one source's" in done.stdout
    assert "The sources are merged into one stream" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert bundle.read_bundle_manifest(out / "model")["domain"]["simulated"] is True
    assert read_domain(out / "target").name == "garden"
    assert {path.name for path in (out / "sources").iterdir()} >= {"kitchen", "camping"}
    assert Evaluation.load(out / "results" / "xcrossrec.parquet").info.simulated
    record = json.loads((out / MARKER).read_text())
    assert record["finished"]
    assert len(record["summaries"]) == 10
    (out / "mine.txt").write_text("kept")
    claim(out, overwrite=False)
    assert (out / "mine.txt").exists()
    assert not (out / "model").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "model").mkdir()
    done = RUNNER.invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "exists and is not an earlier demo" in done.stderr
    assert (tmp_path / "model").exists()
    claim(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert not (tmp_path / "model").exists()
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.txt", overwrite=False)


@pytest.mark.parametrize(
    ("ci", "start"),
    [
        ((0.01, 0.03), "- Yes, against LoRA"),
        ((-0.03, -0.01), "- No, against LoRA"),
        ((-0.01, 0.03), "- Against LoRA: no"),
    ],
)
def test_only_an_interval_clear_of_zero_is_a_verdict(ci: tuple[float, float], start: str) -> None:
    assert _verdict("LoRA", {"difference": 0.02, "ci": ci}).startswith(start)
