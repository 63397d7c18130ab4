"""SASRec in its own environment; without it, how the method talks to a process that stands in for it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xcrossrec import ConfigError, DataError, ModelError
from xcrossrec_lab.methods import sasrec as module
from xcrossrec_lab.methods.sasrec import sasrec
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2], []]

STAND_IN = """
import json, sys
import numpy as np
settings = json.load(open(sys.argv[2]))
sequences = json.load(open(sys.argv[1]))
print(json.dumps({"parameters": 5, "users": len(sequences), "losses": [2.0, 1.0]}), flush=True)
for line in sys.stdin:
    asked = np.load(line.strip())
    histories = asked["histories"]
    scores = np.tile(np.arange(settings["items"], dtype=np.float32), (len(histories), 1))
    scores = scores + histories[:, -1:]  # the newest item
    if "candidates" in asked:
        scores = np.take_along_axis(scores, asked["candidates"], 1)
    np.save(line.strip().replace(".npz", ".npy"), scores.astype(np.float32))
    print(line.strip().replace(".npz", ".npy"), flush=True)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def put(script: str) -> None:
        (tmp_path / "script.py").write_text(script)
        monkeypatch.setattr(module, "_script", lambda: tmp_path / "script.py")
        monkeypatch.setattr(module, "_python", lambda: Path(sys.executable))

    return put


def test_scores_come_back_from_the_process(make_task: MakeTask, stand_in: Callable[[str], None]) -> None:
    stand_in(STAND_IN)
    fitted = sasrec(make_task(settings={"dim": 8}))
    assert fitted.trained_parameters == 5
    assert fitted.report["users"] == 48
    assert (fitted.report["dim"], fitted.report["items"]) == (8, 24)
    newest = np.array([3, 2, -1])
    full = fitted.scorer.score(HISTORIES)
    np.testing.assert_array_equal(full, np.arange(24, dtype=np.float32)[None] + newest[:, None])
    candidates = np.array([[1, 5], [7, 0], [2, 2]])
    np.testing.assert_array_equal(
        fitted.scorer.score(HISTORIES, candidates), np.take_along_axis(full, candidates, axis=1)
    )
    assert fitted.scorer.score([]).shape == (0, 24)
    with pytest.raises(DataError):
        fitted.scorer.score([[24]])
    fitted.scorer.close()  # type: ignore[attr-defined]
    with pytest.raises(ModelError, match="fit it again"):
        fitted.scorer.score(HISTORIES)


def test_a_failed_training_names_its_last_line(make_task: MakeTask, stand_in: Callable[[str], None]) -> None:
    stand_in("raise SystemExit('no such loss')")
    with pytest.raises(ModelError, match="no such loss"):
        sasrec(make_task())


def test_without_the_environment_the_command_is_named(
    make_task: MakeTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XCROSSREC_SASREC_ENV", str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"setup\.sh"):
        sasrec(make_task())
    with pytest.raises(ConfigError, match="'depth'"):
        sasrec(make_task(settings={"depth": 3}))


def test_the_script_is_found_in_the_checkout() -> None:
    assert module._script().name == "rank.py"


@pytest.mark.integration
def test_the_library_itself(make_task: MakeTask) -> None:
    root = Path(__file__).resolve().parents[3]
    if not (root / module.ENVIRONMENT).is_dir():
        pytest.skip(f"SASREC ABSENT: {module.ENVIRONMENT} was not made by {module.PLACE}/setup.sh")
    scores = []
    for attempt in range(2):
        task = make_task(settings={"dim": 16, "epochs": 3}, work=make_task().work / str(attempt))
        fitted = sasrec(task)
        scores.append(fitted.scorer.score(HISTORIES))
        json.dumps(fitted.report)
    np.testing.assert_array_equal(*scores)
    assert np.isfinite(scores[0]).all()
    assert scores[0].shape == (3, 24)
    assert len(fitted.report["losses"]) == 3
