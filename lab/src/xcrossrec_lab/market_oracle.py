"""The ceiling of the sample market: a scorer that knows the preference model, not the customer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from xcrossrec import DataError
from xcrossrec.data.market.catalogue import BRAND_HOUSES, PALETTE_WORDS, THEMES, TIER_WORDS, catalogue_of
from xcrossrec.data.market.simulation import (
    CONCENTRATION,
    LOADINGS,
    Tastes,
    history_weights,
    popularity_of,
    taste_weights,
)


class MarketOracle:
    """Scores by the simulated market's own model: no other scorer can do better on average
    (but for the error of the sampled theme shares).

    It knows the formula and its numbers, the items' attributes and popularity; of the customer only the
    history, like every scorer. Unknown tastes are integrated out over ``theme_samples`` draws of the theme
    shares with every combination of house, tier and palette:
    ``p(i | h) = sum_u p(u | h) p(i | u, h)``.

    Args:
        domain: a name of ``MARKET_DOMAINS``.
        seed: of the market.
        theme_samples: draws of theme shares.
    """

    def __init__(
        self,
        domain: str,
        seed: int = 0,
        theme_samples: int = 100,
    ) -> None:
        self._catalogue = catalogue_of(domain)
        tastes = _grid(theme_samples)
        weights = taste_weights(tastes, self._catalogue, LOADINGS[domain])
        self._popularity = popularity_of(domain, seed).astype(np.float32)
        self._taste = weights.astype(np.float32)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "market oracle"

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Compute the log probability of the next purchase; an item already bought gets a very low one.

        Raises:
            DataError: an item row outside the catalogue.
        """
        self._check_rows(histories)
        scores = np.stack([self._score_one(history) for history in histories])
        return scores if candidates is None else np.take_along_axis(scores, candidates, axis=1)

    def _check_rows(self, histories: Sequence[Sequence[int]]) -> None:
        for history in histories:
            for row in history:
                if not 0 <= row < len(self._catalogue):
                    raise DataError(
                        f"item row {row} is outside the market's catalogue of {len(self._catalogue)} items: "
                        "give rows of the same domain"
                    )

    def _score_one(self, history: Sequence[int]) -> Float[np.ndarray, " item"]:
        steps, items = len(history) + 1, len(self._catalogue)
        bought = np.zeros((steps, items), dtype=bool)
        for step in range(1, steps):
            bought[step:, history[step - 1]] = True
        last = np.array([-1, *history], dtype=np.int64)
        state = history_weights(bought, last, self._catalogue).astype(np.float32)
        state *= self._popularity
        totals = self._taste @ state.T  # (tastes, steps)
        posterior = np.ones(len(self._taste), dtype=np.float64)
        for step, item in enumerate(history):
            posterior *= self._taste[:, item] * state[step, item] / totals[:, step]
        mixed = ((posterior / posterior.sum()) / totals[:, -1]).astype(np.float32) @ self._taste
        return np.asarray(np.log(np.maximum(mixed * state[-1], np.finfo(np.float32).tiny)), dtype=np.float32)


def _grid(theme_samples: int) -> Tastes:
    """Combine draws of theme shares with every house, tier and palette."""
    rng = np.random.default_rng(0)
    themes = rng.dirichlet(np.full(len(THEMES), CONCENTRATION), size=theme_samples)
    sizes = (theme_samples, len(BRAND_HOUSES), len(TIER_WORDS), len(PALETTE_WORDS))
    row, house, tier, palette = (axis.ravel() for axis in np.indices(sizes))
    return Tastes(themes[row], house, tier, palette)
