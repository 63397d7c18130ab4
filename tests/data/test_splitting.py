from __future__ import annotations

import polars as pl
import pytest

from xcrossrec.data.splitting import by_share, leave_last_out
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import Split


def forty_users() -> pl.DataFrame:
    """User ``u07`` buys two items, the last at time 7."""
    rows = [(f"u{u:02}", f"i{(u + n) % 9}", u - 1 + n) for u in range(40) for n in range(2)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def by_user(
    frame: pl.DataFrame, *, validation: float = 0.1, test: float = 0.1, seed: int = 0
) -> dict[Split, pl.DataFrame]:
    return by_share(frame, "by-user", validation=validation, test=test, seed=seed)


def temporal(frame: pl.DataFrame) -> dict[Split, pl.DataFrame]:
    return by_share(frame, "temporal", validation=0.1, test=0.1, seed=0)


def users_of(frame: pl.DataFrame) -> set[str]:
    return set(frame["user_id"])


def test_by_user_divides_the_users() -> None:
    splits = by_user(forty_users(), validation=0.1, test=0.25, seed=3)
    users = {split: users_of(frame) for split, frame in splits.items()}
    assert {split: len(group) for split, group in users.items()} == {"train": 26, "validation": 4, "test": 10}
    assert set.union(*users.values()) == users_of(forty_users())
    assert sum(frame.height for frame in splits.values()) == 80


def test_by_user_depends_on_the_seed_and_not_on_the_rows() -> None:
    one = by_user(forty_users(), seed=0)
    assert users_of(one["test"]) == users_of(by_user(forty_users().reverse(), seed=0)["test"])
    assert users_of(one["test"]) != users_of(by_user(forty_users(), seed=1)["test"])


def test_by_user_without_a_share_has_no_such_split() -> None:
    assert list(by_user(forty_users(), validation=0, test=0.1)) == ["train", "test"]


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5)])
def test_by_user_refuses_shares_outside_the_range(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match=f"validation {validation} and test {test}, must be 0 or more"):
        by_user(forty_users(), validation=validation, test=test)


def test_by_user_refuses_too_few_users() -> None:
    with pytest.raises(DataError, match=r"3 users are too few .* validation, test would be empty"):
        by_user(forty_users().head(6), validation=0.1, test=0.1)
    with pytest.raises(DataError, match="train would be empty"):
        by_user(forty_users().head(2), validation=0, test=0.9)


def test_temporal_puts_the_newest_users_last() -> None:
    splits = temporal(forty_users())
    assert users_of(splits["test"]) == {"u36", "u37", "u38", "u39"}
    assert users_of(splits["validation"]) == {"u32", "u33", "u34", "u35"}


def test_temporal_needs_timestamps() -> None:
    with pytest.raises(DataError, match="a temporal split lacks the column 'timestamp'; it has user_id, item_id"):
        temporal(forty_users().drop("timestamp"))


def test_leave_last_out_has_the_target_last_in_every_split() -> None:
    rows = [("a", item) for item in "wxyz"] + [("b", item) for item in "xyz"] + [("c", "w"), ("c", "x")]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row")
    splits = leave_last_out(frame)
    found = {
        split: {user: "".join(rows["item_id"]) for (user,), rows in part.group_by("user_id", maintain_order=True)}
        for split, part in splits.items()
    }
    assert found == {
        "train": {"a": "wx", "b": "x", "c": "wx"},
        "validation": {"a": "wxy", "b": "xy"},
        "test": {"a": "wxyz", "b": "xyz"},
    }


def test_leave_last_out_goes_by_time() -> None:
    frame = forty_users().head(2).vstack(pl.DataFrame([("u00", "last", 99)], schema=forty_users().schema, orient="row"))
    splits = leave_last_out(frame.reverse())
    assert splits["test"]["item_id"].to_list() == ["i0", "i1", "last"]
    assert splits["test"]["position"].to_list() == [0, 1, 2]


def test_leave_last_out_refuses_short_sequences_only() -> None:
    with pytest.raises(DataError, match="leave-last-out needs a user with at least 3 items"):
        leave_last_out(forty_users())
