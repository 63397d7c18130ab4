"""The demo, which is adapt on a handful of simulated users and a tiny base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.adaptation.candidates import Plan
from xcrossrec.adaptation.decision import Decision
from xcrossrec.cli import app
from xcrossrec.cli.demo import SIMULATED, claim, run
from xcrossrec.data import read_domain
from xcrossrec.exceptions import DataError

QUICK = {"epochs": 1, "batch_users": 12}


def test_the_demo_ends_with_verdict_reasons_report_and_serve_command(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    out = Path("here")
    claim(out)
    run(out, Plan(QUICK, QUICK, QUICK), source_users=24, users=8, base=str(tiny_models.base))
    printed = capsys.readouterr().out
    assert printed.count(SIMULATED) == 1
    assert printed.count("[garden-0") == 3
    assert "(bought next: " in printed
    decision = Decision.read(out / "garden")
    assert all(sentence in printed for sentence in decision.verdict)
    assert decision.simulated
    report, serve = printed.splitlines()[-2:]
    assert report == "Report: here/garden/report.html"
    assert serve == "Serve:  xcrossrec serve here/garden/model --catalog here/data/garden"
    assert Path(report.removeprefix("Report: ")).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["here"]
    assert read_domain(out / "data" / "garden").name == "garden"
    (out / "mine.txt").write_text("kept")
    claim(out)
    assert (out / "mine.txt").exists()
    assert not (out / "garden").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "garden").mkdir()
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "exists and is not an earlier demo" in done.stderr
    assert (tmp_path / "garden").exists()
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.txt")
