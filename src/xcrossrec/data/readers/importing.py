"""From a reader's tables to a domain: repeats, k-core, split, and a manifest that records each step."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from xcrossrec.data import interactions
from xcrossrec.data.domain import WHOLE, Domain
from xcrossrec.data.readers.columns import check_choices
from xcrossrec.data.readers.frames import SPLIT, RawDomain
from xcrossrec.data.splitting import LEAVE_LAST_OUT, by_time, by_user, leave_last_out
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import ITEM, SPLITS, TIMESTAMP, USER, Repeats, Split, SplitWay, UnknownItems

_LEAST_EVALUATED = 30  # users with an earlier order, below which targets are predicted from their own order, too
_MANY = 100  # interactions of a user, ten times as many as 95% of users have, look like those of several people


@dataclass(frozen=True)
class Recipe:
    """How raw interactions become a domain.

    Args:
        core: least number of interactions of each user and item (k-core); 1 keeps all.
        repeats: ``drop`` exact repeats (same user, item and time), ``keep`` them, or keep only a user's ``first``
            purchase of an item.
        split: how to divide the interactions; None is leave-last-out, or the source's own split.
        validation: share of the users (by-user) or of the purchases (temporal); ``test`` likewise.
        unknown_items: what to do with interactions with an item that is not in the table of items.
        text: template of the item text that models read; None takes those of title, brand and category that exist.
    """

    core: int = 1
    repeats: Repeats = "drop"
    split: SplitWay | None = None
    validation: float = 0.1
    test: float = 0.1
    seed: int = 0
    unknown_items: UnknownItems = "error"
    text: str | None = None

    def __post_init__(self) -> None:
        check_choices(self)
        if self.core < 1:
            raise ConfigError(f"core is {self.core}, expected 1 or more: 1 keeps everything")


def make_domain(name: str, raw: RawDomain, recipe: Recipe) -> Domain:
    """Make a domain from a reader's tables.

    A source that comes split is not changed. Otherwise repeats are dropped, then users and items below the k-core, and
    the rest is split; items that lost all their interactions are dropped too, items that never had any are kept.

    Raises:
        ConfigError: a recipe that would change a source that comes split.
        DataError: as for `checked_domain`, `k_core` and the splits.
    """
    given = SPLIT in raw.interactions.columns
    with ThreadPoolExecutor(1, "xcrossrec-hash") as pool:
        sources = pool.submit(lambda: [_source(path) for path in raw.sources])
        known, told = _usable(name, raw, recipe)
        items, splits = (_as_given if given else _prepared)(known, recipe, told)
    way = raw.filters.get("split", "given") if given else (recipe.split or LEAVE_LAST_OUT)
    filters = {**raw.filters, "split": str(way).replace("-", "_"), **_stated(recipe, given=given)}
    if not given and (orders := _of_one_order(splits)):
        filters |= {"orders": WHOLE, "one_order": orders}
    manifest = {"sources": sources.result(), "filters": {**filters, **told}, "seed": recipe.seed}
    return interactions.checked_domain(name, items, splits, manifest, recipe.text)


def _usable(name: str, raw: RawDomain, recipe: Recipe) -> tuple[RawDomain, dict[str, Any]]:
    """Refuse or drop interactions with unknown items, and count the dropped ones."""
    rows = interactions.as_categories(raw.interactions)
    told: dict[str, Any] = {"rows": {"read": rows.height, **raw.rows}}
    if added := rows.height - told["rows"]["read"] + sum(told["rows"].get(name, 0) for name in ("where", "incomplete")):
        told["rows"]["histories"] = added
    usual = pl.max_horizontal(_MANY, 10 * pl.col("count").quantile(0.95, "lower"))
    many = rows[USER].value_counts().filter(pl.col("count") > usual)
    if (heavy := many.cast({USER: pl.String})).height:
        shown = heavy.sort("count", USER, descending=[True, False])[USER].head(interactions.EXAMPLES).to_list()
        told["heavy_users"] = {"users": heavy.height, "interactions": heavy["count"].sum(), "examples": shown}
    known = rows[ITEM].is_in(raw.items[ITEM].cast(pl.Categorical).implode())
    if not known.all():
        lost = rows.filter(~known)
        strange = (lost.drop(SPLIT).unique() if SPLIT in lost.columns else lost)[ITEM].cast(pl.String)
        if recipe.unknown_items == "error":
            interactions.refuse_unknown(name, strange, raw.items[ITEM], every=not known.any())
        told["unknown_items"] = {"items": strange.n_unique(), "interactions": strange.len()}
        told["rows"]["unknown_items"] = lost.height
        rows = rows.filter(known)
        if raw.filters.get("split") == LEAVE_LAST_OUT:  # each user's last row of a part is its target
            ends = raw.interactions.select(pl.struct(SPLIT, USER).is_last_distinct()).to_series()
            ended = lost.filter(ends.filter(~known), pl.col(SPLIT) != "train").select(SPLIT, USER)
            kept = rows.join(ended, on=[SPLIT, USER], how="anti", maintain_order="left")
            told["rows"] |= {"without_target": rows.height - kept.height} if kept.height < rows.height else {}
            rows = kept
        if SPLIT in rows.columns and (gone := {*lost[SPLIT].unique()} - {*rows[SPLIT].unique()}):
            raise DataError(f"of {min(gone)} no interaction is left, its items are not in the catalogue: check the ids")
    return replace(raw, interactions=rows), told


def _as_given(raw: RawDomain, recipe: Recipe, told: dict[str, Any]) -> tuple[pl.DataFrame, dict[Split, pl.DataFrame]]:
    if recipe.split is not None or recipe.core > 1 or recipe.repeats == "first":
        raise ConfigError(
            "these files come split, so they are taken as they are: leave out --split, --k-core and "
            "--repeats first, or give all interactions in one (--interactions)"
        )
    rows = raw.interactions
    told["rows"]["kept"] = rows.height
    parts = {split: interactions.as_text(rows.filter(pl.col(SPLIT) == split)) for split in SPLITS}
    return raw.items, {split: interactions.canonical(part) for split, part in parts.items() if part.height}


def _prepared(raw: RawDomain, recipe: Recipe, told: dict[str, Any]) -> tuple[pl.DataFrame, dict[Split, pl.DataFrame]]:
    rows = raw.interactions
    bought, counts = rows[ITEM].unique(), [rows.height]
    if recipe.repeats != "keep":
        rows = interactions.deduplicate(rows, first_purchase_only=recipe.repeats == "first")
    counts.append(rows.height)
    if recipe.core > 1:
        rows = interactions.k_core(rows, recipe.core)
    lost = {"repeats": counts[0] - counts[1], "core": counts[1] - rows.height, "kept": rows.height}
    told["rows"].update({name: count for name, count in lost.items() if count})
    gone = bought.filter(~bought.is_in(rows[ITEM].unique().implode())).cast(pl.String)
    items = raw.items.filter(~pl.col(ITEM).is_in(gone.implode()))
    if recipe.split not in (None, "leave-last-out"):
        return items, _split(interactions.as_text(rows), recipe)
    handed_over = [rows]
    del rows, raw  # frees half a gigabyte of 10 million rows as soon as they are sorted
    return items, leave_last_out(handed_over.pop())


def _split(rows: pl.DataFrame, recipe: Recipe) -> dict[Split, pl.DataFrame]:
    splits: dict[Split, pl.DataFrame] = {"train": rows}
    if recipe.split in ("by-user", "temporal"):
        shares = {"validation": recipe.validation, "test": recipe.test}
        splits = by_time(rows, **shares) if recipe.split == "temporal" else by_user(rows, **shares, seed=recipe.seed)
    return {split: interactions.canonical(frame) for split, frame in splits.items()}


def _stated(recipe: Recipe, *, given: bool) -> Mapping[str, Any]:
    if given:
        return {"repeats": recipe.repeats} if recipe.repeats == "keep" else {}
    shares = {"validation": recipe.validation, "test": recipe.test}
    return {
        "core": recipe.core,
        "repeats": recipe.repeats,
        **(shares if recipe.split in ("by-user", "temporal") else {}),
    }


def _of_one_order(splits: Mapping[Split, pl.DataFrame]) -> dict[str, int]:
    """Count by split the users of several items who bought all at one time; empty where orders are not kept whole:
    without times, or where too few users have an earlier order."""
    found: dict[str, int] = {}
    for split, frame in splits.items():
        if split == "train":
            continue
        if TIMESTAMP not in frame.columns:
            return {}
        time, items = frame[TIMESTAMP].to_numpy(), frame[USER].rle().struct.field("len").to_numpy().astype(np.int64)
        lasts = np.cumsum(items) - 1
        earlier = time[lasts - items + 1] < time[lasts]
        if earlier.sum() < _LEAST_EVALUATED:
            return {}
        found[split] = int((~earlier & (items > 1)).sum())
    return found


def _source(path: Path) -> dict[str, Any]:
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"path": str(path), "sha256": digest, "bytes": path.stat().st_size}
