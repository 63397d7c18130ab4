from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from xcrossrec.data.splitting import bought_after, by_time, by_user, leave_last_out
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.types import SPLITS


def forty_users() -> pl.DataFrame:
    """User ``u07`` buys two items, the last at time 7."""
    rows = [(f"u{u:02}", f"i{(u + n) % 9}", u - 1 + n) for u in range(40) for n in range(2)]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")


def users_of(frame: pl.DataFrame) -> set[str]:
    return set(frame["user_id"])


def test_by_user_divides_the_users() -> None:
    splits = by_user(forty_users(), validation=0.1, test=0.25, seed=3)
    users = {split: users_of(frame) for split, frame in splits.items()}
    assert {split: len(group) for split, group in users.items()} == {"train": 26, "validation": 4, "test": 10}
    assert set.union(*users.values()) == users_of(forty_users())
    assert sum(frame.height for frame in splits.values()) == 80


def test_by_user_depends_on_the_seed_and_not_on_the_rows() -> None:
    one = by_user(forty_users(), validation=0.1, test=0.1, seed=0)
    assert users_of(one["test"]) == users_of(by_user(forty_users().reverse(), validation=0.1, test=0.1, seed=0)["test"])
    assert users_of(one["test"]) != users_of(by_user(forty_users(), validation=0.1, test=0.1, seed=1)["test"])


def test_by_user_without_a_share_has_no_such_split() -> None:
    assert list(by_user(forty_users(), validation=0, test=0.1, seed=0)) == ["train", "test"]


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.1), (0.5, 0.5)])
def test_by_user_refuses_shares_outside_the_range(validation: float, test: float) -> None:
    with pytest.raises(ConfigError, match=f"validation {validation} and test {test}, must be 0 or more"):
        by_user(forty_users(), validation=validation, test=test, seed=0)


def test_by_user_refuses_too_few_users() -> None:
    with pytest.raises(DataError, match=r"3 users are too few .* validation, test would be empty"):
        by_user(forty_users().head(6), validation=0.1, test=0.1, seed=0)
    with pytest.raises(DataError, match="train would be empty"):
        by_user(forty_users().head(2), validation=0, test=0.9, seed=0)


quick = settings(deadline=None, derandomize=True)
purchases_of = st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(0, 40)), min_size=10, max_size=60)


@quick
@given(purchases_of, st.sampled_from([0, 0.1, 0.3]), st.sampled_from([0, 0.1, 0.3]))
def test_no_purchase_of_train_is_as_late_as_a_target(
    bought: list[tuple[str, int]], validation: float, test: float
) -> None:
    rows = [(user, f"i{number}", time) for number, (user, time) in enumerate(bought)]
    frame = pl.DataFrame(rows, schema=["user_id", "item_id", "timestamp"], orient="row")
    try:
        splits = by_time(frame, validation=validation, test=test)
    except DataError:  # too few; see below
        reject()
    assert list(splits) == [split for split, share in zip(SPLITS, (1, validation, test), strict=True) if share]
    of_train = splits["train"]["timestamp"].max()
    begins = {split: _targets(splits[split]).min() for split in splits if split != "train"}
    assert all(of_train < begin for begin in begins.values())
    if "test" in begins:
        assert splits["train"].vstack(splits.get("validation", splits["train"]))["timestamp"].max() < begins["test"]
    for split, part in splits.items():
        until = part["timestamp"].max()
        for user, known in part.group_by("user_id"):
            everything = frame.filter(pl.col("user_id") == user[0], pl.col("timestamp") <= until)
            assert known["item_id"].sort().equals(everything["item_id"].sort()), (split, user)
    everybody = {user for user, time in bought if time >= min(begins.values(), default=99)}
    assert everybody == {user for split in begins for user in splits[split]["user_id"]}


def _targets(part: pl.DataFrame) -> pl.Series:
    return part.group_by("user_id").agg(pl.col("timestamp").max())["timestamp"]


def test_a_temporal_split_takes_shares_of_the_purchases() -> None:
    rows = [("a", 1), ("b", 2), ("a", 3), ("b", 4), ("c", 5), ("a", 6), ("c", 7), ("b", 8), ("c", 9), ("a", 10)]
    frame = pl.DataFrame([(u, f"i{t}", t) for u, t in rows], schema=["user_id", "item_id", "timestamp"], orient="row")
    splits = by_time(frame, validation=0.2, test=0.2)
    assert {split: part["timestamp"].to_list() for split, part in splits.items()} == {
        "train": [1, 2, 3, 4, 5, 6],
        "validation": [2, 4, 5, 7, 8],
        "test": [1, 3, 5, 6, 7, 9, 10],
    }


def test_a_temporal_split_needs_timestamps_shares_and_times() -> None:
    with pytest.raises(DataError, match="a temporal split lacks the column 'timestamp'; it has user_id, item_id"):
        by_time(forty_users().drop("timestamp"), validation=0.1, test=0.1)
    with pytest.raises(ConfigError, match=r"the shares of purchases, validation 0.5 and test 0.5, must be 0 or more"):
        by_time(forty_users(), validation=0.5, test=0.5)
    with pytest.raises(DataError, match=r"4 purchases are too few for shares of 0.1 and 0.1: validation, test would"):
        by_time(forty_users().head(4), validation=0.1, test=0.1)
    same = forty_users().with_columns(timestamp=pl.lit(3))
    with pytest.raises(DataError, match=r"1 times of 80 purchases are too few .* train, validation would be empty"):
        by_time(same, validation=0.1, test=0.1)


def test_purchases_of_train_after_half_of_the_targets_are_counted() -> None:
    columns = ["user_id", "timestamp"]
    train = pl.DataFrame([("a", 1), ("a", 6), ("b", 5), ("b", 9)], schema=columns, orient="row")
    rows = [("c", 30), ("c", 4), ("d", 1), ("d", 5), ("e", 1), ("e", 8), ("f", 99)]
    split = pl.DataFrame(rows, schema=columns, orient="row")  # targets at 4, 5 and 8; f has no history
    assert bought_after(train, split) == (2, 4)
    assert bought_after(train, split.drop("timestamp")) is None
    assert bought_after(train, split.filter(pl.col("user_id") == "f")) is None


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
    once = forty_users().unique("user_id")
    with pytest.raises(DataError, match="there is none: import with --split none, for there is nothing to evaluate"):
        leave_last_out(once)
    with pytest.raises(
        DataError, match="leave-last-out needs a user with at least 3 items, there is none: split by user"
    ):
        leave_last_out(forty_users())
