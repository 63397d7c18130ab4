"""The one door to a catalogue: open it where it is, or make it of what names items."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from functools import partial
from glob import escape
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from xcrossrec.catalogue.base import Catalogue, Encode
from xcrossrec.catalogue.fingerprint import check_fingerprint, fingerprint_of
from xcrossrec.catalogue.items import ItemSource, check_fields, read_items
from xcrossrec.catalogue.kept import check_place, is_catalogue, kind_kept, open_kept, recorded_purchases, shown
from xcrossrec.catalogue.purchases import PurchaseLog, leave_out
from xcrossrec.catalogue.sqlite import recorded_fingerprint
from xcrossrec.catalogue.stored_item import StoredItem
from xcrossrec.exceptions import BundleError, NoCatalogueError
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.types import is_url

log = logging.getLogger(__name__)


def open_catalogue(
    model: Model,
    source: Catalogue | ItemSource,
    *,
    keep: bool = False,
    taken: Collection[Path | None] = (),
    encode: Encode | None = None,
) -> Catalogue:
    """Open a catalogue with a model's vectors, or make one, in memory or on disk.

    Args:
        model: `dual` or `pair`; it encodes every title once where a catalogue is made.
        source: a catalogue, its folder or its database's URL; or what one is made of: a domain, its folder, a table, or
            a file of items (:func:`xcrossrec.catalogue.read_items`).
        keep: a catalogue made of files is kept on disk beside them, and found there the next time.
        taken: catalogues beside the source that are not to be found, as other models of this process have them.
        encode: what encodes items for a catalogue in memory; None is the model, here and now.

    Raises:
        BundleError: of another model's vectors, damaged, or open in another process.
        DataError: neither a catalogue nor a source of items.
        StorageError: the disk refuses.
    """
    fingerprint = fingerprint_of(model)
    if isinstance(source, Catalogue):
        check_fingerprint(source.name, source.fingerprint, fingerprint)
        _with_fields(source, model)
        return source
    if isinstance(source, (Path, str)):
        if is_catalogue(source):
            return _opened(source, fingerprint, model)
        if keep:
            return _open_beside(model, Path(source), fingerprint, taken)
    items = read_items(source, encoder_of(model).text)
    vectors = (encode or partial(encode_items, model))(items)
    return Catalogue.in_memory(items, vectors, fingerprint, encoder_of(model).text)


def build_catalogue(model: Model, source: ItemSource, folder: Path | str, *, overwrite: bool = False) -> Catalogue:
    """Make a catalogue on disk or in a database, as a whole or not at all.

    It starts with the purchases of the catalogue that is its source, or else of the one that it replaces, and with who
    was forgotten in either.

    Args:
        model: as for :func:`open_catalogue`, so for the source.
        source: of the items.
        folder: to make; or ``postgresql://...``, see :class:`xcrossrec.catalogue.postgres.PostgresCatalogue`.
        overwrite: replace a catalogue that is already there, and not open.

    Raises:
        BundleError: the folder exists and may not be replaced.
        DataError: no source of items.
        StorageError: the disk refuses.
    """
    check_place(folder, overwrite=overwrite)
    text = encoder_of(model).text
    items = read_items(source, text)
    vectors, fingerprint = encode_items(model, items), fingerprint_of(model)
    bought = _purchases_of(source) if isinstance(source, (Path, str)) else None
    there = None if bought is None and is_url(folder) else _purchases_of(folder)  # a database keeps its own
    if bought is None:
        bought = there
    elif there is not None:
        others = set(there.forgotten) - set(bought.forgotten)  # who was forgotten in both bought again after it
        bought = PurchaseLog(leave_out(bought.table(), others), [*bought.forgotten, *sorted(others)])
    return kind_kept(folder).create(
        str(folder), items, vectors, fingerprint=fingerprint, text=text, overwrite=overwrite, bought=bought
    )


def embed_again(
    catalogue: Catalogue, model: Model, folder: Path | str | None = None, encode: Encode | None = None
) -> Catalogue:
    """Give a catalogue another model's vectors while it is served; see :meth:`Catalogue.embed_again`, also for errors.

    Args:
        catalogue: open; DataError where no item of it has a field that the model reads.
        model: of the new vectors.
        folder: where it lies, for other processes that have the catalogue open.
        encode: what encodes items as that model does; None is the model, here and now.
    """
    _with_fields(catalogue, model)
    return catalogue.embed_again(
        fingerprint=fingerprint_of(model),
        dim=kind_of(model).dim(model),
        text=encoder_of(model).text,
        encode=encode or partial(encode_items, model),
        model=folder,
    )


def encode_items(model: Model, items: Sequence[StoredItem]) -> Float32[np.ndarray, "item dim"]:
    """Encode items as a model reads them, one without text too; no columns for a `pair` model."""
    texts = [item.read(encoder_of(model).text) for item in items]
    encoder_of(model).tell_unread(texts)
    return kind_of(model).encode_items(model, texts)


def _purchases_of(place: Path | str) -> PurchaseLog | None:
    """The purchases of the catalogue that stands at a place; None where there is none, or they are damaged."""
    try:
        return recorded_purchases(place)
    except NoCatalogueError:
        return None
    except BundleError as error:
        log.warning("the purchases of %s are left out: %s", shown(place), error)
        return None


def _opened(place: Path | str, fingerprint: str, model: Model) -> Catalogue:
    catalogue = open_kept(place, fingerprint=fingerprint)
    try:
        _with_fields(catalogue, model)
    except BaseException:
        catalogue.close()
        raise
    return catalogue


def _with_fields(catalogue: Catalogue, model: Model) -> None:
    """Refuse a catalogue that was made for another item text and lacks a field of the model's."""
    if encoder_of(model).text != catalogue.text:
        check_fields(catalogue.snapshot(), encoder_of(model).text, f"the catalogue {catalogue.name}")


def _open_beside(model: Model, source: Path, fingerprint: str, taken: Collection[Path | None]) -> Catalogue:
    """Open the catalogue that stands beside a source; make it, the first time."""
    folder, prefix = (source, "") if source.is_dir() else (source.parent, f".{source.name}")
    place = folder / f"{prefix}.catalogue-{fingerprint[:8]}"
    free = sorted(set(folder.glob(f"{escape(prefix)}.catalogue-*")) - set(taken))
    # one that was embedded again keeps its name, so its content decides
    for each in [each for each in free if recorded_fingerprint(each) == fingerprint] or [e for e in free if e == place]:
        return _opened(each, fingerprint, model)
    while place.exists():
        place = place.with_name(f"{place.name}-too")
    log.info("encoding the items of %s once; they are kept in %s", source, place)
    return build_catalogue(model, source, place)
