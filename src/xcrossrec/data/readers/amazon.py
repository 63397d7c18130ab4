"""The Amazon review releases of 2014, 2018 and 2023: they differ in columns, order and time unit.

=======  ==========================================  ==========================================  ==========
release  reviews, JSON Lines                         ratings only, CSV                           time unit
=======  ==========================================  ==========================================  ==========
2014     reviewerID, asin, unixReviewTime            user, item, rating, time (no header)        seconds
2018     reviewerID, asin, unixReviewTime            item, user, rating, time (no header)        seconds
2023     user_id, parent_asin, timestamp             user_id, parent_asin, rating, timestamp     ms
=======  ==========================================  ==========================================  ==========

The 2014 metadata are Python dict literals, one a line; later ones are JSON. Some 2018 titles are the
scraped page's own script or markup: these count as empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import polars as pl

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.sources import Source
from xcrossrec.data.readers.tables import Plan
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, USER

ASIN_LENGTH = 10
JUNK_TITLE = r"(?i)getTime\(\)|<span|<div|<script|</?a\b[^>]*href|^\s*var a?PageStart|\"\s*/>\s*$"


def _without_junk(title: pl.Expr) -> pl.Expr:
    return pl.when(title.str.contains(JUNK_TITLE)).then(pl.lit("")).otherwise(title)


def _refuse_header(names: Sequence[str], source: Source) -> None:
    if source.form == "csv" and {*source.first_row} & {*names, "user_id", "item_id", "timestamp", "rating"}:
        raise DataError(
            f"{source.shown} has a header ({', '.join(source.first_row)}), ratings files of this release have none: "
            "read it with --format csv and name its columns"
        )


def _check_order(batch: pl.DataFrame, path: str, row: int) -> None:
    """Refuse a file whose item column holds what look like user ids, and the other way round."""
    if _swapped(batch.head(1)) and _swapped(batch):
        raise DataError(
            f"{path}, row {row}: {batch[ITEM][0]!r} looks like a user and {batch[USER][0]!r} like an "
            "item: ratings files of 2014 start with the user, those of 2018 with the item"
        )


def _swapped(batch: pl.DataFrame) -> bool:
    users, items = (batch[name].cast(pl.String).str.len_chars() for name in (USER, ITEM))
    return bool(((users == ASIN_LENGTH) & (items > ASIN_LENGTH)).all())


_BEFORE_2023 = Plan(
    needed=("item",),
    others=False,
    only_bought=True,
    mend=_without_junk,
    check=_check_order,
    remedy="milliseconds are the 2023 release's, read it with --format amazon2023",
    columns=(Columns(user="reviewerID", item="asin", time="unixReviewTime", time_unit="s"), Columns(item="asin")),
)
_ORDER_2014 = ("reviewerID", "asin", "overall", "unixReviewTime")
_ORDER_2018 = ("asin", "reviewerID", "overall", "unixReviewTime")
AMAZON: Mapping[str, Plan] = {
    "amazon2014": replace(_BEFORE_2023, names=_ORDER_2014, check_file=partial(_refuse_header, _ORDER_2014), loose=True),
    "amazon2018": replace(_BEFORE_2023, names=_ORDER_2018, check_file=partial(_refuse_header, _ORDER_2018)),
    "amazon2023": replace(
        _BEFORE_2023,
        columns=(
            Columns(user="user_id", item="parent_asin", time="timestamp", time_unit="ms"),
            Columns(item="parent_asin", brand="store"),
        ),
        remedy="seconds are the 2014 and 2018 releases', read it with --format amazon2014 or amazon2018",
    ),
}
"""How each release is read; only items that have reviews are taken."""
