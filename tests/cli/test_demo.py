"""The demo, which is adapt on a handful of simulated users and a tiny base, and the service that it says to start."""

from __future__ import annotations

import contextlib
import io
import shlex
import socket
import subprocess
import sys
import time
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.serving.http.processes import recommend, started
from typer.testing import CliRunner

from xcrossrec.adaptation.candidates import Plan
from xcrossrec.adaptation.decision import Decision
from xcrossrec.cli import app
from xcrossrec.cli.demo import SIMULATED, claim, run
from xcrossrec.data import read_domain
from xcrossrec.exceptions import DataError
from xcrossrec.system import FINDER

QUICK = {"epochs": 1, "batch_users": 12}
OUT = "my demo"


@dataclass(frozen=True)
class Shown:
    """What a demo left in its working folder, and what it printed."""

    folder: Path
    left: list[str]
    printed: str


@pytest.fixture(scope="module")
def shown(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Shown:
    folder = tmp_path_factory.mktemp("demo")
    with contextlib.chdir(folder), redirect_stdout(io.StringIO()) as printed:
        claim(Path(OUT))
        run(Path(OUT), Plan(QUICK, QUICK, QUICK), source_users=24, users=8, base=str(tiny_models.base))
    return Shown(folder, [path.name for path in folder.iterdir()], printed.getvalue())


def test_the_demo_ends_with_verdict_reasons_report_and_serve_command(shown: Shown) -> None:
    out, printed = shown.folder / OUT, shown.printed
    assert printed.count(SIMULATED) == 1
    assert printed.count("[garden-0") == 3
    assert "(bought next: " in printed
    decision = Decision.read(out / "garden")
    assert all(sentence in printed for sentence in decision.verdict)
    assert decision.simulated
    report, _, serve = printed.splitlines()[-3:]
    assert report == f"Report: {OUT}/garden/report.html"
    assert shlex.split(serve.removeprefix("Serve:")) == [
        "xcrossrec", "serve", f"{OUT}/garden/model", "--catalog", f"{OUT}/data/garden",
    ]  # fmt: skip
    assert (out / "garden" / "report.html").exists()
    assert shown.left == [OUT]
    assert read_domain(out / "data" / "garden").name == "garden"


def test_the_demos_last_line_serves_its_result_within_ten_seconds(shown: Shown) -> None:
    words = shlex.split(shown.printed.splitlines()[-1].removeprefix("Serve:"))[1:]
    starts: list[float] = []
    for _ in range(3):  # a busy minute of the machine is not the service's
        starts.append(seconds_until_the_first_answer(words, shown.folder))
        if starts[-1] < 10:
            return
    # on a slow machine: most of a start is importing torch, transformers and their like
    libraries = min(seconds_to_import_libraries() for _ in range(2))
    assert min(starts) < 1.5 * libraries, f"{starts} s until the first answer, {libraries:.1f} s to import libraries"


def seconds_until_the_first_answer(words: list[str], folder: Path) -> float:
    """From a service's start; a processor's time given to others is not counted."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, begun = f"http://127.0.0.1:{port}", time.monotonic()
    with started(words, folder, {"XCROSSREC_PORT": str(port)}) as process:
        answer = first_answer(url)
        seconds = time.monotonic() - begun - process.waited_s()
        assert answer.status_code == 200
        assert len(answer.json()["items"]) == 10
        assert process.stop() == 0
    return seconds


def seconds_to_import_libraries() -> float:
    begun = time.monotonic()
    subprocess.run([sys.executable, "-W", "ignore", "-c", "import sentence_transformers, peft"], check=True)
    return time.monotonic() - begun


def first_answer(url: str) -> httpx.Response:
    for _ in range(600):
        try:
            return recommend(url, [{"title": "Wooden toy garage"}])
        except httpx.ConnectError:
            time.sleep(0.1)
    raise AssertionError("no answer within a minute")


def test_the_next_demo_replaces_what_an_earlier_one_left_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "here"
    out.mkdir()
    (out / FINDER).touch()
    claim(out)
    for name in ("garden", "data"):
        (out / name).mkdir()
    (out / "mine.txt").write_text("kept")
    claim(out)
    assert (out / "mine.txt").exists()
    assert not (out / "garden").exists()
    assert not (out / "data").exists()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    (tmp_path / "garden").mkdir()
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 2
    assert "exists and is not an earlier demo" in done.stderr
    assert (tmp_path / "garden").exists()
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.txt")
