"""A real server over tiny models, and a real Chromium that looks at its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from tests.adaptation.decisions import garden

from xcrossrec.adaptation.report import write_report
from xcrossrec.config import Integration
from xcrossrec.training.source import write
from xcrossrec.training.target import build_target_model

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
KEY = "a-key-that-may-read-0"
MARKUP = "<svg onload=alert(1)> & Sons toy box"  # no tag of a text, so that it is kept
TITLES = (
    "Red wooden train",
    "Blue wooden train",
    "Train track, 12 pieces",
    "Cordless drill 18 V",
    "Drill bit set",
    "Tape measure 5 m",
    "Wooden train bridge with a long name that does not fit one line of a narrow phone",
    MARKUP,
)


@pytest.fixture(scope="package")
def shop(tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``xcrossrec serve`` with four models, in a process of its own; reading needs KEY."""
    if not CHROMIUM.exists():
        pytest.skip(f"CHROMIUM ABSENT: {CHROMIUM} does not exist, so the page was not tested")
    folder = tmp_path_factory.mktemp("page")
    pl.DataFrame({"item_id": [f"i{n}" for n in range(len(TITLES))], "title": TITLES}).write_csv(folder / "items.csv")
    merged = build_target_model(tiny_models.sources, Integration("merged"))
    write(merged, folder / "adapted" / "model", {"kind": "x-cross"}, frozenset(), overwrite=False)
    garden().write(folder / "adapted")
    write_report(folder / "adapted")
    models = {"x-cross": tiny_models.late, "lora": tiny_models.sources[0], "pair": tiny_models.pair}
    models["merged"] = folder / "adapted" / "model"
    words = [f"{name}={path}" for name, path in models.items()]
    for name in models:  # a catalogue of its own for each
        (folder / name).mkdir()
        (folder / name / "items.csv").write_bytes((folder / "items.csv").read_bytes())
        words += ["--catalog", f"{name}={folder / name / 'items.csv'}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XCROSSREC_API_KEYS": KEY, "XCROSSREC_DRAIN_S": "0"}
    environment["XCROSSREC_TIMEOUT_S"] = "60"
    program = ["-W", "ignore", "-c", "from xcrossrec.cli import main; main()"]
    arguments = ["serve", *words, "--port", "0"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([sys.executable, *program, *arguments], env=environment, stderr=log)
    try:
        yield address_of(process, folder / "log")
    finally:
        process.terminate()
        assert process.wait(timeout=120) == 0, (folder / "log").read_text()


def address_of(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the log line that tells where the server listens."""
    until = time.monotonic() + 300
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r'"listening at (http://[^"]+)"', log.read_text(encoding="utf-8")):
            return found[1]
        time.sleep(0.05)
    raise AssertionError(f"the server did not start: {log.read_text()}")


@pytest.fixture(scope="package")  # while it runs, asyncio.run is refused in this thread
def browser(shop: str) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(shop: str, browser: Any) -> Iterator[Callable[..., Any]]:
    """Open the page in a fresh profile; at the end no request may have left the server, and no script failed."""
    contexts, asked, troubles = [], [], []

    def opened(fragment: str = "", *, key: str | None = KEY, width: int = 1280, **options: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        if key is not None:
            context.add_init_script(f"sessionStorage.setItem('xcrossrec-key', '{key}')")
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: troubles.append(str(error)))
        page.on("console", lambda line: troubles.append(line.text) if "Content Security Policy" in line.text else None)
        page.goto(f"{shop}/{fragment}")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert troubles == []
    assert [url for url in asked if not url.startswith(f"{shop}/")] == []
