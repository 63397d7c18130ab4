"""Plots as inline SVG: places across are shares of the width, so that texts stay as large on a phone as on paper."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from xcrossrec.adaptation.decision import Curve, Point
from xcrossrec.adaptation.report.words import score

_ROW, _TALL, _LEFT, _RIGHT, _END = 46, 240, 15.0, 97.0, 70.0
_LINE, _LONGEST, _STRONG = 18, 37, 31


@dataclass(frozen=True)
class Bar:
    """One line of a plot of bars.

    Attributes:
        value: the label's number, as text.
        mean: where the bar, or the dot, ends.
        low, high: of the interval; None draws none.
        strong: whether it is the chosen one; its label says so, too.
    """

    label: str
    value: str
    mean: float
    low: float | None = None
    high: float | None = None
    strong: bool = False


def bars(name: str, title: str, drawn: Sequence[Bar]) -> Markup:
    """Bars from 0, or dots on both sides of 0 where something is below, each with its interval.

    Args:
        name: unique on the page.
        title: for those who do not see it; the numbers are, too.
    """
    ends = [end for bar in drawn for end in (bar.mean, bar.low, bar.high) if end is not None]
    low, high = min(0.0, *ends), max(0.0, *ends)
    place = _scale(low, high, 0.0 if low == 0 else 2.0, _END)
    top, lines = 0, []
    for bar in drawn:
        text, longest = (f"Chosen: {bar.label}", _STRONG) if bar.strong else (bar.label, _LONGEST)
        label = textwrap.wrap(text, longest) or [""]
        lines.append(_line(bar, label, place, top, dots=low < 0))
        top += _ROW + _LINE * (len(label) - 1)
    return _figure(name, title, "; ".join(f"{bar.label}: {bar.value}" for bar in drawn), top + 4, lines)


def curve(name: str, title: str, drawn: Curve) -> Markup:
    """What was measured, the fit through it with its band, and where the customers at hand end."""
    points, band = drawn.points, drawn.band
    users = [each.users for each in (*points, *band)]
    ends = [end for each in (*points, *band) for end in (each.low, each.high)]
    rest = (max(ends) - min(ends) or max(ends) or 1.0) / 12
    steps = _steps(max(0.0, min(ends) - rest), max(ends) + rest)
    digits = max(len(f"{step:.6g}".partition(".")[2]) for step in steps)
    along = _scale(math.log2(min(users)), math.log2(max(users)), _LEFT + 3, _RIGHT - 3)
    across = {number: along(math.log2(number)) for number in users}
    down = _scale(steps[0], steps[-1], _TALL - 28.0, 12.0)
    grid = [
        (
            _stroke("grid", _LEFT, down(step), _RIGHT, down(step)),
            _word("tick", f"{step:.{digits}f}", _LEFT - 2, down(step) + 4, "end"),
        )
        for step in steps
    ]
    dots = [
        (
            _stroke("whisker", across[each.users], down(each.low), across[each.users], down(each.high)),
            tag("circle", cx=_at(across[each.users]), cy=down(each.mean), r=5, class_="dot"),
        )
        for each in points
    ]
    hand = across[points[-1].users]
    shown = dict.fromkeys([*(each.users for each in points), max(users)])
    ticks = [_word("tick", f"{number:,}", across[number], _TALL - 8, "middle") for number in shown]
    now = _stroke("now", hand, 12, hand, _TALL - 28)
    described = "; ".join(f"{each.users:,}: {score(each.mean)}" for each in points)
    return _figure(name, title, described, _TALL, grid, _fit(band, across, down), now, dots, ticks)


def _fit(band: Sequence[Point], across: Mapping[int, float], down: Callable[[float], float]) -> Markup:
    """A line in its band, in a drawing of its own that is stretched to the width."""
    upper, middle, lower = (
        [f"{across[each.users]:.2f},{down(value):.2f}" for each, value in zip(band, values, strict=True)]
        for values in zip(*((each.high, each.mean, each.low) for each in band), strict=True)
    )
    return tag(
        "svg",
        tag("polygon", points=" ".join([*upper, *reversed(lower)]), class_="band"),
        tag("polyline", points=" ".join(middle), class_="fit"),
        viewBox=f"0 0 100 {_TALL}",
        preserveAspectRatio="none",
        width="100%",
        height=_TALL,
    )


def _line(bar: Bar, label: Sequence[str], place: Callable[[float], float], top: int, *, dots: bool) -> list[Markup]:
    """A bar with its texts, the label in lines above it."""
    kind, middle = "strong" if bar.strong else "other", top + 30 + _LINE * (len(label) - 1)
    drawn: list[Markup] = [
        *[_word(kind, text, 0, top + 15 + _LINE * number) for number, text in enumerate(label)],
        _word(kind, bar.value, 100, middle + 5, "end"),
        _stroke("zero", place(0), middle - 11, place(0), middle + 11),
    ]
    if dots:
        drawn.append(tag("circle", cx=_at(place(bar.mean)), cy=middle, r=5, class_=f"bar {kind}"))
    else:
        width = _at(place(bar.mean) - place(0))
        drawn.append(tag("rect", x=0, y=middle - 7, width=width, height=14, rx=3, class_=f"bar {kind}"))
    if bar.low is not None and bar.high is not None:
        low, high = place(bar.low), place(bar.high)
        drawn.append(_stroke("whisker", low, middle, high, middle))
        drawn += [_stroke("whisker", end, middle - 5, end, middle + 5) for end in (low, high)]
    return drawn


def tag(name: str, *children: Any, **attributes: str | float | None) -> Markup:
    """Write an element; texts are escaped.

    Args:
        children: texts, markup, or several of them.
        attributes: ``class_`` is ``class``, any other underscore a hyphen; None is left out, numbers are rounded to
            hundredths.
    """
    given = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    rounded = {key: f"{value:.2f}".rstrip("0").rstrip(".") for key, value in given.items() if isinstance(value, float)}
    written = Markup().join(Markup(' {}="{}"').format(*each) for each in (given | rounded).items())
    return Markup("<{0}{1}>{2}</{0}>").format(name, written, _join(children))


def _join(children: Any) -> Markup:
    return escape(children) if isinstance(children, str) else Markup().join(map(_join, children))


def _stroke(kind: str, x1: float, y1: float, x2: float, y2: float) -> Markup:
    return tag("line", x1=_at(x1), y1=y1, x2=_at(x2), y2=y2, class_=kind)


def _word(kind: str, text: str, x: float, y: float, anchor: str | None = None) -> Markup:
    return tag("text", text, x=_at(x), y=y, text_anchor=anchor, class_=kind)


def _figure(name: str, title: str, described: str, height: int, *drawn: Any) -> Markup:
    texts = tag("title", title, id=f"{name}-title"), tag("desc", described, id=f"{name}-desc")
    labels = f"{name}-title {name}-desc"
    return tag("svg", texts, *drawn, role="img", aria_labelledby=labels, width="100%", height=height, class_="plot")


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Places of numbers between two of them."""
    wide = high - low or 1.0
    return lambda value: start + (value - low) / wide * (end - start)


def _steps(low: float, high: float) -> list[float]:
    """Three to six round numbers from below one to above the other."""
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = size * min((each for each in (1, 2, 2.5, 5, 10) if each * size >= rough), default=10)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [number * step for number in range(first, last + 1)]


def _at(share: float) -> str:
    return f"{share:.2f}%"
