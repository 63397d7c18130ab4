"""Times in tables: numbers in some unit, ISO 8601 and similar text, dates and datetimes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import polars as pl

from xcrossrec.data.text import plain_numbers
from xcrossrec.types import TIMESTAMP

TimeUnit: TypeAlias = Literal["s", "ms", "us", "ns", "iso", "mdy", "dmy", "days"]
SUBSECOND = "subsecond"  # nanoseconds besides the timestamp, until rows are sorted
ONE_UNIT = "the first time is; give all of them in one unit"
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NANO = 10**9
_COMPACT = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(([01]\d|2[0-3])[0-5]\d[0-5]\d)?(\.0)?$"
_WRITTEN = re.compile(
    r"(?:(\d\d?)\.(\d\d?)\.(\d{4})|(\d{4})-(\d\d?)-(\d\d?))"
    r"(?:[T ,]+(\d\d?):(\d\d)(?::(\d\d))?([.,]\d+)?(?: ?([AP])M)?)?(Z|[+-]\d\d:?\d\d)?",
    re.IGNORECASE,
)
_MONTHS = "janfebmaraprmayjunjulaugsepoctnovdec"
_NAMED = re.compile(r"([a-z]{3})[a-z]*\.? (\d\d?),? (\d{4})|(\d\d?)[ -]([a-z]{3})[a-z]*\.?[ -](\d{4})", re.IGNORECASE)
_SLASHES = r"^(\d\d?)[/.-](\d\d?)[/.-](\d{4}|\d\d\b)"
_DOTTED = r"^\d\d?\.\d\d?\.\d{4}"
_EASTERN = r"^(\d{4}) ?[年년.] ?(\d\d?) ?[月월.] ?(\d\d?)(?: ?[日일.])?"
_HALVES = {"AM": "午前|上午|오전|ص", "PM": "午後|下午|오후|م"}
_BUDDHIST = r"^(25[2-9]\d|26[0-4]\d)[/.-]|^\d\d?[/.-]\d\d?[/.-](25[2-9]\d|26[0-4]\d)\b"
_GREGORIAN = {str(year): str(year - 543) for year in range(2520, 2650)}
_TURNED: dict[TimeUnit, str] = {"mdy": "$3-$1-$2", "dmy": "$3-$2-$1"}
_PLAIN = re.compile(r"\d{4}([-/])\d\d?[-/]\d\d?(?:([T ])\d\d?:\d\d(:\d\d)?(\.\d+)?( ?Z| UTC| ?[+-]\d\d:?\d\d)?)?")
_MIXED = 3  # further forms in one column that are still parsed by Polars
# Seconds of the years 2000 to 5138. In a finer unit these numbers are days of 1970 (up to 1973): the unit is wrong.
EARLIEST_S, LATEST_S = 946_684_800, 99_999_999_999
_FIRST_S = 631_152_000  # 1990
_DAYS, _DAY_OF_1970 = (36_526, 54_789), 25_569  # 2000 to 2050, as spreadsheets number them


def unit_of(values: pl.Series, *, dated: bool = False) -> TimeUnit:
    """Detect the unit of times by the first one: anything but a number, and numbers like 20260131, is ISO 8601.

    Other numbers are seconds below 10^11 (the year 5138), milliseconds below 10^14, and so on. In 1/31/2026, 31-1-2026
    and 31.1.26 a number above 12 shows which one is the day; if neither or both do, the times are not read, and 26/1/31
    is not read either: there the last number has more values than the day. In a column named like a date (``dated``)
    numbers are days of a spreadsheet (45231.75 is 2023-11-01 18:00) if all are between 2000 and 2050.
    """
    if values.dtype.is_temporal():
        return "iso"
    values = _plain(values)
    text = values.drop_nulls().head(1).cast(pl.String)
    first = text.cast(pl.Float64, strict=False)
    if text.str.contains(_SLASHES).any() and not text.str.contains(_DOTTED).any():
        days = values.cast(pl.String).str.extract_groups(_SLASHES).struct.unnest()
        late = [bool((days[group].cast(pl.Int64) > 12).any()) for group in ("1", "2")]
        many = days["3"].n_unique() > days["1" if late[0] else "2"].n_unique()
        return "iso" if late[0] == late[1] or many else "dmy" if late[0] else "mdy"
    numbers = values.cast(pl.String).str.strip_chars().to_frame("day").select(_number(pl.col("day"))).to_series()
    inside = numbers.is_between(*_DAYS)
    if dated and inside.filter(values.is_not_null()).head(1).any() and inside.all():
        return "days"
    if first.null_count() or text.str.contains(_COMPACT).any():
        return "iso"
    size = abs(float(first.max() or 0))  # type: ignore[arg-type]
    return next((unit for unit, scale in PER_SECOND.items() if size <= LATEST_S * scale), "ns")


def times(values: pl.Series, unit: TimeUnit) -> pl.DataFrame:
    """Convert times to whole seconds since 1970 and nanoseconds; null if a value is not a time."""
    if isinstance(values.dtype, pl.Datetime):
        return _parts(values.to_physical(), PER_SECOND[values.dtype.time_unit])
    if values.dtype == pl.Date:
        return _parts(values.to_physical().cast(pl.Int64) * 86_400, 1)
    values = _plain(values)
    if unit in PER_SECOND:
        return _numbers(values, PER_SECOND[unit])
    if unit == "days":
        texts = values.cast(pl.String).str.strip_chars().to_frame("day")
        return _parts(texts.select(_counted(pl.col("day"))).to_series().to_physical(), 1000)
    text = values.cast(pl.String).str.strip_suffix(".0")
    if unit in _TURNED:
        text = text.str.replace(_SLASHES, _TURNED[unit]).str.replace(r"^(\d\d)-", "20${1}-")
    return _iso(text)


def is_buddhist(values: pl.Series) -> bool:
    """Whether the first time has a year of the Buddhist calendar, used in Thailand: 2568 is 2025."""
    if values.dtype not in (pl.String, pl.Categorical):
        return False
    first = values.drop_nulls().head(1).cast(pl.String).str.strip_chars()
    return bool(plain_numbers(first).str.contains(_BUDDHIST).any())


def _plain(values: pl.Series) -> pl.Series:
    """Normalise 2025年12月31日 下午2时05分, 2025. 12. 31., digits of any script and Buddhist years."""
    if values.dtype not in (pl.String, pl.Categorical):
        return values
    text = plain_numbers(values.cast(pl.String).str.strip_chars())
    if text.drop_nulls().head(1).str.contains(_EASTERN + "|" + "|".join(_HALVES.values())).any():
        text = (
            text.str.replace(_EASTERN, "$1-$2-$3")
            .str.replace_all("[時时시点點分분] ?", ":")
            .str.replace("[:秒초]+$", "")
        )
        for half, words in _HALVES.items():
            text = text.str.replace(rf" *(?:{words}) *(\d[\d:]*)|(\d) *(?:{words})$", f" $1$2 {half}")
    return text.str.replace_many(_GREGORIAN) if is_buddhist(text) else text


def instants(values: pl.Series) -> pl.Series:
    """Convert times of any unit to nanoseconds since 1970; null if a value is not a time."""
    parts = times(values, unit_of(values))
    return parts[TIMESTAMP] * _NANO + parts[SUBSECOND]


def on_a_day(day: pl.Expr, clock: pl.Expr) -> pl.Expr:
    """Join a date and a time of day, both text; midnight is removed from the date and a day from the time.

    Either may be a spreadsheet's number (45231 and 0.75); the time may be only an hour.
    """
    numbered = _counted(pl.when(_number(day).is_between(*_DAYS)).then(day))
    written = pl.when(clock.is_null()).then(numbered.dt.to_string("%F %T")).otherwise(numbered.dt.to_string("%F"))
    date = pl.coalesce(written, day.str.replace(r"[ T]0?0:00(:00(\.0+)?)?Z?$", ""))
    hours = _counted(pl.when(clock.str.contains(r"^0?[.,]\d+$")).then(clock)).dt.to_string("%T")
    hours = pl.coalesce(hours, clock.str.replace(r"^(\d\d?)(\.0)?$", "$1:00").str.replace(r"^.*?(\d\d?:\d\d)", "$1"))
    return pl.when(date.is_not_null()).then(pl.concat_str(date, hours, separator=" ", ignore_nulls=True))


def _counted(days: pl.Expr) -> pl.Expr:
    return ((_number(days) - _DAY_OF_1970) * 86_400_000).round().cast(pl.Int64, strict=False).cast(pl.Datetime("ms"))


def _number(text: pl.Expr) -> pl.Expr:
    return text.str.replace(",", ".", literal=True).cast(pl.Float64, strict=False)


def _parts(numbers: pl.Series, per: int) -> pl.DataFrame:
    return numbers.to_frame("n").select(
        (pl.col("n") // per).cast(pl.Int64).alias(TIMESTAMP),
        (pl.col("n") % per * (_NANO // per)).cast(pl.Int32).alias(SUBSECOND),
    )


def _numbers(values: pl.Series, per: int) -> pl.DataFrame:
    """Split numbers into seconds and nanoseconds: exact for integers and decimal text, floats to the microsecond."""
    values = values.cast(pl.String) if values.dtype.is_decimal() else values
    whole = values.cast(pl.Int64, strict=False)
    if values.dtype.is_float():
        values = values.fill_nan(None)
        whole = whole.set(whole.cast(values.dtype) != values, None)
    parts = _parts(whole, per)
    rest = (whole.is_null() & values.is_not_null()).arg_true()
    if rest.is_empty():
        return parts
    text = values.gather(rest).cast(pl.String).str.strip_chars()
    rough = text.cast(pl.Float64, strict=False)
    units = (
        text.str.extract(r"^([+-]?\d+)(?:\.\d*)?$").cast(pl.Int64).fill_null(rough.floor().cast(pl.Int64, strict=False))
    )
    digits = text.str.extract(r"^[+-]?\d+\.(\d*)$").str.pad_end(9, "0").str.head(9).cast(pl.Int64)
    below = digits.fill_null(((rough - rough.floor()) * 1e6).round().cast(pl.Int64, strict=False) * 1000)
    exact = _parts(units, per).with_columns((pl.col(SUBSECOND) + below // per).cast(pl.Int32))
    return parts.with_columns(parts[name].scatter(rest, exact[name]) for name in parts.columns)


def _iso(text: pl.Series) -> pl.DataFrame:
    """Parse ISO 8601: all values in the form of the first one at once, likewise the rest, the others one by one."""
    moments = _alike(text)
    for _ in range(_MIXED):
        rest = (moments.is_null() & text.is_not_null()).arg_true()
        if (more := _alike(text.gather(rest))).null_count() == len(rest):
            break
        moments = moments.scatter(rest, more)
    moments = moments.set(~text.str.head(4).is_between("1678", "2261"), None)  # the range of 64-bit nanoseconds
    parts = _parts(moments.to_physical(), _NANO)
    rest = (moments.is_null() & text.is_not_null()).arg_true()
    if rest.is_empty():
        return parts
    odd = text.gather(rest)
    known = {value: _moment(value) for value in odd.unique()}
    single = pl.DataFrame([known[value] for value in odd], schema=parts.schema, orient="row")
    return parts.with_columns(parts[name].scatter(rest, single[name]) for name in parts.columns)


def _alike(text: pl.Series) -> pl.Series:
    """Parse the values in the form of the first one; Polars is several times faster with an explicit format."""
    first = text.drop_nulls().head(1)
    if not (plain := _PLAIN.fullmatch(first.item() if len(first) else "")):
        return pl.Series([None] * len(text), dtype=pl.Datetime("ns"))
    cut, blank, seconds, fraction, zone = plain.groups(default="")
    zone = re.sub(r"[+-].*", "%z", zone)
    clock = f"{blank}%H:%M{':%S' * bool(seconds)}{'%.f' * bool(fraction)}{zone}" if blank else ""
    form, utc = f"%Y{cut}%m{cut}%d{clock}", "UTC" if "%z" in zone else None
    moments = text.str.to_datetime(form, time_unit="ns", time_zone=utc, strict=False, cache=False)
    return moments.dt.replace_time_zone(None)


def _moment(text: str) -> tuple[int | None, int | None]:
    """Parse one time: ISO 8601, also ``... UTC``, ``... +0100``, ``31.1.2026 9:05 PM``, ``Jan 31, 2026``."""
    head, _, zone = text.replace("/", "-").rpartition(" ")
    if zone in ("UTC", "GMT", "Z") or zone[:1] in ("+", "-"):
        text = head + ("Z" if zone[0] in "UGZ" else zone)
    text = re.sub(r"^(\d{8})(\d{6})$", r"\1T\2", text.replace("/", "-"))
    if (named := _NAMED.match(text)) and (place := _MONTHS.find((named[1] or named[5]).lower())) % 3 == 0:
        text = f"{named[3] or named[6]}-{place // 3 + 1}-{named[2] or named[4]}{text[named.end() :]}"
    if found := _WRITTEN.fullmatch(text):
        last, mid, first, year, month, day, hour, minute, second, fraction, half, offset = found.groups()
        hours = int(hour or 0) % 12 + 12 * (half in "Pp") if half else int(hour or 0)
        text = (
            f"{year or first}-{month or mid:0>2}-{day or last:0>2}T{hours:02}:{minute or '00'}:{second or '00'}"
            f"{fraction or ''}{offset or ''}"
        )
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None, None
    stamp = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(stamp.timestamp() // 1), stamp.microsecond * 1000


def whole_numbers(values: pl.Series) -> pl.Series:
    """Convert to integers; null if a value is not a whole number."""
    numbers = values.cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    exact = values.cast(pl.String).str.strip_chars().cast(pl.Int64, strict=False)
    return exact.fill_null(numbers.set(numbers != numbers.floor(), None).cast(pl.Int64, strict=False))


def faults(
    values: pl.Series, moments: pl.DataFrame, unit: TimeUnit, remedy: str = ONE_UNIT
) -> Iterator[tuple[pl.Series, str]]:
    """Yield which values are not times, and why: not understood, too early or late, or in another unit (``remedy``)."""
    stamps = moments[TIMESTAMP]
    counted = unit in PER_SECOND and not values.dtype.is_temporal()
    written = "is not an ISO 8601 time: write 2026-01-31 14:05:00, all in one column (01/02/2026 may be two days)"
    number = f"is not a number of {unit} since 1970: correct it, all times of a table are in one unit"
    if unit == "days" and not values.dtype.is_temporal():
        written = "is not a spreadsheet's number of a day, as the first time is: write all in one form"
    yield stamps.is_null(), number if counted else written
    if counted:
        per = PER_SECOND[unit]
        coarse = stamps.is_between(EARLIEST_S // per, LATEST_S // per) & (per > 1)
        yield (stamps > LATEST_S) | coarse, f"is not in {unit} since 1970: {remedy}"
    first = _FIRST_S if (stamps > _FIRST_S).any() else 0  # an earlier one beside later ones stands for a missing time
    calendars = "years of the Persian, Hijri and other calendars are not converted"
    told = f"is a time before 1990 or after 5138: correct it ({calendars}), or leave such rows out (--where)"
    yield (stamps < first) | (stamps > LATEST_S), told
