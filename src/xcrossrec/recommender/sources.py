"""Catalogues in memory, of whatever names items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import polars as pl
import torch

from xcrossrec.catalogue.embedding import encode_items, open_catalogue
from xcrossrec.catalogue.item_tables import read_items
from xcrossrec.catalogue.segment import Segment
from xcrossrec.catalogue.snapshot import Part, Snapshot
from xcrossrec.catalogue.sqlite import is_catalogue
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.data.domain import Domain
from xcrossrec.data.interactions import check_columns, is_empty_title
from xcrossrec.exceptions import DataError
from xcrossrec.models.bundle import Model
from xcrossrec.types import ITEM, TITLE


class Catalogue(Protocol):
    """What a recommender searches."""

    def snapshot(self) -> Snapshot:
        """The catalogue as it is now."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


CatalogueLike: TypeAlias = Domain | pl.DataFrame | Path | str


class _Memory:
    def __init__(self, model: Model, items: Sequence[StoredItem]) -> None:
        vectors = torch.from_numpy(encode_items(model, [item.title for item in items]))
        segment = Segment(items, np.arange(len(items)), vectors)
        self._snapshot = Snapshot(1, Part.whole(segment), Part.whole(Segment.empty(vectors.shape[1])))

    def snapshot(self) -> Snapshot:
        return self._snapshot

    def close(self) -> None:
        pass


def open_for(model: Model, source: Catalogue | CatalogueLike) -> Catalogue:
    """Open a catalogue, or make one in memory."""
    if isinstance(source, (str, Path)):
        return open_catalogue(model, source) if is_catalogue(source) else _Memory(model, _checked(read_items(source)))
    if isinstance(source, Domain):
        return _Memory(model, _checked([StoredItem(*row) for row in source.items.select(ITEM, TITLE).iter_rows()]))
    if isinstance(source, pl.DataFrame):
        return _Memory(model, _checked(_of_frame(source)))
    return source


def _of_frame(frame: pl.DataFrame) -> list[StoredItem]:
    check_columns("the catalogue", frame.columns, (ITEM, TITLE))
    dtype = frame.schema[ITEM]
    if not (dtype.is_integer() or dtype in (pl.String, pl.Categorical)) or frame[ITEM].null_count():
        raise DataError(
            f"the catalogue's {ITEM} is of type {dtype} with {frame[ITEM].null_count()} missing, expected text or "
            "integers without gaps: read ids as text"
        )
    items = frame.select(pl.col(ITEM).cast(pl.String), pl.col(TITLE).cast(pl.String))
    empty = items.filter(is_empty_title())
    if empty.height:
        raise DataError(
            f"{empty.height} items of the catalogue have a title that is NaN or empty (first: {empty[ITEM][0]!r}): "
            "drop them, or give them one"
        )
    return [StoredItem(*row) for row in items.iter_rows()]


def _checked(items: Sequence[StoredItem]) -> Sequence[StoredItem]:
    if not items:
        raise DataError("the catalogue has no items: give at least one")
    seen: set[str] = set()
    for item in items:
        if item.item_id in seen:
            raise DataError(f"the catalogue has the item id {item.item_id!r} twice: keep one row an item")
        seen.add(item.item_id)
    if not any(item.title for item in items):
        raise DataError("no item of the catalogue has a title, and a language model reads titles")
    return items
