"""How a model ranks: `dual` searches the catalogue's vectors, `pair` reads every candidate with the history.

Legend: ``slot`` = a history's item, ``item`` = one item of the catalogue, ``text`` = one title, ``dim`` = vector size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from xcrossrec.catalogue import Snapshot, StoredItem, best_rows, history_pool
from xcrossrec.exceptions import DataError, XCrossRecError
from xcrossrec.models.dual import encode_titles, runs_within
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.models.pair import PairScorer
from xcrossrec.recommender.questions import Answer, Known, Question, Understood, ids_bought

log = logging.getLogger(__name__)

PAIR_LIMIT = 2000
"""Most items that a `pair` model scores for one history: each costs an encoder pass."""

_TOGETHER_FROM = 2
"""Searches from which their products with the catalogue are computed together."""

_PRODUCTS_AT_ONCE = 2**24
"""Most products (slot times item) held at once: 64 MiB."""


class DualRanking:
    """Searches the vectors of all items, exactly; only titles that the catalogue lacks are encoded and counted."""

    def __init__(self, model: Model, on_encoded: Callable[[int], None]) -> None:
        self.model = model
        self.matcher = deepcopy(matcher_of(model)).cpu()  # vectors are kept on the CPU
        self._pool = lru_cache(maxsize=128)(partial(history_pool, self.matcher))
        self._on_encoded = on_encoded

    def check(self, snapshot: Snapshot, asked: Question) -> None:
        """Nothing costs too much."""

    @torch.inference_mode()
    def answer(self, snapshot: Snapshot, questions: Sequence[Understood]) -> list[Answer | Exception]:
        """Encode all questions' new titles together, multiply all their vectors with the catalogue at once."""
        fresh = self._encode(questions)
        slots = [_vectors(snapshot, known.history, fresh) for known in questions]
        products = _products(snapshot, [s for s, q in zip(slots, questions, strict=True) if q.to_score is None])
        return [
            or_error(partial(self._search, snapshot, known, own, next(products)))
            if known.to_score is None
            else or_error(partial(self._score, snapshot, known, own, fresh))
            for known, own in zip(questions, slots, strict=True)
        ]

    def _encode(self, questions: Sequence[Understood]) -> dict[str, Float[Tensor, " dim"]]:
        named = [known for each in questions for known in (*each.history, *(each.to_score or ()))]
        texts = list(dict.fromkeys(known.text for known in named if known.item is None))
        if not texts:
            return {}
        self._on_encoded(len(texts))
        return dict(zip(texts, encode_titles(self.model, texts), strict=True))

    def _search(
        self,
        snapshot: Snapshot,
        known: Understood,
        slots: Float[Tensor, "slot dim"],
        products: Sequence[Float32[Tensor, "slot _"] | None] | None,
    ) -> Answer:
        asked = known.asked
        found = snapshot.search(
            slots,
            asked.k,
            pool=self._pool(len(slots)),
            filters=asked.filters,
            exclude=() if asked.include_bought else ids_bought(snapshot, known.history),
            among=asked.candidates,
            products=products,
        )
        return _answer(snapshot, known, [(Known(item), score) for item, score in found])

    def _score(
        self,
        snapshot: Snapshot,
        known: Understood,
        slots: Float[Tensor, "slot dim"],
        fresh: Mapping[str, Float[Tensor, " dim"]],
    ) -> Answer:
        items = known.to_score or ()
        scores = self._pool(len(slots))(slots @ _vectors(snapshot, items, fresh).t()).tolist()
        return _answer(snapshot, known, list(zip(items, scores, strict=True)))


class PairRanking:
    """Reads every candidate together with the history, at most ``limit`` of them for one question."""

    def __init__(self, model: Model, limit: int) -> None:
        self.model = model
        self.limit = limit

    def check(self, snapshot: Snapshot, asked: Question) -> None:
        """Refuse more items than the limit; what was bought counts, so that it does not depend on the history.

        Raises:
            DataError: too many items; names the limit.
        """
        self._check(len(self._allowed(snapshot, asked)))

    def answer(self, snapshot: Snapshot, questions: Sequence[Understood]) -> list[Answer | Exception]:
        """Answer one by one: histories have nothing in common."""
        return [or_error(partial(self._one, snapshot, known)) for known in questions]

    def _one(self, snapshot: Snapshot, known: Understood) -> Answer:
        if known.to_score is not None:
            self._check(len(known.to_score))
            scores = self._scores(known.history, known.to_score)
            return _answer(snapshot, known, list(zip(known.to_score, scores.tolist(), strict=True)))
        allowed = self._allowed(snapshot, known.asked)
        self._check(len(allowed))
        left_out = set() if known.asked.include_bought else ids_bought(snapshot, known.history)
        items = [Known(item) for item in allowed if item.item_id not in left_out]
        scores = self._scores(known.history, items)
        best = best_rows(np.arange(len(items)), scores, known.asked.k)
        return _answer(snapshot, known, [(items[row], float(scores[row])) for row in best.tolist()])

    def _allowed(self, snapshot: Snapshot, asked: Question) -> list[StoredItem]:
        return snapshot.select(filters=asked.filters, among=asked.candidates)

    def _check(self, count: int) -> None:
        if count > self.limit:
            raise DataError(
                f"a pair model would have to read the history with each of {count} items, at most {self.limit} are "
                "allowed: give fewer candidates, or use a dual model"
            )

    def _scores(self, history: Sequence[Known], items: Sequence[Known]) -> Float32[np.ndarray, " item"]:
        if not items:
            return np.empty(0, dtype=np.float32)
        scorer = PairScorer(self.model, [known.text for known in items])
        texts, rows = [known.text for known in history], np.arange(len(items))[None]
        scores: Float32[np.ndarray, " item"] = scorer.score_titles([texts], rows)[0]
        return scores


def or_error(work: Callable[[], Any]) -> Any:
    """Give the result, or the failure as a value: one bad question fails alone."""
    try:
        return work()
    except XCrossRecError as error:
        return error
    except Exception as error:
        log.exception("a question failed")
        return error


def _answer(snapshot: Snapshot, known: Understood, found: Sequence[tuple[Known, float]]) -> Answer:
    return Answer(snapshot.version, known.history, found, known.unknown)


def _vectors(
    snapshot: Snapshot, named: Sequence[Known], fresh: Mapping[str, Float[Tensor, " dim"]]
) -> Float[Tensor, "text dim"]:
    """Vectors of the catalogue's items from the catalogue, of free titles as they were encoded."""
    vectors = snapshot.vectors([known.item.item_id for known in named if known.item is not None])
    if len(vectors) == len(named):
        return vectors
    stored = iter(vectors)
    return torch.stack([fresh[known.text] if known.item is None else next(stored) for known in named])


def _products(
    snapshot: Snapshot, searches: Sequence[Float[Tensor, "_ dim"]]
) -> Iterator[Sequence[Float32[Tensor, "slot _"] | None] | None]:
    """Multiply the slots of many searches with the catalogue at once; one entry a search, made when it is needed."""
    most = max(1, _PRODUCTS_AT_ONCE // max(1, len(snapshot)))
    for run in runs_within([len(slots) for slots in searches], most):
        if len(run) < _TOGETHER_FROM:
            yield from [None] * len(run)
            continue
        lengths = [len(searches[number]) for number in run]
        parts = snapshot.products(torch.cat([searches[number] for number in run]))
        own = [[None] * len(run) if part is None else part.split_with_sizes(lengths) for part in parts]
        yield from zip(*own, strict=True)
