"""Items, vectors and questions, as the tests of catalogues use them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xcrossrec.catalogue import (
    Catalogue,
    Filters,
    Pool,
    Search,
    Snapshot,
    StoredItem,
)

MODEL, OTHER = "a" * 64, "b" * 64
DIM = 4


def item(number: int, **values: Any) -> StoredItem:
    return StoredItem(f"i{number}", values.pop("title", f"Item {number}"), **values)


def unit(*numbers: int) -> np.ndarray:
    """A vector for each number: 4 dimensions, different for 0 to 80."""
    digits = np.array([[number // 3**power % 3 for power in range(DIM)] for number in numbers], dtype=np.float32)
    return digits.reshape(len(numbers), DIM) + 1


def meets(item: StoredItem, filters: Filters) -> bool:
    """Whether an item meets all conditions, one by one."""
    return (
        (filters.category is None or item.category in filters.category)
        and (filters.in_stock is None or item.in_stock == filters.in_stock)
        and (filters.price_min is None or (item.price is not None and item.price >= filters.price_min))
        and (filters.price_max is None or (item.price is not None and item.price <= filters.price_max))
    )


def only_slot(products: Tensor) -> Tensor:
    """The pool of a query that is one vector."""
    return products[0]


def search(slots: np.ndarray, pool: Pool = only_slot, **options: Any) -> Search:
    return Search(torch.from_numpy(slots), pool, **options)


def best(store: Catalogue | Snapshot, number: int, k: int = 3, **options: Any) -> list[str]:
    snapshot = store if isinstance(store, Snapshot) else store.snapshot()
    return [found.item_id for found, _ in snapshot.search(search(unit(number), **options), k)]


def encode(titles: Sequence[str]) -> np.ndarray:
    """Another model: one dimension more."""
    return np.array([[len(title)] * (DIM + 1) for title in titles], dtype=np.float32).reshape(-1, DIM + 1)


def encode_items(items: Sequence[StoredItem]) -> np.ndarray:
    return encode([item.title for item in items])
