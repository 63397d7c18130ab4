"""The questions that a catalogue answers at one version, wherever it is stored."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from jaxtyping import Float, Float32
from torch import Tensor

from xcrossrec.catalogue.scan import Pool
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.filters import Filters
from xcrossrec.models.day_one import Everywhere


@dataclass(frozen=True, eq=False)
class Search:
    """A search: what for, and among which items.

    Attributes:
        slots: the history's vectors, oldest first, or the one vector of a prompt.
        pool: turns the slots' products into a score (:func:`xcrossrec.catalogue.history_pool`).
        filters: conditions on every item found.
        exclude: ids to leave out; unknown ones are ignored.
        among: ids to choose from, even without a title; None chooses from all items that have one.
        products: the slots' rows of :meth:`Snapshot.products`, one entry per part.
        bonus: what is added to the scores of some items, 0 or more; unknown ids are ignored.
        everywhere: what is added to every item's score.
    """

    slots: Float[Tensor, "slot dim"]
    pool: Pool
    filters: Filters | None = None
    exclude: Collection[str] = ()
    among: Collection[str] | None = None
    products: Sequence[Float32[Tensor, "slot _"] | None] | None = None
    bonus: Mapping[str, float] = field(default_factory=dict)
    everywhere: Everywhere | None = None


class Snapshot(ABC):
    """A catalogue at one version; any thread may read it, for as long as there is a reference to it.

    Attributes:
        version: grows with every write.
    """

    version: int

    @property
    @abstractmethod
    def dim(self) -> int:
        """Vector size; 0 where the model has no vectors."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __iter__(self) -> Iterator[StoredItem]:
        """Yield all items in the catalogue's order, that of the first write of each id."""

    @abstractmethod
    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; None for an unknown id."""

    @abstractmethod
    def lacking(self, item_ids: Iterable[str]) -> list[str]:
        """Return the unknown ids, each once."""

    @abstractmethod
    def first_titled(self, titles: Sequence[str]) -> list[StoredItem | None]:
        """Find the first item, in the catalogue's order, with exactly each title (except for white space)."""

    @abstractmethod
    def sharing_title(self, items: Iterable[StoredItem]) -> set[str]:
        """Return the ids of items and of all others with the same titles; deleted items may be among them."""

    @abstractmethod
    def vectors(self, item_ids: Sequence[str]) -> Float32[Tensor, "item dim"]:
        """Gather the vectors of items (DataError: an id is unknown)."""

    @abstractmethod
    def select(self, filters: Filters | None = None, among: Collection[str] | None = None) -> list[StoredItem]:
        """Return the items that such a :class:`Search` may find, in the catalogue's order."""

    @abstractmethod
    def search_titles(self, text: str, limit: int, *, within_s: float = math.inf) -> list[StoredItem]:
        """Find items by a part of their title, ignoring case.

        First come titles that start with the text, then those with a word that does, then those that contain it
        anywhere, then those that contain all its words in any order.

        Args:
            text: an empty one finds the catalogue's first items.
            limit: how many at most.
            within_s: seconds that it may take (else TimeoutError).
        """

    @abstractmethod
    def search(self, wanted: Search, k: int) -> list[tuple[StoredItem, float]]:
        """Find the items with the highest scores.

        Args:
            wanted: what is searched for.
            k: how many at most.

        Returns:
            best first, equal scores in the catalogue's order; ``k`` items, or all if there are fewer.

        Raises:
            ConfigError: ``k`` below 1, or a catalogue without vectors.
            DataError: vectors of another size, or an unknown id among the candidates.
        """

    def products(self, slots: Float32[Tensor, "slot dim"]) -> list[Float32[Tensor, "slot _"] | None]:
        """Multiply many searches' slots with all vectors at once, part by part; empty where that does not pay."""
        return []

    def unknown(self, item_id: str) -> DataError:
        """The error for an unknown id."""
        return DataError(f"unknown item id {item_id!r} in the catalogue of {len(self)} items: give an id that it holds")

    def check_search(self, wanted: Search, k: int) -> Float32[Tensor, "slot dim"]:
        """Check a search, with the errors of :meth:`search`, and return its slots."""
        queries = wanted.slots.float()
        if k < 1:
            raise ConfigError(f"k is {k}: ask for at least 1 recommendation")
        if not self.dim:
            raise ConfigError("a pair model's catalogue has no vectors to search: name the candidates")
        if queries.shape[1] != self.dim:
            raise DataError(
                f"the query has {queries.shape[1]} dimensions, the catalogue {self.dim}: encode both with one model"
            )
        return queries
