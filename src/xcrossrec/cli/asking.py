"""What the recommending commands ask alike: their options, and the filters that these make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from xcrossrec.catalogue import Filters

ModelDir = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a bundle or an adapter.")]
Catalog = Annotated[
    Path, typer.Option(metavar="ITEMS", help="A domain's folder, a .csv or .parquet of items, or a catalogue.")
]
K = Annotated[int, typer.Option("-k", "--k", help="How many at most.")]
IncludeBought = Annotated[bool, typer.Option("--include-bought", help="Also recommend what is in the history.")]
SkipUnknown = Annotated[bool, typer.Option("--skip-unknown", help="Leave out ids that the catalogue lacks.")]
Category = Annotated[list[str] | None, typer.Option(help="Only items of this category; may be repeated.")]
InStock = Annotated[bool, typer.Option("--in-stock", help="Only items that can be bought now.")]
PriceMin = Annotated[float | None, typer.Option(help="Only items of this price or more.")]
PriceMax = Annotated[float | None, typer.Option(help="Only items of this price or less.")]


def filters_of(
    category: Sequence[str] | None, in_stock: bool, price_min: float | None, price_max: float | None
) -> Filters | None:
    """Make filters of a command's options; None where none is given.

    Raises:
        DataError: prices that leave no room.
    """
    from xcrossrec.catalogue import Filters

    filters = Filters(category or None, in_stock or None, price_min, price_max)
    return None if filters == Filters() else filters
