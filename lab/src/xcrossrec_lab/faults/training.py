"""Kills (-9) of trainings, and of a model's replacement, at random moments: every run goes on, to the same bits.

    python -m xcrossrec_lab.faults.training --kills 20 --seed 0

A killed training is started again with ``--resume`` (without it where nothing was begun), is killed again, and so on
until it ends; its weights must then be those of a run that nobody interrupted. A process that replaces one model by
another all the time is killed too; what stands in its place must load, and be one of the two.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch
from safetensors.torch import load_file

from xcrossrec import build_domain, write_domain
from xcrossrec.models import bundle

_ITEMS, _USERS = 40, 120
_QUIET = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
_COMMAND = "from xcrossrec.cli import main; main()"
_REPLACE = """
import sys
from xcrossrec.models import bundle
path, count = sys.argv[1], int(sys.argv[2])
model = bundle.load(path)
print("ready", flush=True)
while True:
    count += 1
    bundle.save(model, path, {"kind": "adapter", "count": count}, overwrite=True)
"""


def kill_trainings(folder: Path, kills: int, rng: random.Random) -> dict[str, Any]:
    """Train a source again and again, killed at random moments.

    Args:
        folder: to work in.
        kills: how many; the last run goes to its end.
        rng: draws the moments, from a run's start to its end.

    Raises:
        AssertionError: a run ended with an error, or with other weights than the undisturbed one.
    """
    data = folder / "data"
    write_domain(_domain(), data)
    started = time.monotonic()
    _run(_words(data, folder / "straight"), None)
    whole_s = time.monotonic() - started
    expected, counts = _weights(folder / "straight"), {"kills": 0, "resumed": 0, "started again": 0, "finished": 0}
    while counts["kills"] < kills:
        out = folder / f"model-{counts['finished']}"
        while not out.exists():
            begun = out.with_name(f"{out.name}.training").joinpath("training.json").exists()
            words = [*_words(data, out), *(["--resume"] if begun else [])]
            said = _run(words, rng.uniform(0, 1.1 * whole_s) if counts["kills"] < kills else None)
            counts["resumed"] += "goes on from" in said
            counts["started again"] += "starts again" in said
            counts["kills"] += not out.exists()
        found = _weights(out)
        assert found.keys() == expected.keys(), out
        assert all(torch.equal(found[key], expected[key]) for key in expected), f"{out} has other weights"
        counts["finished"] += 1
    return {**counts, "seconds of a run": round(whole_s, 1), "bit-equal": counts["finished"]}


def kill_replacements(model: Path, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill a process that replaces a model all the time.

    Args:
        model: what is replaced by itself.
        kills: how many.
        rng: draws the moments, within a second.

    Raises:
        AssertionError: the model in its place does not load, or is older than one that was there before.
    """
    left, count = 0, 0
    for _ in range(kills):
        command = [sys.executable, "-c", _REPLACE, str(model), str(count)]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **_QUIET}
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 1))
        process.kill()
        _, stderr = process.communicate()
        assert process.returncode == -signal.SIGKILL, stderr.decode()
        left += len(list(model.parent.glob(f".{model.name}.*")))
        bundle.load(model)
        before, count = count, bundle.read_bundle_manifest(model).get("count", 0)
        assert count >= before, (before, count)
    bundle.save(bundle.load(model), model, {"kind": "adapter"}, overwrite=True)
    assert not list(model.parent.glob(f".{model.name}.*")), "the next replacement takes leftovers away"
    return {"kills": kills, "replacements": count, "leftovers of crashes, all taken away": left}


def _domain() -> Any:
    rows = [(f"u{user}", f"i{(user * 7 + step * step) % _ITEMS}", step) for user in range(_USERS) for step in range(4)]
    train = pl.DataFrame(rows, schema=["user_id", "item_id", "position"], orient="row")
    titles = [f"Red lamp number {row}, size {row % 5}" for row in range(_ITEMS)]
    return build_domain(
        "kills", pl.DataFrame({"item_id": [f"i{row}" for row in range(_ITEMS)], "title": titles}), {"train": train}
    )


def _words(data: Path, out: Path) -> list[str]:
    return ["train", "source", str(data), "--out", str(out), "--epochs", "6"]


def _run(words: list[str], kill_after_s: float | None) -> str:
    """Run a command, or kill it; gives what it said."""
    command = [sys.executable, "-c", _COMMAND, *words]
    process = _started(command, stdout=subprocess.DEVNULL)
    try:
        _, stderr = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        _, stderr = process.communicate()
    assert process.returncode in (0, -signal.SIGKILL), f"{words}: {process.returncode}\n{stderr.decode()}"
    return stderr.decode()


def _started(command: list[str], *, stdout: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=stdout, stderr=subprocess.PIPE, env={**os.environ, **_QUIET})


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    paths = sorted(folder.rglob("*.safetensors"))
    return {f"{path.relative_to(folder)} {key}": value for path in paths for key, value in load_file(path).items()}


def main() -> None:
    """Print what happened as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="of each sort")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as place:
        trained = kill_trainings(Path(place), given.kills, rng)
        replaced = kill_replacements(Path(place) / "straight", given.kills, rng)
    print(json.dumps({"training": trained, "replacement of a model": replaced}, indent=2))


if __name__ == "__main__":
    main()
