"""What was bought, kept beside the items: each item of a customer once, in order of arrival; no model is needed."""

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
"""Seconds from 1970 to the year 10000: a time beyond is in another unit."""

LAST_NUMBER = 2**62
"""No purchase, and no item, has a number in its order that is as high."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """A customer bought an item, at a time in seconds since 1970, None where it is unknown.

    The catalogue need not have the item any more. DataError: a value of another type, too long, or text that is not
    valid Unicode.
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
        """What makes it the same purchase as another one."""
        return self.user_id, self.item_id

    @property
    def values(self) -> tuple[str, str, int | None]:
        """What a catalogue keeps, in the order of the attributes."""
        return self.user_id, self.item_id, self.timestamp


@dataclass(frozen=True, slots=True)
class Forgotten:
    """A customer's purchases were deleted: what came of them before this counts no longer, whoever knows it.

    She is told by her id's hash (:func:`xcrossrec.copurchase.user_hash`), by which models know her.
    """

    customer: str


Entry: TypeAlias = Purchase | Forgotten | None
"""Of a log; None where a purchase was that is deleted."""


class PurchaseLog:
    """Purchases in order of arrival, each item of a customer once. It grows at its end only, so who read some of it may
    read the rest later; one thread at a time may write, any may read meanwhile.

    Args:
        before: what there is already, with the columns :data:`PURCHASES`.
        forgotten: hashes of customers who were forgotten before.
    """

    def __init__(self, before: pl.DataFrame | None = None, forgotten: Iterable[str] = ()) -> None:
        self._before = PURCHASES.to_frame() if before is None else before
        self._start = self._before.height
        self._since: list[Entry] = [Forgotten(customer) for customer in forgotten]

    def __len__(self) -> int:
        """How far it goes; what was deleted keeps its place."""
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
        """What came after the first ``count`` of its length, and after it was made, or was forgotten before."""
        return self._since[max(0, count - self._start) :]

    def append(self, purchases: Iterable[Purchase]) -> None:
        """Add those that are new."""
        self._since.extend(purchases)

    def forget(self, customer: str) -> None:
        """Delete the purchases of a customer, by the hash of her id, and say so at the end."""
        self._before = leave_out(self._before, [customer])
        for place, each in enumerate(self._since):
            if each == Forgotten(customer) or (isinstance(each, Purchase) and user_hash(each.user_id) == customer):
                self._since[place] = None
        self._since.append(Forgotten(customer))


def leave_out(purchases: pl.DataFrame, customers: Collection[str]) -> pl.DataFrame:
    """All purchases but those of some customers, by the hashes of their ids."""
    hers = [user for user in purchases[USER].unique() if user_hash(user) in customers]
    return purchases.filter(~pl.col(USER).is_in(hers))


def as_table(rows: Iterable[Sequence[object]]) -> pl.DataFrame:
    """Make a table of purchases of :attr:`Purchase.values`."""
    return pl.DataFrame(list(rows), schema=PURCHASES, orient="row")


def can_be_kept(number: object, user_id: object, item_id: object, timestamp: object) -> bool:
    """Whether a purchase and its number are of the kind that is written; they may come from anybody."""
    numbered = isinstance(number, int) and 0 < number < LAST_NUMBER
    named = all(isinstance(text, str) and 0 < len(text) <= LONGEST_ID for text in (user_id, item_id))
    return numbered and named and (timestamp is None or (isinstance(timestamp, int) and 0 <= timestamp < LATEST))


def first_of_each(purchases: Sequence[Purchase]) -> list[Purchase]:
    """Leave out a customer's repeats of an item."""
    first: dict[tuple[str, str], Purchase] = {}
    for purchase in purchases:
        first.setdefault(purchase.pair, purchase)
    return list(first.values())
