"""Commands that add purchases to a trained model, and delete those of a customer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.cli.checks import check_items, check_model, is_kept
from xcrossrec.cli.console import Base, ModelDir, echo, prepare, progress_to_stderr


def learn(
    model: ModelDir,
    interactions: Annotated[
        list[str],
        typer.Option(
            metavar="FILE", help="Purchases: file, folder, pattern, domain, or a catalogue (its own); may be repeated."
        ),
    ],
    catalog: Annotated[
        str | None,
        typer.Option(
            metavar="ITEMS",
            help="A domain's folder, a table of items, a catalogue: the weight of co-purchases is then chosen "
            "again.  [default: it stays]",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(metavar="ROLE=NAME", help="Name of the column of user, item, time or position.  [default: found]"),
    ] = None,
    base: Base = None,
) -> None:
    """Add purchases to a model, without training. Its folder is replaced in one step.

    Co-purchases count from the next start on. Adding the same purchases again changes nothing. While a service runs,
    POST /v1/purchases does the same for single purchases.

    \b
      xcrossrec learn models/garden --interactions today.csv
      xcrossrec learn models/garden --interactions purchases.csv --catalog data/garden
      xcrossrec learn models/garden --interactions catalogues/garden
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
    echo(
        f"{model}: {learned.added:,} purchases are new; it knows {learned.purchases:,} of {learned.customers:,} "
        "customers now"
    )
    if catalog is not None:
        echo(f"Beside the text: {learned.copurchase or 'no weight to choose, this model ranks by bestsellers alone'}")


def forget(
    user: Annotated[str, typer.Argument(metavar="USER", help="Id of the customer.")],
    folders: Annotated[
        list[str], typer.Argument(metavar="FOLDER...", help="Models, and catalogues that no service has open.")
    ],
) -> None:
    """Delete a customer's purchases from models and catalogues. Nothing of them stays in the files.

    While a service runs, DELETE /v1/purchases does the same for what it serves.

    \b
      xcrossrec forget c-17 models/garden catalogues/garden
    """
    for folder in folders:
        if not is_kept(folder):
            check_model(Path(folder))
    prepare("models")
    from xcrossrec.catalogue import open_kept
    from xcrossrec.catalogue.kept import shown
    from xcrossrec.recommender.learn import forget as forget_in_model

    for folder in folders:
        if is_kept(folder):
            with open_kept(folder, fingerprint=None) as store:
                count = store.forget(user)
        else:
            count = forget_in_model(folder, user)
        echo(f"{shown(folder)}: {count:,} purchases deleted")
