"""The page in a real Chromium, against a real server: what people do with it, with a mouse and without."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from xcrossrec.client import Client

from .conftest import MARKUP

KEY = "a-key-that-may-read-0"
PAGE = Path(__file__).resolve().parents[3] / "src" / "xcrossrec" / "serving" / "page"
Opened = Callable[..., Any]

CONTRAST = Path(__file__).with_name("contrast.js")


def link(*entries: dict[str, str], model: str = "x-cross", rival: str = "") -> str:
    """The address of a history, as the page writes it."""
    return f"#model={model}&rival={rival}&history={quote(json.dumps(entries))}"


TRAIN = {"item_id": "i0", "title": "Red wooden train", "model": "x-cross"}
DRUM = {"title": "A drum for children"}


@pytest.fixture
def api(shop: str) -> Any:
    with Client(shop, api_key=KEY) as client:
        yield client


def ranking(page: Any, column: int = 0) -> list[str]:
    """The item ids of a column, as shown."""
    page.wait_for_selector(f"#columns:not([aria-busy]) article:nth-child({column + 1}) .ranking > li")
    places = page.locator("article").nth(column).locator(".ranking > li")
    return [item.get_attribute("data-item") for item in places.all()]


# ---- build a history, get recommendations


def test_a_history_is_built_and_recommendations_come(open_page: Opened, api: Client) -> None:
    page = open_page()
    box = page.get_by_role("combobox", name="Add a purchase")
    box.fill("wooden")
    page.get_by_role("option", name="Red wooden train").click()
    assert page.get_by_role("list", name="History").get_by_role("listitem").count() == 1
    assert ranking(page) == [item.item_id for item in api.recommend(["i0"], model="x-cross").items]
    box.fill("A drum for children")
    box.press("Enter")
    page.get_by_text("not in the catalogue", exact=True).wait_for()
    expected = api.recommend(["i0", "A drum for children"], model="x-cross").items
    page.wait_for_function("() => !document.querySelector('#columns').matches('[aria-busy]')")
    page.wait_for_function(
        "score => document.querySelector('.score').textContent === score", arg=shown(expected[0].score)
    )
    assert ranking(page) == [item.item_id for item in expected]
    assert page.locator(".score").all_text_contents() == [shown(item.score) for item in expected]
    assert page.locator(".ranking .title").all_text_contents() == [item.title for item in expected]
    assert page.locator(".ranking .title > bdi[lang='']").count() == len(expected)  # of any language and direction
    told = f"x-cross: 7 recommendations, first {page.locator('.ranking .title bdi').first.text_content()}"
    assert page.get_by_role("status").text_content() == told  # another list is another text, which is read aloud


def test_an_id_that_is_typed_is_the_item_and_no_title(open_page: Opened, api: Client) -> None:
    page = open_page()
    box = page.get_by_role("combobox", name="Add a purchase")
    box.fill("i0")
    page.get_by_role("option", name="Red wooden train").wait_for()
    box.press("Enter")
    page.get_by_role("list", name="History").get_by_text("Red wooden train").wait_for()
    assert ranking(page) == [item.item_id for item in api.recommend(["i0"], model="x-cross").items]


def shown(score: float) -> str:
    return f"{score:.3f}".replace("-", "\u2212")


def test_bars_are_as_long_as_the_scores_are_high(open_page: Opened, api: Client) -> None:
    page = open_page(link(TRAIN))
    ranking(page)
    page.wait_for_timeout(400)  # they grow
    widths = page.eval_on_selector_all(
        ".ranking > li > .bar", "bars => bars.map(bar => bar.firstElementChild.offsetWidth / bar.offsetWidth)"
    )
    scores = [item.score for item in api.recommend(["i0"], model="x-cross").items]
    low, high = min(0.0, *scores), max(0.0, *scores)
    assert widths == pytest.approx([(score - low) / (high - low) for score in scores], abs=0.01)


def test_options_change_what_is_asked(open_page: Opened) -> None:
    page = open_page(link(TRAIN))
    assert len(ranking(page)) == 7
    page.get_by_text("Options").click()
    page.get_by_label("How many").select_option("5")
    page.wait_for_function("() => document.querySelectorAll('.ranking > li').length === 5")
    page.get_by_label("Also items already bought").check()
    page.wait_for_selector(".ranking > li[data-item=i0]")
    assert ranking(page)[0] == "i0"


def test_an_example_starts_and_clear_ends(open_page: Opened) -> None:
    page = open_page()
    page.locator("#examples").get_by_role("button", name="Red wooden train").click()
    assert "i0" not in ranking(page)
    page.get_by_role("button", name="Clear all").click()
    page.get_by_text("Add an item to the history").wait_for()
    page.locator("#examples").get_by_role("button", name="Red wooden train").wait_for()
    assert page.locator("#history li").count() == 0


def test_a_recommended_item_goes_to_the_history(open_page: Opened) -> None:
    page = open_page(link(TRAIN))
    first = ranking(page)[0]
    page.locator(".ranking > li").first.get_by_text("+ history").click()
    page.wait_for_selector(f".ranking:not(:has([data-item={first}]))")
    assert page.locator("#history .about").all_text_contents() == ["i0", first]
    assert page.evaluate("document.activeElement.id") == "results"  # the pressed button is gone


# ---- reasons


def test_an_explanation_shows_matches_and_the_heat_map(open_page: Opened, api: Client) -> None:
    page = open_page(link(TRAIN, DRUM))
    first = ranking(page)[0]
    reasons = api.explain(["i0", "A drum for children"], first, model="x-cross")
    why = page.get_by_role("button", name=f"Why {reasons.title}?", exact=True)
    assert why.get_attribute("aria-expanded") == "false"
    why.click()
    table = page.get_by_role("table", name="How much each source moved the score at each layer")
    table.wait_for()
    assert why.get_attribute("aria-expanded") == "true"
    assert [head.text_content() for head in table.get_by_role("columnheader").all()] == ["Layer", "kitchen", "camping"]
    rows = table.locator("tbody tr").all()
    assert [row.get_by_role("rowheader").text_content() for row in rows] == ["1", "2"]
    cells = [cell.text_content() for row in rows for cell in row.get_by_role("cell").all()]
    assert cells == [sign(layer.effect) for layer in reasons.layers]
    strongest = max(reasons.layers, key=lambda layer: abs(layer.effect))
    heats = page.eval_on_selector_all(
        ".heat tbody td", "cells => cells.map(c => Number(c.style.getPropertyValue('--heat')))"
    )
    assert heats == pytest.approx([abs(layer.effect / strongest.effect) for layer in reasons.layers], abs=0.001)
    assert f"The largest single effect is that of {strongest.source} at layer {strongest.layer}" in page.inner_text(
        ".summary"
    )
    matched = sorted(reasons.matches, key=lambda match: -(match.share or 0))
    assert page.locator(".matched").all_text_contents() == [match.title for match in matched]
    assert f"{matched[0].share:.0%} of the match" in page.locator(".facts").first.text_content()
    page.wait_for_timeout(400)  # bars grow
    widths = page.eval_on_selector_all(
        ".matches .bar", "bars => bars.map(bar => bar.firstElementChild.offsetWidth / bar.offsetWidth)"
    )
    assert widths == pytest.approx([match.share for match in matched], abs=0.01)
    why.click()
    assert not table.is_visible()


def sign(effect: float) -> str:
    text = f"{effect:+.3f}".replace("-", "\u2212")
    return "+0.000" if text == "\u22120.000" else text


def test_a_single_model_says_so(open_page: Opened) -> None:
    page = open_page(link(TRAIN, model="lora"))
    ranking(page)
    assert page.locator("article h3 .about").text_content() == "combines no other categories"
    page.get_by_text("Why?").first.click()
    page.get_by_text("This model combines no other categories.").wait_for()
    assert page.locator(".heat").count() == 0
    assert page.locator(".matched").count() == 1


def test_a_model_of_merged_sources_says_what_each_adds(open_page: Opened, api: Client) -> None:
    page = open_page(link(TRAIN, model="merged"))
    first = ranking(page)[0]
    page.get_by_text("Why?").first.click()
    page.locator(".summary").wait_for()
    summary = page.inner_text(".summary").replace("\u2212", "-")
    (added,) = re.findall(r"merged; what each adds: (.+)\.$", summary)
    shown = {name: float(effect) for name, effect in (each.split() for each in added.split(", "))}
    told = {each.source: each.stream_effect for each in api.explain(["i0"], first, model="merged").sources}
    assert shown == pytest.approx(told, abs=0.00051)  # three places, and another batch's last bits
    assert page.locator(".heat").count() == 0


def test_reasons_that_need_no_history_are_shown(open_page: Opened) -> None:
    said = ["One purchase here is known, but all customers get the same: bestsellers first.", "Bought by 4 customers."]

    def best_sellers(route: Any) -> None:
        answer = route.fetch().json()
        answer["explanation"] |= {"matches": [], "reasons": said}
        route.fulfill(json=answer)

    page = open_page(link(TRAIN, model="lora"))
    page.route("**/v1/explain", best_sellers)
    ranking(page)
    page.get_by_text("Why?").first.click()
    page.locator(".summary").first.wait_for()
    assert page.locator(".explanation > *").all_text_contents() == said  # and no heading over an empty list


# ---- two models


def test_two_models_stand_side_by_side(open_page: Opened, api: Client) -> None:
    page = open_page(link(TRAIN))
    page.get_by_label("Compare with").select_option("lora")
    page.wait_for_selector("article:nth-child(2) .ranking > li")
    lists = [[item.item_id for item in api.recommend(["i0"], model=name).items] for name in ("x-cross", "lora")]
    assert [ranking(page, column) for column in (0, 1)] == lists
    page.wait_for_function("document.querySelector('#overlap').textContent.includes('both lists')")
    # in one call, because the lists are drawn anew when an answer comes
    left, right = page.evaluate(
        "[...document.querySelectorAll('article')].map(e => e.getBoundingClientRect().toJSON())"
    )
    assert left["y"] == right["y"]
    assert left["right"] < right["left"]
    place = lists[1].index(lists[0][0]) + 1
    assert page.locator(".moved").first.text_content().startswith(str(place))
    assert page.locator(".moved").first.text_content().endswith(" in lora")
    assert "7 of 7 are in both lists" in page.inner_text("#overlap")
    page.locator("article").nth(0).locator(".ranking > li").first.hover()
    marked = page.locator("article").nth(1).locator("li.marked")
    assert marked.get_attribute("data-item") == lists[0][0]
    page.reload()
    assert ranking(page, 1) == lists[1]


def test_domains_are_picked(open_page: Opened) -> None:
    page = open_page()
    page.locator("#examples button").first.wait_for()
    assert page.locator("#domain option").all_text_contents() == ["no domain", "kitchen"]
    page.get_by_label("Domain").select_option("kitchen")
    assert page.locator("#model option").all_text_contents() == ["lora"]
    assert page.locator("#rival option").all_text_contents() == ["nothing", "x-cross", "pair", "merged"]


# ---- errors


def test_an_error_is_a_sentence(open_page: Opened) -> None:
    page = open_page(link({"item_id": "gone", "title": "Gone", "model": "x-cross"}))
    alert = page.get_by_role("alert").filter(has_text="gone")
    alert.wait_for()
    assert alert.text_content()[0].isupper()
    assert alert.text_content().endswith(".")
    assert "gone" in alert.text_content()


def test_one_models_error_leaves_the_other(open_page: Opened) -> None:
    page = open_page(link({**TRAIN, "item_id": "gone"}, rival="lora"))
    page.locator("article").nth(0).get_by_role("alert").wait_for()
    assert len(ranking(page, 1)) > 0


def test_a_silent_server_is_a_sentence(open_page: Opened) -> None:
    page = open_page(link(TRAIN))
    ranking(page)
    page.route("**/v1/**", lambda route: route.abort())
    page.get_by_text("Why?").first.click()
    page.get_by_text("The server does not answer: check that it runs, then try again.").wait_for()
    page.get_by_role("combobox", name="Add a purchase").fill("train")
    page.locator("#search-error").get_by_text("The server does not answer").wait_for()
    page.get_by_role("button", name="Remove Red wooden train").click()
    page.get_by_text("Add an item to the history").wait_for()


def test_a_key_is_asked_for(open_page: Opened) -> None:
    page = open_page(key=None)
    field = page.get_by_label("API key")
    field.wait_for()
    assert "key" in page.locator("#server-error").text_content()
    field.fill("a-wrong-key-of-its-own")
    field.press("Enter")
    page.wait_for_timeout(300)
    assert field.is_visible()
    field.fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    page.locator("#examples button").first.wait_for()
    assert not field.is_visible()
    assert not page.locator("#server-error").is_visible()


# ---- keyboard, screen reader, width, light


def test_everything_works_without_a_mouse(open_page: Opened) -> None:
    page = open_page()
    page.locator("#examples button").first.wait_for()
    keys = page.keyboard
    keys.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the recommendations"
    box = page.get_by_role("combobox", name="Add a purchase")
    for _ in range(4):
        keys.press("Tab")
    assert page.evaluate("document.activeElement.id") == "search"
    keys.type("wooden")
    page.locator("#suggestions [role=option]").first.wait_for()
    assert box.get_attribute("aria-expanded") == "true"
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    chosen = page.locator(f"#{box.get_attribute('aria-activedescendant')}")
    assert chosen.get_attribute("aria-selected") == "true"
    title = chosen.evaluate("option => option.childNodes[0].textContent + option.childNodes[1].textContent")
    keys.press("Escape")
    assert box.get_attribute("aria-expanded") == "false"
    keys.press("ArrowDown")
    page.locator("#suggestions [role=option]").first.wait_for()
    keys.press("ArrowUp")  # from the box up to the last, the text itself
    assert "Add \u201cwooden\u201d as a title" in page.locator("[role=option][aria-selected=true]").text_content()
    keys.press("ArrowDown")
    keys.press("ArrowDown")
    keys.press("Enter")
    assert title in page.locator("#history .title").first.text_content()
    assert page.evaluate("document.activeElement.id") == "search"
    ranking(page)
    keys.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Remove ")
    for _ in range(4):  # clear all, options, the first item's buttons
        keys.press("Tab")
    keys.press("Enter")
    page.get_by_role("table").wait_for()
    page.locator("#history button").focus()
    keys.press("Enter")
    page.get_by_text("Add an item to the history").wait_for()
    assert page.evaluate("document.activeElement.id") == "search"  # nothing is left to remove


def test_every_control_has_a_name(open_page: Opened) -> None:
    page = open_page(link(TRAIN, DRUM, rival="lora"))
    ranking(page, 1)
    page.get_by_text("Why?").first.click()
    page.get_by_role("table").wait_for()
    tree = page.locator("body").aria_snapshot()
    for role in ("button", "combobox", "checkbox", "link", "table"):
        assert f"- {role}\n" not in tree
        assert f"- {role}:\n" not in tree
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    headings = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(each => Number(each.tagName[1]))")
    assert all(after - before <= 1 for before, after in pairwise(headings))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: str, open_page: Opened) -> None:
    page = open_page(link(TRAIN, DRUM, rival="lora"), color_scheme=scheme)
    ranking(page, 1)
    page.get_by_text("Why?").first.click()
    page.get_by_role("table").wait_for()
    page.wait_for_timeout(300)
    weak = page.evaluate(CONTRAST.read_text(encoding="utf-8"))
    assert weak["checked"] > 60
    assert weak["low"] == []


def test_the_page_is_as_light_as_the_system(open_page: Opened) -> None:
    ground = "() => getComputedStyle(document.body).backgroundColor"
    light, dark = (open_page(color_scheme=scheme).evaluate(ground) for scheme in ("light", "dark"))
    assert light != dark


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_shows_all_without_scrolling_sideways(width: int, open_page: Opened) -> None:
    page = open_page(link(TRAIN, DRUM, rival="lora"), width=width, has_touch=True, is_mobile=True)
    ranking(page, 1)
    page.get_by_text("Why?").first.tap()
    page.get_by_role("table").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    small = page.eval_on_selector_all(
        "button, select, input[type=text]",
        "all => all.filter(e => e.checkVisibility()).map(e => e.getBoundingClientRect())"
        ".filter(box => box.height < 32 || box.width < 24).length",
    )
    assert small == 0
    left, right = (page.locator("article").nth(n).bounding_box() for n in (0, 1))
    assert right["y"] > left["y"] + left["height"]


def test_a_title_is_never_markup(open_page: Opened) -> None:
    page = open_page(link({"title": "<b>bold</b> <script>alert(1)</script>"}))
    assert "i7" in ranking(page)
    assert MARKUP in page.locator(".ranking .title").all_text_contents()
    page.get_by_role("combobox", name="Add a purchase").fill("<svg")
    page.locator("#suggestions [role=option]").first.wait_for()
    assert page.locator("main svg, main b, main script").count() == 0


def test_a_broken_link_is_an_empty_page(open_page: Opened) -> None:
    for fragment in ("#history=[", "#history=7", "#model=nobody&rival=nobody", '#history=[{"title":7},null]'):
        page = open_page(fragment)
        page.get_by_text("Add an item to the history").wait_for()


def test_the_page_is_light_and_strict(shop: str) -> None:
    files = [path for path in PAGE.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 64 * 1024
    answer = httpx.get(shop)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy or "default-src 'none'" in policy
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert "innerHTML" not in text
        outside = set(re.findall(r"(?:https?:)?//\w[\w.-]*\.\w+", text))
        assert outside <= {"http://www.w3.org"}, path  # SVG's name; nothing is fetched from it
