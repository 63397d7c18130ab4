"""What is told of long work: a bar on a terminal, lines elsewhere, nothing where nobody asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from xcrossrec import progress
from xcrossrec.progress import showing, stage, to_stderr


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Let seconds pass."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setitem(sys.modules, "ipykernel", None)
    monkeypatch.delitem(sys.modules, "ipykernel")

    def pass_(seconds: float) -> None:
        now[0] += seconds

    return pass_


def work(wait: Callable[[float], None], steps: int, each_s: float) -> None:
    with stage("encoding", "texts") as bar:
        for done in range(steps):
            bar.at(1000 * done, 1000 * steps, "longest first")
            wait(each_s)
        bar.at(1000 * steps, 1000 * steps, "longest first")


def test_a_pipe_gets_a_line_every_ten_seconds(wait: Callable[[float], None]) -> None:
    lines: list[str] = []
    with showing(lines.append):
        work(wait, 10, 4.0)
    assert lines == [
        "encoding: 3,000 of 10,000 texts, longest first, about 28 s left",
        "encoding: 6,000 of 10,000 texts, longest first, about 16 s left",
        "encoding: 9,000 of 10,000 texts, longest first, about 4 s left",
        "encoding: done in 40 s",
    ]


def test_a_terminal_gets_one_bar(
    wait: Callable[[float], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    with showing(to_stderr):
        work(wait, 4, 60.0)
    frames = capsys.readouterr().err.split("\r\x1b[K")
    assert frames[1] == "encoding [######..................]  25% 1,000 of 4,000 tex"
    assert frames[-1] == "encoding [########################] 100% done in 4 min\n"
    assert len(frames) == 1 + 4 + 1


def test_what_is_quick_or_not_asked_for_is_silent(
    wait: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with showing(to_stderr):
        work(wait, 9, 1.0)
    work(wait, 100, 60.0)
    with showing(None):
        work(wait, 100, 60.0)
    assert capsys.readouterr() == ("", "")


def test_a_stage_within_a_stage_tells_how_far_its_step_has_come(wait: Callable[[float], None]) -> None:
    """A candidate that reads a hundred thousand texts said nothing for a quarter of an hour."""
    lines: list[str] = []
    with showing(lines.append), stage("ranking", "users") as bar:
        bar.at(0, 2, "by text")
        work(wait, 2, 100.0)
        wait(5)
        work(wait, 9, 1.0)
        bar.at(1, 2)
    assert lines == [
        "ranking: 0 of 2 users, by text, encoding: 1,000 of 2,000 texts, longest first, about 1.7 min left",
        "ranking: 0 of 2 users, by text, encoding: 2,000 of 2,000 texts, longest first",
        "ranking: 0 of 2 users, by text, encoding: done in 3.3 min",
        "ranking: 1 of 2 users, about 3.6 min left",
        "ranking: done in 3.6 min",
    ]
    with showing(None), stage("ranking", "users"):
        work(wait, 9, 100.0)
    assert len(lines) == 5


def test_a_continued_stage_counts_its_own_speed(wait: Callable[[float], None]) -> None:
    lines: list[str] = []
    with showing(lines.append), stage("training", "steps") as bar:
        bar.at(900, 1000)
        wait(20)
        bar.at(910, 1000)
    assert lines[0] == "training: 910 of 1,000 steps, about 3 min left"


def test_long_stages_of_the_library_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from xcrossrec.data.market import MarketSettings, sample_market
    from xcrossrec.evaluation import evaluate

    class Slow:
        name = "slow"

        def score(self, histories: object, candidates: np.ndarray | None = None) -> np.ndarray:
            assert candidates is not None
            return np.zeros(candidates.shape, np.float32)

    clock: Iterator[float] = iter(range(0, 10**6, 7))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    domain = sample_market(0, MarketSettings(train_users=30, validation_users=5, test_users=5))["garden"]
    lines: list[str] = []
    with showing(lines.append):
        evaluate(Slow(), domain, "test", negatives=["uniform"], batch_users=2)
    assert [line.split(":")[0] for line in lines if "done" in line] == ["drawing uniform candidates", "ranking by slow"]
    assert any("of 5 users" in line for line in lines)


def test_what_a_shop_wrote_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    to_stderr("a\x1b]0;b\x07 \x9b2J \u202ec\u2066\x7f\r\td\u2028")
    assert capsys.readouterr().err == "a\\u001b]0;b\\u0007 \\u009b2J \\u202ec\\u2066\\u007f\\u000d\td\\u2028\n"
