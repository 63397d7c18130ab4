"""What can be asked of a catalogue at one moment, wherever its items stand."""

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
    """What is searched for, and among which items.

    Attributes:
        slots: the history's vectors, oldest first, or the one vector of a prompt.
        pool: how the slots' products make a score (:func:`xcrossrec.catalogue.history_pool`).
        filters: conditions on every item found.
        exclude: ids to leave out; unknown ones are no error.
        among: ids to choose among, those without a title too; None chooses among all that have one.
        products: the slots' rows of what :meth:`Snapshot.products` gave for many searches, one a part.
        bonus: what is added to the scores of some items, 0 or more; ids that are unknown are no error.
        everywhere: what is added to every item's score besides.
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
    """What a catalogue holds at one version; safe to read from any thread, for as long as it is kept.

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
        """Give all items in the catalogue's order: by when an id came first."""

    @abstractmethod
    def get(self, item_ids: Sequence[str]) -> list[StoredItem | None]:
        """Look items up; None for an unknown id."""

    @abstractmethod
    def lacking(self, item_ids: Iterable[str]) -> list[str]:
        """Give those ids that are unknown, each once."""

    @abstractmethod
    def first_titled(self, titles: Sequence[str]) -> list[StoredItem | None]:
        """Find the first item of exactly each title (white space aside), in the catalogue's order."""

    @abstractmethod
    def sharing_title(self, items: Iterable[StoredItem]) -> set[str]:
        """Give the ids of some items and of all that share a title with one of them; deleted ones may be among them."""

    @abstractmethod
    def vectors(self, item_ids: Sequence[str]) -> Float32[Tensor, "item dim"]:
        """Gather the vectors of items (DataError: an id is unknown)."""

    @abstractmethod
    def select(self, filters: Filters | None = None, among: Collection[str] | None = None) -> list[StoredItem]:
        """Give the items that such a :class:`Search` may find, in the catalogue's order."""

    @abstractmethod
    def search_titles(self, text: str, limit: int, *, within_s: float = math.inf) -> list[StoredItem]:
        """Find items by a part of their title, whatever its case: titles that start with it first, then words that do.

        After those come titles that hold the text anywhere, then those that hold all its words in any order.

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
            best first, equal scores in the catalogue's order; ``k`` items if ``k`` may be found.

        Raises:
            ConfigError: ``k`` below 1, or a catalogue without vectors.
            DataError: vectors of another size, or an unknown id among the candidates.
        """

    def products(self, slots: Float32[Tensor, "slot dim"]) -> list[Float32[Tensor, "slot _"] | None]:
        """Multiply many searches' slots with all vectors at once, part by part; nothing where that does not pay."""
        return []

    def unknown(self, item_id: str) -> DataError:
        """Say that an id is unknown."""
        return DataError(f"unknown item id {item_id!r} in the catalogue of {len(self)} items: give an id that it holds")

    def check_search(self, wanted: Search, k: int) -> Float32[Tensor, "slot dim"]:
        """Refuse a search that cannot be answered, see :meth:`search`; gives its slots."""
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
