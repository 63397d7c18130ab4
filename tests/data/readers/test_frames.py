from datetime import date, datetime

import polars as pl
import pytest

from xcrossrec.data.readers.frames import ids, item_field, times, unit_of, whole_numbers, without_fractions

S, NANO = 1_400_000_000, 10**9


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        (["1400000000", " 1400000000.9 ", "1.4e9"], "s", [(S, 0), (S, 900_000_000), (S, 0)]),
        (["1400000000.123456789", "1400000000.5"], "s", [(S, 123_456_789), (S, 500_000_000)]),
        (["1400000000999", "1400000000999.5"], "ms", [(S, 999_000_000), (S, 999_500_000)]),
        ([1_400_000_000_999_999], "us", [(S, 999_999_000)]),
        ([1_400_000_000_000_000_001], "ns", [(S, 1)]),
        ([1.4e9, 1.4e9 + 0.25, float("nan")], "s", [(S, 0), (S, 250_000_000), (None, None)]),
        (["-5", "x", None], "s", [(-5, 0), (None, None), (None, None)]),
        (["1970-01-02", "1970-01-01 00:00:01.9", "no"], "iso", [(86400, 0), (1, 900_000_000), (None, None)]),
        (["1970-01-01T02:00:00+01:00", "1970-01-02", "1970/01/01 00:00:05"], "iso", [(3600, 0), (86400, 0), (5, 0)]),
        (["1970-01-01 00:00:01.000001 UTC", "1970-01-01 02:00:00 +0100"], "iso", [(1, 1000), (3600, 0)]),
        ([datetime(1970, 1, 1, 0, 1, 0, 7), None], "s", [(60, 7000), (None, None)]),
        ([date(1970, 1, 2)], "s", [(86400, 0)]),
    ],
)
def test_times_keep_their_fractions(
    values: list[object], unit: str, expected: list[tuple[int | None, int | None]]
) -> None:
    assert times(pl.Series(values), unit).rows() == expected  # type: ignore[arg-type]


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


def test_ids_are_text_and_nothing_is_null() -> None:
    frame = pl.DataFrame({"t": [" 7 ", "", "NULL", "\\N", "007"], "f": [7.0, None, float("nan"), 1.5, 8.0]})
    assert frame.select(ids("t", pl.String())).to_series().to_list() == ["7", None, None, None, "007"]
    assert frame.select(ids("f", pl.Float64())).to_series().to_list() == ["7", None, None, "1.5", "8"]


def test_whole_numbers_lose_a_fraction_of_zero_only_together() -> None:
    assert without_fractions(pl.Series(["7.0", "8.0"])).to_list() == ["7", "8"]
    assert without_fractions(pl.Series(["7.0", "8.5"])).to_list() == ["7.0", "8.5"]
    assert without_fractions(pl.Series(["7.0", "x"], dtype=pl.Categorical)).to_list() == ["7.0", "x"]
    assert whole_numbers(pl.Series(["1", " 2.0", "1.5", "x", "9007199254740993"])).to_list()[:4] == [1, 2, None, None]


@pytest.mark.parametrize(
    ("role", "values", "expected"),
    [
        ("price", ["$1,234.50", "1.234,50 €", "12,99", "from 7"], [1234.5, 1234.5, 12.99, 7.0]),
        ("price", ["none", None, "1,234"], [None, None, 1234.0]),
        ("price", [1.5, float("nan")], [1.5, None]),
        ("in_stock", ["yes", "0", "3", "out of stock", "?", None], [True, False, True, False, None, None]),
        ("category", ["Tools > Saws", '["A", "B \\"q\\"", "C"]', "['A', 'B']", '[["A","B"],["C","D"]]', "[]"],
         ["Tools > Saws", 'B "q", C', "A, B", "C, D", ""]),
        ("category", [["A", "B", "C"], []], ["B, C", ""]),
        ("category", [[["A", "B"], ["C", "D"]]], ["C, D"]),
        ("description", ['["One\\nline", "Two"]', " plain "], ["One line Two", "plain"]),
        ("brand", ["Bosch", None], ["Bosch", None]),
    ],
)  # fmt: skip
def test_what_items_have_beside_a_title(role: str, values: list[object], expected: list[object]) -> None:
    frame = pl.DataFrame({"x": values})
    assert frame.select(item_field(role, "x", frame.schema["x"])).to_series().to_list() == expected
