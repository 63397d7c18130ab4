"""Purchases, stored with a catalogue: each item of a customer once, in order of arrival."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import polars as pl

from xcrossrec.catalogue.stored_item import LONGEST_ID, check_text
from xcrossrec.copurchase import user_hash
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, TIMESTAMP, USER

PURCHASES = pl.Schema({USER: pl.String, ITEM: pl.String, TIMESTAMP: pl.Int64})
"""Columns of a table of purchases."""

LATEST = 253_402_300_800
"""Seconds from 1970 to the year 10000: a later time must have another unit."""

LAST_NUMBER = 2**62
"""Higher than the number of any purchase, and the place of any item."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """A customer bought an item, at a time in seconds since 1970, None where it is unknown.

    The catalogue need not have the item. DataError: a value of another type, too long, or not valid Unicode.
    """

    user_id: str
    item_id: str
    timestamp: int | None = None

    def __post_init__(self) -> None:
        check_text("user id", self.user_id, LONGEST_ID, least=1)
        check_text("item id", self.item_id, LONGEST_ID, least=1)
        if self.timestamp is not None and (type(self.timestamp) is not int or not 0 <= self.timestamp < LATEST):
            raise DataError(
                f"the timestamp of the purchase of {self.item_id!r} by {self.user_id!r} is {self.timestamp!r}: give "
                "whole seconds since 1970, not milliseconds, or none"
            )

    @property
    def pair(self) -> tuple[str, str]:
        """Customer and item: equal for repeats of a purchase."""
        return self.user_id, self.item_id

    @property
    def values(self) -> tuple[str, str, int | None]:
        """The values that a catalogue stores, in the order of the attributes."""
        return self.user_id, self.item_id, self.timestamp


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A customer was forgotten: earlier purchases of this customer are void, for every reader of the log.

    The customer is named by the hash of the id (:func:`xcrossrec.copurchase.user_hash`), as in models.
    """

    customer: str


Entry: TypeAlias = Purchase | Forgotten | None
"""An entry of a log; None for a deleted purchase."""


class PurchaseLog:
    """Purchases in order of arrival, each item of a customer once. It grows only at its end, so that a reader can read
    the rest later; one thread at a time may write while any others read.

    Args:
        before: earlier purchases, with the columns :data:`PURCHASES`.
        forgotten: hashes of customers who were forgotten earlier.
    """

    def __init__(self, before: pl.DataFrame | None = None, forgotten: Iterable[str] = ()) -> None:
        self._before = PURCHASES.to_frame() if before is None else before
        self._start = self._before.height
        self._since: list[Entry] = [Forgotten(customer) for customer in forgotten]

    def __len__(self) -> int:
        """Number of entries, deleted ones included."""
        return self._start + len(self._since)

    def table(self) -> pl.DataFrame:
        """All purchases."""
        since = [each.values for each in self._since[:] if isinstance(each, Purchase)]
        return pl.concat([self._before, as_table(since)])

    @property
    def forgotten(self) -> list[str]:
        """Hashes of the customers who were forgotten, each once."""
        return [each.customer for each in self._since[:] if isinstance(each, Forgotten)]

    def after(self, count: int) -> Sequence[Entry]:
        """The entries after the first ``count``, without earlier purchases, but with earlier forgotten customers."""
        return self._since[max(0, count - self._start) :]

    def append(self, purchases: Iterable[Purchase]) -> None:
        """Add new purchases."""
        self._since.extend(purchases)

    def forget(self, customer: str) -> None:
        """Delete a customer's purchases, by the hash of the id, and add an entry that says so."""
        self._before = leave_out(self._before, [customer])
        for place, each in enumerate(self._since):
            if each == Forgotten(customer) or (isinstance(each, Purchase) and user_hash(each.user_id) == customer):
                self._since[place] = None
        self._since.append(Forgotten(customer))


def leave_out(purchases: pl.DataFrame, customers: Collection[str]) -> pl.DataFrame:
    """All purchases except those of some customers, by the hashes of their ids."""
    hers = [user for user in purchases[USER].unique() if user_hash(user) in customers]
    return purchases.filter(~pl.col(USER).is_in(hers))


def as_table(rows: Iterable[Sequence[object]]) -> pl.DataFrame:
    """Make a table from many :attr:`Purchase.values`."""
    return pl.DataFrame(list(rows), schema=PURCHASES, orient="row")


def can_be_kept(number: object, user_id: object, item_id: object, timestamp: object) -> bool:
    """Whether a purchase and its number, of unknown origin, are of the kind that a catalogue writes."""
    numbered = isinstance(number, int) and 0 < number < LAST_NUMBER
    named = all(isinstance(text, str) and 0 < len(text) <= LONGEST_ID for text in (user_id, item_id))
    return numbered and named and (timestamp is None or (isinstance(timestamp, int) and 0 <= timestamp < LATEST))


def first_of_each(purchases: Sequence[Purchase]) -> list[Purchase]:
    """Leave out a customer's repeats of an item."""
    first: dict[tuple[str, str], Purchase] = {}
    for purchase in purchases:
        first.setdefault(purchase.pair, purchase)
    return list(first.values())
