"""SASRec of RecTools, in an environment of its own: it asks for older numpy and pandas than this project has."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from xcrossrec import ConfigError, ModelError
from xcrossrec.scoring import check_rows
from xcrossrec.training.batches import HISTORY_LIMIT
from xcrossrec_lab.places import EVIDENCE
from xcrossrec_lab.task import Fitted, Task, check_settings

PLACE = "lab/evidence/sasrec"
ENVIRONMENT = Path("runs/evidence/envs/sasrec")
"""Where `setup.sh` makes it, from the folder in which the command runs; XCROSSREC_SASREC_ENV names another."""

SASREC_RATE = 1e-3
DEFAULTS = {
    "dim": 64,
    "blocks": 2,
    "heads": 2,
    "dropout": 0.2,
    "batch_users": 128,
    "epochs": 100,
    "epochs_without_stopping": 20,
    "patience": 5,
}
"""Smaller than RecTools' own (256 wide, 3 epochs), for some hundred users; early stopping decides the epochs."""

_SCRIPT = EVIDENCE / "sasrec" / "rank.py"


class SasrecScorer:
    """A SASRec model that waits in a process of the other environment.

    Args:
        process: has trained, reads names of files and answers with names of files.
        n_items: of the catalogue.
        work: folder for the files.
        history_limit: newest history items in use.
    """

    name = "sasrec"

    def __init__(self, process: subprocess.Popen[str], n_items: int, work: Path, history_limit: int) -> None:
        self._process = process
        self._n_items = n_items
        self._work = work
        self._limit = history_limit

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`. An item without any training user ranks last.

        Raises:
            DataError: an item row outside the catalogue.
            ModelError: the process has ended.
        """
        check_rows(histories, candidates, self._n_items)
        if not histories:
            return np.zeros((0, self._n_items if candidates is None else candidates.shape[1]), dtype=np.float32)
        recent = [list(history)[-self._limit :] for history in histories]
        longest = max(1, *map(len, recent))
        padded = np.array([[-1] * (longest - len(history)) + history for history in recent], dtype=np.int64)
        path = Path(tempfile.mkdtemp(dir=self._work)) / "asked.npz"
        if candidates is None:
            np.savez(path, histories=padded)
        else:
            np.savez(path, histories=padded, candidates=candidates)
        answer = _ask(self._process, str(path))
        scores: Float[np.ndarray, "user candidate"] = np.load(answer, allow_pickle=False)
        path.unlink()
        Path(answer).unlink()
        return scores

    def close(self) -> None:
        """End the process."""
        _end(self._process)

    def __del__(self) -> None:
        self.close()


def sasrec(task: Task) -> Fitted:
    """Train SASRec on the budget's users; settings are RecTools' (``dim``, ``blocks``, ``heads``, ``epochs``, ...).

    Raises:
        ConfigError: the environment has not been made.
        ModelError: the training ended with an error.
    """
    check_settings(task, set(DEFAULTS))
    python = _python()
    work = Path(tempfile.mkdtemp(prefix="sasrec-", dir=task.work))
    settings = {
        **DEFAULTS,
        **task.settings,
        "learning_rate": task.setting("learning_rate", SASREC_RATE),
        "seed": task.seed,
        "items": task.target.items.height,
        "history_limit": HISTORY_LIMIT,
        "holdout_share": task.training.holdout_share,
    }
    (work / "sequences.json").write_text(json.dumps(task.users.rows), encoding="utf-8")
    (work / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    with (work / "log").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [str(python), str(_script()), str(work / "sequences.json"), str(work / "settings.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        about: dict[str, Any] = json.loads(_read(process))
    except (ValueError, ModelError) as error:
        _end(process)
        last = (work / "log").read_text(encoding="utf-8").strip().splitlines()[-1:] or ["it printed nothing"]
        raise ModelError(f"SASRec ended before it was trained ({last[0]}): see {work / 'log'}") from error
    scorer = SasrecScorer(process, task.target.items.height, work, HISTORY_LIMIT)
    return Fitted(scorer, trained_parameters=about["parameters"], report={**settings, **about})


def _python() -> Path:
    environment = Path(os.environ.get("XCROSSREC_SASREC_ENV", ENVIRONMENT))
    python = environment / "bin" / "python"
    if not python.exists():
        raise ConfigError(f"SASRec's environment {environment} is not there: run `{PLACE}/setup.sh` first")
    return python


def _script() -> Path:
    if not _SCRIPT.exists():
        raise ConfigError(f"SASRec's script {_SCRIPT} is not there: run the laboratory from a checkout of the project")
    return _SCRIPT


def _ask(process: subprocess.Popen[str], line: str) -> str:
    assert process.stdin is not None
    try:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    except (BrokenPipeError, ValueError) as error:
        raise ModelError("SASRec's process has ended: fit it again") from error
    return _read(process)


def _read(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ModelError(f"SASRec's process has ended with code {process.wait()}: fit it again")
    return line.strip()


def _end(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.terminate()
    process.wait()
