"""Numbers and names as people read them: the page's filters."""

from __future__ import annotations

from xcrossrec.adaptation.decision import Source
from xcrossrec.answers import customers

__all__ = [
    "common", "large", "memory", "percent", "rounded", "score", "sentence", "signed", "slug",
]  # fmt: skip

NONE, MINUS = "\u2013", "\u2212"


def score(value: float) -> str:
    """A score between 0 and 1."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of scores, with its sign."""
    text = f"{value:+.4f}"
    return "0.0000" if text.strip("+-0.") == "" else text.replace("-", MINUS)


def percent(share: float) -> str:
    """A share of 1, in percent; one digit more where it is small."""
    return f"{share:.0%}" if share == 0 or share >= 0.1 else f"{share:.1%}"


def rounded(value: float | None, digits: int = 1, unit: str = "") -> str:
    """A number of so many digits, where there is one."""
    return NONE if value is None else f"{value:.{digits}f}{unit}"


def memory(megabytes: float) -> str:
    """Megabytes, or gigabytes."""
    return f"{megabytes / 1024:.1f} GB" if megabytes >= 1024 else f"{megabytes:.0f} MB" if megabytes else NONE


def large(text: str) -> str:
    """With a large first letter."""
    return text[:1].upper() + text[1:]


def sentence(text: str) -> str:
    """Begin large and end with a full stop."""
    text = large(text.strip())
    return text if not text or text[-1] in ".!?" else f"{text}."


def slug(text: str) -> str:
    """A heading as an id."""
    return "".join(letter if letter.isalnum() else "-" for letter in text.lower())


def common(source: Source) -> str:
    """What a source and the new category have in common."""
    users = None if source.shared_users is None else customers(source.shared_users)
    said = None if source.shared_words is None else f"{percent(source.shared_words)} of the words"
    return ", ".join(each for each in (users, said) if each) or NONE
