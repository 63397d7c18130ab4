"""The sample market's ceiling against a loop, and above what text reaches."""

from __future__ import annotations

import numpy as np
import pytest

from xcrossrec import DataError, Scorer, sample_market
from xcrossrec.data.candidates import draw_candidates
from xcrossrec.data.market import MARKET_DOMAINS
from xcrossrec.data.market.catalogue import THEMES, catalogue_of
from xcrossrec.data.market.simulation import (
    CONCENTRATION,
    LOADINGS,
    Tastes,
    history_weights,
    popularity_of,
    taste_weights,
)
from xcrossrec_lab.market_oracle import MarketOracle


def test_oracle_equals_a_loop_over_customers() -> None:
    catalogue = catalogue_of("garden")
    oracle = MarketOracle("garden", theme_samples=2)
    history = [3, 40]
    themes = np.random.default_rng(0).dirichlet(np.full(len(THEMES), CONCENTRATION), size=2)
    expected = np.zeros(len(catalogue))
    total = 0.0
    for theme, house, tier, palette in np.ndindex(2, 6, 3, 6):
        one = [np.array([value]) for value in (house, tier, palette)]
        fixed = taste_weights(Tastes(themes[[theme]], *one), catalogue, LOADINGS["garden"])[0]
        fixed = fixed * popularity_of("garden", 0)
        likelihood, bought, last = 1.0, np.zeros((1, len(catalogue)), dtype=bool), np.array([-1])
        for item in [*history, None]:
            chance = fixed * history_weights(bought, last, catalogue)[0]
            chance = chance / chance.sum()
            if item is not None:
                likelihood *= chance[item]
                bought[0, item], last = True, np.array([item])
        expected += likelihood * chance
        total += likelihood
    rest = np.delete(np.arange(len(catalogue)), history)
    found = np.exp(oracle.score([history])[0].astype(np.float64))
    np.testing.assert_allclose(found[rest], (expected / total)[rest], rtol=1e-4)
    assert found[history].max() < 1e-30


def test_oracle_is_a_scorer_that_takes_empty_histories_and_candidates() -> None:
    oracle = MarketOracle("kitchen", theme_samples=3)
    assert isinstance(oracle, Scorer)
    scores = oracle.score([(), (1, 2)], np.array([[0, 9], [9, 0]]))
    assert scores.shape == (2, 2)
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores[1], oracle.score([(1, 2)])[0, [9, 0]])
    with pytest.raises(DataError, match="item row 9999 is outside"):
        oracle.score([(9999,)])


def _mrr(scores: np.ndarray, candidates: np.ndarray) -> float:
    chosen = np.take_along_axis(scores, candidates, axis=1)
    return float((1 / (chosen >= chosen[:, :1]).sum(axis=1)).mean())


@pytest.mark.parametrize("name", MARKET_DOMAINS)
def test_oracle_is_far_above_text(name: str) -> None:
    domain = sample_market(0)[name]
    histories, _ = domain.sequences("validation").histories_and_targets()
    candidates = draw_candidates(domain, "validation", "popularity", seed=0).rows
    counts = np.tile(domain.train_counts(), (len(histories), 1)).astype(float)
    scores = MarketOracle(name, theme_samples=30).score(histories) - np.log(counts + 1)
    assert 0.45 < _mrr(scores, candidates) < 0.65
