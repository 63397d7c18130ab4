"""The sample market: its catalogue, its customers and what can be learnt from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from xcrossrec.data import Domain, read_domain, write_domain
from xcrossrec.data.candidates import draw_candidates
from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings, sample_market
from xcrossrec.data.market.catalogue import BRAND_HOUSES, NO_PALETTE, THEMES, catalogue_of, types_of
from xcrossrec.data.market.simulation import (
    COMPLEMENT,
    FLOOR,
    LOADINGS,
    REPEAT,
    draw_tastes,
    history_weights,
    taste_weights,
)
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import ITEM, POSITION, SPLITS, USER


@pytest.fixture(scope="module")
def market() -> dict[str, Domain]:
    return sample_market()


def _users(domain: Domain) -> set[str]:
    return {user for split in SPLITS for user in domain.frame(split)[USER]}


def test_market_is_deterministic_by_seed_and_keeps_its_catalogue(market: dict[str, Domain]) -> None:
    again, other = sample_market(0), sample_market(1)
    for name, domain in market.items():
        assert again[name].fingerprint == domain.fingerprint
        assert other[name].fingerprint != domain.fingerprint
        assert other[name].titles == domain.titles


def test_market_has_the_stated_counts(market: dict[str, Domain]) -> None:
    assert tuple(market) == MARKET_DOMAINS
    for domain in market.values():
        assert 300 <= domain.items.height <= 450
        assert [domain.frame(split)[USER].n_unique() for split in SPLITS] == [1500, 300, 300]


def test_market_titles_are_unique_and_read_like_titles(market: dict[str, Domain]) -> None:
    titles = [title for domain in market.values() for title in domain.titles]
    ids = [item for domain in market.values() for item in domain.items[ITEM]]
    assert len(set(titles)) == len(titles) == len(set(ids))
    for title in titles:
        words = title.split()
        assert 4 <= len(words) <= 14
        assert "&" not in title
        assert "  " not in title
        assert len({word.casefold().strip(",") for word in words}) == len(words)


def test_market_sequences_are_ordered_without_repeats(market: dict[str, Domain]) -> None:
    for domain in market.values():
        for split in SPLITS:
            lengths = np.array([len(rows) for rows in domain.sequences(split).rows])
            assert all(len(set(rows)) == len(rows) for rows in domain.sequences(split).rows)
            assert lengths.min() >= 4
            assert lengths.max() <= 9
            assert abs(lengths.mean() - 6) < 0.3
            positions = np.concatenate([np.arange(length) for length in lengths])
            np.testing.assert_array_equal(domain.frame(split)[POSITION].to_numpy(), positions)


def test_market_splits_share_nobody_and_domains_a_few(market: dict[str, Domain]) -> None:
    for domain in market.values():
        parts = [set(domain.frame(split)[USER]) for split in SPLITS]
        assert all(one.isdisjoint(other) for one, other in combinations(parts, 2))
    settings = MarketSettings()
    for one, other in combinations(market.values(), 2):
        assert len(_users(one) & _users(other)) == settings.shared_by_pair == 35


def test_market_says_that_it_is_simulated_also_on_disk(market: dict[str, Domain], tmp_path) -> None:
    for domain in market.values():
        assert domain.manifest["simulated"] is True
        assert domain.manifest["seed"] == 0
    write_domain(market["garden"], tmp_path / "garden")
    stored = read_domain(tmp_path / "garden")
    assert stored.manifest["simulated"] is True
    assert stored.manifest["simulation"] == asdict(MarketSettings())
    assert stored.fingerprint == market["garden"].fingerprint


def test_market_popularity_is_skewed_but_not_degenerate(market: dict[str, Domain]) -> None:
    for domain in market.values():
        counts = np.sort(domain.train_counts())[::-1]
        assert counts[0] < 0.05 * counts.sum()
        assert counts[: len(counts) // 10].sum() > 0.15 * counts.sum()
        assert (counts > 0).mean() > 0.98


def test_market_leaves_out_an_empty_split() -> None:
    settings = MarketSettings(train_users=30, validation_users=0, test_users=0)
    domain = sample_market(3, settings)["hobby"]
    assert domain.splits == ("train",)
    assert len(domain.sequences("train")) == 30


def test_catalogue_attributes_agree_with_its_titles() -> None:
    for name in MARKET_DOMAINS:
        catalogue, types = catalogue_of(name), types_of(name)
        for row, title in enumerate(catalogue.titles):
            product_type = types[catalogue.product_type[row]]
            assert product_type.theme == catalogue.theme[row]
            assert title.startswith(BRAND_HOUSES[catalogue.house[row]])
            assert any(product in title for product in product_type.names)
            assert (catalogue.palette[row] == NO_PALETTE) == bool(product_type.sizes)


def test_catalogue_complements_stay_in_the_theme_and_differ() -> None:
    for name in MARKET_DOMAINS:
        types, complement = types_of(name), catalogue_of(name).complement
        assert sorted(complement) == list(range(len(types)))
        for row, other in enumerate(complement):
            assert row != other
            assert types[row].theme == types[other].theme
        assert {product_type.theme for product_type in types} == set(range(len(THEMES)))


def test_weights_equal_the_stated_formula() -> None:
    catalogue = catalogue_of("camping")
    tastes = draw_tastes(3, np.random.default_rng(0))
    history, loadings = [5, 100, 7], LOADINGS["camping"]
    bought = np.zeros((3, len(catalogue)), dtype=bool)
    bought[:, history] = True
    found = taste_weights(tastes, catalogue, loadings)
    found = found * history_weights(bought, np.full(3, 7), catalogue)
    types = [catalogue.product_type[row] for row in history]
    for user in range(3):
        for item in range(len(catalogue)):
            wanted = (tastes.themes[user, catalogue.theme[item]] + FLOOR) * np.exp(
                loadings.brand * (catalogue.house[item] == tastes.house[user])
                + loadings.tier * (catalogue.tier[item] == tastes.tier[user])
                + loadings.palette * (catalogue.palette[item] == tastes.palette[user])
                - REPEAT * (catalogue.product_type[item] in types)
                + COMPLEMENT * (catalogue.product_type[item] == catalogue.complement[types[-1]])
            )
            wanted = 0.0 if item in history else wanted
            np.testing.assert_allclose(found[user, item], wanted, rtol=1e-6)


def _mrr(scores: np.ndarray, candidates: np.ndarray) -> float:
    chosen = np.take_along_axis(scores, candidates, axis=1)
    return float((1 / (chosen >= chosen[:, :1]).sum(axis=1)).mean())


def _tfidf(domain: Domain, histories: Sequence[Sequence[int]]) -> np.ndarray:
    matrix = TfidfVectorizer().fit_transform(domain.titles)
    return np.stack([np.asarray(matrix[list(rows)].mean(axis=0) @ matrix.T).ravel() for rows in histories])


@pytest.mark.parametrize("name", MARKET_DOMAINS)
def test_text_beats_popularity(market: dict[str, Domain], name: str) -> None:
    domain = market[name]
    histories, _ = domain.sequences("validation").histories_and_targets()
    candidates = draw_candidates(domain, "validation", "popularity", seed=0).rows
    counts = np.tile(domain.train_counts(), (len(histories), 1)).astype(float)
    assert abs(_mrr(counts, candidates) - 0.133) < 0.04
    assert 0.2 < _mrr(_tfidf(domain, histories), candidates) < 0.36


def test_market_refuses_a_negative_seed() -> None:
    with pytest.raises(ConfigError, match=r"seed .* got -1"):
        sample_market(-1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_users": 0}, "train_users of at least 1 .* got 0, 300 and 300"),
        ({"test_users": -5}, "no negative number of others, got 1500, 300 and -5"),
    ],
)
def test_market_settings_are_checked(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MarketSettings(**settings)
