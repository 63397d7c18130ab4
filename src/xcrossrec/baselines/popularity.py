"""The most bought first, whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int

from xcrossrec.data.domain import Domain
from xcrossrec.scoring import check_rows


class Popularity:
    """Score an item by how often it occurs in train; the history plays no part.

    Args:
        counts: occurrences in train, by item row.
    """

    name = "popularity"

    def __init__(self, counts: Int[np.ndarray, " item"]) -> None:
        self._scores: Float32[np.ndarray, " item"] = counts.astype(np.float32)

    @classmethod
    def fit(cls, domain: Domain) -> Popularity:
        """Count the train split of a domain.

        Raises:
            DataError: the domain has no train split.
        """
        return cls(domain.train_counts())

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float32[np.ndarray, "user candidate"]:
        """Score candidates by train counts; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        check_rows(histories, candidates, self._scores.size)
        if candidates is None:
            return np.tile(self._scores, (len(histories), 1))
        scores: Float32[np.ndarray, "user candidate"] = self._scores[candidates]
        return scores
