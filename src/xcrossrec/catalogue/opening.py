"""The one door to a catalogue: open it where it is, or make it of what names items."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from xcrossrec.catalogue.base import Catalogue
from xcrossrec.catalogue.fingerprint import fingerprint_of
from xcrossrec.catalogue.items import ItemSource, read_items
from xcrossrec.catalogue.sqlite import (
    SqliteCatalogue,
    check_fingerprint,
    check_free,
    is_catalogue,
    recorded_fingerprint,
)
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model

log = logging.getLogger(__name__)


def open_catalogue(
    model: Model, source: Catalogue | ItemSource, *, keep: bool = False, taken: Collection[Path | None] = ()
) -> Catalogue:
    """Open a catalogue with a model's vectors, or make one, in memory or on disk.

    Args:
        model: `dual` or `pair`; it encodes every title once where a catalogue is made.
        source: a catalogue, or the folder of one; or what one is made of: a domain, its folder, a table, or a
            ``.csv`` or ``.parquet`` file (:func:`xcrossrec.catalogue.read_items`).
        keep: a catalogue made of files is kept on disk beside them, and found there the next time.
        taken: catalogues beside the source that are not to be found, as other models of this process have them.

    Raises:
        BundleError: of another model's vectors, damaged, or open in another process.
        DataError: neither a catalogue nor a source of items.
        StorageError: the disk refuses.
    """
    fingerprint = fingerprint_of(model)
    if isinstance(source, Catalogue):
        check_fingerprint(source.name, source.fingerprint, fingerprint)
        return source
    if isinstance(source, (Path, str)):
        if is_catalogue(source):
            return SqliteCatalogue.open(source, fingerprint=fingerprint)
        if keep:
            return _open_beside(model, Path(source), fingerprint, taken)
    items = read_items(source)
    return Catalogue.in_memory(items, encode_items(model, [item.title for item in items]), fingerprint)


def build_catalogue(
    model: Model, source: ItemSource, folder: Path | str, *, overwrite: bool = False
) -> SqliteCatalogue:
    """Make a catalogue on disk, as a whole or not at all.

    Args:
        model: as for :func:`open_catalogue`, so for the source.
        source: of the items.
        folder: to make.
        overwrite: replace a catalogue that is already there, and not open.

    Raises:
        BundleError: the folder exists and may not be replaced.
        DataError: no source of items.
        StorageError: the disk refuses.
    """
    check_free(Path(folder), overwrite=overwrite)
    items = read_items(source)
    vectors = encode_items(model, [item.title for item in items])
    return SqliteCatalogue.create(folder, items, vectors, fingerprint=fingerprint_of(model), overwrite=overwrite)


def embed_again(catalogue: Catalogue, model: Model) -> Catalogue:
    """Give a catalogue another model's vectors while it is served; see :meth:`Catalogue.embed_again`."""
    return catalogue.embed_again(
        fingerprint=fingerprint_of(model),
        dim=kind_of(model).dim(model),
        encode=lambda titles: encode_items(model, titles),
    )


def encode_items(model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
    """Encode the titles of items, an empty one too; no columns for a `pair` model."""
    return kind_of(model).encode_items(model, titles)


def _open_beside(model: Model, source: Path, fingerprint: str, taken: Collection[Path | None]) -> SqliteCatalogue:
    """Open the catalogue that stands beside a source; make it, the first time."""
    folder, prefix = (source, "") if source.is_dir() else (source.parent, f".{source.name}")
    place = folder / f"{prefix}.catalogue-{fingerprint[:8]}"
    beside = [path for path in folder.glob("*.catalogue-*") if path.name.startswith(f"{prefix}.catalogue-")]
    free = sorted(set(beside) - set(taken))
    # one that was embedded again keeps its name, so its content decides
    for each in [each for each in free if recorded_fingerprint(each) == fingerprint] or [e for e in free if e == place]:
        return SqliteCatalogue.open(each, fingerprint=fingerprint)
    while place.exists():
        place = place.with_name(f"{place.name}-too")
    log.info("encoding the items of %s once; they are kept in %s", source, place)
    return build_catalogue(model, source, place)
