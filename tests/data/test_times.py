from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pytest

from xcrossrec.data.times import faults, times, unit_of

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
        ([Decimal("1400000000.900"), Decimal("1400000000.100")], "s", [(S, 900_000_000), (S, 100_000_000)]),
        (["1400000000", "inf", "1e30"], "s", [(S, 0), (None, None), (None, None)]),
        (["19700102", "19700101000005", "1400000000"], "iso", [(86400, 0), (5, 0), (None, None)]),
        ([19700102.0], "iso", [(86400, 0)]),
        (
            ["2.1.1970 1:00 AM", "02.01.1970, 12:00:01.5 am", "1/31/1970"],
            "iso",
            [(90000, 0), (86401, 5 * 10**8), (None, None)],
        ),
        (["1970/1/2 9:00", "1970-01-02 01:00:00 PM"], "iso", [(118800, 0), (133200, 0)]),
        (["1970-01-02", "2300-01-01", "2900-01-01"], "iso", [(86400, 0), (10413792000, 0), (29348006400, 0)]),
    ],
)
def test_times_keep_their_fractions(
    values: list[object], unit: str, expected: list[tuple[int | None, int | None]]
) -> None:
    assert times(pl.Series(values), unit).rows() == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("1970-01-02", 86_400),
        ("1970/01/02", 86_400),
        ("1970-01-02 00:01", 86_460),
        ("1970-01-02T00:00:01", 86_401),
        ("1970-01-02T00:00:01Z", 86_401),
        ("1970-01-02 00:00:01 UTC", 86_401),
        ("1970-01-02 00:00:01+00:30", 84_601),
        ("1970-01-02 00:00:01 -0500", 104_401),
    ],
)
def test_times_written_alike_are_read_at_once_and_others_beside_them(
    written: str, seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    one_by_one = list[str]()
    monkeypatch.setattr("xcrossrec.data.times._moment", lambda text: one_by_one.append(text) or (7, 0))
    values = [None, written, "2.1.1970", written, "1970-01-02 24:61"]
    assert times(pl.Series(values), "iso").rows() == [
        *[(None, None), (seconds, 0), (7, 0), (seconds, 0), (7, 0)],
    ]
    assert sorted(one_by_one) == ["1970-01-02 24:61", "2.1.1970"]


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
        (["20260131"], "iso"),
        ([20260131235959], "iso"),
        ([20261331], "s"),
        ([datetime(2026, 1, 1)], "iso"),
        ([], "s"),
    ],
)
def test_the_first_time_tells_the_unit(values: list[object], unit: str) -> None:
    assert unit_of(pl.Series(values)) == unit


@pytest.mark.parametrize(
    ("values", "wrong"),
    [
        (["1400000000", "1400000000000"], "is not in s since 1970: the first time is"),
        (["1400000000000", "1400000000"], "is not in ms since 1970"),
        (["2026-01-01", "9999-12-31"], "is a time before 1990 or after 5138"),
        (["2026-01-01", "1899-12-30"], "is a time before 1990"),
        (["2026-01-01", "01/02/2026"], "is not an ISO 8601 time"),
    ],
)
def test_what_is_no_time_is_told(values: list[str], wrong: str) -> None:
    given = pl.Series(values)
    unit = unit_of(given)
    found = [(bad.to_list(), message) for bad, message in faults(given, times(given, unit), unit) if bad.any()]
    assert found[0][0] == [False, True]
    assert wrong in found[0][1]
