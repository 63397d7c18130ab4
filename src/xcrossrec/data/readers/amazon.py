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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import polars as pl

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import Inputs, RawDomain, interactions_frame, items_frame
from xcrossrec.data.readers.records import LINE, csv_header, csv_records, json_records
from xcrossrec.data.readers.streams import first_byte
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import ITEM, TITLE

Release: TypeAlias = Literal["amazon2014", "amazon2018", "amazon2023"]
ASIN_LENGTH = 10
JUNK_TITLE = r"(?i)getTime\(\)|<span|<div|<script|</?a\b[^>]*href|^\s*var a?PageStart|\"\s*/>\s*$"


@dataclass(frozen=True)
class _Layout:
    """How one release is written; ``order`` names CSV columns without a header, ``loose`` allows Python literals."""

    review: Columns
    order: Sequence[str] | None
    metadata: Columns
    loose: bool
    unit_remedy: str


_REVIEWER = Columns(user="reviewerID", item="asin", time="unixReviewTime", time_unit="s")
_PARENT = Columns(user="user_id", item="parent_asin", time="timestamp", time_unit="ms")
_ASIN, _PARENT_ASIN = Columns(item="asin", title=TITLE), Columns(item="parent_asin", title=TITLE)
_NEWER = "milliseconds are the 2023 release's, read it with --format amazon2023"
_OLDER = "seconds are the 2014 and 2018 releases', read it with --format amazon2014 or amazon2018"
_LAYOUTS: Mapping[Release, _Layout] = {
    "amazon2014": _Layout(_REVIEWER, ("reviewerID", "asin", "overall", "unixReviewTime"), _ASIN, True, _NEWER),
    "amazon2018": _Layout(_REVIEWER, ("asin", "reviewerID", "overall", "unixReviewTime"), _ASIN, False, _NEWER),
    "amazon2023": _Layout(_PARENT, None, _PARENT_ASIN, False, _OLDER),
}


def read_amazon(release: Release, inputs: Inputs) -> RawDomain:
    """Read the reviews (JSON Lines or ratings CSV) and the metadata (JSON Lines) of one release.

    Args:
        release: which one; nothing is guessed from the file.
        inputs: reviews and metadata; only items that have reviews are taken.

    Raises:
        ConfigError: one of the two is missing, or there is more.
        DataError: missing, truncated or malformed files, missing columns, times in another release's
            unit, or user and item columns in another release's order.
    """
    reviews, metadata = inputs.interactions, inputs.items
    if reviews is None or metadata is None or inputs.splits:
        raise ConfigError(
            f"format {release} takes a file of interactions and a file of items (for the titles): give both, "
            "and no files that come split"
        )
    layout = _LAYOUTS[release]
    batches = _checked_order(_reviews(layout, reviews), layout, reviews)
    interactions = interactions_frame(batches, reviews, layout.review, remedy=layout.unit_remedy)
    reviewed = frozenset(interactions[ITEM].unique())
    records = json_records(metadata, [str(layout.metadata.item)], optional=[TITLE], loose=layout.loose)
    items = items_frame(records, metadata, layout.metadata, keep=reviewed)
    junk = pl.col(TITLE).str.contains(JUNK_TITLE)
    items = items.with_columns(pl.when(junk).then(pl.lit("")).otherwise(pl.col(TITLE)).alias(TITLE))
    return RawDomain(items, interactions, (reviews, metadata))


def _reviews(layout: _Layout, path: Path) -> Iterator[pl.DataFrame]:
    columns = [str(layout.review.user), str(layout.review.item), str(layout.review.time)]
    if first_byte(path) == b"{":
        return json_records(path, columns, loose=layout.loose)
    return csv_records(path, columns, names=_names(layout, path))


def _names(layout: _Layout, path: Path) -> Sequence[str] | None:
    """Name a ratings file's columns: None, to use its header, where the release writes one."""
    if layout.order is None:
        return None
    first = csv_header(path)
    if first and set(first) & {*layout.order, "user_id", "item_id", "timestamp", "rating"}:
        raise DataError(
            f"{path} has a header ({', '.join(first)}), the ratings files of this release have none: "
            "read it with --format csv and name its columns"
        )
    return layout.order


def _all_swapped(users: pl.Series, items: pl.Series) -> bool:
    swapped = (users.str.len_chars() == ASIN_LENGTH) & (items.str.len_chars() > ASIN_LENGTH)
    return users.len() > 0 and swapped.all()


def _checked_order(batches: Iterator[pl.DataFrame], layout: _Layout, path: Path) -> Iterator[pl.DataFrame]:
    """Refuse a file whose item column holds what look like user ids, and the other way round."""
    for batch in batches:
        users, items = (batch[str(name)] for name in (layout.review.user, layout.review.item))
        if _all_swapped(users.head(1), items.head(1)) and _all_swapped(users, items):
            raise DataError(
                f"{path}, line {batch[LINE][0]}: {items[0]!r} looks like a user and {users[0]!r} like an "
                "item: ratings files of 2014 start with the user, those of 2018 with the item"
            )
        yield batch
