"""The decision as one page, for people: no script, no request to any host, for screens of any width and paper."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from pathlib import Path

from xcrossrec.adapt.decision import Decision
from xcrossrec.adapt.report import grounds, results
from xcrossrec.adapt.report.markup import Markup, section, tag
from xcrossrec.adapt.report.parts import Shown
from xcrossrec.replacing import replacing_file

FILE = "report.html"

_STYLE = Path(__file__).with_name("report.css")


def write_report(directory: Path | str) -> Path:
    """Write ``report.html`` beside ``decision.json``, in one step; gives its place.

    Raises:
        BundleError: no decision there, or one that is damaged or of another release.
        StorageError: the disk refuses.
    """
    page = render(Decision.read(directory), str(directory))
    place = Path(directory) / FILE
    with replacing_file(place) as file:
        file.write_text(page, encoding="utf-8")
    return place


def render(decision: Decision, directory: str) -> str:
    """Write a decision as HTML.

    Args:
        decision: what is shown.
        directory: where it lies, for the commands that the page names.
    """
    shown = Shown(decision, directory)
    style = _STYLE.read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", f"What to recommend with in {decision.target.name}"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Markup(style)),
    )
    parts = [*results.parts(shown), *grounds.parts(shown)]
    body = tag("body", results.header(shown), tag("main", [section(name, *content) for name, content in parts]))
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"
