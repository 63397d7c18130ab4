"""Ready splits of which the later parts hold only targets: their users get the purchases of the earlier parts."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import polars as pl

from xcrossrec.data.interactions import order
from xcrossrec.data.readers.frames import SPLIT
from xcrossrec.data.times import SUBSECOND
from xcrossrec.types import ITEM, POSITION, TIMESTAMP, USER, Split

HISTORY = "history"
MOST = 0.5  # the same users are in several parts by design if at least this share of them is in an earlier one
_LOG = logging.getLogger(__name__)


def with_histories(tables: Mapping[Split, pl.DataFrame]) -> tuple[list[pl.DataFrame], dict[str, object]]:
    """Complete the histories of a source that comes split, as far as it contains them.

    A column ``history`` (Amazon 2023, RecBole's sequences) replaces the user's own rows of that split if it is longer.
    Without it, if most users of a part are in an earlier part and their rows do not begin with what they bought there,
    those earlier rows are put first.

    Returns:
        the tables, each with a column ``split``, and for the manifest whether users are in every part by design.
    """
    listed = any(HISTORY in table.columns for table in tables.values())
    parts = {split: _from_history(table) if listed else order(table) for split, table in tables.items()}
    past, same, filled = parts["train"], False, False
    for split in [split for split in parts if split != "train"]:
        users = parts[split][USER].unique()
        whole, found = (parts[split], 0) if HISTORY in tables[split].columns else _after(past, parts[split])
        if (users.is_in(past[USER].unique().implode()).mean() or 0) >= MOST:  # type: ignore[operator]
            parts[split], same, filled = whole, True, filled or found > 0
            if HISTORY not in tables[split].columns:
                _LOG.info("%s: %d users have their history from the parts before", split, found)
        elif found:
            _LOG.warning(
                "%s: %d of %d users bought in the parts before, too, but get no history from there, as most did not: "
                "if these are a growing shop's later weeks, import all as --interactions with --split temporal",
                *(split, found, len(users)),
            )
        rest = past.filter(~pl.col(USER).is_in(users.implode()))
        past = pl.concat([parts[split], rest])
    result = parts if listed or filled else tables
    told: dict[str, object] = {"split": "leave_last_out"} if same and (listed or filled) else {}
    return [table.with_columns(pl.lit(split).alias(SPLIT)) for split, table in result.items()], told


def _from_history(table: pl.DataFrame) -> pl.DataFrame:
    """Give each user the longest history and its item, or the user's own rows if there are as many."""
    if HISTORY not in table.columns:
        return order(table).select(USER, ITEM, POSITION)
    text = pl.col(HISTORY)
    if table.schema[HISTORY] == pl.String:
        text = text.fill_null("").str.extract_all(r"[^\s\[\]'\",|]+")
    listed = table.with_columns(text.cast(pl.List(pl.String)).alias(HISTORY)).with_row_index("__row")
    by = [name for name in (TIMESTAMP, SUBSECOND, POSITION) if name in table.columns]
    size = pl.col(HISTORY).list.len()
    listed = listed.sort([*by, size, "__row"])
    longest = listed.group_by(USER, maintain_order=True).agg(
        pl.col(HISTORY, ITEM).sort_by(size, maintain_order=True).last(), pl.len().alias("own"), pl.col("__row").min()
    )
    whole = pl.concat_list(HISTORY, pl.col(ITEM).cast(pl.String))
    made = longest.filter(pl.col("own") <= size).select(USER, whole.alias(ITEM), "__row").explode(ITEM)
    own = listed.join(longest.filter(pl.col("own") > size).select(USER), on=USER, how="semi", maintain_order="left")
    rows = pl.concat([made.with_columns(pl.col(ITEM).cast(pl.Categorical)), own.select(USER, ITEM, "__row")])
    return order(rows.sort("__row", maintain_order=True).select(USER, ITEM))


def _after(past: pl.DataFrame, part: pl.DataFrame) -> tuple[pl.DataFrame, int]:
    """Put earlier purchases before the rows of users whose rows do not begin with them; also returns how many users."""
    begun = past.group_by(USER).agg(pl.col(ITEM).alias("before"))
    now = part.group_by(USER).agg(pl.col(ITEM).alias("now")).join(begun, on=USER)
    size = pl.col("before").list.len()
    lacking = now.filter(pl.col("now").list.head(size) != pl.col("before"))[USER]
    if lacking.is_empty():
        return part, 0
    before = past.filter(pl.col(USER).is_in(lacking.implode()))
    rows = pl.concat([before, part]).drop(POSITION)
    users = part.select(USER).unique(maintain_order=True).with_row_index("__first")
    rows = rows.join(users, on=USER, maintain_order="left").sort("__first", maintain_order=True).drop("__first")
    return rows.with_columns(pl.int_range(pl.len()).over(USER).alias(POSITION)).select(part.columns), lacking.len()
