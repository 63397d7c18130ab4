"""The commands that recommend: for one history, with reasons, and for a file of users."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli.console import (
    Base,
    Json,
    Precision,
    counter,
    one_line,
    prepare,
    progress_to_stderr,
    report_cut,
    taking,
)

if TYPE_CHECKING:
    from xcrossrec.answers import Explanation, Recommendation
    from xcrossrec.recommender import Question, Recommender

ModelDir = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a bundle or an adapter.")]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What to recommend, whoever it is for."""

    catalog: Annotated[
        Path, typer.Option(metavar="ITEMS", help="A domain's folder, a .csv or .parquet of items, or a catalogue.")
    ]
    k: Annotated[int, typer.Option("-k", "--k", help="How many at most.")] = 10
    category: Annotated[list[str] | None, typer.Option(help="Only items of this category; may be repeated.")] = None
    in_stock: Annotated[bool, typer.Option("--in-stock", help="Only items that can be bought now.")] = False
    price_min: Annotated[float | None, typer.Option(help="Only items of this price or more.")] = None
    price_max: Annotated[float | None, typer.Option(help="Only items of this price or less.")] = None
    include_bought: Annotated[bool, typer.Option("--include-bought", help="Also recommend what is in the history.")] = (
        False
    )
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Leave out ids that the catalogue lacks.")] = (
        False
    )
    base: Base = None
    precision: Precision = "fp32"
    as_json: Json = False

    def recommender(self, model: Path) -> Recommender:
        """Load a model and open the catalogue."""
        from xcrossrec.recommender import Recommender

        return Recommender.from_pretrained(model, self.catalog, base=self.base, precision=self.precision)

    def question(self, history: list[str], candidates: list[str] | None = None) -> Question:
        """As a recommender takes it; without filters where none is given."""
        from xcrossrec.catalogue import Filters
        from xcrossrec.recommender import Question

        filters = Filters(self.category or None, self.in_stock or None, self.price_min, self.price_max)
        chosen = None if filters == Filters() else filters
        return Question(history, self.k, chosen, candidates, self.include_bought, self.skip_unknown)


@taking(Asked)
def recommend(
    model: ModelDir,
    options: Asked,
    history: Annotated[
        list[str],
        typer.Option(help="An item id or a title, oldest first; 'id:...' or 'title:...' where it is not clear."),
    ],
    candidate: Annotated[
        list[str] | None, typer.Option(help="Choose among these item ids only; may be repeated.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: history items, sources, layers.")] = False,
) -> None:
    """Recommend items of a catalogue for a history of item ids and titles.

    \b
      xcrossrec recommend models/toys --catalog data/toys --history "Wooden train set" --history B0012 -k 5 --explain
    """
    prepare("models")
    from xcrossrec.models.model import encoder_of

    asked = options.question(history, candidate)
    with progress_to_stderr(), options.recommender(model) as recommender:
        encoder = encoder_of(recommender.model)
        encoder.cut.reset()  # from here on only this history counts
        found = recommender.ask(asked)
        report_cut(encoder.cut, encoder.max_tokens)
        reasons = recommender.explain_answer(found) if explain else []
    if options.as_json:
        recommended = [r.to_dict() for r in found.recommendations]
        for entry, reason in zip(recommended, reasons, strict=False):
            entry["explanation"] = reason.to_dict()
        told = {"model": str(model), "history": history, "unknown": list(found.unknown)}
        typer.echo(one_line({**told, "recommendations": recommended}))
        return
    if found.unknown:
        typer.echo(f"left out, since the catalogue lacks them: {', '.join(found.unknown)}", err=True)
    typer.echo(as_text(found.recommendations, reasons))


@taking(Asked)
def recommend_batch(
    model: ModelDir,
    users: Annotated[
        Path, typer.Argument(metavar="USERS", help="Parquet file with user_id and history, a list of text.")
    ],
    options: Asked,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what another job left.")] = False,
) -> None:
    """Recommend for every user of a Parquet file; give the same command again to go on after an interruption.

    \b
      xcrossrec recommend-batch models/toys users.parquet --catalog data/toys --out recommended.parquet -k 20
    """
    prepare("serve")
    from xcrossrec.recommender.job import job_of, open_users
    from xcrossrec.recommender.job import recommend_batch as run

    start = time.perf_counter()
    asked = options.question([])
    open_users(users).close()  # before anything expensive is done
    with progress_to_stderr(), options.recommender(model) as recommender:
        job = {**job_of(recommender, model, users, asked), "precision": options.precision}
        show = counter("row groups")
        report = run(recommender, users, out, job=job, asked=asked, overwrite=overwrite, progress=show)
    wall_s = time.perf_counter() - start
    if options.as_json:
        typer.echo(one_line({"out": str(out), **asdict(report), "wall_s": round(wall_s, 2)}))
        return
    typer.echo(f"{out}: {report.users} users in {report.row_groups} row groups, in {wall_s:.1f} s")
    if report.resumed:
        typer.echo(f"{report.resumed} of the row groups were there from an earlier run")
    if report.errors:
        typer.echo(f"{report.errors} users have no recommendations: their column 'error' says why")


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
