"""How much co-purchases count beside the text: chosen on customers whose own purchases were not counted.

Legend: ``case`` = a purchase that is to be predicted, ``candidate`` = an item that is ranked: the one that was bought,
those near it by co-purchases, and others drawn at random, in this order; ``weight`` = one of :data:`GRID`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
import polars as pl
from jaxtyping import Float, Float32, Float64, Int64

from xcrossrec.copurchase.counts import RUNGS, CoPurchases
from xcrossrec.scoring import Rung

GRID = (0.0, 1.0, 2.0, 3.0, 5.0, 8.0, 12.0)
"""Weights that are tried."""

EXPECTED = 5.0
"""Best or nearly so on every category with 128 to 2,048 customers, and within 4% of the best with all (lab/log): counts
are shrunk, so that few purchases have little to say at any weight."""

_FOLDS = 5
_MOST_CUSTOMERS = 2000
_MOST_CASES = 4000
_LAST = 10
"""A customer's newest purchases are predicted from those before: at most so many, fewer of many customers."""

_AT_ONCE = 64
"""Cases whose texts are scored together."""

_OTHERS = 1000
"""Items that stand for the rest of the catalogue."""

_NEAREST = 20
"""Items with a bonus that are ranked each, the highest; the rest are as the others are."""

_TAIL = 20
"""Highest of the others' scores, from which it is estimated how many of the rest are above them."""

TextScores: TypeAlias = Callable[
    [Sequence[Sequence[int]], Int64[np.ndarray, "case candidate"]], Float32[np.ndarray, "case candidate"]
]
"""Histories and candidates, as rows of the items that were read; the text's scores."""


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Attributes:
        weights: by rung.
        gains: by rung and weight what that adds to the mean of ``1 / log2(1 + rank)``, as a share of the text's alone.
        customers: set aside, in turn.
        counted: customers who are counted.
    """

    weights: Mapping[Rung, float]
    gains: Mapping[Rung, Mapping[float, float]]
    customers: int
    counted: int

    def __str__(self) -> str:
        chosen = [f"{w:g} ({self.gains[rung].get(w, 0):+.0%}) with {_KNOWN[rung]}" for rung, w in self.weights.items()]
        return (
            f"co-purchases of {self.counted:,} customers; their weight beside the text, chosen on {self.customers:,} "
            f"of them in turn: {', '.join(chosen)}"
        )


_KNOWN: Mapping[Rung, str] = {"one": "one purchase known", "several": "several"}


@dataclass(frozen=True)
class _Case:
    """A purchase that is to be predicted.

    Attributes:
        customer: whose.
        history: what she bought before.
        near: the items with the highest bonus that may be recommended instead.
        bonus: of all that is ranked, and perhaps of more.
    """

    customer: int
    history: Sequence[str]
    target: str
    near: Sequence[str]
    bonus: Mapping[str, float]

    @classmethod
    def of(cls, customer: int, history: Sequence[str], target: str, counts: CoPurchases, others: Sequence[str]) -> Self:
        """Score what is ranked, which is little of what may have a bonus."""
        known = {*history, target}
        scores = counts.scores(history, highest=_NEAREST + len(known), also=[target, *others])
        may = [item for item in scores if item not in known]
        near = sorted(may, key=scores.__getitem__, reverse=True)[:_NEAREST]
        return cls(customer, history, target, near, scores)


def choose_weights(
    sequences: Sequence[Sequence[str]],
    catalogue: Sequence[str],
    read: Callable[[Sequence[str]], TextScores],
    *,
    most_texts: int,
    seed: int,
) -> Choice:
    """Choose the weight of each rung: cross-fitted, the best or, within noise of it, what is to be expected.

    Customers are in five parts; the purchases of each are predicted by what the other four bought and by the text.
    A purchase's rank in the catalogue is counted among the items with the highest bonus, and estimated for the rest
    from a sample. Of a customer's purchases each is predicted from all before it (``several``), and from the one
    before it (``one``).

    Args:
        sequences: each customer's item ids, oldest first.
        catalogue: all item ids.
        read: gives the text's scores of items; called once.
        most_texts: items whose text may be read; so many customers are set aside as these allow, at most 2,000.

    Returns:
        0 for a rung on which nobody could be asked.
    """
    rng = np.random.default_rng(seed)
    once = [list(dict.fromkeys(sequence)) for sequence in sequences]
    order = rng.permutation(len(once))
    others = [catalogue[row] for row in rng.permutation(len(catalogue))[: min(_OTHERS, most_texts // 2)]]
    asked = [number for number in order.tolist() if len(once[number]) > 1][:_MOST_CUSTOMERS]
    cases, items = _cases(once, order, asked, others, most_texts)
    text = read(list(items))
    row_of = {item: row for row, item in enumerate(items)}
    weights: dict[Rung, float] = {}
    gains: dict[Rung, dict[float, float]] = {}
    for rung in RUNGS:
        found = _gains(cases[rung], row_of, len(others), len(catalogue), text)
        weights[rung] = _nearest(found)
        means = found.mean(0) if len(found) else np.ones(len(GRID))
        gains[rung] = dict(zip(GRID, (means / means[0] - 1).round(4).tolist(), strict=True))
    return Choice(weights, gains, len({case.customer for case in cases["one"]}), len(once))


def _cases(
    once: Sequence[Sequence[str]],
    order: Int64[np.ndarray, " customer"],
    asked: Sequence[int],
    others: Sequence[str],
    most_texts: int,
) -> tuple[dict[Rung, list[_Case]], dict[str, None]]:
    """What is to be predicted, and all items whose text must be read for that; one part's counts are held at a time."""
    fold = np.empty(len(once), dtype=np.int64)
    fold[order] = np.arange(len(once)) % _FOLDS
    last = max(1, min(_LAST, _MOST_CASES // max(1, len(asked))))
    own: dict[int, dict[Rung, list[_Case]]] = {}
    for part in range(_FOLDS):
        of_part = [customer for customer in asked if fold[customer] == part]
        own |= _of_part(once, of_part, np.flatnonzero(fold != part).tolist(), last, others) if of_part else {}
    cases: dict[Rung, list[_Case]] = {rung: [] for rung in RUNGS}
    items = dict.fromkeys(others)
    for customer in asked:
        needed = {item for each in own[customer].values() for case in each for item in case.near}
        items_then = {**items, **dict.fromkeys([*once[customer], *sorted(needed)])}
        if len(items_then) > most_texts:
            break
        items = items_then
        for rung in RUNGS:
            cases[rung] += own[customer][rung]
    return cases, items


def _of_part(
    once: Sequence[Sequence[str]], asked: Sequence[int], known: Sequence[int], last: int, others: Sequence[str]
) -> dict[int, dict[Rung, list[_Case]]]:
    """By customer her newest purchases, each to be predicted from what came before it and what others bought."""
    counts = _counted(once, known)
    found: dict[int, dict[Rung, list[_Case]]] = {}
    for customer in asked:
        sequence, own = once[customer], found.setdefault(customer, {rung: [] for rung in RUNGS})
        for end in range(max(1, len(sequence) - last), len(sequence)):
            histories: dict[Rung, Sequence[str]] = {"one": sequence[end - 1 : end], "several": sequence[:end]}
            for rung in RUNGS if end > 1 else RUNGS[:1]:
                own[rung].append(_Case.of(customer, histories[rung], sequence[end], counts, others))
    return found


def _counted(once: Sequence[Sequence[str]], customers: Sequence[int]) -> CoPurchases:
    items = pl.Series([item for customer in customers for item in once[customer]], dtype=pl.String)
    ids = items.unique(maintain_order=True)
    bought = items.cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int32)
    of = np.repeat(np.arange(len(customers), dtype=np.int32), [len(once[customer]) for customer in customers])
    return CoPurchases([str(customer) for customer in customers], ids.to_list(), of, bought)


def _gains(
    cases: Sequence[_Case], row_of: Mapping[str, int], others: int, catalogue: int, text: TextScores
) -> Float64[np.ndarray, "customer weight"]:
    """What each weight gives a customer: the mean of ``1 / log2(1 + rank)`` over her purchases; first in ``row_of``
    come the others."""
    sums: dict[int, list[Float64[np.ndarray, " weight"]]] = {}
    names = list(row_of)
    for start in range(0, len(cases), _AT_ONCE):
        some = cases[start : start + _AT_ONCE]
        near = [[row_of[item] for item in case.near] for case in some]
        targets = [row_of[case.target] for case in some]
        rows: Int64[np.ndarray, "case candidate"] = np.array(
            [
                [target, *own, *[target] * (_NEAREST - len(own)), *range(others)]
                for target, own in zip(targets, near, strict=True)
            ]
        )
        scores = text([[row_of[item] for item in case.history] for case in some], rows)
        for case, own, candidates, by_text in zip(some, near, rows, scores, strict=True):
            bonus = np.array([case.bonus.get(names[row], 0.0) for row in candidates.tolist()])
            known = [candidates[0], *own, *(row_of[item] for item in case.history)]
            free = ~np.isin(candidates[1 + _NEAREST :], known)
            total = by_text + np.outer(GRID, bonus)
            ranks = _ranks(
                total[:, 0], total[:, 1 : 1 + len(own)], total[:, 1 + _NEAREST :][:, free], catalogue - len(known)
            )
            sums.setdefault(case.customer, []).append(1 / np.log2(1 + ranks))
    means: Float64[np.ndarray, "customer weight"] = np.reshape(
        [np.mean(m, axis=0) for m in sums.values()], (-1, len(GRID))
    )
    return means


def _ranks(
    own: Float[np.ndarray, " weight"],
    near: Float[np.ndarray, "weight near"],
    others: Float[np.ndarray, "weight other"],
    rest: int,
) -> Float64[np.ndarray, " weight"]:
    """An item's rank: those near it counted, of the rest as large a share above as the others' scores tell.

    Beyond the highest of them, the share falls exponentially with the score.
    """
    count = others.shape[1]
    nearer: Float64[np.ndarray, " weight"] = 1.0 + (near > own[:, None]).sum(1)
    if not count:
        return nearer
    above = (others > own[:, None]).sum(1)
    share = above / count
    if count < rest:
        tail = min(_TAIL, max(1, count // 2))
        highest = np.partition(others, -tail, axis=1)[:, -tail:]
        edge = highest.min(1)
        spread = np.maximum((highest - edge[:, None]).mean(1), 1e-9)
        beyond = tail / count * np.exp(-np.maximum(own - edge, 0) / spread)
        share = np.where(above < tail, beyond, share)
    nearer += share * rest
    return nearer


def _nearest(gains: Float64[np.ndarray, "customer weight"]) -> float:
    """The weight nearest to the expected one that is not worse than the best by more than two standard errors of the
    difference; of two as near the smaller."""
    if len(gains) < 2:
        return 0.0
    lost = gains[:, [gains.mean(0).argmax()]] - gains
    good = lost.mean(0) <= 2 * lost.std(0, ddof=1) / np.sqrt(len(gains))
    place = GRID.index(EXPECTED)
    return GRID[min(np.flatnonzero(good).tolist(), key=lambda index: (abs(index - place), index))]
