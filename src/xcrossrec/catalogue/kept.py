"""Stored catalogues: in a folder with SQLite, or in a PostgreSQL database, named by its URL."""

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
    """A place for messages: a URL without its password."""
    if not is_url(place):
        return str(place)
    from xcrossrec.catalogue.postgres.connections import Database

    return Database(str(place)).name


def check_place(place: Path | str, *, overwrite: bool) -> None:
    """Refuse (BundleError) a place with a catalogue that may not be overwritten, or that has another format."""
    if not is_url(place):
        with sqlite.held(Path(place), overwrite=overwrite):
            return
    from xcrossrec.catalogue.postgres.tables import taken

    with suppress(NoCatalogueError):
        recorded_model(place)
        if not overwrite:
            raise taken(shown(place))


def check_beside(folder: Path) -> None:
    """Refuse (BundleError) to replace a folder whose catalogue is open, or was written to since it was made."""
    for place in folder.glob(".catalogue-*"):
        with open_kept(place, fingerprint=None) as catalogue:
            if catalogue.version > 1 or catalogue.forgotten:
                said = f"{place} holds what was written over HTTP: move or delete it first, or import elsewhere"
                raise BundleError(said)


def kind_kept(place: Path | str) -> type[Kept]:
    """The class of catalogues that are stored at such a place."""
    if not is_url(place):
        return SqliteCatalogue
    from xcrossrec.catalogue.postgres import PostgresCatalogue

    return PostgresCatalogue


def is_catalogue(place: Path | str) -> bool:
    """Whether a catalogue, or what is left of one, is at a place (StorageError: no access); true for every URL."""
    return is_url(place) or sqlite.is_catalogue(place)


def open_kept(place: Path | str, *, fingerprint: str | None) -> Kept:
    """Open a catalogue, with errors as of :meth:`SqliteCatalogue.open` and :meth:`PostgresCatalogue.open`.

    Args:
        place: a folder, or the URL of a database.
        fingerprint: of the model that will encode queries; None accepts any model's vectors.
    """
    return kind_kept(place).open(str(place), fingerprint=fingerprint)


def recorded_model(place: Path | str) -> tuple[str, str | None] | None:
    """The fingerprint of the model whose vectors a database holds, and its folder where that is known; None for a
    folder, which no other process can have changed."""
    if not is_url(place):
        return None
    from xcrossrec.catalogue.postgres.connections import Database
    from xcrossrec.catalogue.postgres.tables import Tables

    state = Tables(Database(str(place))).state()
    return state.fingerprint, state.model


def recorded_purchases(place: Path | str) -> PurchaseLog:
    """A catalogue's purchases in order of arrival, and its forgotten customers; errors as for :func:`open_kept`."""
    return kind_kept(place).recorded_purchases(str(place))
