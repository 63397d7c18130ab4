"""Baselines without a language model: popularity, item-based neighbours, TF-IDF."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int
from scipy.sparse import csr_array

from xcrossrec.data.text import spaced
from xcrossrec.exceptions import DataError, MissingExtraError
from xcrossrec.scoring import check_rows


class Rival(ABC):
    """A :class:`xcrossrec.scoring.Scorer` that scores the whole catalogue for one history at a time."""

    name: ClassVar[str]

    def __init__(self, n_items: int) -> None:
        self._n_items = n_items

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`."""
        check_rows(histories, candidates, self._n_items)
        scores = np.zeros((len(histories), self._n_items), dtype=np.float32)
        for user, history in enumerate(histories):
            scores[user] = self._of_history(history)
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    @abstractmethod
    def _of_history(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        """Score the whole catalogue for one history."""


class Popularity(Rival):
    """Ranks by how often an item occurs in train (by item row), independent of the history."""

    name = "popularity"

    def __init__(self, counts: Int[np.ndarray, " item"]) -> None:
        super().__init__(counts.size)
        self._counts: Float32[np.ndarray, " item"] = counts.astype(np.float32)

    def _of_history(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        return self._counts


class ItemKNN(Rival):
    """Items bought by the same users (Deshpande & Karypis 2004, item-based top-N), of baskets of item rows.

    Scores an item by the sum of its co-occurrence cosines with the history's items: cosine(i, j) = users with both /
    sqrt(users with i * users with j), over the users of train; an item is not its own neighbour. An empty history, or
    one without co-occurrences, scores every item 0.
    """

    name = "itemknn"

    def __init__(self, baskets: Sequence[Sequence[int]], n_items: int) -> None:
        super().__init__(n_items)
        users = np.repeat(np.arange(len(baskets)), [len(own) for own in baskets])
        rows = [row for own in baskets for row in own]
        bought = csr_array((np.ones(len(rows), np.float32), (users, rows)), shape=(len(baskets), n_items))
        bought.data[:] = 1  # repeat purchases count once
        self._times = bought.sum(0)
        self._unit = csr_array(bought / np.sqrt(np.maximum(self._times, 1)))  # each item's column of length 1
        self._buyers = self._unit.tocsc()

    def _of_history(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        rows = np.array(history, dtype=np.int64)
        share = self._buyers[:, rows].sum(1)  # by user: one dealer with 20,000 items makes 400 million pairs
        users = np.flatnonzero(share)
        scores = share[users] @ self._unit[users] - np.bincount(rows, minlength=self._n_items) * (self._times > 0)
        return np.asarray(scores.round(6), dtype=np.float32)


class TfidfMean(Rival):
    """Scores an item by the cosine between its text and the mean of the history's texts.

    Texts become unit vectors of term frequency times inverse document frequency over the catalogue. An
    empty history, or one without words, scores every item 0.

    Args:
        texts: by item row, what models read of each; an empty text scores 0.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        DataError: no text has a word.
    """

    name = "tfidf"

    def __init__(self, texts: Sequence[str]) -> None:
        super().__init__(len(texts))
        try:
            from sklearn.feature_extraction.text import TfidfVectorizer
        except ImportError as error:
            raise MissingExtraError("sklearn", "baselines") from error
        try:
            words = [spaced(text, 2) for text in texts]
            self._vectors: Any = TfidfVectorizer(dtype=np.float64).fit_transform(words)  # sparse unit rows (item, word)
        except ValueError as error:
            raise DataError(
                f"TF-IDF found no word in {len(texts)} texts ({error}): check the catalogue's titles"
            ) from error

    def _of_history(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        if not len(history):
            return np.zeros(self._n_items, dtype=np.float32)
        mean = np.asarray(self._vectors[list(history)].mean(axis=0)).ravel()
        norm = float(np.linalg.norm(mean))
        cosines: Float32[np.ndarray, " item"] = (self._vectors @ mean).astype(np.float32)
        return cosines / np.float32(norm) if norm > 0 else cosines
