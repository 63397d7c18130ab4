"""Recommend items of a catalogue for a history, and say why.

Legend: ``slot`` = a history's item, ``item`` = one item of the catalogue, ``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from xcrossrec.answers import Explanation, Recommendation
from xcrossrec.catalogue import Found, ItemIndex, history_pool
from xcrossrec.data.domain import Domain
from xcrossrec.data.interactions import check_columns, clean_titles, is_empty_title
from xcrossrec.data.store import read_domain
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.explanation import explain_scores
from xcrossrec.models import bundle
from xcrossrec.models.base import Base
from xcrossrec.models.bundle import Model
from xcrossrec.models.scorer import DualScorer, PairScorer, build_scorer, encode_titles
from xcrossrec.prompts import clean_title, history_prompt, item_texts
from xcrossrec.types import ITEM, TITLE

PAIR_LIMIT = 2000
"""Most items that a `pair` model scores for one history: each costs an encoder pass of all streams."""

_CELLS_AT_ONCE = 4_000_000
"""Most cosines (slot times item) held at once while named candidates are ranked: 16 MB."""


@dataclass(frozen=True)
class Item:
    """What a history names without ambiguity: an item of the catalogue, or a title.

    Attributes:
        item_id: an id of the catalogue.
        title: the title of an item that the catalogue need not have.

    Raises:
        DataError: both or neither are given.
    """

    item_id: str | None = None
    title: str | None = None

    def __post_init__(self) -> None:
        if (self.item_id is None) == (self.title is None):
            raise DataError(
                f"an item is named by its id or by its title, got item_id={self.item_id!r} and title={self.title!r}: "
                "give one of the two"
            )


ItemLike: TypeAlias = str | Item | Mapping[str, str]
"""An id or a title (see :meth:`Recommender.recommend`), an :class:`Item`, or its mapping form."""


@dataclass(frozen=True)
class _Entry:
    """A history item as it was understood: a catalogue row, or a free title."""

    row: int | None
    title: str


class Recommender:
    """Ranks the items of a catalogue for a history.

    Args:
        model: from ``xcrossrec.load``; ``dual`` or ``pair``, integrated or not.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self._domain: Domain | None = None
        self._scorer: DualScorer | PairScorer | None = None
        self._index: ItemIndex | None = None  # a `dual` model's
        self._row_of_id: dict[str, int] = {}
        self._rows_of_title: dict[str, list[int]] = {}
        self._texts: list[str] = []  # titles as the model reads them
        self._has_title: Bool[np.ndarray, " item"] = np.empty(0, dtype=np.bool_)

    @classmethod
    def from_pretrained(cls, path: Path | str, *, base: Base | None = None) -> Self:
        """Load a bundle or an adapter's folder.

        Args:
            path: what ``xcrossrec train`` wrote.
            base: use this base instead of loading it by name; taken over.

        Raises:
            BundleError: incomplete, changed, foreign or unsafe content.
            BaseMismatchError: the base's weights are not those of the training.
        """
        return cls(bundle.load(path, base=base))

    def index(self, catalog: Domain | pl.DataFrame | Path | str) -> Self:
        """Take a catalogue; a `dual` model encodes every title once.

        Args:
            catalog: a domain, a table with ``item_id`` and ``title``, or a domain's folder.

        Returns:
            itself, so that calls chain.

        Raises:
            DataError: no catalogue there, a missing column, no items, an id twice, or a table with an empty or
                missing title. Of a domain that was imported with empty titles, those items are recommended only
                where they are named as candidates.
        """
        domain = _as_domain(catalog)
        texts = item_texts(domain.titles)
        self._scorer, self._index = self._indexed(texts)
        self._domain = domain
        self._row_of_id = {item_id: row for row, item_id in enumerate(domain.items[ITEM].to_list())}
        self._texts = texts
        self._has_title = np.array([bool(clean_title(title)) for title in domain.titles])
        self._rows_of_title = {}
        for row in np.flatnonzero(self._has_title).tolist():
            self._rows_of_title.setdefault(self._texts[row], []).append(row)
        return self

    def _indexed(self, texts: Sequence[str]) -> tuple[DualScorer | PairScorer, ItemIndex | None]:
        scorer = build_scorer(self.model, texts)
        return scorer, ItemIndex.build(scorer.vectors) if isinstance(scorer, DualScorer) else None

    @property
    def catalog(self) -> Domain:
        """The catalogue.

        Raises:
            ConfigError: none was given yet.
        """
        if self._domain is None:
            raise ConfigError("the recommender has no catalogue yet: call .index(catalog) first")
        return self._domain

    @property
    def scorer(self) -> DualScorer | PairScorer:
        """What scores the catalogue's rows.

        Raises:
            ConfigError: no catalogue was given yet.
        """
        if self._scorer is None:
            raise ConfigError("the recommender has no catalogue yet: call .index(catalog) first")
        return self._scorer

    def recommend(
        self,
        history: Sequence[ItemLike],
        k: int = 10,
        *,
        candidates: Sequence[str] | None = None,
        include_bought: bool = False,
    ) -> list[Recommendation]:
        """Rank the catalogue, or some of it, for a history.

        A string in the history is an item if the catalogue has it as an id; ``id:...`` and ``title:...`` say
        which is meant; any other string is a title if it has more than one word. A title that the catalogue has
        is that item; one that it lacks works by its text.

        A `dual` model searches the vectors of all items, exactly (:class:`xcrossrec.catalogue.ItemIndex`); `late`
        pooling encodes free titles alone, `prompt` pooling the history once. A `pair` model reads every candidate
        together with the history: at most :data:`PAIR_LIMIT` of them.

        Args:
            history: what was bought, oldest first.
            k: how many at most.
            candidates: item ids to choose from; None takes the whole catalogue.
            include_bought: also recommend what is in the history.

        Returns:
            best first; equal scores in the catalogue's order; fewer than ``k`` where there are no more.

        Raises:
            DataError: an empty history, an unknown item id, no candidates, or too many for a `pair` model.
            ConfigError: ``k`` below 1, or no catalogue yet.
        """
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1 recommendation")
        entries = self._entries(history)
        bought = [] if include_bought else self._bought(entries)
        if candidates is None and self._index is not None:
            assert isinstance(self.scorer, DualScorer)
            return self._ranked(self._search(self._index, self._slots(self.scorer, [entries])[0], k, bought))
        rows = self._candidate_rows(candidates)
        rows = rows[~np.isin(rows, bought)]
        return self._ranked(_best(rows, self._scores(entries, rows), k))

    def recommend_many(
        self, histories: Sequence[Sequence[ItemLike]], k: int = 10, *, include_bought: bool = False
    ) -> list[list[Recommendation]]:
        """Rank the whole catalogue for several histories; a `dual` model encodes what they need together.

        Args:
            histories: as for :meth:`recommend`, which ranks the same.
            k: how many at most, for each.
            include_bought: also recommend what is in a history.

        Raises:
            DataError: an empty history, an unknown item id, or too many items for a `pair` model.
            ConfigError: ``k`` below 1, or no catalogue yet.
        """
        scorer = self.scorer
        if self._index is None or not isinstance(scorer, DualScorer):
            return [self.recommend(history, k, include_bought=include_bought) for history in histories]
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1 recommendation")
        entries = [self._entries(history) for history in histories]
        answers = []
        for own, slots in zip(entries, self._slots(scorer, entries), strict=True):
            found = self._search(self._index, slots, k, [] if include_bought else self._bought(own))
            answers.append(self._ranked(found))
        return answers

    def named(self, history: Sequence[ItemLike]) -> list[Item]:
        """How each entry of a history is understood, by an id that the catalogue may lack or by a title.

        Raises:
            DataError: an entry of another kind.
            ConfigError: no catalogue yet.
        """
        _ = self.catalog
        return [_parse(item, self._row_of_id) for item in history]

    def explain(self, history: Sequence[ItemLike], item: ItemLike) -> Explanation:
        """Say why an item has its score: which history items matched, which source gave what at which layer.

        The sources' effects are ablations: history and item are encoded again while a source gives nothing to
        the others, once for each layer and source.

        Args:
            history: as for :meth:`recommend`.
            item: an item of the catalogue, or a title.

        Raises:
            DataError: an empty history, or an unknown item id.
        """
        return self.explain_many(history, [item])[0]

    def explain_many(self, history: Sequence[ItemLike], items: Sequence[ItemLike]) -> list[Explanation]:
        """Explain several items of one history; cheaper than one by one.

        Args:
            history: as for :meth:`recommend`.
            items: items of the catalogue, or titles.

        Raises:
            DataError: an empty history, or an unknown item id.
        """
        entries = self._entries(history)
        chosen = [self._entry(item) for item in items]
        if not chosen:
            return []
        return explain_scores(
            self.model,
            [entry.title for entry in entries],
            [entry.title for entry in chosen],
            history_ids=[self._id_of(entry) for entry in entries],
            item_ids=[self._id_of(entry) for entry in chosen],
        )

    def _entries(self, history: Sequence[ItemLike]) -> list[_Entry]:
        if isinstance(history, (str, Item, Mapping)):
            raise DataError(f"a history is a list of items, got {history!r}: put it into a list")
        if len(history) == 0:
            raise DataError("the history is empty: give at least one item id or title")
        return [self._entry(item) for item in history]

    def _entry(self, item: ItemLike) -> _Entry:
        named = _parse(item, self._row_of_id)
        if named.item_id is not None:
            row = self._row_of(named.item_id)
            return _Entry(row, self._texts[row])
        title = clean_title(named.title or "")
        if not title:
            raise DataError(f"{item!r} names an item by an empty title: give its text, or leave it out")
        rows = self._rows_of_title.get(title)
        return _Entry(rows[0] if rows else None, title)

    def _row_of(self, item_id: str) -> int:
        try:
            return self.catalog.row_of(item_id)
        except DataError as error:
            raise DataError(f"{error}; if it is a title, write it as 'title:{item_id}'") from None

    def _id_of(self, entry: _Entry) -> str | None:
        return None if entry.row is None else str(self.catalog.items[ITEM][entry.row])

    def _candidate_rows(self, candidates: Sequence[str] | None) -> Int64[np.ndarray, " item"]:
        if candidates is None:
            return np.flatnonzero(self._has_title)
        if isinstance(candidates, str) or len(candidates) == 0:
            raise DataError(f"candidates are a list of item ids, got {candidates!r}: give at least one, or None")
        return np.unique(np.array([self.catalog.row_of(item_id) for item_id in candidates], dtype=np.int64))

    def _bought(self, entries: Sequence[_Entry]) -> list[int]:
        """All rows of the history's items, those that share a title with one of them too."""
        known = [(entry.row, entry.title) for entry in entries if entry.row is not None]
        return [row for own, title in known for row in (own, *self._rows_of_title.get(title, ()))]

    def _ranked(self, found: Found) -> list[Recommendation]:
        ranked = []
        for rank, (row, score) in enumerate(zip(*found, strict=True), start=1):
            item_id, title = self.catalog.items.row(int(row))
            ranked.append(Recommendation(item_id, title, float(score), rank))
        return ranked

    def _search(self, index: ItemIndex, slots: Float[Tensor, "slot dim"], k: int, bought: Sequence[int]) -> Found:
        """Rank the whole catalogue, without what was bought."""
        scorer = self.scorer
        assert isinstance(scorer, DualScorer)
        allowed = self._has_title.copy()
        allowed[bought] = False
        return index.search(slots, k, pool=history_pool(scorer.matcher, len(slots)), allowed=allowed)

    def _scores(self, entries: Sequence[_Entry], rows: Int64[np.ndarray, " item"]) -> Float32[np.ndarray, " item"]:
        scorer = self.scorer
        if len(rows) == 0:
            return np.empty(0, dtype=np.float32)
        if isinstance(scorer, PairScorer):
            return self._pair_scores([entry.title for entry in entries], rows)
        slots = self._slots(scorer, [entries])[0]
        chunks = max(1, -(-len(rows) * len(slots) // _CELLS_AT_ONCE))
        parts = [
            scorer.score_vectors(slots[None], [len(slots)], part[None])[0] for part in np.array_split(rows, chunks)
        ]
        return np.concatenate(parts)

    @torch.inference_mode()
    def _slots(self, scorer: DualScorer, histories: Sequence[Sequence[_Entry]]) -> list[Float[Tensor, "slot dim"]]:
        """Each history's vectors: known items from the index, free titles encoded; one vector for `prompt`."""
        if scorer.matcher.pooling == "prompt":
            prompts = [history_prompt([entry.title for entry in entries]) for entries in histories]
            return list(encode_titles(self.model, prompts)[:, None]) if prompts else []
        free = list(dict.fromkeys(entry.title for entries in histories for entry in entries if entry.row is None))
        encoded = dict(zip(free, encode_titles(self.model, free), strict=True)) if free else {}
        return [
            torch.stack([encoded[entry.title] if entry.row is None else scorer.vectors[entry.row] for entry in entries])
            for entries in histories
        ]

    def _pair_scores(self, history: Sequence[str], rows: Int64[np.ndarray, " item"]) -> Float32[np.ndarray, " item"]:
        if len(rows) > PAIR_LIMIT:
            raise DataError(
                f"a pair model would have to encode the history with each of {len(rows)} items, at most "
                f"{PAIR_LIMIT} are allowed: give candidates, or train with --scoring dual"
            )
        scorer = self.scorer
        assert isinstance(scorer, PairScorer)
        scores: Float32[np.ndarray, " item"] = scorer.score_titles([history], rows[None])[0]
        return scores


def _parse(item: ItemLike, known_ids: Mapping[str, int]) -> Item:
    """Read one history item; an id of the catalogue wins over every other reading."""
    if isinstance(item, Item):
        return item
    if isinstance(item, Mapping):
        return _from_mapping(item)
    if not isinstance(item, str):
        raise DataError(f"a history item is an id, a title, an Item or a mapping, got {item!r}: give one of these")
    if item in known_ids:
        return Item(item_id=item)
    for prefix, name in (("id:", "item_id"), ("title:", "title")):
        if item.startswith(prefix):
            return Item(**{name: item.removeprefix(prefix)})
    return Item(title=item) if len(item.split()) > 1 else Item(item_id=item)


def _from_mapping(item: Mapping[str, Any]) -> Item:
    unknown = sorted(set(item) - {ITEM, TITLE})
    if unknown or not all(isinstance(value, str) for value in item.values()):
        raise DataError(f"a history item has the keys {ITEM!r} or {TITLE!r} with text, got {dict(item)!r}: give one")
    return Item(**item)


def _as_domain(catalog: Domain | pl.DataFrame | Path | str) -> Domain:
    """Take a catalogue in any of its forms and refuse one that cannot be ranked."""
    if isinstance(catalog, pl.DataFrame):
        domain = Domain("catalogue", _items(catalog), {})
    else:
        domain = catalog if isinstance(catalog, Domain) else read_domain(Path(catalog))
    if domain.items.is_empty():
        raise DataError(f"the catalogue of {domain.name!r} has no items: give at least one")
    if domain.items[ITEM].is_duplicated().any():
        twice = domain.items.filter(pl.col(ITEM).is_duplicated())[ITEM][0]
        raise DataError(f"the catalogue has the item id {twice!r} twice: keep one row an item")
    if not any(map(clean_title, domain.titles)):
        raise DataError(f"no item of the catalogue {domain.name!r} has a title, and a language model reads titles")
    return domain


def _items(frame: pl.DataFrame) -> pl.DataFrame:
    """Make a catalogue table canonical: text ids, clean titles."""
    check_columns("the catalogue", frame.columns, (ITEM, TITLE))
    dtype = frame.schema[ITEM]
    if not (dtype.is_integer() or dtype in (pl.String, pl.Categorical)) or frame[ITEM].null_count():
        raise DataError(
            f"the catalogue's {ITEM} is of type {dtype} with {frame[ITEM].null_count()} missing, expected text or "
            "integers without gaps: read ids as text"
        )
    items = frame.select(pl.col(ITEM).cast(pl.String), pl.col(TITLE).cast(pl.String))
    empty = items.filter(is_empty_title())
    if empty.height:
        raise DataError(
            f"{empty.height} items of the catalogue have a title that is NaN or empty (first: {empty[ITEM][0]!r}): "
            "drop them, or give them one"
        )
    return clean_titles(items)


def _best(rows: Int64[np.ndarray, " item"], scores: Float32[np.ndarray, " item"], k: int) -> Found:
    """The ``k`` items with the highest scores, best first; equal ones in their order."""
    limit = np.partition(scores, -k)[-k] if k < len(scores) else -np.inf
    chosen = np.flatnonzero(scores >= limit)
    best = chosen[np.lexsort((chosen, -scores[chosen]))][:k]
    return Found(rows[best], scores[best])
