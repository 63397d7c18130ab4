"""Tables as people have them: polars, pandas, Arrow and whatever else narwhals knows, or plain lists of mappings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import narwhals as nw
import polars as pl

from xcrossrec.exceptions import DataError

Table: TypeAlias = Any
"""A table of a library that narwhals knows (eager or lazy), a list of mappings, or a mapping of columns."""


def as_frame(what: str, table: Table) -> pl.DataFrame:
    """Make a polars table of a :data:`Table` (DataError names ``what`` it should be, where it is none).

    What pandas writes for missing (NaN, NaT) becomes null.
    """
    if isinstance(table, pl.DataFrame):
        return table
    try:
        if isinstance(table, Mapping) or (
            isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table)
        ):
            return pl.DataFrame(table, strict=False, infer_schema_length=None, nan_to_null=True)
        if hasattr(table, "__arrow_c_array__"):  # one batch of Arrow, which narwhals does not know
            return pl.DataFrame(table)
        found = nw.from_native(table)
        eager = found.collect("polars") if isinstance(found, nw.LazyFrame) else found
        return _polars(eager)
    except (TypeError, ValueError, nw.exceptions.NarwhalsError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"{what} are a {type(table).__name__} and no table ({' '.join(str(error).split())}): give a polars, pandas "
            "or Arrow table, or a list of mappings"
        ) from error


def _polars(table: nw.DataFrame[Any]) -> pl.DataFrame:
    try:
        return table.to_polars()
    except (ImportError, TypeError, ValueError):  # of pandas: text where there is no pyarrow, values of several kinds
        columns = {name: table[name].to_list() for name in table.columns}
        clean = {name: [None if v != v else v for v in values] for name, values in columns.items()}
        return pl.DataFrame(clean, strict=False, infer_schema_length=None)
