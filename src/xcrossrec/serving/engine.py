"""Answers of one model over one catalogue: the same as :class:`xcrossrec.recommender.Recommender` gives, many at once.

Legend: ``slot`` = a history's item, ``item`` = one item of the catalogue, ``text`` = one text to encode, ``dim`` =
vector size.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32
from sentence_transformers import CrossEncoder
from torch import Tensor

from xcrossrec.answers import Explanation
from xcrossrec.catalogue import history_pool
from xcrossrec.catalogue.sqlite import Filters, Snapshot, SqliteCatalogue, StoredItem
from xcrossrec.exceptions import DataError, XCrossRecError
from xcrossrec.explanation import explain_scores
from xcrossrec.models.bundle import Model, matcher_of
from xcrossrec.models.scorer import PairScorer, encode_titles
from xcrossrec.prompts import clean_title, history_prompt, item_texts
from xcrossrec.serving.problems import UnknownItemError
from xcrossrec.serving.schemas import Entry, FilterConditions, ItemById, RecommendRequest, ScoreRequest

Question: TypeAlias = RecommendRequest | ScoreRequest
log = logging.getLogger(__name__)
_TOGETHER_FROM = 2
"""Searches of one batch from which their products with the catalogue are computed together."""

R = TypeVar("R", bound=RecommendRequest | ScoreRequest)


@dataclass(frozen=True)
class Named:
    """A history item, or a candidate, as it was understood: an item of the catalogue, or a free title.

    Attributes:
        item: of the catalogue; None for a title that it lacks.
        text: the title as the model reads it.
    """

    item: StoredItem | None
    text: str

    @property
    def item_id(self) -> str | None:
        """The id, if the catalogue has the item."""
        return None if self.item is None else self.item.item_id


@dataclass(frozen=True)
class Ranked:
    """Recommendations: items with their scores, best first; and what the history was understood as."""

    version: int
    history: Sequence[Named]
    found: Sequence[tuple[StoredItem, float]]
    unknown: Sequence[str] = ()


@dataclass(frozen=True)
class Scored:
    """Scores of candidates, in their order."""

    version: int
    candidates: Sequence[Named]
    scores: Sequence[float]


@dataclass(frozen=True)
class Understood(Generic[R]):
    """A question whose items were looked up."""

    question: R
    history: Sequence[Named]
    unknown: Sequence[str] = ()
    candidates: Sequence[Named] = field(default=())


@dataclass(frozen=True)
class Slotted:
    """A question with its history's vectors."""

    known: Understood[Any]
    slots: Float[Tensor, "slot dim"]

    @property
    def searches(self) -> bool:
        """Whether the catalogue is ranked."""
        return isinstance(self.known.question, RecommendRequest)


class Engine:
    """Ranks and scores; belongs to one thread.

    Args:
        model: `dual` or `pair`.
        store: the catalogue, with this model's vectors.
        pair_limit: candidates that a `pair` model scores for one question, at most.
    """

    def __init__(self, model: Model, store: SqliteCatalogue, *, pair_limit: int) -> None:
        self.model = model
        self.store = store
        self.pair_limit = pair_limit
        self.is_pair = isinstance(model, CrossEncoder)
        self.matcher = deepcopy(matcher_of(model)).cpu()
        self.on_encoded: Callable[[int], None] = lambda texts: None

    def answer(self, questions: Sequence[Question]) -> list[Ranked | Scored | Exception]:
        """Answer questions over one version of the catalogue; a question that cannot be gets its own error."""
        snapshot = self.store.snapshot()
        understood = [_or_error(partial(understand, snapshot, q)) for q in questions]
        if self.is_pair:
            return [_or_error(partial(self._answer_pairs, snapshot, u)) for u in understood]
        vectors = self._encode([u for u in understood if isinstance(u, Understood)])
        slotted = [_or_error(partial(self._slots, snapshot, u, vectors)) for u in understood]
        products = iter(self._products(snapshot, slotted))
        return [_or_error(partial(self._answer, snapshot, s, vectors, next(products))) for s in slotted]

    # ---- dual

    @torch.inference_mode()
    def _encode(self, questions: Iterable[Understood[Any]]) -> dict[str, Float[Tensor, " dim"]]:
        """Encode every text that the catalogue has no vector of, all questions' together."""
        texts = list(dict.fromkeys(text for known in questions for text in self._texts(known)))
        if texts:
            self.on_encoded(len(texts))
        return dict(zip(texts, encode_titles(self.model, texts), strict=True)) if texts else {}

    def _texts(self, known: Understood[Any]) -> Iterable[str]:
        free = [named.text for named in known.candidates if named.item is None]
        if self.matcher.pooling == "prompt":
            return [_prompt(known.history), *free]
        return [*(named.text for named in known.history if named.item is None), *free]

    def _slots(self, snapshot: Snapshot, known: Understood[Any] | Exception, vectors: dict[str, Tensor]) -> Slotted:
        if isinstance(known, Exception):
            raise known
        if self.matcher.pooling == "prompt":
            return Slotted(known, vectors[_prompt(known.history)][None])
        return Slotted(known, _vectors(snapshot, known.history, vectors))

    @torch.inference_mode()
    def _products(
        self, snapshot: Snapshot, slotted: Sequence[Slotted | Exception]
    ) -> list[Sequence[Float32[Tensor, "slot _"] | None]]:
        """Multiply the slots of all searches with the catalogue at once; one entry a question."""
        searches = [s.slots if isinstance(s, Slotted) and s.searches else torch.empty(0, snapshot.dim) for s in slotted]
        if sum(len(slots) > 0 for slots in searches) < _TOGETHER_FROM:
            return [(None, None)] * len(slotted)
        parts = snapshot.products(torch.cat(searches))
        ends = np.cumsum([len(slots) for slots in searches]).tolist()
        return [
            [None if part is None else part[end - len(slots) : end] for part in parts]
            for end, slots in zip(ends, searches, strict=True)
        ]

    @torch.inference_mode()
    def _answer(
        self,
        snapshot: Snapshot,
        slotted: Slotted | Exception,
        vectors: dict[str, Tensor],
        products: Sequence[Float32[Tensor, "slot _"] | None],
    ) -> Ranked | Scored:
        if isinstance(slotted, Exception):
            raise slotted
        known, slots = slotted.known, slotted.slots
        pool = history_pool(self.matcher, len(slots))
        if isinstance(known.question, ScoreRequest):
            scores = pool(slots @ _vectors(snapshot, known.candidates, vectors).t()).tolist()
            return Scored(snapshot.version, known.candidates, scores)
        found = snapshot.search(
            slots,
            known.question.k,
            pool=pool,
            filters=filters_of(known.question.filters),
            exclude=() if known.question.include_bought else bought(snapshot, known.history),
            among=known.question.candidates,
            products=products,
        )
        return Ranked(snapshot.version, known.history, found, known.unknown)

    # ---- pair

    def _answer_pairs(self, snapshot: Snapshot, known: Understood[Any] | Exception) -> Ranked | Scored:
        if isinstance(known, Exception):
            raise known
        if isinstance(known.question, ScoreRequest):
            scores = self._score_pairs(known.history, [named.text for named in known.candidates])
            return Scored(snapshot.version, known.candidates, scores.tolist())
        return Ranked(snapshot.version, known.history, self._rank_pairs(snapshot, known), known.unknown)

    def _rank_pairs(self, snapshot: Snapshot, known: Understood[Any]) -> list[tuple[StoredItem, float]]:
        """Read every candidate together with the history."""
        question = known.question
        filters = filters_of(question.filters)
        left_out = set() if question.include_bought else bought(snapshot, known.history)
        items = [
            item
            for item in self._pair_candidates(snapshot, question)
            if item.item_id not in left_out and (filters is None or filters.allow(item))
        ]
        if not items:
            return []
        scores = self._score_pairs(known.history, item_texts([item.title for item in items]))
        best = np.lexsort((np.arange(len(items)), -scores))[: question.k]
        return [(items[place], float(scores[place])) for place in best.tolist()]

    def _pair_candidates(self, snapshot: Snapshot, question: RecommendRequest) -> list[StoredItem]:
        """The named items, or all with a title, in the catalogue's order."""
        if question.candidates is None:
            if len(snapshot) > self.pair_limit:
                raise DataError(
                    f"a pair model would have to read the history with each of {len(snapshot)} items, at most "
                    f"{self.pair_limit} are allowed: give candidates, or serve a dual model"
                )
            return [item for item in snapshot if item.title]
        ids = dict.fromkeys(question.candidates)
        items = [_item(snapshot, item_id) for item_id in ids]
        self._check_pairs(len(items))
        return sorted(items, key=lambda item: _place(snapshot, item.item_id))

    def _score_pairs(self, history: Sequence[Named], texts: Sequence[str]) -> Float32[np.ndarray, " item"]:
        self._check_pairs(len(texts))
        scorer = PairScorer(self.model, texts)
        scores: Float32[np.ndarray, " item"] = scorer.score_titles(
            [[named.text for named in history]], np.arange(len(texts))[None]
        )[0]
        return scores

    def _check_pairs(self, count: int) -> None:
        if count > self.pair_limit:
            raise DataError(
                f"a pair model reads the history with each of {count} candidates, at most {self.pair_limit} are "
                "allowed: give fewer"
            )


def understand(snapshot: Snapshot, question: R) -> Understood[R]:
    """Look a question's items up.

    Raises:
        UnknownItemError: an id that the catalogue lacks.
        DataError: no item of the history is left.
    """
    history: list[Entry] = list(question.history)
    unknown: list[str] = []
    if isinstance(question, RecommendRequest):
        for item_id in question.candidates or ():
            _item(snapshot, item_id)
        if question.skip_unknown:
            history, unknown = _skip_unknown(snapshot, history)
    candidates = question.candidates if isinstance(question, ScoreRequest) else ()
    return Understood(question, [name(snapshot, e) for e in history], unknown, [name(snapshot, e) for e in candidates])


def _skip_unknown(snapshot: Snapshot, history: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    known = [not isinstance(e, ItemById) or snapshot.get([e.id])[0] is not None for e in history]
    left = [entry for entry, keep in zip(history, known, strict=True) if keep]
    unknown = [e.id for e, keep in zip(history, known, strict=True) if not keep and isinstance(e, ItemById)]
    if not left:
        raise DataError(
            f"the catalogue has none of the history's {len(history)} items ({unknown[0]!r} first): give one that it "
            "has, or a title"
        )
    return left, unknown


def name(snapshot: Snapshot, entry: Entry) -> Named:
    """Understand an entry; a title that the catalogue has is that item.

    Raises:
        UnknownItemError: an id that the catalogue lacks.
        DataError: a title of white space alone.
    """
    if isinstance(entry, ItemById):
        item = _item(snapshot, entry.id)
        return Named(item, item_texts([item.title])[0])
    text = clean_title(entry.title)
    if not text:
        raise DataError(f"{entry.title!r} is an empty title: give its text, or leave it out")
    same = snapshot.with_title(text)
    return Named(same[0] if same else None, text)


def bought(snapshot: Snapshot, history: Sequence[Named]) -> set[str]:
    """Ids of the history's items, and of those that share a title with one of them."""
    known = [named.item for named in history if named.item is not None]
    twins = [twin.item_id for item in known if item.title for twin in snapshot.with_title(item.title)]
    return {*(item.item_id for item in known), *twins}


def filters_of(conditions: FilterConditions | None) -> Filters | None:
    """What the catalogue takes.

    Raises:
        DataError: prices that leave no room.
    """
    return None if conditions is None else Filters(**conditions.model_dump())


def explain(model: Model, history: Sequence[Named], items: Sequence[Named]) -> list[Explanation]:
    """Say why items have their scores; the model may serve nobody else meanwhile."""
    return explain_scores(
        model,
        [named.text for named in history],
        [named.text for named in items],
        history_ids=[named.item_id for named in history],
        item_ids=[named.item_id for named in items],
    )


def _item(snapshot: Snapshot, item_id: str) -> StoredItem:
    (item,) = snapshot.get([item_id])
    if item is None:
        raise UnknownItemError(
            f"unknown item id {item_id!r}: the catalogue of {len(snapshot)} items lacks it; give an id that it holds, "
            "or a title"
        )
    return item


def _place(snapshot: Snapshot, item_id: str) -> int:
    """Where an item of the catalogue stands in its order."""
    places = [(part, part.row(item_id)) for part in snapshot.parts]
    return next(int(part.segment.places[row]) for part, row in places if row is not None)


def _vectors(snapshot: Snapshot, named: Sequence[Named], vectors: dict[str, Tensor]) -> Float[Tensor, "text dim"]:
    """Vectors of known items from the catalogue, of free titles as encoded."""
    known = iter(snapshot.vectors([each.item.item_id for each in named if each.item is not None]))
    return torch.stack([vectors[each.text] if each.item is None else next(known) for each in named])


def _prompt(history: Sequence[Named]) -> str:
    return history_prompt([named.text for named in history])


def _or_error(work: Callable[[], Any]) -> Any:
    """Give the result, or the failure as a value: one bad question fails alone."""
    try:
        return work()
    except XCrossRecError as error:
        return error
    except Exception as error:
        log.exception("a question failed")
        return error
