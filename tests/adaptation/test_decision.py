"""decision.json: what is written is read back, and nothing else is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from xcrossrec.adaptation.decision import FILE, Beyond, Candidate, Decision, Gain, Interval, Target, Users
from xcrossrec.exceptions import BundleError

SCORE = Interval(mean=0.1, low=0.05, high=0.15)


def a_decision(**changes: object) -> Decision:
    """A small one: two candidates, nothing below the verdict."""
    users = Users(fit=10, choose=5, report=5)
    target = Target(name="garden", items=6, purchases=30, users=users, fingerprint="f", folder="data/garden")
    simple = Candidate(name="popularity", label="bestsellers", simple=True, status="fitted", choose=SCORE)
    ours = Candidate(name="merged", label="the sources merged", sources=("kitchen",), status="fitted", choose=SCORE)
    given = {
        "version": "1",
        "created": "2026-01-01T00:00:00+00:00",
        "seed": 0,
        "target": target,
        "candidates": (simple, ours),
        "chosen": "merged",
        "simplest": "popularity",
        "gain": Gain(over="popularity", mean=0.1, low=0.05, high=0.15, relative=0.5, sure=True),
        "verdict": ("Ship it.", "It is better."),
    }
    return Decision(**{**given, **changes})


def test_a_decision_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = a_decision(beyond={"merged": Beyond(coverage=0.5, gini=0.25, novelty=3.0)})
    written.write(tmp_path)
    assert Decision.read(tmp_path) == written
    assert written.candidate("merged").sources == ("kitchen",)
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_what_is_chosen_must_have_been_fitted() -> None:
    with pytest.raises(ValueError, match="'lora' is no fitted candidate"):
        a_decision(chosen="lora")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"format": 2}, "format: Input should be 1; this release reads format 1: run xcrossrec adapt again"),
        ({"verdict": ["one"]}, r"verdict\.1: Field required"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
    ],
)
def test_another_format_is_refused(tmp_path: Path, change: dict[str, object], match: str) -> None:
    a_decision().write(tmp_path)
    stated = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps({**stated, **change}))
    with pytest.raises(BundleError, match=match):
        Decision.read(tmp_path)


def test_a_folder_without_a_decision_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no decision\.json: make one with  xcrossrec adapt TARGET --out"):
        Decision.read(tmp_path)
