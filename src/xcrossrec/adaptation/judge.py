"""What each established category is worth: alone, and in the mean of all, asked of users of the target.

Legend: ``user`` = one user of the target, ``moment`` = one purchase of theirs, ``item`` = one item of the catalogue.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from xcrossrec.adaptation.candidates import Made
from xcrossrec.adaptation.choice import difference, score
from xcrossrec.adaptation.decision import Helps, Interval, Source
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.data.text import spaced
from xcrossrec.evaluation.table import aligned
from xcrossrec.exceptions import DataError
from xcrossrec.metrics.ranking import catalogue_ranks, reciprocal_rank
from xcrossrec.scoring import Scorer
from xcrossrec.training.source import source_users, user_hashes

ASKED = 300
"""Users of the target that sources are judged by, at most."""

LATEST = 4
"""Purchases of each that are ranked, at most; never the first."""

_MOST_SCORES = 2**26
"""Scores that are held of a source, a quarter of a gigabyte; of a large catalogue fewer purchases are ranked."""


class Judge:
    """Measures each source on a sample of the target's train users: it ranks their latest purchases in the catalogue.

    Nothing is trained. Repeated purchases are not ranked unless the import kept them. DataError: no such users.
    """

    def __init__(self, target: Domain, seed: int) -> None:
        self.target = target
        every, repeats = target.sequences("train"), target.keeps_repeats
        if not len(every := every if repeats else every.with_new_targets()):
            raise DataError(
                f"target {target.name!r} has no users to ask: its train split has 0 with two products; import more"
            )
        self.users: Sequences = every.take(min(len(every), ASKED), seed)
        each = min(LATEST, max(1, _MOST_SCORES // (len(self.users) * target.items.height)))
        self.moments = [
            (user, place)
            for user, rows in enumerate(self.users.rows)
            for place in range(max(1, len(rows) - each), len(rows))
            if repeats or rows[place] not in rows[:place]
        ]
        self.scores: dict[str, Float[np.ndarray, "moment item"]] = {}

    def ask(self, name: str, scorer: Scorer) -> None:
        """Score all moments by a source's text, or by the base's, whose name is empty."""
        histories = [self.users.rows[user][:place] for user, place in self.moments]
        self.scores[name] = scorer.score(histories).astype(np.float32, copy=False)

    def ranked(self, names: Sequence[str]) -> Float64[np.ndarray, " user"]:
        """Each user's mean reciprocal rank, by the mean of the named sources' scores."""
        mean = reduce(np.add, [self.scores[name] for name in names]) / len(names)  # two of them at once
        rows = self.users.rows
        wanted = np.array([rows[user][place] for user, place in self.moments])
        left_out = [() if self.target.keeps_repeats else rows[user] for user, _ in self.moments]
        found = reciprocal_rank(catalogue_ranks(mean, wanted, left_out)[0])
        of = np.array([user for user, _ in self.moments])
        return np.bincount(of, found, len(rows)) / np.bincount(of, minlength=len(rows))

    def described(self, made: Sequence[Made], domains: Mapping[str, Domain]) -> list[Source]:
        """Everything that is known of the adapters that were asked; ``domains`` are the sources', where given."""
        users, words = user_hashes(self.target.sequences("train").user_ids), _words(self.target)
        found = judge([each.name for each in made], self.ranked)
        return [
            Source(
                name=each.name,
                folder=str(each.folder),
                shared_users=len(users & source_users(each.folder)),
                shared_words=_share(words, domains.get(each.name)),
                **vars(found[each.name]),
            )
            for each in made
        ]


@dataclass(frozen=True)
class Verdict:
    """What a source is worth; see :class:`xcrossrec.adaptation.decision.Source`."""

    alone: Interval
    without: Interval | None
    helps: Helps
    used: bool
    why: str


Ranked: TypeAlias = Callable[[Sequence[str]], Float64[np.ndarray, " user"]]
"""Gives reciprocal ranks of users by the mean of several texts' scores; the empty name is the untrained base."""


def judge(names: Sequence[str], ranked: Ranked) -> dict[str, Verdict]:
    """Judge sources, and drop harmful ones one after another, the worst first.

    A source is harmful ("no") if the mean of all sources is significantly better without it, or if it is alone
    significantly worse than the untrained base and the mean is not significantly better with it. It helps ("yes") if
    the mean is significantly better with it, or if it is alone significantly better than the base. Otherwise it is
    "unclear" and used: results before training say little about results after it (lab/log, 2026-11-29). Significant
    means that the 95% interval of the paired differences excludes 0. After a source is dropped, the others are judged
    again without it.

    Args:
        names: of the sources.
        ranked: reciprocal ranks of the same users by any of them together, and by the base.
    """
    kept, known = list(names), cache(lambda *asked: ranked(asked))
    found: dict[str, Verdict] = {}
    while kept:
        judged = {name: _judged(name, kept, known) for name in kept}
        harmful = [name for name in kept if not judged[name].used]
        if not harmful:
            return {name: {**judged, **found}[name] for name in names}
        worst = min(harmful, key=lambda name: judged[name].alone.mean)
        found[worst] = judged[worst]
        kept.remove(worst)
    return {name: found[name] for name in names}


def _judged(name: str, kept: Sequence[str], ranked: Callable[..., Float64[np.ndarray, " user"]]) -> Verdict:
    over = difference(ranked(name) - ranked(""))
    rest = [other for other in kept if other != name]
    without = difference(ranked(*kept) - ranked(*rest)) if rest else None
    mean, alone = (0 if each is None else (each.low > 0) - (each.high < 0) for each in (without, over))
    helps: Helps = ("unclear", "yes", "no")[mean or alone]
    how = ("which may be chance", "significantly better", "significantly worse")[alone]
    why = f"alone {over.mean:+.4f} compared with the untrained base, {how}"
    if without is not None and mean:  # which tells more
        why = f"the mean is better {'with' if mean > 0 else 'without'} it ({abs(without.mean):+.4f})"
    return Verdict(score(ranked(name)), without, helps, helps != "no", why)


def sources_table(found: Sequence[Source], users: int) -> str:
    """A small table in plain words of sources, and of how many users of the target were asked."""
    rows = [
        [
            each.name,
            each.helps if each.used else f"{each.helps}, left out",
            each.alone.shown(),
            "" if each.without is None else each.without.shown("+"),
            "" if each.shared_users is None else f"{each.shared_users:,}",
            "" if each.shared_words is None else f"{each.shared_words:.0%}",
            each.why,
        ]
        for each in found
    ]
    header = ["source", "helps", "alone", "leaving it out costs", "shared users", "shared words", "why"]
    caption = (
        f"Measured on {users} users of the target, on whom nothing was trained: their latest purchases, at most "
        f"{LATEST}, ranked in the whole catalogue. MRR with 95% interval; shared words: the part of the target's words "
        "that the source has."
    )
    return "\n".join([*aligned(header, rows), "", caption])


def _words(domain: Domain) -> frozenset[str]:
    return frozenset(re.findall(r"[^\W\d_]{2,}", spaced(" ".join(domain.texts), 2).lower()))


def _share(words: frozenset[str], domain: Domain | None) -> float | None:
    return None if domain is None or not words else len(words & _words(domain)) / len(words)
