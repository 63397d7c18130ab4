"""Ways to divide interactions into train, validation and test.

Each way takes one table (``user_id``, ``item_id`` and what tells the time) and returns the splits that are
not empty. Whoever writes the domain states the way in the manifest, as ``filters["split"]``; the linter
reads it there.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from xcrossrec.data.interactions import SUBSECOND, as_text, check_columns, order
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import POSITION, SPLITS, TIMESTAMP, USER, Split

LEAVE_LAST_OUT = "leave_last_out"


def by_share(
    interactions: pl.DataFrame, way: Literal["by-user", "temporal"], *, validation: float, test: float, seed: int
) -> dict[Split, pl.DataFrame]:
    """Give each split a share of the users.

    Args:
        interactions: with ``user_id`` and, for `temporal`, ``timestamp`` (positions of different users cannot be
            compared).
        way: ``by-user`` draws them, whatever the order of the rows; ``temporal`` cuts them by the time of their last
            interaction: the newest are test, then validation, then train.
        validation: share of the users, 0 for no such split.
        test: share of the users, 0 for no such split.
        seed: of the draw.

    Raises:
        ConfigError: shares that are negative or leave nothing for train.
        DataError: no timestamps, or too few users for these shares.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise ConfigError(
            f"the shares of users, validation {validation} and test {test}, must be 0 or more and leave some "
            "for train: make their sum less than 1"
        )
    users = _newest_last(interactions) if way == "temporal" else _shuffled(interactions, seed)
    shares = {"validation": validation, "test": test}
    counts = {split: round(share * users.len()) for split, share in shares.items()}
    empty = [split for split, share in shares.items() if share and not counts[split]]
    n_train = users.len() - sum(counts.values())
    if empty or n_train < 1:
        raise DataError(
            f"{users.len()} users are too few for shares of {validation} and {test}: "
            f"{', '.join(empty) or 'train'} would be empty"
        )
    bounds = (0, n_train, n_train + counts["validation"], users.len())
    groups = {split: users[bounds[i] : bounds[i + 1]] for i, split in enumerate(SPLITS)}
    return {s: interactions.filter(pl.col(USER).is_in(g.implode())) for s, g in groups.items() if g.len()}


def _shuffled(interactions: pl.DataFrame, seed: int) -> pl.Series:
    users = interactions[USER].unique().sort()
    return users.gather(np.random.default_rng(seed).permutation(users.len()))


def _newest_last(interactions: pl.DataFrame) -> pl.Series:
    check_columns("a temporal split", interactions.columns, (USER, TIMESTAMP))
    by = [TIMESTAMP, *([SUBSECOND] if SUBSECOND in interactions.columns else [])]
    return interactions.sort(by).group_by(USER).agg(pl.col(by).last()).sort(*by, USER)[USER]


def leave_last_out(interactions: pl.DataFrame) -> dict[Split, pl.DataFrame]:
    """Split every user in time: the last item is for test, the one before for validation.

    The target is the last item of a sequence in every split, so train holds all but a user's last two
    items, validation all but the last, and test the whole sequence. Users of fewer than three items are in
    train alone, uncut. The same users are thus in every split, by design; state the way in the manifest and
    the linter reports that as a warning, not as an error.

    Raises:
        DataError: no user has three items.
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
        raise DataError("leave-last-out needs a user with at least 3 items, there is none: split by user")
    ordered = as_text(ordered).drop(SUBSECOND, strict=False)
    masks = {"train": (left >= 2) | ~long_enough, "validation": long_enough & (left >= 1), "test": long_enough}
    return {split: ordered.filter(pl.Series(masks[split])) for split in SPLITS}
