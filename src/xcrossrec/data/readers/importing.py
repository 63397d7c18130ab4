"""From what a reader gives to a domain: repeats, k-core, split, and a manifest that states all of it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Int64

from xcrossrec.data.domain import Domain
from xcrossrec.data.interactions import (
    canonical,
    checked_domain,
    deduplicate,
    is_empty_title,
    k_core,
    numbers_of,
    with_numbers,
    without_numbers,
)
from xcrossrec.data.readers.frames import SPLIT, RawDomain
from xcrossrec.data.splitting import LEAVE_LAST_OUT, by_share, leave_last_out
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import ITEM, SPLITS, EmptyTitles, Repeats, Split, SplitWay, UnknownItems

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recipe:
    """What is done to raw interactions on their way into a domain.

    Args:
        core: fewest interactions of a user and of an item kept (k-core); 1 keeps all.
        repeats: ``drop`` exact repeats (same user, item and time), ``keep`` them, or keep only a user's ``first``
            purchase of an item.
        split: how to divide the interactions; None is leave-last-out, or as the source comes.
        validation: share of the users (by-user, temporal).
        test: share of the users (by-user, temporal).
        seed: of the draw (by-user).
        empty_titles: what to do with items without a title.
        unknown_items: what to do with interactions whose item has no row among the items.
        text: what models read of an item; None takes title, brand and category, as far as the items have them.
    """

    core: int = 1
    repeats: Repeats = "drop"
    split: SplitWay | None = None
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    empty_titles: EmptyTitles = "keep"
    unknown_items: UnknownItems = "error"
    text: str | None = None

    def __post_init__(self) -> None:
        if self.core < 1:
            raise ConfigError(f"core is {self.core}, expected 1 or more: 1 keeps everything")

    @property
    def filters_rows(self) -> bool:
        """Whether it would leave out interactions that are no exact repeats."""
        return self.core > 1 or self.repeats == "first"


def make_domain(name: str, raw: RawDomain, recipe: Recipe) -> Domain:
    """Make a domain of what a reader gave.

    A source that comes split is taken as it is. Otherwise repeats go, then users and items below the
    k-core, then the rest is split; items that lost all their interactions leave the catalogue, items that
    never had any stay.

    Args:
        name: of the domain.
        raw: from a reader.
        recipe: what to do.

    Raises:
        ConfigError: a recipe that would alter a source that comes split.
        DataError: what `checked_domain`, `k_core` and the splits refuse.
    """
    given = SPLIT in raw.interactions.columns
    with ThreadPoolExecutor(1, "xcrossrec-hash") as pool:
        sources = pool.submit(lambda: [_source(path) for path in raw.sources])
        items, splits = _as_given(raw, recipe) if given else _prepared(raw, recipe)
    way = "given" if given else (recipe.split or LEAVE_LAST_OUT)
    manifest = {
        "sources": sources.result(),
        "filters": {"split": way.replace("-", "_"), **({} if given else _stated(recipe))},
        "seed": recipe.seed,
    }
    unknown = None if recipe.unknown_items == "drop" and not given else recipe.unknown_items  # else they are gone
    return checked_domain(name, items, splits, recipe.empty_titles, unknown, manifest, recipe.text)


def _as_given(raw: RawDomain, recipe: Recipe) -> tuple[pl.DataFrame, dict[Split, pl.DataFrame]]:
    if recipe.split is not None or recipe.filters_rows:
        raise ConfigError(
            "these files come split, so they are taken as they are: leave out the split, the k-core and "
            "--repeats first, or give all interactions in one file"
        )
    rows = raw.interactions
    splits = {split: rows.filter(pl.col(SPLIT) == split) for split in SPLITS}
    return raw.items, {split: canonical(frame) for split, frame in splits.items() if frame.height}


def _prepared(raw: RawDomain, recipe: Recipe) -> tuple[pl.DataFrame, dict[Split, pl.DataFrame]]:
    rows, catalogue = with_numbers(raw.interactions, raw.items)
    lost = np.zeros(max(catalogue.max(initial=0), numbers_of(rows, ITEM).max(initial=0)) + 1, dtype=bool)
    lost[numbers_of(rows, ITEM)] = True
    rows = _usable(rows, raw, recipe, catalogue)
    if recipe.repeats != "keep":
        rows = deduplicate(rows, first_purchase_only=recipe.repeats == "first")
    if recipe.core > 1:
        rows = k_core(rows, recipe.core)
    _LOG.info("%d of %d interactions kept", rows.height, raw.interactions.height)
    lost[numbers_of(rows, ITEM)] = False
    items = raw.items.filter(pl.Series(~lost[catalogue]))
    if recipe.split not in (None, "leave-last-out"):
        return items, _split(without_numbers(rows), recipe)
    handed_over = [rows]
    del rows  # so that they are gone once they are sorted: half a gigabyte of 10 million
    return items, leave_last_out(handed_over.pop())


def _usable(rows: pl.DataFrame, raw: RawDomain, recipe: Recipe, catalogue: Int64[np.ndarray, " item"]) -> pl.DataFrame:
    """Leave out what the recipe drops anyway, so that the k-core holds for what remains.

    Args:
        rows: the interactions with numbers.
        raw: what they come from.
        recipe: what to drop.
        catalogue: the numbers of ``raw.items``.
    """
    items = numbers_of(rows, ITEM)
    usable = np.ones(rows.height, dtype=bool)
    if recipe.unknown_items == "drop":
        usable &= np.isin(items, catalogue, kind="table")
    if recipe.empty_titles == "drop":
        empty = raw.items.select(is_empty_title()).to_series().to_numpy()
        usable &= ~np.isin(items, catalogue[empty], kind="table")
    if not usable.all():
        rows = rows.filter(pl.Series(usable))
        lost = raw.interactions.height - rows.height
        _LOG.info("%d interactions left out: their items are unknown or have no title", lost)
    return rows


def _split(rows: pl.DataFrame, recipe: Recipe) -> dict[Split, pl.DataFrame]:
    splits: dict[Split, pl.DataFrame] = {"train": rows}
    if recipe.split in ("by-user", "temporal"):
        shares = {"validation": recipe.validation, "test": recipe.test}
        splits = by_share(rows, recipe.split, **shares, seed=recipe.seed)
    return {split: canonical(frame) for split, frame in splits.items()}


def _stated(recipe: Recipe) -> Mapping[str, Any]:
    shares = {"validation": recipe.validation, "test": recipe.test}
    return {
        "core": recipe.core,
        "repeats": recipe.repeats,
        **(shares if recipe.split in ("by-user", "temporal") else {}),
    }


def _source(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path), "sha256": digest, "bytes": path.stat().st_size}
