"""The table of docs/scale.md that is computed is computed again from the figures that stand above it."""

from __future__ import annotations

import re
from pathlib import Path

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "scale.md").read_text("utf-8")
FIGURES = {
    name: float(value) for name, value in re.findall(r"^\| `(\w+)`: .*? \| ([\d.]+) \| ", TEXT, flags=re.MULTILINE)
}
MOST_CORES = 64


def cores(questions: int, core_ms: float) -> float:
    return questions * core_ms / 1000 / FIGURES["use"]


def said(number: float) -> str:
    return f"{number:.2f}" if number < 1 else f"{number:,.1f}" if number < 10 else f"{number:,.0f}"


def test_the_costs_follow_from_the_figures() -> None:
    f = FIGURES
    assert set(f) == {"encode", "question", "scan", "search", "process", "table", "rest", "index", "use"}
    rows = re.findall(r"^\| (10*) \| (1[\d,]*) \| (.*) \|$", TEXT, flags=re.MULTILINE)
    assert len(rows) == 3 * 4
    for millions, questions, rest in rows:
        items, asked = int(millions), int(questions.replace(",", ""))
        alone = cores(asked, f["question"] + f["scan"] * items)
        expected = [
            f"{said(alone)}, {said(items * f['process'] + f['rest'])}" if alone <= MOST_CORES else "-",
            said(cores(asked, f["question"])),
            said(cores(asked, f["search"])),
            said(items * f["index"]),
            said(items * (f["table"] + f["index"])),
            said(items * 1e6 / f["encode"] / 3600),
        ]
        assert rest.split(" | ") == expected, (millions, questions)


def test_what_one_machine_answers_follows_too() -> None:
    found = re.search(
        r"64 cores answer ([\d,]+) requests a second over a million items, (\d+) over 10 .*?, (\d+) over 100", TEXT
    )
    assert found is not None
    most = [int(MOST_CORES * 1000 * FIGURES["use"] / (FIGURES["question"] + FIGURES["scan"] * m)) for m in (1, 10, 100)]
    assert [int(number.replace(",", "")) for number in found.groups()] == most
    assert f"64 cores {int(MOST_CORES * 1000 * FIGURES['use'] / FIGURES['search']):,} requests a second" in TEXT
