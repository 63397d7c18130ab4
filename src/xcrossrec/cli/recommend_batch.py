"""The command that recommends for a file of users."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.cli.asking import (
    Catalog,
    Category,
    IncludeBought,
    InStock,
    K,
    ModelDir,
    PriceMax,
    PriceMin,
    SkipUnknown,
    filters_of,
)
from xcrossrec.cli.console import Json, Precision, counter, prepare, print_json, progress_to_stderr


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("recommend-batch")(recommend_batch)


def recommend_batch(
    model: ModelDir,
    users: Annotated[
        Path, typer.Argument(metavar="USERS", help="Parquet file with user_id and history, a list of text.")
    ],
    catalog: Catalog,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.")],
    k: K = 10,
    category: Category = None,
    in_stock: InStock = False,
    price_min: PriceMin = None,
    price_max: PriceMax = None,
    include_bought: IncludeBought = False,
    skip_unknown: SkipUnknown = False,
    precision: Precision = "fp32",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what another job left.")] = False,
    as_json: Json = False,
) -> None:
    """Recommend for every user of a Parquet file; give the same command again to go on after an interruption.

    \b
      xcrossrec recommend-batch models/toys users.parquet --catalog data/toys --out recommended.parquet -k 20
    """
    prepare("serve")
    from xcrossrec.recommender import Question, Recommender
    from xcrossrec.recommender.job import check_users, job_of
    from xcrossrec.recommender.job import recommend_batch as run

    start = time.perf_counter()
    filters = filters_of(category, in_stock, price_min, price_max)
    asked = Question([], k, filters, None, include_bought, skip_unknown)
    check_users(users)
    with progress_to_stderr(), Recommender.from_pretrained(model, catalog, precision=precision) as recommender:
        job = {**job_of(recommender, model, users, asked), "precision": precision}
        show = counter("row groups")
        report = run(recommender, users, out, job=job, asked=asked, overwrite=overwrite, progress=show)
    wall_s = time.perf_counter() - start
    if as_json:
        print_json({"out": str(out), **asdict(report), "wall_s": round(wall_s, 2)})
        return
    typer.echo(f"{out}: {report.users} users in {report.row_groups} row groups, in {wall_s:.1f} s")
    if report.resumed:
        typer.echo(f"{report.resumed} of the row groups were there from an earlier run")
    if report.errors:
        typer.echo(f"{report.errors} users have no recommendations: their column 'error' says why")
