"""Words of titles, weighted by how rare they are: what plain text already knows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError, MissingExtraError
from xcrossrec.scoring import check_rows


class TfidfMean:
    """Score an item by the cosine between its title and the mean of the history's titles.

    Titles become unit vectors of term frequency times inverse document frequency over the catalogue.  An
    empty history, or one whose titles have no word, scores every item 0.

    Args:
        titles: by item row; an empty title scores 0.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        DataError: no title has a word.
    """

    name = "tfidf"

    def __init__(self, titles: Sequence[str]) -> None:
        self._vectors = _vectorise(titles)

    @classmethod
    def fit(cls, domain: Domain) -> TfidfMean:
        """Weigh the words of a domain's catalogue; interactions play no part.

        Raises:
            MissingExtraError: scikit-learn is not installed.
            DataError: no title has a word.
        """
        return cls(domain.titles)

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates by cosine, 0 to 1; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        n_items: int = self._vectors.shape[0]
        check_rows(histories, candidates, n_items)
        scores = np.zeros((len(histories), n_items), dtype=np.float32)
        for user, history in enumerate(histories):
            if len(history):
                scores[user] = self._cosines(history)
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def _cosines(self, history: Sequence[int]) -> Float32[np.ndarray, " item"]:
        mean = np.asarray(self._vectors[list(history)].mean(axis=0)).ravel()
        norm = float(np.linalg.norm(mean))
        cosines: Float32[np.ndarray, " item"] = (self._vectors @ mean).astype(np.float32)
        return cosines / np.float32(norm) if norm > 0 else cosines


def _vectorise(titles: Sequence[str]) -> Any:
    """Turn titles into a sparse matrix of unit rows (item, word)."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingExtraError("sklearn", "baselines") from error
    try:
        return TfidfVectorizer(dtype=np.float64).fit_transform(titles)
    except ValueError as error:
        raise DataError(
            f"TF-IDF found no word in {len(titles)} titles ({error}): check the catalogue's titles"
        ) from error
