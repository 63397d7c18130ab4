"""The report in a real Chromium, served beside its model: no request leaves, nothing is cut, everything has a name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.adaptation.decisions import garden
from tests.serving.page.conftest import KEY

from xcrossrec.adaptation.report import render

Opened = Callable[..., Any]

CONTRAST = Path(__file__).with_name("contrast.js")
WITH_KEY = {"Authorization": f"Bearer {KEY}"}
CUT = """() => [...document.querySelectorAll("body *")].filter((each) => {
  const box = each.getBoundingClientRect();
  return box.width && !each.closest("svg svg") && (box.left < -1 || box.right > innerWidth + 1);
}).map((each) => `${each.tagName} ${each.textContent.slice(0, 40)}`)"""
PAGE_MM = {"width": 210 - 2 * 14, "height": 297 - 2 * 14}  # A4 within its margins
PIXELS = {side: int(length / 25.4 * 96) for side, length in PAGE_MM.items()}


@pytest.fixture
def opened(open_page: Opened) -> Opened:
    """Open the served report; `open_page` sees to it that no request leaves the server."""
    return lambda **options: open_page("report?model=merged", key=None, extra_http_headers=WITH_KEY, **options)


def test_the_server_gives_it_to_who_may_read(shop: str) -> None:
    assert httpx.get(f"{shop}/report", params={"model": "merged"}).status_code == 401
    found = httpx.get(f"{shop}/report", params={"model": "merged"}, headers=WITH_KEY)
    assert found.text[:200] == render(garden(), "")[:200]
    assert found.headers["content-type"].startswith("text/html")
    assert found.headers["x-content-type-options"] == "nosniff"
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    missing = httpx.get(f"{shop}/report", params={"model": "lora"}, headers=WITH_KEY)
    assert missing.status_code == 404
    assert "the model 'lora' has no report: serve the folder 'model'" in missing.json()["error"]["message"]


def test_the_page_links_to_it_and_brings_it_with_the_key(open_page: Opened) -> None:
    page = open_page("#model=merged")
    link = page.get_by_role("link", name="How this model was chosen")
    link.wait_for()
    with page.expect_download() as saved:
        link.click()
    assert saved.value.suggested_filename == "report-merged.html"
    assert saved.value.path().read_text(encoding="utf-8").startswith("<!doctype html>")
    page.get_by_label("Model").select_option("x-cross")
    assert not link.is_visible()


@pytest.mark.parametrize("width", [320, 360, 1200])
def test_nothing_is_wider_than_the_screen(opened: Opened, width: int) -> None:
    page = opened(width=width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CUT) == []


def test_nothing_is_cut_on_paper(opened: Opened) -> None:
    page = opened(width=PIXELS["width"])
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= PIXELS["width"]  # texts that leave their boxes
    assert page.evaluate(CUT) == []
    tall = page.eval_on_selector_all(
        "table, article, .plot", "all => all.map(each => each.getBoundingClientRect().height)"
    )
    assert len(tall) == 6 + 10 + 4
    assert max(tall) < PIXELS["height"]
    kept = page.eval_on_selector_all("table, article", "all => all.map(each => getComputedStyle(each).breakInside)")
    assert set(kept) == {"avoid"}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out(opened: Opened, scheme: str) -> None:
    found = opened(color_scheme=scheme).evaluate(CONTRAST.read_text(encoding="utf-8"))
    assert found["checked"] > 200
    assert found["low"] == []


def test_everything_has_a_name(opened: Opened) -> None:
    page = opened(width=360)  # tables are laid out as blocks here, and are tables still
    for heading in page.get_by_role("heading", level=2).all():
        assert page.get_by_role("region", name=heading.text_content(), exact=True).count() == 1
    for name in ("Score of each method", "Score by number of customers", "Purchases by what was known about the buyer"):
        assert page.get_by_role("img", name=name).count() == 1
    rivals = page.get_by_role("table", name="The same in numbers, with 95% intervals").first
    assert rivals.get_by_role("columnheader").count() == 4
    assert rivals.get_by_role("rowheader", name="The mean of the sources").count() == 1


def test_no_colour_is_needed(opened: Opened) -> None:
    page = opened()
    assert page.locator(".plot text.strong").all_text_contents()[0].startswith("Chosen: ")
    assert "phones (left out)" in page.locator(".plot text").all_text_contents()
