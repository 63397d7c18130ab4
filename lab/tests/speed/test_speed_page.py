"""The page is made from the results alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xcrossrec_lab.speed import page


def _result(name: str, **changes: Any) -> dict[str, Any]:
    machine = {
        "cpu": "a cpu",
        "cores": 2,
        "flags": ["avx2"],
        "memory_gb": 8,
        "threads": 2,
        "python": "3.11",
        "versions": {"torch": "2"},
        "commit": "abc1234",
        "dirty": False,
        "started": "2026-11-23T10:00:00+00:00",
        "load_start": 0.1,
        "load_end": 0.2,
    }
    return {
        "figure": name,
        "title": "A title",
        "ratio": 0.6,
        "spread": [0.55, 0.65],
        "goal": 0.475,
        "better": "higher",
        "unit": "of the plain base",
        "met": True,
        "met_also": True,
        "details": {},
        "settings": {"quick": False},
        "machine": machine,
        **changes,
    }


def _write(folder: Path, *results: dict[str, Any]) -> None:
    for result in results:
        (folder / f"{result['figure']}.json").write_text(json.dumps(result))


def _corpus(ratio: float) -> dict[str, Any]:
    speeds = {"ours": 600.0, "plain base, batch 32": 1000.0}
    return {"ratio": ratio, "texts_per_s": speeds, "ours_times_faster_than": {"PEFT switched": 1.5}}


def test_page_has_every_figure_and_its_condition(tmp_path: Path) -> None:
    corpora = {"titles": _corpus(0.6), "history prompts": _corpus(0.7)}
    memory = {"ratio_above_imports": 1.7, "ratio_loaded_only": 1.1, "base_copies": 1.0, "met_also": "one copy"}
    _write(
        tmp_path,
        _result("encode-n2", details={"corpora": corpora, "throughput_gflops": {"bf16": 800.0}}),
        _result("memory", ratio=1.5, spread=[1.4, 1.6], goal=1.3, better="lower", met=False, details=memory),
    )
    text = page.write_page(tmp_path).read_text(encoding="utf-8")
    assert "| `encode-n2`: A title | **0.6** [0.55, 0.65] of the plain base | ≥ 0.475 | yes |" in text
    assert "PEFT switched 1.50x" in text
    assert "≤ 1.3 | no | 2026-11-23, abc1234 |" in text
    assert "one copy: holds. above the bare imports 1.70" in text
    assert "bf16 800" in text


def test_the_committed_page_is_that_of_its_results() -> None:
    assert page._page(page.read_results(page.RESULTS)) == (page.RESULTS / "README.md").read_text(encoding="utf-8")


def test_no_results_make_an_empty_page(tmp_path: Path) -> None:
    page.write_page(tmp_path)
    assert "Nothing was measured yet" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("content", "message"),
    [({"figure": "a"}, "lacks 'better'"), (_result("a", settings={"quick": True}), "is of a smoke test")],
)
def test_page_refuses_what_is_no_result(content: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        page.write_page(tmp_path)
