"""The demo, on a tiny base and a handful of simulated users."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.cli.demo import SIMULATED, Plan, claim, run
from xcrossrec.data import read_domain
from xcrossrec.evaluation import Evaluation
from xcrossrec.exceptions import DataError
from xcrossrec.models import bundle

QUICK = {"epochs": 1, "batch_users": 12}


def test_the_demo_does_the_whole_job(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("here")
    claim(out)
    run(out, Plan(48, 40, 24, QUICK, QUICK, QUICK, base=str(tiny_models.base)))
    printed = capsys.readouterr().out
    assert printed.count(SIMULATED) == 1
    for rival in ("a LoRA without sources", "the mean of the sources", "the untrained base", "TF-IDF of titles"):
        assert f" {rival}: MRR" in printed
    assert printed.count("Best match in the history") == 3
    assert "(bought next: " in printed
    assert len(printed.splitlines()) < 60
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert bundle.read_bundle_manifest(out / "model")["domain"]["simulated"] is True
    assert read_domain(out / "data" / "garden").name == "garden"
    assert {path.name for path in (out / "sources").iterdir()} >= {"kitchen", "camping"}
    assert {Evaluation.load(path).info.scorer for path in (out / "results").iterdir()} >= {"the integrated model"}
    assert len(list((out / "results").iterdir())) == 5
    for step in (line.split()[1:] for line in printed.splitlines() if line.startswith("  xcrossrec compare")):
        assert all(Evaluation.load(Path(result)).info.simulated for result in step[1:])
    (out / "mine.txt").write_text("kept")
    claim(out)
    assert (out / "mine.txt").exists()
    assert not (out / "model").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "model").mkdir()
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "exists and is not an earlier demo" in done.stderr
    assert (tmp_path / "model").exists()
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.txt")
