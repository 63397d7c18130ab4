"""The page of a decision: what stands in it, nothing that could run, and damaged decisions in a sentence."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.adaptation.decisions import TITLES, WICKED, garden
from typer.testing import CliRunner

from xcrossrec.adaptation.decision import FILE, Users
from xcrossrec.adaptation.report import render, write_report
from xcrossrec.adaptation.report.plots import Bar, bars, tag
from xcrossrec.adaptation.report.words import memory, percent, signed
from xcrossrec.cli import app
from xcrossrec.progress import in_words

HEADINGS = (
    "How much better is it?",
    "Would more customers help?",
    "Which of your other categories help?",
    "What is known about the customers",
    "How varied are the lists?",
    "Ten customers, side by side",
    "What may be wrong with the data",
    "Trying it on real customers (A/B test)",
    "What was tried, and what it cost",
    "How this was decided",
)
EMPTY = dict.fromkeys(("curve", "rungs", "beyond", "customers", "risks", "trial", "explanations")) | {"sources": ()}


class Page(HTMLParser):
    """Elements with their attributes, and the text within each kind."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        self.texts.setdefault(name, []).append("")
        if name not in ("meta", "link"):
            self.open.append(name)

    def handle_endtag(self, name: str) -> None:
        assert self.open.pop() == name

    def handle_data(self, data: str) -> None:
        for name in dict.fromkeys(self.open):
            self.texts[name][-1] += data


@pytest.fixture(scope="module")
def whole() -> Page:
    return Page(render(garden(), "out"))


def test_all_parts_stand_in_their_order(whole: Page) -> None:
    assert whole.texts["h1"] == ["Recommendations for \u201cgarden\u201d: what to ship"]
    assert tuple(whole.texts["h2"]) == HEADINGS
    levels = [int(name[1]) for name, _ in whole.elements if re.fullmatch(r"h[1-6]", name)]
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert tuple(whole.texts["p"][1:3]) == garden().verdict


def _of(page: Page, name: str) -> list[tuple[str, dict[str, str | None]]]:
    return [each for each in page.elements if each[0] == name]


def test_the_text_has_the_figures_of_the_decision(whole: Page) -> None:
    text = whole.texts["body"][0]
    for figure in (
        "Of 100 customers, 24 see the product that they buy next among the first ten",
        "0.12100.1090 to 0.1330",  # a cell: the mean, and its interval below
        "\u22120.0170\u22120.0230 to \u22120.0110",
        "400 more customers are worth about +.007",
        "phones: does not help. The mean is better without it.",
        "212 customers, 41% of the words",
        "1 customer, 28% of the words",
        "For 97 of them every reason held: 97% (95% interval 92% to 99%)",
        "2,361 customers",
        "Not tried: it would take 15 minutes, and 4 are left.",
        "Failed: the disk was full.",
        "about 15 min",
        "The customers are simulated",
        "xcrossrec learn out/model --interactions data/garden",
        "xcrossrec serve out/model --catalog data/garden",
    ):
        assert figure in text.replace(" 0.1090", "0.1090").replace(" \u22120.0230", "\u22120.0230"), figure


def test_nothing_asks_for_anything_and_nothing_runs(whole: Page) -> None:
    assert {name for name, _ in whole.elements}.isdisjoint({"script", "img", "iframe", "object", "base", "form"})
    asked = [value for _, given in whole.elements for key, value in given.items() if key in ("src", "href", "style")]
    assert asked == ["data:,"]
    assert not any(key.startswith("on") for _, given in whole.elements for key in given)
    assert "url(" not in whole.texts["style"][0]
    assert "@import" not in whole.texts["style"][0]


def test_titles_come_as_they_are(whole: Page) -> None:
    assert set(whole.texts["bdi"]) == set(TITLES)
    risk = [item for item in whole.texts["li"] if "html_tag" in item]
    assert WICKED in risk[0]


def test_plots_and_tables_can_be_read_aloud(whole: Page) -> None:
    ids = [given["id"] for _, given in whole.elements if "id" in given]
    assert len(ids) == len(set(ids))
    drawn = [given for name, given in whole.elements if name == "svg" and given.get("role") == "img"]
    assert len(drawn) == 4
    for given in drawn:
        assert set((given["aria-labelledby"] or "").split()) <= set(ids)
    assert "The mean of the sources: 0.1040" in whole.texts["desc"][0]
    tables = len(whole.texts["table"])
    assert tables == len(whole.texts["caption"]) == 6
    assert all(given.get("scope") in ("row", "col") for _, given in _of(whole, "th"))
    assert whole.elements[0] == ("html", {"lang": "en"})


def test_bars_are_as_long_as_the_numbers() -> None:
    drawn = Page(bars("b", "t", [Bar("a", "2", 2.0, 1.0, 4.0), Bar("b", "1", 1.0)]))
    widths = [float((given["width"] or "").rstrip("%")) for _, given in _of(drawn, "rect")]
    assert widths == [35.0, 17.5]  # of 70% for the 4.0 that the interval reaches
    below = Page(bars("b", "t", [Bar("a", "2", 2.0, -2.0, 2.0)]))
    assert _of(below, "rect") == []
    assert [given["cx"] for _, given in _of(below, "circle")] == ["70.00%"]


def test_what_was_not_reached_says_so_and_how_to_get_it() -> None:
    page = Page(render(garden(**EMPTY), "my out"))
    assert tuple(page.texts["h2"]) == HEADINGS
    missing = [text for text in page.texts["p"] if "did not fit into the time limit" in text]
    assert len(missing) == 7  # reasons stand with the customers
    assert page.texts["code"][0] == "xcrossrec adapt data/garden --out 'my out' --minutes 60"
    assert any("The comparison of the sources did not fit" in text for text in missing)
    half = Page(render(garden(explanations=None), "out"))
    assert len([text for text in half.texts["p"] if "The check of the reasons did not fit" in text]) == 1


def test_a_part_that_no_minutes_would_bring_says_what_would() -> None:
    alone = tuple(each for each in garden().candidates if not each.sources)
    over = {
        "chosen": "popularity",
        "simplest": "popularity",
        "gain": garden().gain.model_copy(update={"over": "popularity"}),
    }
    few = garden().target.model_copy(update={"users": Users(fit=42, choose=42, report=42)})
    page = Page(render(garden(**EMPTY, **over, candidates=alone, target=few), "out"))
    assert any("No other category was given." in text for text in page.texts["p"])
    assert "xcrossrec adapt data/garden --add-source DIR --out out" in page.texts["code"]
    assert "42 training customers are too few to tell." in page.texts["p"]
    missing = " ".join(text for text in page.texts["p"] if "did not fit" in text)
    assert "sources" not in missing
    assert "curve" not in missing


def test_the_simplest_may_be_what_is_shipped() -> None:
    gain = garden().gain
    page = Page(render(garden(chosen="mean", gain=gain.model_copy(update={"over": "kitchen"})), "out"))
    assert any("with the best other simple method (the model of kitchen), 19 do." in text for text in page.texts["p"])
    lonely = {"chosen": "popularity", "gain": gain.model_copy(update={"over": "popularity"})}
    page = Page(render(garden(**lonely, trial=None, explanations=None), "out"))
    assert "Of 100 customers, 8.4 see the product that they buy next among the first ten." in page.texts["p"]
    assert "Nothing else was measured, so there is nothing to test it against." in page.texts["p"]
    assert "Everybody is shown bestsellers, so there are no reasons to check." in page.texts["p"]


def test_no_risk_and_no_gain_are_sentences() -> None:
    trial = garden().trial.model_copy(update={"per_arm": None, "sentence": "no gain was measured"})  # type: ignore[union-attr]
    text = Page(render(garden(risks=(), trial=trial), "out")).texts["p"]
    assert "Nothing was found that would spoil the result." in text
    assert "No gain was measured." in text


def test_a_text_is_escaped_and_markup_is_not() -> None:
    made = tag("p", "<b>", tag("i"), ["&"], class_="a", data_x='"', lang=None, x=1.234)
    assert made == '<p class="a" data-x="&#34;" x="1.23">&lt;b&gt;<i></i>&amp;</p>'


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (signed(-0.00001), "0.0000"),
        (signed(-0.0123), "\u22120.0123"),
        (percent(0.0), "0%"),
        (percent(0.042), "4.2%"),
        (in_words(0.24), "0.2 s"),
        (in_words(59.7), "60 s"),
        (in_words(125), "2.1 min"),
        (in_words(1250), "21 min"),
        (in_words(9000), "2.5 h"),
        (memory(0), "\u2013"),
        (memory(1536), "1.5 GB"),
    ],
)
def test_numbers_as_people_read_them(made: str, expected: str) -> None:
    assert made == expected


# ---- the command


def run(folder: Path) -> Any:
    return CliRunner().invoke(app, ["report", str(folder)])


def test_the_command_makes_the_page_anew(tmp_path: Path) -> None:
    garden().write(tmp_path)
    place = write_report(tmp_path)
    before = place.read_text(encoding="utf-8")
    place.write_text("old")
    done = run(tmp_path)
    assert (done.exit_code, done.stdout.strip()) == (0, str(tmp_path / "report.html"))
    assert place.read_text(encoding="utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [FILE, "report.html"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, r"error: \S+ has no decision\.json: make one with xcrossrec adapt TARGET --out"),
        ("{", r"error: \S+decision\.json cannot be used, everything: .*: run xcrossrec adapt again"),
        ('{"format": 2}', r"error: \S+decision\.json cannot be used, format: .* this release reads format 1"),
    ],
)
def test_another_folder_is_a_sentence(tmp_path: Path, content: str | None, match: str) -> None:
    if content is not None:
        (tmp_path / FILE).write_text(content)
    done = run(tmp_path)
    assert done.exit_code == 2
    assert re.fullmatch(match + r".*\n", done.stderr), done.stderr
    assert not (tmp_path / "report.html").exists()
