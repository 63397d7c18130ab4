from datetime import date, datetime
from pathlib import Path

import polars as pl
import pytest

from xcrossrec.data.readers.columns import Columns
from xcrossrec.data.readers.frames import interactions_frame, items_frame, seconds, unit_of
from xcrossrec.data.readers.records import LINE
from xcrossrec.exceptions import DataError

TIMED = Columns(user="u", item="i", time="t", position="p", time_unit="s")


def batch(**columns: list[object]) -> pl.DataFrame:
    height = len(next(iter(columns.values())))
    return pl.DataFrame({LINE: range(1, height + 1), **columns})


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["1400000000", " 1400000000.9 ", "1.4e9"], "s", [1_400_000_000] * 3),
        (["1400000000999"], "ms", [1_400_000_000]),
        ([1_400_000_000_999_999], "us", [1_400_000_000]),
        ([1.4e9, float("nan")], "s", [1_400_000_000, None]),
        (["-5", "x", "", None], "s", [-5, None, None, None]),
        (["1970-01-02", "1970-01-01T02:00:00+01:00", "1970-01-01 00:00:01.9", "no"], "iso", [86400, 3600, 1, None]),
        ([datetime(1970, 1, 1, 0, 1), None], "ms", [60, None]),
        ([date(1970, 1, 2)], "s", [86400]),
    ],
)
def test_times_become_whole_seconds(values: list[object], unit: str, expected: list[int | None]) -> None:
    assert seconds(pl.Series(values), unit).to_list() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([None, "1400000000"], "s"),
        (["99999999999"], "s"),
        ([100_000_000_000], "ms"),
        ([1.4e12], "ms"),
        (["1400000000000000"], "us"),
        ([1_400_000_000_000_000_000], "ns"),
        (["-5"], "s"),
        (["2024-01-01"], "iso"),
        (["noon"], "iso"),
        ([], "s"),
    ],
)
def test_the_first_time_tells_the_unit(values: list[object], unit: str) -> None:
    assert unit_of(pl.Series(values)) == unit


def test_interactions_are_renamed_and_typed() -> None:
    parts = [batch(u=[" 7 "], i=[8], t=["9"], p=["1"]), batch(u=["a"], i=[5], t=["3"], p=["2.0"])]
    frame = interactions_frame(parts, Path("f"), TIMED, remedy="")
    assert frame.columns == ["user_id", "item_id", "timestamp", "position"]
    assert frame.rows() == [("7", "8", 9, 1), ("a", "5", 3, 2)]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"u": ["a", ""], "i": ["b", "c"]}, "f, line 2: u is empty"),
        ({"u": ["a", "b"], "i": ["b", None]}, "f, line 2: i is empty"),
        ({"u": [1.0], "i": ["b"]}, r"u holds numbers with a decimal point \(\[1\.0\]\)"),
        ({"u": ["a"], "i": ["b"], "t": ["soon"]}, "f, line 1: 'soon' in t is not a number of s since 1970"),
        ({"u": ["a"], "i": ["b"], "t": ["1400000000000"]}, "'1400000000000' in t is not in s .*: do this"),
        ({"u": ["a"], "i": ["b"], "p": ["1.5"]}, "f, line 1: '1.5' in p is not a whole number"),
        ({"u": ["a"], "i": ["b"], "p": ["x"]}, "'x' in p is not a whole number"),
        ({"u": [], "i": []}, "f holds no interactions: the domain would be empty"),
    ],
)
def test_bad_interactions_are_refused(columns: dict[str, list[object]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        interactions_frame([batch(**columns)], Path("f"), TIMED, remedy="do this")


@pytest.mark.parametrize(("unit", "value"), [("ms", 1_400_000_000), ("us", 1_400_000_000), ("s", 1_400_000_000_000)])
def test_times_in_another_unit_are_refused(unit: str, value: int) -> None:
    columns = Columns(user="u", item="i", time="t", time_unit=unit)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=f"{value} in t is not in {unit} since 1970"):
        interactions_frame([batch(u=["a"], i=["b"], t=[value])], Path("f"), columns, remedy="r")


def test_small_anonymous_times_pass_in_any_unit() -> None:
    columns = Columns(user="u", item="i", time="t", time_unit="ms")
    frame = interactions_frame([batch(u=["a"], i=["b"], t=[5000])], Path("f"), columns, remedy="r")
    assert frame["timestamp"].to_list() == [5]


def test_items_keep_their_first_real_title() -> None:
    parts = [batch(i=["a", "b"], title=["", None]), batch(i=["a", "a"], title=["One", "Two"])]
    columns = Columns(item="i", title="title")
    assert items_frame(parts, Path("f"), columns).rows() == [("a", "One"), ("b", "")]
    assert items_frame(parts, Path("f"), columns, keep={"b"}).rows() == [("b", "")]
    assert items_frame([batch(i=["a"])], Path("f"), columns).rows() == [("a", "")]
    assert items_frame([], Path("f"), columns).height == 0
