"""The speed harness: alternation, ratios, discovery, results on disk."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import BertConfig

from xcrossrec_lab.speed import harness, run
from xcrossrec_lab.speed.harness import Figure, Measured, Settings, Shape


def _figure(ratio: float, *, goal: float = 2.0, met_also: bool = True, name: str = "fake") -> Figure:
    def measure(settings: Settings) -> Measured:
        return Measured(ratio, (ratio, ratio), {"repetitions": settings.repetitions}, met_also)

    return Figure(name, "a fake", goal, "higher", "times", measure)


@pytest.fixture
def only_fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[Figure], None]:
    monkeypatch.setattr(run, "pin_threads", lambda threads: None)
    monkeypatch.setattr(run, "pin_torch", lambda threads: None)
    return lambda figure: monkeypatch.setattr(run, "discover", lambda: {figure.name: figure})


def test_arms_alternate_and_the_first_one_rotates() -> None:
    calls: list[str] = []
    arms = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    seconds = harness.alternate(arms, repetitions=4, warmup=1)
    assert "".join(calls) == "abc" + "abc" + "bca" + "cab" + "abc"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 4, "b": 4, "c": 4}


def test_ratio_is_the_median_of_pairs_not_of_sums() -> None:
    ratio, spread = harness.paired_ratio([2.0, 20.0, 6.0], [1.0, 10.0, 2.0])
    assert (ratio, spread) == (2.0, (2.0, 2.5))


def test_ratio_refuses_unequal_sides() -> None:
    with pytest.raises(ValueError, match="got 2 and 1"):
        harness.paired_ratio([1.0, 2.0], [1.0])


@pytest.mark.parametrize(
    ("better", "ratio", "met_also", "met"),
    [
        ("higher", 2.0, True, True),
        ("higher", 1.9, True, False),
        ("lower", 2.1, True, False),
        ("lower", 1, False, False),
    ],
)
def test_goal_is_reached_from_the_right_side(better: str, ratio: float, met_also: bool, met: bool) -> None:
    figure = Figure("f", "f", 2.0, better, "x", lambda settings: Measured(0, (0, 0), {}))  # type: ignore[arg-type]
    assert figure.met(Measured(ratio, (ratio, ratio), {}, met_also)) is met


def test_flops_of_one_layer_by_hand() -> None:
    shape = Shape.of(BertConfig(hidden_size=4, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8))
    one_text = 2 * 3 * (4 * 16 + 2 * 32) + 4 * 9 * 4
    assert harness.encoder_flops(shape, [3, 3]) == 2 * 2 * one_text
    assert harness.floor_seconds(2, 3e9, 6.0) == pytest.approx(1.0)


def test_throughput_is_measured_each_way() -> None:
    found = harness.matrix_throughput(Shape(1, 64, 128), rows=256, tries=2)
    assert {"fp32_linear", "bf16"} <= set(found)
    assert all(value > 0 for value in found.values())


def test_figure_is_kept_and_printed_last(
    only_fake: Callable[[Figure], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_fake(_figure(2.5))
    places = ["--results", str(tmp_path / "results"), "--work", str(tmp_path)]
    assert run.main(["--figure", "fake", "--json", *places]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.splitlines()[-1]) == {"figure": "fake", "ratio": 2.5, "goal": 2.0, "met": True}
    kept = json.loads((tmp_path / "results" / "fake.json").read_text())
    assert kept["details"] == {"repetitions": 7}
    assert kept["machine"]["threads"] == 2
    assert kept["machine"]["versions"]["torch"]
    assert kept["machine"]["load_end"] is not None
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["fake.json"]


def test_quick_keeps_nothing(
    only_fake: Callable[[Figure], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only_fake(_figure(2.5))
    assert run.main(["--figure", "fake", "--quick", "--results", str(tmp_path / "r"), "--work", str(tmp_path)]) == 0
    assert not (tmp_path / "r").exists()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["met"] is True


def test_unknown_figure_is_refused_with_the_list(
    only_fake: Callable[[Figure], None], capsys: pytest.CaptureFixture[str]
) -> None:
    only_fake(_figure(1.0))
    assert run.main(["--figure", "fak"]) == 2
    assert "unknown figure 'fak': choose one of fake" in capsys.readouterr().err


def test_a_ratio_that_is_no_number_is_refused(only_fake: Callable[[Figure], None], tmp_path: Path) -> None:
    only_fake(_figure(float("nan")))
    with pytest.raises(ValueError, match="came to nan"):
        run.main(["--figure", "fake", "--results", str(tmp_path / "r"), "--work", str(tmp_path)])
    assert not (tmp_path / "r").exists()


def test_discovered_figures_have_distinct_names_and_finite_goals() -> None:
    figures = run.discover()
    assert all(figure.name == name and figure.goal > 0 for name, figure in figures.items())
