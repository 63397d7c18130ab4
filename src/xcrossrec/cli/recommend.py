"""The command that recommends, with reasons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.console import Json, Precision, prepare, print_json, progress_to_stderr, report_cut

if TYPE_CHECKING:
    from xcrossrec.answers import Explanation, Recommendation


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("recommend")(recommend)


def recommend(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a bundle or an adapter.")],
    catalog: Annotated[Path, typer.Option(metavar="DIR", help="A domain's folder: its items are ranked.")],
    history: Annotated[
        list[str],
        typer.Option(help="An item id or a title, oldest first; 'id:...' or 'title:...' where it is not clear."),
    ],
    k: Annotated[int, typer.Option("-k", "--k", help="How many.")] = 10,
    candidate: Annotated[
        list[str] | None, typer.Option(help="Choose among these item ids only; may be repeated.")
    ] = None,
    include_bought: Annotated[
        bool, typer.Option("--include-bought", help="Also recommend what is in the history.")
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say why: history items, sources, layers.")] = False,
    precision: Precision = "fp32",
    as_json: Json = False,
) -> None:
    """Recommend items of a catalogue for a history of item ids and titles.

    \b
      xcrossrec recommend models/toys --catalog data/toys --history "Wooden train set" --history B0012 -k 5 --explain
    """
    prepare("models")
    from xcrossrec.models.bundle import encoder_of
    from xcrossrec.recommender import Recommender

    with progress_to_stderr():
        recommender = Recommender.from_pretrained(model)
        encoder = encoder_of(recommender.model)
        encoder.precision = precision
        recommender.index(catalog)
        encoder.cut.reset()  # from here on only this history counts
        found = recommender.recommend(history, k, candidates=candidate, include_bought=include_bought)
        report_cut(encoder.cut.prompts, encoder.cut.items, encoder.cut.titles, encoder.max_tokens)
        reasons = recommender.explain_many(history, [f"id:{r.item_id}" for r in found]) if explain else []
    if as_json:
        print_json(_as_object(model, history, found, reasons))
    else:
        typer.echo(as_text(found, reasons))


def _as_object(
    model: Path, history: list[str], found: list[Recommendation], reasons: list[Explanation]
) -> dict[str, Any]:
    recommendations = [r.to_dict() for r in found]
    for entry, reason in zip(recommendations, reasons, strict=False):
        entry["explanation"] = reason.to_dict()
    return {"model": str(model), "history": history, "recommendations": recommendations}


def as_text(found: list[Recommendation], reasons: list[Explanation]) -> str:
    """Set recommendations out, one a line, reasons indented below each."""
    if not found:
        return "nothing is left to recommend: the history holds every candidate"
    lines = []
    for number, each in enumerate(found):
        lines.append(f"{each.rank:>3}. {each.title}  [{each.item_id}]  {each.score:.3f}")
        if reasons:
            lines += [f"     {sentence}" for sentence in str(reasons[number]).splitlines()]
    return "\n".join(lines)
