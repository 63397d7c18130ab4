"""The decision as one page, for people: no script, no request to any host, for screens of any width and paper."""

from __future__ import annotations

import shlex
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from xcrossrec.adaptation.curve import LEAST_POINTS, sizes
from xcrossrec.adaptation.decision import Candidate, Decision, Interval
from xcrossrec.adaptation.report import words
from xcrossrec.adaptation.report.plots import Bar, bars, curve
from xcrossrec.progress import in_words
from xcrossrec.replacing import replace_text

FILE = "report.html"

_HERE = Path(__file__).parent
_FILTERS: Mapping[str, Callable[..., str]] = {
    **{name: getattr(words, name) for name in words.__all__},
    "in_words": in_words,
    "count": "{:,}".format,
    "typed": shlex.join,
}


def write_report(directory: Path | str) -> Path:
    """Write ``report.html`` beside ``decision.json``, in one step (StorageError); gives its place.

    BundleError as for :meth:`Decision.read`.
    """
    page = render(Decision.read(directory), str(directory))
    place = Path(directory) / FILE
    replace_text(place, page)
    return place


def render(decision: Decision, directory: str) -> str:
    """Write a decision as HTML; every text is escaped. Commands that it names have the ``directory`` where it lies."""
    style = (_HERE / "report.css").read_text(encoding="utf-8")
    digest = b64encode(sha256(style.encode()).digest()).decode()
    made = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    made.filters.update(_FILTERS)
    page = made.from_string((_HERE / "page.html.jinja").read_text(encoding="utf-8")).render(
        **_shown(decision),
        directory=directory,
        folder=decision.target.folder or "TARGET",
        style=Markup(style),
        policy=f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'",
        bars=bars,
        curve=curve,
    )
    return page.lstrip()


def _shown(decision: Decision) -> dict[str, Any]:
    """What the page says of a decision beside what stands in it."""
    chosen, rival = decision.candidate(decision.chosen), decision.candidate(decision.gain.over)
    rates = [found.mean for each in (chosen, rival) if (found := _tens_of(each))]
    digits = 0 if min(rates, default=0) >= 0.1 else 1
    beyond = decision.beyond or {}
    measured = [each for each in decision.candidates if each.report and "mrr" in each.report]
    points = {point.users: point for point in decision.curve.points} if decision.curve else {}
    band = {point.users: point for point in decision.curve.band} if decision.curve else {}
    return {
        "decision": decision,
        "chosen": chosen,
        "rival": rival,
        "measured": measured,
        "tens_of": _tens_of,
        "hundred": [f"{100 * rate:.{digits}f}" for rate in rates],
        "by_users": [(users, points.get(users), band.get(users)) for users in sorted({*points, *sorted(band)[-1:]})],
        "too_few": len(sizes(decision.target.users.fit)) < LEAST_POINTS,
        "lists": [beyond[name] for name in dict.fromkeys((chosen.name, rival.name)) if name in beyond],
        "plots": _plots(decision, measured),
    }


def _tens_of(candidate: Candidate) -> Interval | None:
    return (candidate.report or {}).get("hit@10")


def _plots(decision: Decision, measured: Sequence[Candidate]) -> dict[str, list[Bar]]:
    rivals = [(each, each.report["mrr"]) for each in measured if each.report]
    left_out = [(each, each.without) for each in decision.sources if each.without is not None]
    return {
        "rivals": [
            Bar(words.large(of.label), words.score(m.mean), m.mean, m.low, m.high, of.name == decision.chosen)
            for of, m in rivals
        ],
        "sources": [
            Bar(of.name if of.used else f"{of.name} (left out)", words.signed(m.mean), m.mean, m.low, m.high)
            for of, m in left_out
        ],
        "rungs": [Bar(words.large(of.label), words.percent(of.share), of.share) for of in decision.rungs or ()],
    }
