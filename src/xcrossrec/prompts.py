"""Histories and candidates as text, versioned.

Template version 1: the titles of a history, oldest first, one per line. A title never has a line break
(whitespace is folded), so a prompt can be split into its titles again. The encoder writes
:data:`TITLE_SEPARATOR` between the tokens of two titles.
"""

from __future__ import annotations

from collections.abc import Sequence

from xcrossrec.exceptions import DataError

PROMPT_VERSION = 1
"""Written into every bundle; a bundle of another version is refused."""

TITLE_SEPARATOR = ";"
"""Written between two titles of one prompt, as tokens."""

UNTITLED = "untitled item"
"""Stands for a catalogue item without a title, so that it can be scored (and ranks low) like any other."""


def item_texts(titles: Sequence[str]) -> list[str]:
    """Turn a catalogue's titles into texts for encoders; an empty title becomes :data:`UNTITLED`."""
    return [clean_title(title) or UNTITLED for title in titles]


def clean_title(title: str) -> str:
    """Fold all whitespace, line breaks included, into single spaces."""
    return " ".join(title.split())


def history_prompt(titles: Sequence[str]) -> str:
    """Write a history, its titles oldest first, as one text (DataError: no title, or an empty one)."""
    if not titles:
        raise DataError("the history is empty: give at least one item id or title")
    cleaned = [clean_title(title) for title in titles]
    if "" in cleaned:
        raise DataError(f"title {cleaned.index('')} of the history is empty: give its text, or leave it out")
    return "\n".join(cleaned)


def split_prompt(prompt: str) -> list[str]:
    """Split a prompt into its titles, oldest first; empty lines are dropped."""
    return [title for title in (clean_title(line) for line in prompt.split("\n")) if title]
