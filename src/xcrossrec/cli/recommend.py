"""The commands that recommend: for one history, with reasons, and for a file of users."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli import console
from xcrossrec.cli.checks import check_file, check_items, check_model, is_kept
from xcrossrec.engine import check_engine, engine_named
from xcrossrec.exceptions import DataError
from xcrossrec.filters import Filters
from xcrossrec.progress import to_stderr
from xcrossrec.replacing import state_of

if TYPE_CHECKING:
    from xcrossrec.answers import Explanation, Recommendation
    from xcrossrec.recommender import Question, Recommender


@dataclass(frozen=True, kw_only=True)
class Asked:
    """Options of both commands."""

    catalog: Annotated[str, typer.Option(metavar="ITEMS", help="A domain's folder, a table of items, or a catalogue.")]
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="How many at most.")] = 10
    category: Annotated[list[str] | None, typer.Option(help="Only items of this category; may be repeated.")] = None
    in_stock: Annotated[bool, typer.Option("--in-stock", help="Only items that can be bought now.")] = False
    price_min: Annotated[float | None, typer.Option(help="Only items of this price or more.")] = None
    price_max: Annotated[float | None, typer.Option(help="Only items of this price or less.")] = None
    include_bought: Annotated[bool, typer.Option("--include-bought", help="Also recommend what is in the history.")] = (
        False
    )
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Leave out ids not in the catalogue.")] = False
    diversity: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="At most K items of near-equal titles.  [default: no limit]"),
    ] = None
    base: console.Base = None
    precision: console.Precision = "fp32"
    as_json: console.Json = False

    def check(self, model: Path) -> None:
        """Refuse at once a folder without a model, missing items, and invalid filters."""
        check_model(model, self.base)
        check_items(self.catalog, include_bought=self.include_bought)
        self._filters()

    def recommender(self, model: Path) -> Recommender:
        """Load a model and open the catalogue."""
        from xcrossrec.recommender import Recommender

        return Recommender.from_pretrained(model, self.catalog, base=self.base, precision=self.precision)

    def question(
        self,
        history: Sequence[str],
        candidates: list[str] | None = None,
        other: Sequence[str] = (),
        user: str | None = None,
    ) -> Question:
        """The question for a recommender."""
        from xcrossrec.recommender import Question

        first = history, self.k, self._filters(), candidates, self.include_bought, self.skip_unknown
        return Question(*first, diversity=self.diversity, user_id=user, other_history=other)

    def _filters(self) -> Filters | None:
        filters = Filters(self.category or None, self.in_stock or None, self.price_min, self.price_max)
        return None if filters == Filters() else filters


@console.taking(Asked)
def recommend(
    model: console.ModelDir,
    options: Asked,
    history: Annotated[
        list[str] | None,
        typer.Option(
            help="An item id or a title, oldest first; 'id:...' or 'title:...' if that is unclear. Models that know "
            "purchases need none."
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A customer; her purchases in model and catalogue precede the history."),
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(metavar="TITLE", help="A title bought in another category, oldest first; may be repeated."),
    ] = None,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Choose among these item ids only; may be repeated.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Give reasons: history items, sources, layers.")] = False,
) -> None:
    """Recommend items for a history of item ids and titles.

    \b
      xcrossrec recommend models/toys --catalog data/toys --history "Wooden train set" --history B0012 -k 5 --explain
    """
    options.check(model)
    console.prepare("models")
    from xcrossrec.models.model import encoder_of

    asked = options.question(history or [], candidate, other or [], user)
    _check_known(options.catalog, asked, knows_purchases=any(model.glob("*_Purchases")))
    with console.progress_to_stderr(), options.recommender(model) as recommender:
        encoder = encoder_of(recommender.model)
        encoder.cut.reset()  # count only this history
        found = recommender.ask(asked)
        console.report_cut(encoder.cut, encoder.max_tokens)
        reasons = recommender.explain_answer(found) if explain else []
    _tell_of_encoding(model, options.catalog)
    if options.as_json:
        recommended = [r.to_dict() for r in found.recommendations]
        for entry, reason in zip(recommended, reasons, strict=False):
            entry["explanation"] = reason.to_dict()
        told = {"model": str(model), "history": history or [], "user_id": user, "unknown": list(found.unknown)}
        console.echo({**told, "rung": found.rung, "reason": found.reason, "recommendations": recommended})
        return
    if found.unknown:
        to_stderr(f"left out, since the catalogue lacks them: {', '.join(found.unknown)}")
    to_stderr(found.reason)
    console.echo(as_text(found.recommendations, reasons))


@console.taking(Asked)
def recommend_batch(
    model: console.ModelDir,
    users: Annotated[
        Path, typer.Argument(metavar="USERS", help="Parquet file with user_id and history, a list of text (optional).")
    ],
    options: Asked,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Parquet file to write.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what another job left.")] = False,
    engine: console.EngineChoice = "local",
) -> None:
    """Recommend for every user of a Parquet file. Run the same command again to resume after an interruption.

    A user's purchases in model and catalogue are put before her history.

    \b
      xcrossrec recommend-batch models/toys users.parquet --catalog data/toys --out recommended.parquet -k 20
    """
    options.check(model)
    check_file(out)
    check_engine(engine)
    if not users.is_file():
        raise DataError(f"the users' file {users} {state_of(users)}: give a Parquet file with user_id and history")
    console.prepare("serve")
    from xcrossrec.recommender.job import job_of, open_users
    from xcrossrec.recommender.job import recommend_batch as run

    start = time.perf_counter()
    asked = options.question([])
    open_users(users).close()  # before anything expensive is done
    with (
        console.progress_to_stderr(),
        console.going_on(),
        engine_named(engine) as where,
        options.recommender(model) as recommender,
    ):
        job = {**job_of(recommender, model, users, asked), "precision": options.precision}
        report = run(recommender, users, out, job=job, asked=asked, overwrite=overwrite, engine=where)
    wall_s = time.perf_counter() - start
    _tell_of_encoding(model, options.catalog)
    if options.as_json:
        console.echo({"out": str(out), **asdict(report), "wall_s": round(wall_s, 2)})
        return
    console.echo(f"{out}: {report.users} users in {report.row_groups} row groups, in {wall_s:.1f} s")
    if report.resumed:
        console.echo(f"{report.resumed} of the row groups were there from an earlier run")
    if report.nothing:
        console.echo(f"{report.nothing} users get nothing: no item meets the filters, or all that do were bought")
    if report.errors:
        console.echo(f"{report.errors} users have no recommendations: their column 'error' says why")


def _check_known(source: str, asked: Question, *, knows_purchases: bool) -> None:
    """Refuse unknown ids before the items are encoded."""
    import numpy as np

    from xcrossrec.catalogue import Catalogue, read_items
    from xcrossrec.recommender.questions import understand

    if not is_kept(source):
        items = read_items(source)
        snapshot = Catalogue.in_memory(items, np.empty((len(items), 0), np.float32), "").snapshot()
        understand(snapshot, asked, knows_purchases=knows_purchases)


def _tell_of_encoding(model: Path, source: str) -> None:
    """Suggest a catalogue on disk, which would be faster, if there is none."""
    if not is_kept(source):
        words = shlex.join(["xcrossrec", "catalog", "build", str(model), source, "--out", "DIR"])
        console.log.info(f"the items of {source} were encoded only for this answer; to keep their vectors:  {words}")


def as_text(found: list[Recommendation], reasons: list[Explanation]) -> str:
    """Recommendations as text, one per line, with indented reasons."""
    if not found:
        return "nothing is left to recommend: every candidate is in the history, or meets no filter"
    lines = []
    first: dict[str, int] = {}
    for number, each in enumerate(found):
        before = first.setdefault(each.title.casefold(), each.rank)
        same = f"  same title as {before}." if before != each.rank else ""
        lines.append(f"{each.rank:>3}. {each.title}  [{each.item_id}]  {each.score:.3f}{same}")
        if reasons:
            lines += [f"     {sentence}" for sentence in str(reasons[number]).splitlines()]
    return "\n".join(lines)
