"""Commands on catalogues on disk: build, embed, check and repair."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli import console
from xcrossrec.cli.checks import check_catalogue, check_items, check_model
from xcrossrec.engine import check_engine, engine_named
from xcrossrec.replacing import check_vacant
from xcrossrec.types import is_url

if TYPE_CHECKING:
    from xcrossrec.models.model import Model

Catalogue = Annotated[str, typer.Argument(metavar="DIR", help="A catalogue made by `catalog build` or `serve`.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Store items with their vectors on disk.")


@app.command("build")
def build(
    model: console.ModelDir,
    items: Annotated[str, typer.Argument(metavar="ITEMS", help="A domain's folder, a table of items, or a catalogue.")],
    out: Annotated[str, typer.Option(metavar="DIR", help="Folder to write (must not exist), or postgresql://...")],
    base: console.Base = None,
    precision: console.Precision = "fp32",
    overwrite: console.Overwrite = False,
) -> None:
    """Encode items and store them with their vectors. Every --catalog takes the result.

    A table may also have the columns category, in_stock and price, which searches filter by; every other column is
    kept as metadata.
    """
    check_model(model, base)
    check_items(items)
    if not is_url(out):
        check_vacant(Path(out), overwrite=overwrite)
    console.prepare("models")
    from xcrossrec.catalogue import build_catalogue
    from xcrossrec.models.bundle import Loading

    start = time.perf_counter()
    with console.progress_to_stderr():
        loaded = Loading(model, base, precision)()
        with build_catalogue(loaded, items, out, overwrite=overwrite) as made:
            count, name = len(made), made.name
    _report(out, name, count, time.perf_counter() - start, loaded)


@app.command("embed")
def embed(
    model: console.ModelDir,
    catalog: Catalogue,
    base: console.Base = None,
    precision: console.Precision = "fp32",
    engine: console.EngineChoice = "local",
) -> None:
    """Encode a catalogue's items again, with another model. The items themselves do not change.

    It is done as a whole or not at all, and not while a service has the catalogue open: that one changes its model
    itself. A killed run goes on where it was when the same command is given again; one on a database with --engine ray.
    """
    check_model(model, base)
    check_catalogue(catalog)
    check_engine(engine)
    console.prepare("models")
    from xcrossrec.catalogue import embed_again, in_blocks, open_kept
    from xcrossrec.models.bundle import Loading

    start = time.perf_counter()
    with console.progress_to_stderr(), engine_named(engine) as where, open_kept(catalog, fingerprint=None) as store:
        loaded = (loading := Loading(model, base, precision))()
        in_database = where.here and is_url(catalog)
        lent = nullcontext() if in_database else in_blocks(loaded, loading, where, catalog)
        with (
            nullcontext() if in_database else console.going_on(),
            lent as encode,
            embed_again(store, loaded, model, encode) as embedded,
        ):
            count, name = len(embedded), embedded.name
    _report(catalog, name, count, time.perf_counter() - start, loaded)


@app.command("check")
def check(catalog: Catalogue) -> None:
    """List what is damaged in a catalogue, item by item. The exit status is 1 if anything is."""
    check_catalogue(catalog)
    console.prepare("models")
    from xcrossrec.catalogue import examine

    if is_url(catalog):
        from xcrossrec.catalogue.postgres import PostgresCatalogue

        with PostgresCatalogue.open(catalog, fingerprint=None) as store:
            damage, name, count, version = store.check(), store.name, len(store), store.version
    else:
        found = examine(catalog)
        damage, name, count, version = found.sentences(), catalog, len(found.items), found.version
    if damage:
        console.echo("\n".join(damage))
        raise typer.Exit(1)
    console.echo(f"{name}: {count} items, version {version}, nothing is damaged")


@app.command("repair")
def repair(model: console.ModelDir, catalog: Catalogue, base: console.Base = None) -> None:
    """Repair a damaged catalogue. Encodes intact items again, and names the others, which are left out.

    The model is the one that made the vectors. Writes that the damage took back stay lost; the version goes on after
    them.
    """
    check_model(model, base)
    check_catalogue(catalog)
    console.prepare("models")
    from xcrossrec.catalogue import encode_items, examine, fingerprint_of, repair
    from xcrossrec.exceptions import ConfigError
    from xcrossrec.models.bundle import Loading

    if is_url(catalog):
        raise ConfigError("a database is repaired with its own tools and backups: this command repairs only folders")

    if not examine(catalog).sentences():
        console.echo(f"{catalog}: nothing is damaged, nothing was changed")
        return
    loaded = Loading(model, base)()
    with console.progress_to_stderr():
        found, made = repair(
            catalog, fingerprint=fingerprint_of(loaded), encode=lambda items: encode_items(loaded, items)
        )
    console.echo("\n".join(found.sentences()))
    with made:
        lost, anew = int(found.unreadable.sum()), int((found.unfit & ~found.unreadable).sum())
        left_out = f", {lost} left out: write them again" if lost else ""
        console.echo(f"{catalog}: {len(made)} items, version {made.version}; {anew} encoded again{left_out}")


def _report(catalog: str, name: str, items: int, wall_s: float, model: Model) -> None:
    console.report_cut(model[0].cut, model[0].max_tokens)
    files = [] if is_url(catalog) else [path.stat().st_size for path in Path(catalog).iterdir()]
    size = f", {sum(files) / 1e6:.1f} MB" if files else ""
    console.echo(f"{name}: {items} items{size}, in {wall_s:.1f} s")
