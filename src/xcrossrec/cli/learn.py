"""The command that gives a trained model what was bought since."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.cli.checks import check_items, check_model
from xcrossrec.cli.console import Base, prepare, progress_to_stderr
from xcrossrec.cli.recommend import ModelDir


def learn(
    model: ModelDir,
    interactions: Annotated[
        list[str], typer.Option(metavar="FILE", help="Purchases: file, folder or pattern; may be repeated.")
    ],
    catalog: Annotated[
        Path | None,
        typer.Option(
            metavar="ITEMS",
            help="A domain's folder, a table of items, a catalogue: the weight of purchases beside the text is chosen "
            "anew.  [default: it stays]",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="Name of the column of user, item, time or position.  [default: found]"),
    ] = None,
    base: Base = None,
) -> None:
    """Add purchases to those that a model knows, without any training; its folder is replaced in one step.

    What is bought together with what counts beside the text from the next start on. To give purchases again changes
    nothing. While a service runs, POST /v1/purchases does the same for single purchases.

    \b
      xcrossrec learn models/garden --interactions today.csv
      xcrossrec learn models/garden --interactions purchases.csv --catalog data/garden
    """
    from xcrossrec.data.readers import Columns

    check_model(model, base)
    columns = Columns.parse(column or [])
    if catalog is not None:
        check_items(catalog)
    prepare("models")
    from xcrossrec.recommender.learn import learn as add

    with progress_to_stderr():
        learned = add(model, interactions, catalog, columns=columns, base=base)
    typer.echo(
        f"{model}: {learned.added:,} purchases are new; it knows {learned.purchases:,} of {learned.customers:,} "
        "customers now"
    )
    if learned.copurchase is not None:
        typer.echo(f"Beside the text: {learned.copurchase}")
