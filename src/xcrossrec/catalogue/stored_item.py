"""An item as a catalogue keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

from xcrossrec.data.text import ItemText, clean
from xcrossrec.exceptions import BundleError, DataError
from xcrossrec.types import ITEM, TITLE

LONGEST_ID = 512
"""Characters of an item id or a category, at most."""

LONGEST_TITLE = 10_000
"""Characters of a title, at most; models read far fewer."""

LARGEST_METADATA = 65_536
"""Bytes of an item's metadata as JSON, at most."""

OWN = (ITEM, TITLE, "category", "in_stock", "price")
"""What every item has; a text's other fields are keys of its metadata."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """One item of a catalogue.

    Attributes:
        item_id: unique in the catalogue.
        title: HTML and white space are cleaned as on import. An item without one is kept and shown, and
            recommended only where it is named as a candidate.
        category: what filters compare, exactly.
        in_stock: whether it can be bought now.
        price: in the shop's currency, 0 or more; None where it is unknown.
        metadata: a small JSON object that is given back as it came; models may read it (brand, description, ...).

    Raises:
        DataError: a value of another type, not finite, too long, or text that is not valid Unicode.
    """

    item_id: str
    title: str
    category: str | None = None
    in_stock: bool = True
    price: float | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_text("item id", self.item_id, LONGEST_ID, least=1)
        check_text(f"title of item {self.item_id!r}", self.title, LONGEST_TITLE)
        if self.category is not None:
            check_text(f"category of item {self.item_id!r}", self.category, LONGEST_ID, least=1)
        if not isinstance(self.in_stock, bool):
            raise DataError(f"in_stock of item {self.item_id!r} is {self.in_stock!r}: give true or false")
        if self.price is not None:
            object.__setattr__(self, "price", _price(self.item_id, self.price))
        if self.metadata is not None:
            metadata_json(self)
        object.__setattr__(self, "title", clean(self.title, title=True))

    @property
    def values(self) -> tuple[str, str, str | None, bool, float | None, str | None]:
        """What a catalogue keeps, in the order of the attributes; metadata as JSON."""
        return self.item_id, self.title, self.category, self.in_stock, self.price, metadata_json(self)

    def read(self, text: ItemText) -> str:
        """What a model reads of the item; empty where none of the fields is there."""
        if text.is_title:
            return self.title
        fields = {name: getattr(self, name) for name in OWN}
        return text.of(fields if self.metadata is None else {**self.metadata, **fields})

    def has(self, field: str) -> bool:
        """Whether a text's field is not empty."""
        value = getattr(self, field) if field in OWN else (self.metadata or {}).get(field)
        return value not in (None, "")

    @classmethod
    def restore(cls, *values: Any) -> Self:
        """Make an item of :attr:`values`, which were checked before (BundleError: metadata are no JSON object)."""
        item = object.__new__(cls)
        for place, value in zip(_PLACES, values, strict=True):
            place(item, value)
        if values[-1] is not None:
            object.__setattr__(item, "metadata", _metadata(values[0], values[-1]))
        return item


_PLACES = [getattr(StoredItem, name).__set__ for name in StoredItem.__slots__]
"""Where :meth:`StoredItem.restore` writes; a frozen item's usual way takes five times as long."""


def metadata_json(item: StoredItem) -> str | None:
    """Write an item's metadata as JSON (DataError where they are no JSON object, or a large one)."""
    if item.metadata is None:
        return None
    if not isinstance(item.metadata, Mapping) or not all(isinstance(key, str) for key in item.metadata):
        raise DataError(f"metadata of item {item.item_id!r} are no JSON object with text keys: give one, or none")
    try:
        text = json.dumps(dict(item.metadata), ensure_ascii=False, allow_nan=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"metadata of item {item.item_id!r} cannot be written as JSON ({error}): change it") from None
    if size > LARGEST_METADATA:
        raise DataError(f"metadata of item {item.item_id!r} have {size} bytes, at most {LARGEST_METADATA} are kept")
    return text


def _metadata(item_id: str, text: str) -> dict[str, Any]:
    with suppress(ValueError, RecursionError):
        if isinstance(found := json.loads(text), dict):
            return found
    raise BundleError(
        f"the metadata of item {item_id!r} are no JSON object: its catalogue is damaged, list what is lost with  "
        "xcrossrec catalog check"
    )


def check_text(what: str, value: object, longest: int, *, least: int = 0) -> None:
    """Refuse (DataError) what is no text, too long, or not valid Unicode."""
    if not isinstance(value, str):
        raise DataError(f"the {what} is {value!r}, expected text")
    if not least <= len(value) <= longest:
        raise DataError(f"the {what} has {len(value)} characters: give {least} to {longest}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the {what} is not valid Unicode ({error.reason} at {error.start}): send UTF-8") from None


def _price(item_id: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DataError(f"the price of item {item_id!r} is {value!r}, expected a number or none")
    try:
        price = float(value)
    except OverflowError:
        price = math.inf
    if not 0 <= price < math.inf:
        raise DataError(f"the price of item {item_id!r} is {price}: give a number from 0 on, or none")
    return price
