"""Tables of every library, at the one door that makes them Polars'."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from xcrossrec.data.given import as_frame
from xcrossrec.data.readers import Inputs, import_domain
from xcrossrec.exceptions import ConfigError, DataError

ROWS = [{"item_id": "a", "title": "Saw", "price": 1.5}, {"item_id": "b", "title": None, "price": None}]
MAKERS: dict[str, Callable[[Any], Any]] = {
    "polars": pl.DataFrame,
    "lazy": pl.LazyFrame,
    "pandas": pd.DataFrame,
    "arrow": pa.Table.from_pylist,
    "batch": pa.RecordBatch.from_pylist,
    "narwhals": lambda rows: nw.from_native(pd.DataFrame(rows)),
}


@pytest.mark.parametrize(
    "make", [*MAKERS.values(), list, tuple, lambda rows: {k: [r[k] for r in rows] for k in rows[0]}]
)
def test_every_table_has_the_same_rows(make: Callable[[Any], Any]) -> None:
    assert as_frame("the items", make(ROWS)).to_dicts() == ROWS


@pytest.mark.parametrize("make", [list, *MAKERS.values()])
def test_tables_are_imported_like_files(make: Callable[[Any], Any], tmp_path: Path) -> None:
    bought = [{"customer": f"u{u}", "sku": i, "date": f"2026-01-0{i + 1}"} for u in range(3) for i in range(4)]
    sold = [{"sku": i, "name": f"Item {i}", "brand": "Acme", "price": 1.5} for i in range(4)]
    pl.DataFrame(bought).write_parquet(tmp_path / "bought.parquet")
    pl.DataFrame(sold).write_parquet(tmp_path / "sold.parquet")
    files = import_domain("d", None, Inputs(tmp_path / "bought.parquet", str(tmp_path / "sold.parquet")))
    domain = import_domain("d", None, Inputs(make(bought), make(sold)))
    assert domain.fingerprint == files.fingerprint
    assert (domain.manifest["sources"], len(files.manifest["sources"])) == ([], 2)
    assert domain.items.columns == ["item_id", "title", "brand", "price"]


def test_pandas_is_read_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    def without(self: Any) -> pl.DataFrame:
        raise ImportError("pyarrow is required")

    monkeypatch.setattr(nw.DataFrame, "to_polars", without)
    assert as_frame("the items", pd.DataFrame(ROWS)).to_dicts() == ROWS


@pytest.mark.parametrize("bad", [7, "items.csv", [["a", "b"]], None, np.zeros((2, 2)), pd.Series([1])])
def test_what_is_no_table_is_refused(bad: Any) -> None:
    with pytest.raises(
        DataError, match=r"the items are a \w+ and not a table .*give a polars, pandas or Arrow table, or a"
    ):
        as_frame("the items", bad)


@pytest.mark.parametrize("bad", [7, iter(ROWS), [*ROWS, "items.csv"], [1, 2], b"x", pl.Series([1])])
def test_what_is_neither_file_nor_table_is_refused_before_an_import(bad: Any) -> None:
    for inputs in (Inputs(bad), Inputs(ROWS, bad), Inputs((), ROWS, {"train": bad})):
        with pytest.raises(DataError, match=r"^(interactions|items|train) are a \w+ and not a table"):
            import_domain("d", None, inputs)
    with pytest.raises(ConfigError, match="give purchases once"):
        import_domain("d", None, Inputs(None, None))


def test_a_column_twice_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"the items are a DataFrame and not a table .*unique column names.* 'item_id' 2 times"
    ):
        as_frame("the items", pd.DataFrame([["a", "b"]], columns=["item_id", "item_id"]))


def test_pandas_may_hold_values_of_several_kinds() -> None:
    mixed = pd.DataFrame({"item_id": ["a", 2, None], "title": ["A", float("nan"), "C"]})
    assert as_frame("the items", mixed).rows() == [("a", "A"), ("2", None), (None, "C")]
