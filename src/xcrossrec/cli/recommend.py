"""The commands that recommend: for one history, with reasons, and for a file of users."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli.console import Json, Precision, counter, prepare, print_json, progress_to_stderr, report_cut

if TYPE_CHECKING:
    from xcrossrec.answers import Explanation, Recommendation
    from xcrossrec.catalogue import Filters

ModelDir = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a bundle or an adapter.")]
Catalog = Annotated[
    Path, typer.Option(metavar="ITEMS", help="A domain's folder, a .csv or .parquet of items, or a catalogue.")
]
K = Annotated[int, typer.Option("-k", "--k", help="How many at most.")]
IncludeBought = Annotated[bool, typer.Option("--include-bought", help="Also recommend what is in the history.")]
SkipUnknown = Annotated[bool, typer.Option("--skip-unknown", help="Leave out ids that the catalogue lacks.")]
Category = Annotated[list[str] | None, typer.Option(help="Only items of this category; may be repeated.")]
InStock = Annotated[bool, typer.Option("--in-stock", help="Only items that can be bought now.")]
PriceMin = Annotated[float | None, typer.Option(help="Only items of this price or more.")]
PriceMax = Annotated[float | None, typer.Option(help="Only items of this price or less.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command("recommend")(recommend)
    app.command("recommend-batch")(recommend_batch)


def recommend(
    model: ModelDir,
    catalog: Catalog,
    history: Annotated[
        list[str],
        typer.Option(help="An item id or a title, oldest first; 'id:...' or 'title:...' where it is not clear."),
    ],
    k: K = 10,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Choose among these item ids only; may be repeated.")
    ] = None,
    category: Category = None,
    in_stock: InStock = False,
    price_min: PriceMin = None,
    price_max: PriceMax = None,
    include_bought: IncludeBought = False,
    skip_unknown: SkipUnknown = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: history items, sources, layers.")] = False,
    precision: Precision = "fp32",
    as_json: Json = False,
) -> None:
    """Recommend items of a catalogue for a history of item ids and titles.

    \b
      xcrossrec recommend models/toys --catalog data/toys --history "Wooden train set" --history B0012 -k 5 --explain
    """
    prepare("models")
    from xcrossrec.models.model import encoder_of
    from xcrossrec.recommender import Question, Recommender

    filters = _filters_of(category, in_stock, price_min, price_max)
    asked = Question(history, k, filters, candidate, include_bought, skip_unknown)
    with progress_to_stderr(), Recommender.from_pretrained(model, catalog, precision=precision) as recommender:
        encoder = encoder_of(recommender.model)
        encoder.cut.reset()  # from here on only this history counts
        found = recommender.ask(asked)
        report_cut(encoder.cut.prompts, encoder.cut.items, encoder.cut.titles, encoder.max_tokens)
        reasons = recommender.explain_answer(found) if explain else []
    if as_json:
        recommended = [r.to_dict() for r in found.recommendations]
        for entry, reason in zip(recommended, reasons, strict=False):
            entry["explanation"] = reason.to_dict()
        told = {"model": str(model), "history": history, "unknown": list(found.unknown)}
        print_json({**told, "recommendations": recommended})
        return
    if found.unknown:
        typer.echo(f"left out, since the catalogue lacks them: {', '.join(found.unknown)}", err=True)
    typer.echo(as_text(found.recommendations, reasons))


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
    from xcrossrec.recommender.job import job_of, open_users
    from xcrossrec.recommender.job import recommend_batch as run

    start = time.perf_counter()
    filters = _filters_of(category, in_stock, price_min, price_max)
    asked = Question([], k, filters, None, include_bought, skip_unknown)
    open_users(users).close()  # before anything expensive is done
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


def _filters_of(
    category: list[str] | None, in_stock: bool, price_min: float | None, price_max: float | None
) -> Filters | None:
    """Make filters of a command's options; None where none is given."""
    from xcrossrec.catalogue import Filters

    filters = Filters(category or None, in_stock or None, price_min, price_max)
    return None if filters == Filters() else filters


def as_text(found: list[Recommendation], reasons: list[Explanation]) -> str:
    """Set recommendations out, one a line, reasons indented below each."""
    if not found:
        return "nothing is left to recommend: every candidate is in the history, or meets no filter"
    lines = []
    for number, each in enumerate(found):
        lines.append(f"{each.rank:>3}. {each.title}  [{each.item_id}]  {each.score:.3f}")
        if reasons:
            lines += [f"     {sentence}" for sentence in str(reasons[number]).splitlines()]
    return "\n".join(lines)
