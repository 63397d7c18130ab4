"""The command that encodes a catalogue once and keeps its vectors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.cli.console import Json, Overwrite, Precision, prepare, print_json, progress_to_stderr


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("index")(index)


def index(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a dual bundle or an adapter.")],
    catalog: Annotated[Path, typer.Option(metavar="DIR", help="A domain's folder: its titles are encoded.")],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder to write; must be free.")],
    precision: Precision = "fp32",
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Encode a catalogue's titles and keep the vectors for 'recommend --index'.

    The folder is refused for another model or other titles; make it again with --overwrite when either changes.
    """
    prepare("models")
    from xcrossrec.exceptions import BundleError
    from xcrossrec.models.bundle import encoder_of
    from xcrossrec.recommender import Recommender

    if out.exists() and not overwrite:
        raise BundleError(f"{out} exists: choose another place, or give --overwrite")
    with progress_to_stderr():
        start = time.perf_counter()
        recommender = Recommender.from_pretrained(model)
        encoder_of(recommender.model).precision = precision
        recommender.index(catalog)
        recommender.save_index(out, overwrite=overwrite)
    items, wall_s = len(recommender.catalog.titles), time.perf_counter() - start
    size = sum(path.stat().st_size for path in out.iterdir())
    if as_json:
        found = {"index": str(out), "model": str(model), "catalog": str(catalog), "items": items, "bytes": size}
        print_json({**found, "wall_s": round(wall_s, 2)})
    else:
        typer.echo(f"{out}: {items} items, {size / 1e6:.1f} MB, in {wall_s:.1f} s")
