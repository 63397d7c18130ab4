"""Tables from any library: polars, pandas, Arrow and whatever else narwhals supports, or plain lists of mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import narwhals as nw
import polars as pl

from xcrossrec.exceptions import DataError

Table: TypeAlias = Any
"""A table of a library that narwhals supports (eager or lazy), a list of mappings, or a mapping of columns."""


def as_frame(what: str, table: Table) -> pl.DataFrame:
    """Convert a :data:`Table` to polars (DataError, with ``what`` it should be, if it is no table).

    Missing values of pandas (NaN, NaT) become null.
    """
    if isinstance(table, pl.DataFrame):
        return table
    try:
        if isinstance(table, Mapping) or (
            isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table)
        ):
            return pl.DataFrame(table, strict=False, infer_schema_length=None, nan_to_null=True)
        if hasattr(table, "__arrow_c_array__"):  # one Arrow batch, which narwhals does not support
            return pl.DataFrame(table)
        found = nw.from_native(table)
        eager = found.collect("polars") if isinstance(found, nw.LazyFrame) else found
        return _polars(eager)
    except (TypeError, ValueError, nw.exceptions.NarwhalsError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{what} are a {type(table).__name__} and not a table ({' '.join(str(error).split())}): give a polars, "
            "pandas or Arrow table, or a list of mappings"
        ) from error


def _polars(table: nw.DataFrame[Any]) -> pl.DataFrame:
    try:
        return table.to_polars()
    except (ImportError, TypeError, ValueError):  # pandas: text without pyarrow, or mixed values
        columns = {name: table[name].to_list() for name in table.columns}
        clean = {name: [None if v != v else v for v in values] for name, values in columns.items()}
        return pl.DataFrame(clean, strict=False, infer_schema_length=None)
