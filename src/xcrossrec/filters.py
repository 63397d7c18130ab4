"""Conditions on the items of a search, shared by Python, the command line, the service and its client."""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass

from xcrossrec.exceptions import DataError


@dataclass(frozen=True)
class Filters:
    """Conditions that every found item meets; None sets no condition.

    They are part of the search: it finds ``k`` items if ``k`` meet them. An item without a category or price meets no
    condition on it.

    Attributes:
        category: one of these, exactly.
        in_stock: true for items that can be bought now, false for the others.

    Raises:
        DataError: no category, another type, or prices that are not finite or leave no room.
    """

    category: Collection[str] | None = None
    in_stock: bool | None = None
    price_min: float | None = None
    price_max: float | None = None

    def __post_init__(self) -> None:
        if self.category is not None:
            listed = isinstance(self.category, Collection) and not isinstance(self.category, str)
            if not listed or not all(isinstance(name, str) for name in self.category):
                raise DataError(f"the filter category is {self.category!r}: give a list of texts")
            if not self.category:
                raise DataError("the filter category is an empty list: name at least one, or leave it out")
            object.__setattr__(self, "category", frozenset(self.category))
        if self.in_stock is not None and not isinstance(self.in_stock, bool):
            raise DataError(f"the filter in_stock is {self.in_stock!r}: give true or false, or leave it out")
        for name in ("price_min", "price_max"):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (number and -sys.float_info.max <= value <= sys.float_info.max):
                raise DataError(f"the filter {name} is {value!r}: give a finite number, or leave it out")
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise DataError(
                f"the filter price_min {self.price_min} is above price_max {self.price_max}: no price can meet both"
            )
