"""How models rank: `dual` searches the catalogue's vectors, `pair` reads every candidate together with the history.

Legend: ``slot`` = a history's item, ``item`` = one item of the catalogue, ``text`` = one title, ``dim`` = vector size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import lru_cache, partial
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from xcrossrec.catalogue import Search, Snapshot, best_rows, history_pool
from xcrossrec.copurchase import Term
from xcrossrec.exceptions import DataError, XCrossRecError
from xcrossrec.models.day_one import Ladder, Standing, by_text, day_one_of
from xcrossrec.models.dual import encode_titles, runs_within
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.pair import PairScorer
from xcrossrec.prompts import history_prompt, split_prompt
from xcrossrec.recommender.diversity import Ranked, diverse
from xcrossrec.recommender.questions import Answer, Known, Question, Text, Understood, ids_bought

log = logging.getLogger(__name__)

PAIR_LIMIT = 2000
"""Most items that a `pair` model scores for one history; each costs an encoder pass."""

_TOGETHER_FROM = 2
"""From this many searches on, their products with the catalogue are computed together."""

_PRODUCTS_AT_ONCE = 2**24
"""Most products (slot times item) held at once: 64 MiB."""

Read: TypeAlias = Mapping[Text, Any]
"""What a model made of each text: a vector; for a `pair` model a score."""


class DualRanking:
    """Searches the vectors of all items, exactly. The model reads only titles that the catalogue lacks, and a history's
    items where its prompts give these other vectors."""

    together = True
    """Whether questions are answered together: a text's vector is the same for all of them."""

    def __init__(self, model: Model, term: Term | None) -> None:
        self.model = model
        self.apart = encoder_of(model).recipe.apart
        self.matcher = deepcopy(matcher_of(model)).cpu()  # vectors are kept on the CPU
        self.ladder = None if term is None else Ladder(term, day_one_of(model))
        self._pool = lru_cache(maxsize=128)(partial(history_pool, self.matcher))

    def check(self, snapshot: Snapshot, asked: Question) -> None:
        """Nothing is too costly."""

    def texts(self, snapshot: Snapshot, known: Understood) -> list[Text]:
        """The texts that must be read for a question, each once."""
        here = [each.text for each in known.history if each.item is None or self.apart]
        scored = [each.text for each in known.to_score or () if each.item is None]
        return list(dict.fromkeys([*map(self._as_history, (*here, *known.elsewhere)), *scored]))

    def _as_history(self, text: str) -> Text:
        return ("", text) if self.apart else text

    def price(self, text: Text) -> int:
        """Characters that are read."""
        return len(text if isinstance(text, str) else text[1])

    def read(self, texts: Sequence[Any]) -> Read:
        """Encode titles in batches."""
        plain = [text for text in texts if isinstance(text, str)]
        read: dict[Text, Any] = dict(zip(plain, encode_titles(self.model, plain), strict=True)) if plain else {}
        if slots := [text for text in texts if not isinstance(text, str)]:
            read |= zip(slots, encode_titles(self.model, [text for _, text in slots], as_history=True), strict=True)
        return read

    @torch.inference_mode()
    def answer(self, snapshot: Snapshot, questions: Sequence[tuple[Understood, Read]]) -> list[Answer | Exception]:
        """Search for all questions; their vectors are multiplied with the catalogue's together."""
        slots = [self._slots(snapshot, known, fresh) for known, fresh in questions]
        products = _products(snapshot, [s for s, (q, _) in zip(slots, questions, strict=True) if q.to_score is None])
        return [
            or_error(self._search, snapshot, known, own, fresh, next(products))
            if known.to_score is None
            else or_error(self._score, snapshot, known, own, fresh)
            for (known, fresh), own in zip(questions, slots, strict=True)
        ]

    def _slots(self, snapshot: Snapshot, known: Understood, fresh: Read) -> Float[Tensor, "slot dim"]:
        """The history's vectors; without a history a zero, which makes all products 0."""
        if not known.history:
            return torch.zeros(1, snapshot.dim)
        if self.apart:
            return torch.stack([fresh[self._as_history(each.text)] for each in known.history])
        return _vectors(snapshot, known.history, fresh)

    def _search(
        self,
        snapshot: Snapshot,
        known: Understood,
        slots: Float[Tensor, "slot dim"],
        fresh: Read,
        products: Sequence[Float32[Tensor, "slot _"] | None] | None,
    ) -> Answer:
        asked, reads, standing = known.asked, encoder_of(self.model).text, self._standing(known, fresh)
        wanted = Search(
            slots,
            pool=standing.pool(self._pool(len(slots))),
            filters=asked.filters,
            exclude=() if asked.include_bought else ids_bought(snapshot, known),
            among=asked.candidates,
            products=products,
            bonus=standing.bonus,
            everywhere=standing.everywhere,
        )

        def best(count: int) -> Ranked:
            return [(Known(item, reads=reads), score) for item, score in snapshot.search(wanted, count)]

        found = diverse(best, asked.k, asked.diversity)
        return _answer(snapshot, known, found, standing)

    def _score(self, snapshot: Snapshot, known: Understood, slots: Float[Tensor, "slot dim"], fresh: Read) -> Answer:
        items, standing = known.to_score or (), self._standing(known, fresh)
        vectors = _vectors(snapshot, items, fresh)
        scores = standing.pool(self._pool(len(slots)))(slots @ vectors.t()).double().numpy()
        scores = (scores + standing.added([item.item_id or "" for item in items], vectors)).astype(np.float32)
        return _answer(snapshot, known, list(zip(items, scores.tolist(), strict=True)), standing)

    def _standing(self, known: Understood, fresh: Read) -> Standing:
        """The parts of the score and their weights, by what is known of the customer."""
        history = [each.item_id or "" for each in known.history]
        there = [fresh[self._as_history(text)] for text in known.elsewhere]
        return (self.ladder or by_text()).standing(history, torch.stack(there) if there else None)


class PairRanking:
    """Reads every candidate together with the history, at most ``limit`` of them for one question."""

    together = False
    """See :class:`DualRanking`: here a text contains its question's history, so no other question can use its score."""

    ladder = None
    """A `pair` model has none: it knows no purchases."""

    def __init__(self, model: Model, limit: int) -> None:
        self.model = model
        self.limit = limit

    def check(self, snapshot: Snapshot, asked: Question) -> None:
        """Refuse more items than the limit (DataError); bought ones count, so that the history does not matter."""
        self._check(len(snapshot.select(asked.filters, asked.candidates)))

    def texts(self, snapshot: Snapshot, known: Understood) -> list[Text]:
        """The texts that must be read for a question: the history with each item, each once."""
        prompt = history_prompt([each.text for each in known.history])
        return list({(prompt, item.text): None for item in self._items(snapshot, known)})

    def price(self, text: Text) -> int:
        """Characters that are read, without the history where a batch reads it only once."""
        return len(text[1]) + (0 if encoder_of(self.model).shares_history else len(text[0]))

    def read(self, texts: Sequence[Any]) -> Read:
        """Score titles, those with the same history together."""
        found: dict[Text, float] = {}
        for prompt, group in groupby(texts, key=itemgetter(0)):
            own = list(group)
            scorer, rows = PairScorer(self.model, [title for _, title in own]), np.arange(len(own))[None]
            found.update(zip(own, scorer.score_titles([split_prompt(prompt)], rows)[0].tolist(), strict=True))
        return found

    def answer(self, snapshot: Snapshot, questions: Sequence[tuple[Understood, Read]]) -> list[Answer | Exception]:
        """Sort each question's items by their scores."""
        return [or_error(self._one, snapshot, *each) for each in questions]

    def _one(self, snapshot: Snapshot, known: Understood, read: Read) -> Answer:
        prompt = history_prompt([each.text for each in known.history])
        items = self._items(snapshot, known)
        scores = np.array([read[prompt, item.text] for item in items], dtype=np.float32)
        scored: Ranked = [(item, float(score)) for item, score in zip(items, scores, strict=True)]
        if known.to_score is None:
            order = best_rows(np.arange(len(items)), scores, len(items)).tolist()
            scored = diverse(lambda n: [scored[row] for row in order[:n]], known.asked.k, known.asked.diversity)
        return _answer(snapshot, known, scored, by_text().standing([each.item_id or "" for each in known.history]))

    def _items(self, snapshot: Snapshot, known: Understood) -> Sequence[Known]:
        if known.to_score is not None:
            self._check(len(known.to_score))
            return known.to_score
        allowed = snapshot.select(known.asked.filters, known.asked.candidates)
        self._check(len(allowed))
        left_out = set() if known.asked.include_bought else ids_bought(snapshot, known)
        reads = encoder_of(self.model).text
        return [Known(item, reads=reads) for item in allowed if item.item_id not in left_out]

    def _check(self, count: int) -> None:
        if count > self.limit:
            raise DataError(
                f"a pair model would have to read the history with each of {count} items, at most {self.limit} are "
                "allowed: give fewer candidates, or use a dual model"
            )


def or_error(work: Callable[..., Any], *given: Any) -> Any:
    """Return a function's result, or its exception as a value, so that one bad question fails alone."""
    try:
        return work(*given)
    except Exception as error:
        if not isinstance(error, XCrossRecError):
            log.exception("a question failed")
        return error


def _answer(snapshot: Snapshot, known: Understood, found: Sequence[tuple[Known, float]], standing: Standing) -> Answer:
    stands = standing.rung, standing.reason, tuple(standing.alike), standing.share
    return Answer(snapshot.version, known.history, found, known.unknown, *stands)


def _vectors(snapshot: Snapshot, named: Sequence[Known], fresh: Read) -> Float[Tensor, "text dim"]:
    """Look up the vectors of the catalogue's items, and take those of free titles from what was read."""
    vectors = snapshot.vectors([known.item.item_id for known in named if known.item is not None])
    if len(vectors) == len(named):
        return vectors
    stored = iter(vectors)
    return torch.stack([fresh[known.text] if known.item is None else next(stored) for known in named])


def _products(
    snapshot: Snapshot, searches: Sequence[Float[Tensor, "_ dim"]]
) -> Iterator[Sequence[Float32[Tensor, "slot _"] | None] | None]:
    """Multiply the slots of many searches with the catalogue at once; yields one entry per search, as it is needed."""
    most = max(1, _PRODUCTS_AT_ONCE // max(1, len(snapshot)))
    for run in runs_within([len(slots) for slots in searches], most):
        if len(run) < _TOGETHER_FROM:
            yield from [None] * len(run)
            continue
        lengths = [len(searches[number]) for number in run]
        parts = snapshot.products(torch.cat([searches[number] for number in run]))
        own = [[None] * len(run) if part is None else part.split_with_sizes(lengths) for part in parts]
        yield from zip(*own, strict=True)
