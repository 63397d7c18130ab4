"""Simulated customers of the sample market: a preference model, without any real data.

**The data are simulated.** Every domain made here says ``"simulated": true`` in its manifest.

A customer u has tastes that hold in every domain: shares of the themes ``theta_u ~ Dirichlet(a)`` and one
preferred brand house ``b_u``, price tier ``t_u`` and colour palette ``p_u``, each uniform. The next
purchase from domain d is item i with probability proportional to

    w(i | u, h) =   q_i                                   popularity: rank ** -zipf, ranks drawn at random
                  * (theta_u[theme_i] + floor)            themes
                  * exp( brand_d   * [house_i   = b_u]    brand houses, each with two names
                       + tier_d    * [tier_i    = t_u]    tiers, each with several words
                       + palette_d * [palette_i = p_u] )  palettes, likewise; products with a size have none
                  * exp(-repeat     * [type_i in types of h])             has one already
                  * exp( complement * [type_i = complement(type of h's last item)] )
                  * [i not in h]

What carries over between domains: the words of themes, houses, tiers and palettes, that names of one house
belong together, and that people look for *another* product of the theme. What does not: popularity, which
product goes with which, and how much each taste counts (``brand_d``, ``tier_d``, ``palette_d``): the two
default sources differ in that on purpose, so each knows a part of what the target needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np
import polars as pl
from jaxtyping import Bool, Float, Int64

from xcrossrec.arguments import checked
from xcrossrec.data.domain import Domain
from xcrossrec.data.market.catalogue import (
    BRAND_HOUSES,
    MARKET_DOMAINS,
    PALETTE_WORDS,
    THEMES,
    TIER_WORDS,
    Catalogue,
    catalogue_of,
)
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import ITEM, POSITION, SPLITS, TITLE, USER


@dataclass(frozen=True)
class Loadings:
    """How much each taste counts in one domain, in log odds; 0 = not at all."""

    brand: float
    tier: float
    palette: float


LOADINGS: Mapping[str, Loadings] = {
    "kitchen": Loadings(brand=2.6, tier=1.0, palette=2.2),
    "camping": Loadings(brand=1.4, tier=2.8, palette=0.8),
    "garden": Loadings(brand=2.2, tier=2.2, palette=1.8),
    "hobby": Loadings(brand=2.0, tier=2.0, palette=2.0),
}


SHORTEST, LONGEST, MEAN_LENGTH = 4, 9, 6.0  # purchases of a customer, binomial between the first two
SHARED = 0.05  # of a domain's customers are also customers of another domain
CONCENTRATION = 0.1  # Dirichlet parameter of the theme shares; lower = fewer themes a customer
FLOOR = 0.01  # added to every theme share, so that anybody may buy anything
ZIPF = 0.5  # exponent of popularity by rank
REPEAT = 1.0  # aversion to a type already bought, in log odds
COMPLEMENT = 0.7  # pull of the last purchase's complement, in log odds


@dataclass(frozen=True)
class MarketSettings:
    """How many customers each domain has in each split (ConfigError: a negative number, or nobody in train)."""

    train_users: int = 1500
    validation_users: int = 300
    test_users: int = 300

    def __post_init__(self) -> None:
        if self.train_users < 1 or min(self.validation_users, self.test_users) < 0:
            raise ConfigError(
                "the sample market needs train_users of at least 1 and no negative number of others, "
                f"got {self.train_users}, {self.validation_users} and {self.test_users}"
            )

    @property
    def users(self) -> int:
        """Customers of a domain, over its splits."""
        return self.train_users + self.validation_users + self.test_users

    @property
    def shared_by_pair(self) -> int:
        """Customers whom two domains have in common."""
        return int(self.users * SHARED) // (len(MARKET_DOMAINS) - 1)


@dataclass(frozen=True)
class Tastes:
    """What customers prefer, in every domain. Legend: ``user`` = one customer."""

    themes: Float[np.ndarray, "user theme"]
    house: Int64[np.ndarray, " user"]
    tier: Int64[np.ndarray, " user"]
    palette: Int64[np.ndarray, " user"]

    def take(self, rows: Int64[np.ndarray, " chosen"]) -> Tastes:
        """Select customers by row."""
        return Tastes(self.themes[rows], self.house[rows], self.tier[rows], self.palette[rows])


def draw_tastes(count: int, rng: np.random.Generator) -> Tastes:
    """Draw the tastes of ``count`` customers."""
    return Tastes(
        themes=rng.dirichlet(np.full(len(THEMES), CONCENTRATION), size=count),
        house=rng.integers(len(BRAND_HOUSES), size=count),
        tier=rng.integers(len(TIER_WORDS), size=count),
        palette=rng.integers(len(PALETTE_WORDS), size=count),
    )


def popularity_of(domain: str, seed: int) -> Float[np.ndarray, " item"]:
    """Draw the items' popularity ``q``: a power of their rank, ranks in random order."""
    rng = np.random.default_rng([seed, MARKET_DOMAINS.index(domain), 0])
    ranks = 1 + rng.permutation(len(catalogue_of(domain)))
    return np.asarray(ranks**-ZIPF, dtype=np.float64)


def taste_weights(tastes: Tastes, catalogue: Catalogue, loadings: Loadings) -> Float[np.ndarray, "user item"]:
    """Compute the factors of ``w`` that come from the customer, not from the history."""
    liking = (
        loadings.brand * (tastes.house[:, None] == catalogue.house)
        + loadings.tier * (tastes.tier[:, None] == catalogue.tier)
        + loadings.palette * (tastes.palette[:, None] == catalogue.palette)
    )
    return np.asarray((tastes.themes + FLOOR)[:, catalogue.theme] * np.exp(liking))


def history_weights(
    bought: Bool[np.ndarray, "user item"], last: Int64[np.ndarray, " user"], catalogue: Catalogue
) -> Float[np.ndarray, "user item"]:
    """Compute the factors of ``w`` that come from the history: what each customer has, and the last row (-1: none)."""
    members = catalogue.product_type[:, None] == np.arange(len(catalogue.complement))
    has_type = (bought.astype(np.float32) @ members.astype(np.float32)) > 0
    wanted = np.where(last < 0, -1, catalogue.complement[catalogue.product_type[last]])
    pull = COMPLEMENT * (wanted[:, None] == catalogue.product_type)
    weights = np.exp(pull - REPEAT * has_type[:, catalogue.product_type])
    return np.asarray(np.where(bought, 0.0, weights))


@checked
def sample_market(seed: int = 0, settings: MarketSettings | None = None) -> dict[str, Domain]:
    """Simulate the sample market: four small domains with train, validation and test customers.

    The data are simulated, and every manifest says so. Titles are the same for every seed.

    Returns:
        domain name to domain, in the order of ``MARKET_DOMAINS``.

    Raises:
        ConfigError: a negative seed.
    """
    if seed < 0:
        raise ConfigError(f"the seed of the sample market must not be negative, got {seed}")
    settings = settings or MarketSettings()
    customers = _customers(settings, np.random.default_rng([seed, 1]))
    people = max(int(rows.max()) for rows in customers.values()) + 1
    tastes = draw_tastes(people, np.random.default_rng([seed, 2]))
    return {name: _simulate(name, customers[name], tastes, settings, seed) for name in MARKET_DOMAINS}


def _customers(settings: MarketSettings, rng: np.random.Generator) -> dict[str, Int64[np.ndarray, " user"]]:
    """Number the customers of each domain; every two domains have some in common."""
    blocks: dict[str, list[Int64[np.ndarray, " user"]]] = {name: [] for name in MARKET_DOMAINS}
    first = 0
    for pair in combinations(MARKET_DOMAINS, 2):
        for name in pair:
            blocks[name].append(np.arange(first, first + settings.shared_by_pair))
        first += settings.shared_by_pair
    own = settings.users - (len(MARKET_DOMAINS) - 1) * settings.shared_by_pair
    for name in MARKET_DOMAINS:
        blocks[name].append(np.arange(first, first + own))
        first += own
    return {name: rng.permutation(np.concatenate(parts)) for name, parts in blocks.items()}


def _simulate(
    name: str, customers: Int64[np.ndarray, " user"], tastes: Tastes, settings: MarketSettings, seed: int
) -> Domain:
    """Let the customers of one domain buy, and put the result into a domain."""
    catalogue = catalogue_of(name)
    rng = np.random.default_rng([seed, MARKET_DOMAINS.index(name), 3])
    attraction = taste_weights(tastes.take(customers), catalogue, LOADINGS[name])
    attraction *= popularity_of(name, seed)
    purchases = _purchase(attraction, catalogue, rng)
    ids = [f"{name}-{row:04d}" for row in range(len(catalogue))]
    bounds = np.cumsum([0, settings.train_users, settings.validation_users, settings.test_users])
    parts = {split: slice(*bounds[place : place + 2]) for place, split in enumerate(SPLITS)}  # customers are shuffled
    interactions = {s: _interactions(customers[part], purchases[part], ids) for s, part in parts.items()}
    items = pl.DataFrame({ITEM: ids, TITLE: list(catalogue.titles)})
    manifest = {"simulated": True, "seed": seed, "simulation": asdict(settings)}
    return Domain(name, items, {s: frame for s, frame in interactions.items() if frame.height}, manifest)


def _purchase(
    attraction: Float[np.ndarray, "user item"], catalogue: Catalogue, rng: np.random.Generator
) -> Int64[np.ndarray, "user position"]:
    """Draw each customer's purchases one after another; -1 fills up what was not bought."""
    users = len(attraction)
    span = LONGEST - SHORTEST
    lengths = SHORTEST + rng.binomial(span, (MEAN_LENGTH - SHORTEST) / span, users)
    purchases = np.full((users, LONGEST), -1, dtype=np.int64)
    bought = np.zeros(attraction.shape, dtype=bool)
    for position in range(LONGEST):
        active = np.flatnonzero(lengths > position)
        last = purchases[active, position - 1] if position else np.full(len(active), -1)
        weights = attraction[active] * history_weights(bought[active], last, catalogue)
        purchases[active, position] = _draw(weights, rng)
        bought[active, purchases[active, position]] = True
    return purchases


def _draw(weights: Float[np.ndarray, "user item"], rng: np.random.Generator) -> Int64[np.ndarray, " user"]:
    """Draw one item for each user, in proportion to the weights."""
    cumulative = np.cumsum(weights, axis=1)
    threshold = rng.random(len(weights)) * cumulative[:, -1]
    return np.asarray((cumulative <= threshold[:, None]).sum(axis=1), dtype=np.int64)


def _interactions(
    customers: Int64[np.ndarray, " user"], purchases: Int64[np.ndarray, "user position"], ids: list[str]
) -> pl.DataFrame:
    user, position = np.nonzero(purchases >= 0)
    return pl.DataFrame(
        {
            USER: [f"customer-{customers[row]:05d}" for row in user],
            ITEM: [ids[row] for row in purchases[user, position]],
            POSITION: position.astype(np.int64),
        }
    )
