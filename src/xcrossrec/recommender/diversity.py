"""At most so many near-equal titles in one answer.

Two titles are near-equal where at least three quarters of the words of both are in both (Jaccard); a word is a run of
letters, whatever its case and accents, of Chinese one character, of Thai three letters. So sizes, counts and numbers
of models do not tell titles apart, and of a longer title one colour or scent does not, either: "Nail Stamping Plate
M59" and "... M36", "Talking Plush, Jake" and "... Izzy". Titles are compared, not vectors: the same pairs hold for
every model, a `pair` model's catalogue has no vectors, and a cosine above .9 holds different items of one brand, too
(lab/log, 2026-11-29). A title without letters is near-equal to the same one alone, and an item without a title to none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from xcrossrec.data.text import spaced, unaccented
from xcrossrec.recommender.questions import Known

_WORD = re.compile(r"[^\W\d_]+")

_FIRST = 4
"""How many times ``k`` are ranked first: in most catalogues enough, so that one search does."""

_DEEPEST = 10_000
"""Items that are ranked at most: where all titles are near-equal, one question would go through the whole catalogue."""

Ranked: TypeAlias = Sequence[tuple[Known, float]]
"""Items with their scores, best first."""


def diverse(ranked: Callable[[int], Ranked], k: int, most: int | None) -> Ranked:
    """Take the best ``k``, leaving out each that would be near-equal to ``most`` better ones that were taken; ``most``
    None takes the best as they are.

    Args:
        ranked: gives so many of the best, or all there are; asked again for more where too few of them are left.

    Returns:
        best first; ``k`` where so many of the best 10,000 differ enough.
    """
    if most is None:
        return ranked(k)
    count = _FIRST * k
    while True:
        found = ranked(count)
        taken = _take(found, k, most)
        if len(taken) == k or len(found) < count or count >= _DEEPEST:
            return taken
        count = min(count * _FIRST, _DEEPEST)


def _take(found: Iterable[tuple[Known, float]], k: int, most: int) -> Ranked:
    taken: list[tuple[Known, float]] = []
    words: list[frozenset[str]] = []
    holding = defaultdict[str, list[int]](list)  # by word, which of the taken have it
    for known, score in found:
        own = _words(known.title)
        # Of any quarter of the words and one more, a near-equal title has one: the rarest are looked up.
        rarest = sorted(own, key=lambda word: len(holding[word]))[: len(own) // 4 + 1]
        near = {place for word in rarest for place in holding[word] if _alike(own, words[place])}
        if len(near) >= most:
            continue
        for word in own:
            holding[word].append(len(taken))
        words.append(own)
        taken.append((known, score))
        if len(taken) == k:
            break
    return taken


def _words(title: str) -> frozenset[str]:
    folded = spaced(unaccented(title)).casefold()
    return frozenset(_WORD.findall(folded) or folded.split())


def _alike(first: frozenset[str], second: frozenset[str]) -> bool:
    both = len(first & second)
    return 4 * both >= 3 * (len(first) + len(second) - both) and both > 0
