"""The sample market's catalogue: shop titles composed from the hand-written product types.

The catalogue is part of the project and the same for every seed of the market; only the simulated
customers change. A title names brand, tier, detail, product and a size or a colour, e.g.
``Harrowmere Pro Cast Iron Grill Pan, 12 inch``.

``product_types.csv`` has one line a product type, hand-written for this project. Names, details and sizes are separated
by ``/``; the first name is the commonest. Where ``sizes`` is ``colour`` the type is sold by colour instead. Each type's
complement is the next one of its theme (the last one's the first): a grinder calls for a kettle, a kettle for mugs. All
brand names are invented; likeness to a real one is coincidence.
"""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import numpy as np
from jaxtyping import Int64

_FOLDER = files("xcrossrec.data.market")
_WORDS = tomllib.loads(_FOLDER.joinpath("words.toml").read_text("utf-8"))
_TABLE = list(csv.DictReader(_FOLDER.joinpath("product_types.csv").read_text("utf-8").splitlines()))

THEMES: tuple[str, ...] = tuple(_WORDS["themes"])
BRAND_HOUSES, TIER_WORDS, PALETTE_WORDS = (
    tuple(map(tuple, _WORDS[kind])) for kind in ("brand_houses", "tiers", "palettes")
)
"""Each house sells in every domain under two names; no title says which names belong together."""

MARKET_DOMAINS: tuple[str, ...] = tuple(dict.fromkeys(row["domain"] for row in _TABLE))
"""The domains: the first two are the default sources, the third the default target, the fourth is spare."""

ITEMS_PER_TYPE = 17
NO_PALETTE = -1
_CATALOGUE_SEED = 20859
_Item = tuple[str, tuple[int, ...]]  # a title and its attributes, in the order of `Catalogue`


@dataclass(frozen=True)
class ProductType:
    """One line of a domain's table."""

    theme: int
    names: tuple[str, ...]
    details: tuple[str, ...]
    sizes: tuple[str, ...]  # empty: sold by colour


@dataclass(frozen=True)
class Catalogue:
    """One domain's titles and what the simulated customers see in them.

    Attributes:
        titles: by item row; unique.
        product_type: row of `types_of`.
        palette: row of ``PALETTE_WORDS``, or ``NO_PALETTE`` where the type is sold by size.
        complement: by product type, the type of the same theme that is bought to go with it.
    """

    titles: tuple[str, ...]
    product_type: Int64[np.ndarray, " item"]
    theme: Int64[np.ndarray, " item"]
    house: Int64[np.ndarray, " item"]
    tier: Int64[np.ndarray, " item"]
    palette: Int64[np.ndarray, " item"]
    complement: Int64[np.ndarray, " type"]

    def __len__(self) -> int:
        return len(self.titles)


def types_of(domain: str) -> tuple[ProductType, ...]:
    """Read the table of product types of one of the market's domains."""
    return tuple(_parse(row) for row in _TABLE if row["domain"] == domain)


@cache
def catalogue_of(domain: str) -> Catalogue:
    """Compose the catalogue of one of the market's domains, the same on every call."""
    types = types_of(domain)
    rng = np.random.default_rng([_CATALOGUE_SEED, MARKET_DOMAINS.index(domain)])
    items = [item for row, product_type in enumerate(types) for item in _items_of_type(row, product_type, rng)]
    items = [items[row] for row in rng.permutation(len(items))]
    product_type, theme, house, tier, palette = np.array([found for _, found in items], dtype=np.int64).T
    titles = tuple(title for title, _ in items)
    return Catalogue(titles, product_type, theme, house, tier, palette, _complements(types))


def _parse(row: dict[str, str]) -> ProductType:
    names, details, sizes = (tuple(row[column].split("/")) for column in ("names", "details", "sizes"))
    return ProductType(THEMES.index(row["theme"]), names, details, () if sizes == ("colour",) else sizes)


def _items_of_type(row: int, product_type: ProductType, rng: np.random.Generator) -> list[_Item]:
    """Draw items of one type until there are enough different titles without repeated words."""
    found: dict[str, _Item] = {}
    while len(found) < ITEMS_PER_TYPE:
        title, attributes = _draw_item(row, product_type, rng)
        words = title.casefold().replace(",", "").split()
        if len(set(words)) == len(words):
            found.setdefault(title, (title, attributes))
    return list(found.values())


def _draw_item(row: int, product_type: ProductType, rng: np.random.Generator) -> _Item:
    house, tier = int(rng.integers(len(BRAND_HOUSES))), int(rng.integers(len(TIER_WORDS)))
    palette = NO_PALETTE if product_type.sizes else int(rng.integers(len(PALETTE_WORDS)))
    ending = _pick(product_type.sizes or PALETTE_WORDS[palette], rng)
    words = [BRAND_HOUSES[house], TIER_WORDS[tier], product_type.details, product_type.names]
    title = " ".join(_pick(choices, rng) for choices in words)
    return f"{title}, {ending}", (row, product_type.theme, house, tier, palette)


def _pick(choices: tuple[str, ...], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def _complements(types: tuple[ProductType, ...]) -> Int64[np.ndarray, " type"]:
    """Arrange the types of each theme in a ring, in which the next type is the complement."""
    complement = np.empty(len(types), dtype=np.int64)
    for theme in {product_type.theme for product_type in types}:
        ring = [row for row, product_type in enumerate(types) if product_type.theme == theme]
        complement[ring] = np.roll(ring, -1)
    return complement
