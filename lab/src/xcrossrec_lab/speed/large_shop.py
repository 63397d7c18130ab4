"""A made-up shop of the size of real ones: a new category, and two established ones whose customers it shares.

    python -m xcrossrec_lab.speed.large_shop DIR               # 100,000 and twice 200,000 items; 4 million purchases
    python -m xcrossrec_lab.speed.large_shop DIR --share .1    # a tenth of everything

Writes CSV files as shops have them, `NAME.csv` and `NAME-items.csv`, for `xcrossrec data import`. Items belong to
groups, by which titles share words and customers choose; popularity falls by a power law, and one purchase of three
follows from the one before. It is for time and memory: how well anybody ranks here says nothing.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

GROUPS = 200
CUSTOMERS = 300_000
_SYLLABLES = "ka lo mi ru ten var sol pri dex mon fil gar hex jun bel cro dra ner ost pla"
_PLAIN = """
    steel large small garden kitchen outdoor modern soft wooden metal plastic folding electric set pack black white
    blue red green light travel home storage cover handle stand kit tool lamp chair table box bag bottle brush shelf
    hook filter
"""


@dataclass(frozen=True)
class Category:
    """How large a category is, and when its purchases were, in seconds since 1970."""

    name: str
    items: int
    purchases: int
    customers: int
    times: tuple[int, int]


CATEGORIES = (
    Category("kitchen", 200_000, 2_000_000, 250_000, (1_600_000_000, 1_750_000_000)),
    Category("camping", 200_000, 2_000_000, 220_000, (1_600_000_000, 1_750_000_000)),
    Category("garden", 100_000, 200_000, 60_000, (1_740_000_000, 1_760_000_000)),
)


def write_shop(folder: Path, share: float = 1.0, *, seed: int = 0) -> None:
    """Write all categories, of each so large a part."""
    folder.mkdir(parents=True, exist_ok=True)
    likes = np.random.default_rng(seed).integers(0, GROUPS, (int(CUSTOMERS * share), 2))
    themes = _words(np.random.default_rng([seed, 1]), GROUPS * 30).reshape(GROUPS, 30)
    for number, each in enumerate(CATEGORIES):
        rng = np.random.default_rng([seed, 2, number])
        groups = rng.integers(0, GROUPS, int(each.items * share))
        _items(each, groups, themes, rng).write_csv(folder / f"{each.name}-items.csv")
        _purchases(each, groups, likes, share, rng).write_csv(folder / f"{each.name}.csv")


def _words(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.array(["".join(rng.choice(_SYLLABLES.split(), rng.integers(2, 4))) for _ in range(count)])


def _items(category: Category, groups: np.ndarray, themes: np.ndarray, rng: np.random.Generator) -> pl.DataFrame:
    """Titles of 6 to 20 words: of the brand, of the group here and in all categories, and of everybody's."""
    brands, own = _words(rng, 300), _words(rng, GROUPS * 40).reshape(GROUPS, 40)
    titles, plain = [], _PLAIN.split()
    for group, length in zip(groups, rng.integers(5, 20, len(groups)), strict=True):
        part = max(1, length // 4)
        parts = (rng.choice(own[group], part), rng.choice(themes[group], part), rng.choice(plain, length - 2 * part))
        titles.append(" ".join((brands[group % 300], *rng.permutation(np.concatenate(parts)))))
    return pl.DataFrame(
        {
            "item_id": _ids(category, np.arange(len(groups))),
            "title": titles,
            "brand": brands[(groups * 7 + rng.integers(0, 3, len(groups))) % 300],
            "category": [f"{category.name} group {group}" for group in groups],
            "price": rng.lognormal(3, 1, len(groups)).round(2),
        }
    )


def _purchases(
    category: Category, groups: np.ndarray, likes: np.ndarray, share: float, rng: np.random.Generator
) -> pl.DataFrame:
    """Of 100 purchases 85 are of a group that the customer likes, the others of any; a third follow the one before."""
    some = rng.permutation(len(likes))[: int(category.customers * share)]
    weights = rng.pareto(1.5, len(some)) + 0.5
    counts = (weights / weights.sum() * category.purchases * share).round().astype(int).clip(1, 400)
    users, place = np.repeat(some, counts), np.concatenate([np.arange(count) for count in counts])
    popular = (1 / (1 + np.arange(len(groups))) ** 0.8)[rng.permutation(len(groups))]
    bought = _drawn(np.arange(len(groups)), popular, rng.random(len(users)))
    liked = likes[users, rng.integers(0, 2, len(users))]
    liked[rng.random(len(users)) < 0.15] = -1
    for group in range(GROUPS):
        (members,), (theirs,) = np.nonzero(groups == group), np.nonzero(liked == group)
        if len(members):
            bought[theirs] = _drawn(members, popular[members], rng.random(len(theirs)))
    (follows,) = np.nonzero((rng.random(len(users)) < 0.3) & (place > 0))
    bought[follows] = (bought[follows - 1] + 1) % len(groups)
    begin, end = category.times
    first = begin + rng.random(len(likes))[users] * (end - begin) * 0.6
    times = first + (place + rng.random(len(users))) * (end - first) / np.repeat(counts + 1, counts)
    table = {"user_id": [f"c{user}" for user in users], "item_id": _ids(category, bought)}
    return pl.DataFrame({**table, "timestamp": times.astype(np.int64)})[rng.permutation(len(users))]


def _drawn(items: np.ndarray, weights: np.ndarray, chance: np.ndarray) -> np.ndarray:
    """An item for each number between 0 and 1, in proportion to the weights."""
    rows = np.searchsorted(np.cumsum(weights) / weights.sum(), chance)
    return np.take(items, rows.clip(max=len(items) - 1))


def _ids(category: Category, rows: np.ndarray) -> list[str]:
    return [f"{category.name}-{row:07}" for row in rows]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--share", type=float, default=1.0, help="of everything; 1 is the whole")
    given = parser.parse_args()
    write_shop(given.folder, given.share)
