"""The sample market's product types, brands and words: hand-written for this project.

``product_types.csv`` has one line a product type. Names, details and sizes are separated by ``/``; the first name is
the commonest. Where ``sizes`` is ``colour`` the type is sold by colour instead. Within a theme the order counts: each
type's complement is the next one (the last one's the first), e.g. a grinder calls for a kettle, a kettle for mugs.
All brand names are invented; likeness to a real one is coincidence.
"""

from __future__ import annotations

import csv
from importlib.resources import files

TABLE: list[dict[str, str]] = list(
    csv.DictReader(files("xcrossrec.data.market").joinpath("product_types.csv").read_text("utf-8").splitlines())
)
"""One mapping a product type, domain by domain in the market's order."""

THEMES: tuple[str, ...] = ("coffee", "grill", "kids", "water", "harvest", "wood", "pets")

BRAND_HOUSES: tuple[tuple[str, str], ...] = (
    ("Harrowmere", "Quillmoor"),
    ("Brindlecombe", "Tolvane"),
    ("Osterfen", "Duskwether"),
    ("Marrowick", "Velloran"),
    ("Pinnacrest", "Caldersby"),
    ("Wrenfolk", "Hollinbrae"),
)
"""Each house sells in every domain under two names; no title says which names belong together."""

TIER_WORDS: tuple[tuple[str, ...], ...] = (
    ("Starter", "Basic", "Budget", "Essential"),
    ("Classic", "Standard", "Everyday"),
    ("Pro", "Premium", "Deluxe", "Master"),
)

PALETTE_WORDS: tuple[tuple[str, ...], ...] = (
    ("Terracotta", "Rust", "Ochre"),
    ("Sage Green", "Moss Green", "Olive"),
    ("Navy", "Slate Blue", "Teal"),
    ("Cream", "Linen White", "Sand"),
    ("Charcoal", "Matte Black", "Graphite"),
    ("Coral", "Cherry Red", "Sunflower Yellow"),
)
