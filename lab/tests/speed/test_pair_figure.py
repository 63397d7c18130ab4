"""The figure of `pair` scoring runs, and its floor counts what is computed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import polars as pl
import torch

from xcrossrec_lab.speed.figures import pair
from xcrossrec_lab.speed.harness import Settings, Shape

_WORDS = ["red", "blue", "tiny", "wooden", "train", "drill", "tape", "ball", "tent", "lamp"]


def _write(frame: pl.DataFrame, path: Path) -> None:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write(frame.write_csv())


def test_the_pair_figure_runs_on_a_tiny_model(tmp_path: Path) -> None:
    folder = tmp_path / "shared" / "data" / "amazon" / "toys"
    folder.mkdir(parents=True)
    titles = [f"{_WORDS[n % 10]} {_WORDS[n // 10]} no {n}" for n in range(60)]
    _write(pl.DataFrame({"item_id": [f"i{n}" for n in range(60)], "title": titles}), folder / "items.csv.gz")
    bought = [(f"u{user}", f"i{user + step}", step) for user in range(3) for step in range(9)]
    _write(pl.DataFrame(bought, ["user_id", "item_id", "position"], orient="row"), folder / "train.csv.gz")
    work = tmp_path / "work"
    work.mkdir()
    settings = Settings(repetitions=1, threads=1, shared=tmp_path / "shared", work=work, quick=True)
    (figure,) = pair.FIGURES
    measured = figure.measure(settings)
    json.dumps(measured.details, allow_nan=False)
    assert measured.met_also
    assert measured.spread[0] <= measured.ratio <= measured.spread[1]
    assert set(measured.details["median_ms_a_user"]) == {
        pair.SHARED,
        "one padded batch",
        pair.ONE_BY_ONE,
        "cross-encoder, one LoRA",
    }
    tokens = measured.details["tokens_a_user"]
    assert tokens["shared"] < tokens["one row a pair"]


def test_the_floor_counts_each_token_once_and_what_it_sees() -> None:
    candidate = torch.tensor([-1, -1, -1, 0, 0, 1])
    shape = Shape(layers=2, dim=4, inside=8)
    seen = [3, 3, 3, 5, 5, 4]
    expected = 2 * sum(2 * (4 * 16 + 2 * 4 * 8) + 4 * 4 * count for count in seen)
    assert pair._shared_flops(shape, candidate) == expected
    np.testing.assert_array_equal(pair._pair_lengths(candidate), [5, 4])
