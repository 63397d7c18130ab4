"""Numbers as people read them."""

from __future__ import annotations

from xcrossrec.adapt.decision import Interval, Point
from xcrossrec.adapt.report.markup import Content, cell

MINUS = "\u2212"


def score(value: float) -> str:
    """A score between 0 and 1."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of scores, with its sign."""
    text = f"{value:+.4f}"
    return "0.0000" if text.strip("+-0.") == "" else text.replace("-", MINUS)


def within(found: Interval | Point) -> Content:
    """A score and its interval."""
    return cell(score(found.mean), f"{score(found.low)} to {score(found.high)}")


def difference(found: Interval) -> Content:
    """A difference and its interval."""
    return cell(signed(found.mean), f"{signed(found.low)} to {signed(found.high)}")


def percent(share: float) -> str:
    """A share of 1, in percent; one digit more where it is small."""
    return f"{share:.0%}" if share == 0 or share >= 0.1 else f"{share:.1%}"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds."""
    if seconds < 1:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return " ".join(f"{n} {unit}" for n, unit in ((minutes, "min"), (rest, "s")) if n)


def memory(megabytes: float) -> str:
    """Megabytes, or gigabytes."""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB" if megabytes else "\u2013"


def sentence(text: str) -> str:
    """Begin large and end with a full stop."""
    text = text.strip()
    return text and text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")
