"""A service's catalogue where the operator names one, or what one can be made of."""

from __future__ import annotations

import logging
from collections.abc import Collection
from pathlib import Path

from xcrossrec.catalogue.embedding import build_catalogue, fingerprint_of, open_catalogue
from xcrossrec.catalogue.item_tables import read_items
from xcrossrec.catalogue.sqlite import SqliteCatalogue, is_catalogue, recorded_fingerprint
from xcrossrec.models.bundle import Model

log = logging.getLogger(__name__)


def open_or_build(model: Model, catalog: Path, taken: Collection[Path] = ()) -> SqliteCatalogue:
    """Open a catalogue; of a domain's folder or a table one is made beside, on the first start.

    Args:
        model: whose vectors it holds.
        catalog: a catalogue, a domain's folder or a table.
        taken: catalogues that other models of this process have open.

    Raises:
        BundleError: of another model's vectors, damaged, or open in another process.
        DataError: neither a catalogue nor a source of items.
    """
    if is_catalogue(catalog):
        return open_catalogue(model, catalog)
    fingerprint = fingerprint_of(model)
    place = catalogue_beside(catalog, fingerprint)
    free = [each for each in catalogues_beside(catalog) if each not in taken]
    # one that was embedded again keeps its name, so its content decides
    for each in [each for each in free if recorded_fingerprint(each) == fingerprint] or [e for e in free if e == place]:
        return SqliteCatalogue.open(each, fingerprint=fingerprint)
    while place.exists():
        place = place.with_name(f"{place.name}-too")
    items = read_items(catalog)
    log.info("encoding %d items of %s once; they are kept in %s", len(items), catalog, place)
    return build_catalogue(model, items, place)


def catalogue_beside(source: Path, fingerprint: str) -> Path:
    """Where the catalogue of a domain's folder or a table is kept, for one model's vectors."""
    name = f".catalogue-{fingerprint[:8]}"
    return source / name if source.is_dir() else source.with_name(f".{source.name}{name}")


def catalogues_beside(source: Path) -> list[Path]:
    """All catalogues that :func:`catalogue_beside` names for a source, whatever the model."""
    folder, prefix = (source, "") if source.is_dir() else (source.parent, f".{source.name}")
    return sorted(path for path in folder.glob("*.catalogue-*") if path.name.startswith(f"{prefix}.catalogue-"))
