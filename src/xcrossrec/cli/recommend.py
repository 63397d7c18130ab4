"""The command that recommends, with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from xcrossrec.cli.console import Json, Precision, prepare, print_json, progress_to_stderr, report_cut

if TYPE_CHECKING:
    from xcrossrec.answers import Explanation, Recommendation
    from xcrossrec.recommender import Answer


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("recommend")(recommend)


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

    filters = filters_of(category, in_stock, price_min, price_max)
    asked = Question(history, k, filters, candidate, include_bought, skip_unknown)
    with progress_to_stderr(), Recommender.from_pretrained(model, catalog, precision=precision) as recommender:
        encoder = encoder_of(recommender.model)
        encoder.cut.reset()  # from here on only this history counts
        found = recommender.ask(asked)
        report_cut(encoder.cut.prompts, encoder.cut.items, encoder.cut.titles, encoder.max_tokens)
        reasons = recommender.explain_answer(found) if explain else []
    if as_json:
        print_json(_as_object(model, history, found, reasons))
        return
    if found.unknown:
        typer.echo(f"left out, since the catalogue lacks them: {', '.join(found.unknown)}", err=True)
    typer.echo(as_text(found.recommendations, reasons))


def _as_object(model: Path, history: list[str], found: Answer, reasons: list[Explanation]) -> dict[str, Any]:
    recommendations = [r.to_dict() for r in found.recommendations]
    for entry, reason in zip(recommendations, reasons, strict=False):
        entry["explanation"] = reason.to_dict()
    told = {"model": str(model), "history": history, "unknown": list(found.unknown)}
    return {**told, "recommendations": recommendations}


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
