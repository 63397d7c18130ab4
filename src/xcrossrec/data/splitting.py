"""Ways to divide interactions into train, validation and test.

Each function takes one table (``user_id``, ``item_id`` and a time or position) and returns the splits that are not
empty. The caller records the way in the manifest, as ``filters["split"]``, where the linter reads it.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from xcrossrec.data.interactions import as_text, check_columns, order
from xcrossrec.data.times import SUBSECOND
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import POSITION, SPLITS, TIMESTAMP, USER, Split

LEAVE_LAST_OUT = "leave_last_out"
SAME_USERS = (LEAVE_LAST_OUT, "temporal")
"""Ways to split that put one user into several splits by design."""

ONE_MOMENT = (
    "have the same time as the item before them, as lines of one order do, and the file's order decides which is last: "
    "for these the score measures completing an order, not the next purchase"
)


def by_user(interactions: pl.DataFrame, *, validation: float, test: float, seed: int) -> dict[Split, pl.DataFrame]:
    """Give each split a share of the users, drawn by seed and independent of the order of rows; 0 makes no split.

    Raises:
        ConfigError: shares that are negative or leave nothing for train.
        DataError: too few users for these shares.
    """
    users = interactions[USER].unique().sort()
    users = users.gather(np.random.default_rng(seed).permutation(users.len()))
    bounds = (0, *_starts("users", users.len(), validation, test), users.len())
    groups = {split: users[bounds[i] : bounds[i + 1]] for i, split in enumerate(SPLITS)}
    return {s: interactions.filter(pl.col(USER).is_in(g.implode())) for s, g in groups.items() if g.len()}


def by_time(interactions: pl.DataFrame, *, validation: float, test: float) -> dict[Split, pl.DataFrame]:
    """Cut all interactions at two points in time: train is what anybody bought before the first.

    Validation holds the users who bought between the two, with all that they bought before the second; test holds those
    who bought after the second, with all that they bought. So a target, the last item of a sequence, is never older
    than anything in train, and its history is what the user had bought by then (the global temporal split of Gusak et
    al. 2025, arXiv 2507.16289, with the last purchase as target).

    Args:
        interactions: with ``user_id`` and ``timestamp`` (positions of different users cannot be compared).
        validation: share of the purchases between the two points; 0 makes no such split.
        test: share of the purchases from the second point on; 0 makes no such split. Equal times stay together.

    Raises:
        ConfigError: shares that are negative or leave nothing for train.
        DataError: no timestamps, or too few purchases or times for these shares.
    """
    check_columns("a temporal split", interactions.columns, (USER, TIMESTAMP))
    fraction = pl.col(SUBSECOND).cast(pl.Int64) if SUBSECOND in interactions.columns else 0
    time = interactions.select(pl.col(TIMESTAMP).cast(pl.Int64) * 10**9 + fraction).to_series().to_numpy()
    ordered = np.sort(time)
    starts = np.append(ordered, ordered[-1:] + 1)  # an empty split starts after everything
    first, second = starts[[*_starts("purchases", len(time), validation, test)]]
    bought = {"train": time < first, "validation": (time >= first) & (time < second), "test": time >= second}
    known = {"train": time < first, "validation": time < second, "test": np.ones(len(time), dtype=np.bool_)}
    wanted = [split for split, share in zip(SPLITS, (1.0, validation, test), strict=True) if share]
    if empty := [split for split in wanted if not bought[split].any()]:
        raise DataError(
            f"{len(np.unique(time))} times of {len(time)} purchases are too few for shares of {validation} and {test}: "
            f"{', '.join(empty)} would be empty"
        )
    buyers = {split: interactions.filter(pl.Series(bought[split]))[USER].unique() for split in wanted}
    return {
        split: interactions.filter(pl.Series(known[split]), pl.col(USER).is_in(buyers[split].implode()))
        for split in wanted
    }


def _starts(what: str, count: int, validation: float, test: float) -> tuple[int, int]:
    """The positions at which validation and test start, among ``count`` users or purchases in order."""
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ConfigError(
            f"the shares of {what}, validation {validation} and test {test}, must be 0 or more and leave some "
            "for train: make their sum less than 1"
        )
    counts = {"validation": round(validation * count), "test": round(test * count)}
    begins = count - sum(counts.values())
    counts["train"] = begins
    shares = {"validation": validation, "test": test, "train": 1.0}
    if empty := [split for split, share in shares.items() if share and counts[split] < 1]:
        raise DataError(
            f"{count} {what} are too few for shares of {validation} and {test}: {', '.join(empty)} would be empty"
        )
    return begins, begins + counts["validation"]


def bought_after(train: pl.DataFrame, split: pl.DataFrame) -> tuple[int, int] | None:
    """Count the purchases of train that were made after half of a split's targets, and so could not be known then.

    Args:
        train: ``user_id`` and perhaps ``timestamp``.
        split: validation or test, with the same columns; a user's last row is the target.

    Returns:
        their number, and that of all purchases of train; None without times or targets.
    """
    timed = TIMESTAMP in train.columns and TIMESTAMP in split.columns
    median = _last_times(split).list.last().median() if timed else None
    return None if median is None else (train.filter(pl.col(TIMESTAMP) > median).height, train.height)


def at_one_moment(split: pl.DataFrame) -> tuple[int, int] | None:
    """Count the targets of :data:`ONE_MOMENT`, and all targets; None without times or if they are few."""
    if TIMESTAMP not in split.columns:
        return None
    same = _last_times(split).list.n_unique() == 1
    return (int(same.sum()), len(same)) if same.sum() > 0.05 * len(same) else None


def _last_times(split: pl.DataFrame) -> pl.Series:
    """The last two times of each user who has two."""
    last = split.group_by(USER, maintain_order=True).agg(pl.col(TIMESTAMP).tail(2))[TIMESTAMP]
    return last.filter(last.list.len() > 1)


def leave_last_out(interactions: pl.DataFrame) -> dict[Split, pl.DataFrame]:
    """Split each user by time: the last item is for test, the one before it for validation.

    The target is the last item of a sequence in every split, so train holds all but a user's last two items, validation
    all but the last, and test the whole sequence. Users with fewer than three items are only in train, with all items.
    DataError: no user has three.
    """
    ordered = order(interactions)
    del interactions  # the caller may have handed them over
    position = ordered[POSITION].to_numpy()
    starts = np.flatnonzero(position == 0)  # users stand together, each from 0
    sizes = np.diff(starts, append=ordered.height)
    long_enough = np.repeat(sizes >= 3, sizes)
    left = np.repeat((starts + sizes).astype(np.int32), sizes)
    left -= np.arange(1, len(left) + 1, dtype=np.int32)  # items after this one
    if not long_enough.any():
        remedy = "split by user" if (sizes > 1).any() else "import with --split none, for there is nothing to evaluate"
        raise DataError(f"leave-last-out needs a user with at least 3 items, there is none: {remedy}")
    ordered = as_text(ordered).drop(SUBSECOND, strict=False)
    masks = {"train": (left >= 2) | ~long_enough, "validation": long_enough & (left >= 1), "test": long_enough}
    return {split: ordered.filter(pl.Series(masks[split])) for split in SPLITS}
