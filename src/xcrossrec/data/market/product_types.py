"""The sample market's product types, brands and words: hand-written for this project.

``product_types.csv`` has one line a product type. Names, details and sizes are separated by ``/``; the first name is
the commonest. Where ``sizes`` is ``colour`` the type is sold by colour instead. Within a theme the order counts: each
type's complement is the next one (the last one's the first), e.g. a grinder calls for a kettle, a kettle for mugs.
All brand names are invented; likeness to a real one is coincidence.
"""

from __future__ import annotations

import csv
import tomllib
from importlib.resources import files

_FOLDER = files("xcrossrec.data.market")
_WORDS = tomllib.loads(_FOLDER.joinpath("words.toml").read_text("utf-8"))
_ROWS = _FOLDER.joinpath("product_types.csv").read_text("utf-8").splitlines()

TABLE: list[dict[str, str]] = list(csv.DictReader(_ROWS))
"""One mapping a product type, domain by domain in the market's order."""

THEMES: tuple[str, ...] = tuple(_WORDS["themes"])
BRAND_HOUSES, TIER_WORDS, PALETTE_WORDS = (
    tuple(map(tuple, _WORDS[kind])) for kind in ("brand_houses", "tiers", "palettes")
)
"""Each house sells in every domain under two names; no title says which names belong together."""
