"""Catalogues that outlive the process: in a folder on SQLite, or in a database by its URL."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from xcrossrec.catalogue import sqlite
from xcrossrec.catalogue.purchases import PurchaseLog
from xcrossrec.catalogue.sqlite import SqliteCatalogue
from xcrossrec.exceptions import BundleError, NoCatalogueError
from xcrossrec.types import is_url

if TYPE_CHECKING:
    from xcrossrec.catalogue.postgres import PostgresCatalogue

    Kept: TypeAlias = SqliteCatalogue | PostgresCatalogue


def shown(place: Path | str) -> str:
    """A place as people may read it: a URL without its password."""
    if not is_url(place):
        return str(place)
    from xcrossrec.catalogue.postgres.connections import Database

    return Database(str(place)).name


def check_place(place: Path | str, *, overwrite: bool) -> None:
    """Refuse (BundleError) a place where a catalogue stands that may not be overwritten, or one of another format."""
    if not is_url(place):
        with sqlite.held(Path(place), overwrite=overwrite):
            return
    from xcrossrec.catalogue.postgres.tables import taken

    with suppress(NoCatalogueError):
        recorded_model(place)
        if not overwrite:
            raise taken(shown(place))


def check_beside(folder: Path) -> None:
    """Refuse (BundleError) to replace a folder whose catalogue is open, or holds more than it was made of."""
    for place in folder.glob(".catalogue-*"):
        with open_kept(place, fingerprint=None) as catalogue:
            if catalogue.version > 1 or catalogue.forgotten:
                said = f"{place} holds what was written over HTTP: move or delete it first, or import elsewhere"
                raise BundleError(said)


def kind_kept(place: Path | str) -> type[Kept]:
    """The kind of catalogue that is kept at a place."""
    if not is_url(place):
        return SqliteCatalogue
    from xcrossrec.catalogue.postgres import PostgresCatalogue

    return PostgresCatalogue


def is_catalogue(place: Path | str) -> bool:
    """Whether a catalogue, or what is left of one, is at a place (StorageError: no right to look); a URL names one."""
    return is_url(place) or sqlite.is_catalogue(place)


def open_kept(place: Path | str, *, fingerprint: str | None) -> Kept:
    """Open a catalogue, with errors as of :meth:`SqliteCatalogue.open` and :meth:`PostgresCatalogue.open`.

    Args:
        place: a folder, or the URL of a database.
        fingerprint: of the model that queries will come from; None takes whatever model's vectors are there.
    """
    return kind_kept(place).open(str(place), fingerprint=fingerprint)


def recorded_model(place: Path | str) -> tuple[str, str | None] | None:
    """The fingerprint of the model whose vectors count in a database, and its folder where that is known; None of a
    folder, which one process has."""
    if not is_url(place):
        return None
    from xcrossrec.catalogue.postgres import PostgresCatalogue

    return PostgresCatalogue.recorded_model(str(place))


def recorded_purchases(place: Path | str) -> PurchaseLog:
    """What was bought of a catalogue, in order of arrival, and who was forgotten; errors as for :func:`open_kept`."""
    return kind_kept(place).recorded_purchases(str(place))
