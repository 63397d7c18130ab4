"""Which items the same customers bought, soon after one another, and what that adds to a score.

Legend: ``item`` = one item that somebody bought, ``purchase`` = a customer's first purchase of an item, ``found`` = one
item of a result.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any, Self

import numpy as np
import polars as pl
from jaxtyping import Float64, Int64
from scipy.sparse import coo_array

from xcrossrec.data.interactions import check_columns
from xcrossrec.exceptions import DataError
from xcrossrec.scoring import Rung, rung_of
from xcrossrec.types import ITEM, USER

REACH = 6
"""Places in a customer's sequence within which two purchases count as one pair."""

BACKWARD = 0.5
"""What a pair counts from the later purchase to the earlier one; from the earlier to the later one it counts 1."""

SHRINK = 10.0
"""Customers that are added to those of each item: what few bought says little, and one weight holds for few and many
purchases alike."""

DECAY = 0.7
"""What a history's item counts of the one that was bought next after it."""

LONGEST = 20
"""Items of a history that are read, the newest; what is older would count less than .001."""

RUNGS: tuple[Rung, ...] = ("one", "several")
"""Those on which co-purchases can count."""


def user_hash(user_id: str) -> str:
    """A user id in a form that can be matched but not read (sha256, 16 hex digits)."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:16]


class CoPurchases:
    """Pairs of items that customers bought, each pair by the distance of the two purchases.

    With :math:`d_u(i, j)` the distance of two items in the order in which customer u first bought each,

        c(i, j) = sum over u of b / d_u(i, j), where d_u(i, j) <= 6, b = 1 if i came first and .5 if j did;
        s(i, j) = c(i, j) / sqrt((n_i + 10) (n_j + 10)),

    where n_i is the number of customers who bought i. A history's score of j is the sum of its items' s(i, j), each
    .7 times less than the next newer one's. To buy an item again changes nothing. Customers are known by a hash of
    their id. Any thread may read; one at a time may add and forget.

    Attributes:
        revision: grows with every change.
        forgotten: purchases by item that a trained model counted elsewhere, too, and whose customers are forgotten.

    Source:
        counts by distance and recency as in the session-based nearest neighbours of Ludewig and Jannach, "Evaluation
        of session-based recommendation algorithms" (UMUAI 2018); the cosine of ItemKNN, Deshpande and Karypis (TOIS
        2004).
    """

    def __init__(self, customers: Sequence[str], items: Sequence[str], of: Any, bought: Any) -> None:
        """Count purchases; see :meth:`count`.

        Args:
            customers: their hashes.
            of, bought: per purchase the customer's number, rising, and the item's.
        """
        self.revision, self.forgotten = 0, Counter[str]()
        self._lock = Lock()
        self._ids = list(items)
        self._number = {item: number for number, item in enumerate(self._ids)}
        self._customer = {customer: number for number, customer in enumerate(customers)}
        self._bought = bought
        self._starts = np.searchsorted(of, np.arange(len(customers) + 1))
        self._count = np.bincount(bought, minlength=len(items)).astype(np.float64)
        self._pairs = _pairs(of, bought, len(items))
        order = np.argsort(bought, kind="stable")
        self._buyers = of[order]
        self._first_buyer = np.searchsorted(bought[order], np.arange(len(items) + 1))
        # what came later
        self._more: dict[int, dict[int, None]] = {}  # customer -> items, in order
        self._more_buyers: dict[int, list[int]] = {}  # item -> customers
        self._more_pairs: dict[int, dict[int, float]] = {}  # item -> item -> count

    @classmethod
    def count(cls, purchases: pl.DataFrame, *, hashed: bool = False) -> Self:
        """Count a table of purchases.

        Args:
            purchases: ``user_id`` and ``item_id``, text; each customer's rows in order, the oldest first.
            hashed: the users are known by their hashes already, as :meth:`table` gives them.

        Raises:
            DataError: a column is missing or holds no text, or an id is missing.
        """
        check_columns("the table of purchases", purchases.columns, (USER, ITEM))
        for column in (USER, ITEM):
            if purchases.schema[column] != pl.String or purchases[column].null_count():
                raise DataError(
                    f"{column} of the purchases is of type {purchases.schema[column]} with "
                    f"{purchases[column].null_count()} missing, expected text in every row: complete or drop the rows"
                )
        once = purchases.select(USER, ITEM).unique(maintain_order=True, keep="first")
        users, items = (once[column].unique(maintain_order=True) for column in (USER, ITEM))
        of, bought = (
            once[column].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int32)
            for column, ids in ((USER, users), (ITEM, items))
        )
        order = np.argsort(of, kind="stable")
        customers = users.to_list() if hashed else [user_hash(user) for user in users]
        return cls(customers, items.to_list(), of[order], bought[order])

    def table(self) -> pl.DataFrame:
        """All purchases: ``user_id`` (the hash) and ``item_id``, each customer's oldest first."""
        with self._lock:
            counted = np.repeat(np.arange(len(self._starts) - 1), np.diff(self._starts))
            of = [counted, *(np.full(len(more), customer) for customer, more in self._more.items())]
            bought = [self._bought, *(np.array([*more], dtype=np.int32) for more in self._more.values())]
            names, ids = pl.Series([*self._customer], dtype=pl.String), pl.Series(self._ids, dtype=pl.String)
        return pl.DataFrame({USER: names.gather(np.concatenate(of)), ITEM: ids.gather(np.concatenate(bought))})

    def joined(self, purchases: pl.DataFrame) -> Self:
        """Count these and more, as for :meth:`count` and by user ids: purchases that come after those of the same
        customers here."""
        more = type(self).count(purchases).table()
        new = type(self).count(pl.concat([self.table(), more]), hashed=True)
        new.forgotten = self.forgotten
        return new

    def copy(self) -> Self:
        """The same counts, to which other purchases may be added; costs little, for what was counted is shared."""
        with self._lock:
            new = copy(self)
            new._lock, new._count = Lock(), self._count.copy()
            new._ids, new._number, new._customer = [*self._ids], {**self._number}, {**self._customer}
            new._more = {customer: {**items} for customer, items in self._more.items()}
            new._more_buyers = {item: [*customers] for item, customers in self._more_buyers.items()}
            new._more_pairs = {item: {**row} for item, row in self._more_pairs.items()}
        return new

    def add(self, user_id: str, item_ids: Sequence[str]) -> None:
        """Add what a customer bought after all that is known of her; the next :meth:`scores` sees it."""
        with self._lock:
            self.revision += 1
            customer = self._customer.setdefault(user_hash(user_id), len(self._customer))
            base, more = self._bought[_span(self._starts, customer)], self._more.setdefault(customer, {})
            for item_id in item_ids:
                item = self._number.setdefault(item_id, len(self._ids))
                if item == len(self._ids):
                    self._ids.append(item_id)
                if item >= len(self._count):
                    self._count = np.append(self._count, np.zeros(len(self._count) + 1))
                if item in more or (base == item).any():  # a guests' account has a hundred thousand
                    continue
                newest = [*islice(reversed(more), REACH), *base[-REACH:][::-1].tolist()][:REACH]
                for distance, other in enumerate(newest, start=1):
                    self._add_pair(other, item, 1 / distance)
                    self._add_pair(item, other, BACKWARD / distance)
                more[item] = None
                self._more_buyers.setdefault(item, []).append(customer)
                self._count[item] += 1

    def forget(self, customers: Collection[str]) -> list[str]:
        """Take customers' purchases out by their hashes, as if there had been none; the rest is counted anew, beside
        what is read. Gives the items that were known of each; unknown ones are no error."""
        if items := [item for customer in customers for item in self._of(customer)]:
            kept = self.table().filter(~pl.col(USER).is_in(list(customers)))
            new = vars(type(self).count(kept, hashed=True))
            with self._lock:
                vars(self).update({name: new[name] for name in new.keys() - {"_lock", "revision", "forgotten"}})
                self.revision += 1
        return items

    def scores(
        self, history: Sequence[str], weight: float = 1.0, *, highest: int | None = None, also: Collection[str] = ()
    ) -> dict[str, float]:
        """Score the items that were bought together with some item of a history.

        Args:
            history: item ids, oldest first; an unknown one takes its place and adds nothing.
            weight: by which every score is multiplied.
            highest: give only so many, those with the highest scores; None gives all.
            also: give these, too.

        Returns:
            by item id, more than 0; items of the history may be among them, and whatever ties with the last.
        """
        with self._lock:
            newest = {item: age for age, item in reversed([*enumerate(reversed(history[-LONGEST:]))])}
            rows = [(number, age) for item, age in newest.items() if (number := self._number.get(item)) is not None]
            parts = [self._row(number, weight * DECAY**age) for number, age in rows]
            if not parts:
                return {}
            numbers, place = np.unique(np.concatenate([found for found, _ in parts]), return_inverse=True)
            sums = np.bincount(place, np.concatenate([values for _, values in parts]), len(numbers))
            if highest is not None and highest < len(sums):
                asked = [number for item in also if (number := self._number.get(item)) is not None]
                kept = np.isin(numbers, asked) | (sums >= np.partition(sums, -highest)[-highest])
                numbers, sums = numbers[kept], sums[kept]
            return dict(zip(map(self._ids.__getitem__, numbers.tolist()), sums.tolist(), strict=True))

    def together(self, first: str, second: str) -> int:
        """How many customers bought both."""
        with self._lock:
            one, other = self._number.get(first), self._number.get(second)
            if one is None or other is None or one == other:
                return 0
            return len(np.intersect1d(self._buyers_of(one), self._buyers_of(other)))

    def of_user(self, user_id: str) -> tuple[str, ...]:
        """What a customer bought, each item once, oldest first; nothing for an unknown one."""
        return self._of(user_hash(user_id))

    def _of(self, hashed: str) -> tuple[str, ...]:
        with self._lock:
            customer = self._customer.get(hashed)
            return () if customer is None else tuple(self._ids[item] for item in self._numbers_of(customer))

    def popularity(self, item_id: str) -> int:
        """How many customers bought an item."""
        with self._lock:
            number = self._number.get(item_id)
            return 0 if number is None else int(self._count[number])

    def popularities(self) -> Mapping[str, int]:
        """How many customers bought each item, of all that somebody bought."""
        with self._lock:
            return dict(zip(self._ids, self._count.astype(np.int64).tolist(), strict=False))

    @property
    def customers(self) -> int:
        """How many there are."""
        return len(self._customer)

    @property
    def purchases(self) -> int:
        """How many there are, of each customer and item one."""
        return int(self._count.sum())

    def _numbers_of(self, customer: int) -> list[int]:
        return [*self._bought[_span(self._starts, customer)].tolist(), *self._more.get(customer, ())]

    def _buyers_of(self, item: int) -> Int64[np.ndarray, " buyer"]:
        later = np.array(self._more_buyers.get(item, ()), dtype=np.int64)
        return np.concatenate([self._buyers[_span(self._first_buyer, item)].astype(np.int64), later])

    def _add_pair(self, item: int, other: int, count: float) -> None:
        row = self._more_pairs.setdefault(item, {})
        row[other] = row.get(other, 0.0) + count

    def _row(self, item: int, share: float) -> tuple[Int64[np.ndarray, " found"], Float64[np.ndarray, " found"]]:
        """The items bought with one, and its part of their scores; an item may come twice."""
        own, more = _span(self._pairs.indptr, item), self._more_pairs.get(item, {})
        numbers = np.concatenate([self._pairs.indices[own], np.array(list(more), dtype=np.int64)])
        counts = np.concatenate([self._pairs.data[own], np.array(list(more.values()))])
        return numbers, counts * share / np.sqrt((self._count[item] + SHRINK) * (self._count[numbers] + SHRINK))


@dataclass(frozen=True)
class Term:
    """Counts, and their weights beside the text's, by rung; one that is missing is 0."""

    counts: CoPurchases
    weights: Mapping[Rung, float] = field(default_factory=dict)

    def bonus(self, history: Sequence[str]) -> dict[str, float]:
        """What is added to the text score, by item id, for a history of item ids, oldest first, with anything else in
        the place of an item that the catalogue lacks; items that are not named get nothing."""
        weight = self.weights.get(rung_of(history), 0.0)
        return self.counts.scores(history, weight) if weight else {}


def _span(starts: Any, number: int) -> slice:
    """Where the entries of a number stand; nowhere those of one that came later."""
    return slice(*starts[number : number + 2].tolist()) if number + 1 < len(starts) else slice(0)


def _pairs(of: Any, bought: Any, items: int) -> Any:
    """All pairs within reach, from each item of a history (row) to what it speaks for, as a sparse matrix."""
    first, second, counts = [], [], []
    for distance in range(1, REACH + 1):
        near = np.flatnonzero(of[distance:] == of[:-distance])
        first.append(bought[near])
        second.append(bought[near + distance])
        counts.append(np.full(len(near), 1 / distance))
    one, other, count = map(np.concatenate, (first, second, counts))
    both = np.concatenate([one, other]), np.concatenate([other, one])
    return coo_array((np.concatenate([count, BACKWARD * count]), both), shape=(items, items)).tocsr()
