"""The search figure on a few vectors, and the maker of its catalogue without a model."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from xcrossrec_lab.speed import million
from xcrossrec_lab.speed.figures import search
from xcrossrec_lab.speed.harness import Settings


def unit(count: int, seed: int, dim: int = 32) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def test_the_figure_says_recall_and_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "vectors", lambda *args: (unit(2000, 0), unit(50, 1)))
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    measured = search.measure_search(Settings(work=tmp_path, quick=True, repetitions=2))
    assert measured.met_also
    assert measured.details["xcrossrec"]["recall"] == 1.0
    assert measured.details["xcrossrec"]["p95_ms"] == measured.ratio > 0
    assert "faiss-ivf-sq8" not in measured.details
    assert search.FIGURES[0].name == "search"


def test_a_search_that_misses_too_much_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "vectors", lambda *args: (unit(2000, 0), unit(50, 1)))
    monkeypatch.setattr(search, "find_spec", lambda name: None)
    blind = {"xcrossrec": {"build_s": 0.0}}
    monkeypatch.setattr(search, "_ours", lambda *args: (lambda query: np.arange(100), blind))
    assert not search.measure_search(Settings(work=tmp_path, quick=True, repetitions=2)).met_also


def test_made_vectors_are_units_and_come_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("toys", "tools"):
        (tmp_path / name).mkdir()
        titles = [f"{name} number {n} is blue" for n in range(30)]
        text = pl.DataFrame({"item_id": range(30), "title": titles}).write_csv()
        (tmp_path / name / "items.csv.gz").write_bytes(gzip.compress(text.encode()))
    monkeypatch.setattr(million, "_encoded", lambda titles, place: unit(len(titles), 3))
    whole, queries = million.vectors(tmp_path, tmp_path, 2000)
    assert whole.shape == (2000, 32)
    assert queries.shape == (10, 32)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    again, _ = million.vectors(tmp_path, tmp_path, 2000)
    np.testing.assert_array_equal(whole, again)
