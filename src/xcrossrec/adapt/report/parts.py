"""What the parts of the page share: the decision, names in words, and what to type for a part that was not reached."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TypeAlias

from xcrossrec.adapt.decision import Candidate, Decision
from xcrossrec.adapt.report.markup import Content, Markup, tag

Part: TypeAlias = tuple[str, Sequence[Content]]
"""A heading, and what stands below it."""


@dataclass(frozen=True)
class Shown:
    """A decision and where it lies."""

    decision: Decision
    directory: str

    @property
    def chosen(self) -> Candidate:
        """What is shipped."""
        return self.decision.candidate(self.decision.chosen)

    @property
    def rival(self) -> Candidate:
        """The best other one that needs no training here: what one may have now."""
        return self.decision.candidate(self.decision.gain.over)

    @property
    def fitted(self) -> list[Candidate]:
        """What was measured, the simplest first."""
        return [each for each in self.decision.candidates if each.status == "fitted"]

    def label(self, candidate: Candidate) -> str:
        """Its name in words, and whether it is the one."""
        return (
            f"{upper(candidate.label)} (chosen)" if candidate.name == self.decision.chosen else upper(candidate.label)
        )

    def not_reached(self, what: str) -> list[Content]:
        """Say that a part is missing, and what to type."""
        target = self.decision.target.folder or "TARGET"
        words = ["xcrossrec", "adapt", target, "--out", self.directory, "--minutes", "60"]
        return [
            tag("p", f"{what} was not reached in the minutes that were given. What is there is kept; to get it, type:"),
            command(words),
        ]


def command(words: Sequence[str]) -> Markup:
    """What to type."""
    return tag("pre", tag("code", " ".join(map(quote, words))))


def upper(text: str) -> str:
    """With a large first letter."""
    return text[:1].upper() + text[1:]
