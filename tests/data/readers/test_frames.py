from decimal import Decimal

import polars as pl
import pytest

from xcrossrec.data.readers.frames import ids, item_field, without_fractions
from xcrossrec.data.times import whole_numbers


def test_ids_are_text_and_nothing_is_null() -> None:
    frame = pl.DataFrame({"t": [" 7 ", "", "NULL", "\\N", "007"], "f": [7.0, None, float("nan"), 1.5, 8.0]})
    words = pl.DataFrame({"t": ["NaN", "<NA>", "#N/A", "NA", "Undefined", "(null)", "NaT", "None", "Nan", "Nancy"]})
    assert words.select(ids("t", pl.String())).to_series().drop_nulls().to_list() == ["Nancy"]
    others = pl.DataFrame({"d": [Decimal("7.00"), Decimal("1.50")], "b": [b"\xff\x00", b"u"], "t": [b"u", b"v"]})
    read = [others.select(ids(name, dtype)).to_series().to_list() for name, dtype in others.schema.items()]
    assert read == [["7", "1.5"], ["ff00", "75"], ["u", "v"]]
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
        ("price", [1.5, float("nan"), float("inf")], [1.5, None, None]),
        ("price", ["1\u202f234,50 €", "CHF 1\u2019234.50", "1.234.567", "1e3"], [1234.5, 1234.5, 1234567.0, 1000.0]),
        ("price", ["1.234 €", "12,50 €"], [1234.0, 12.5]),
        ("price", ["1.234", "12.50"], [1.234, 12.5]),
        ("in_stock", ["sold_out", "https://schema.org/InStock", "10+", "Nein", "backorder", "-3"],
         [False, True, True, False, False, False]),
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
