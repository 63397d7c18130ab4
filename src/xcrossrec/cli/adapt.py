"""Commands that decide which sources help and what to ship, and write the report of a decision."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from xcrossrec.cli.checks import check_adapter, check_base, check_category
from xcrossrec.cli.console import Base, EngineChoice, SourcesBase, echo, going_on, prepare, progress_to_stderr
from xcrossrec.engine import check_engine, engine_named
from xcrossrec.extras import require
from xcrossrec.progress import in_words

if TYPE_CHECKING:
    from xcrossrec.adaptation.decision import Candidate, Decision

_SPOILING = ("target_in_history", "same_moment", "train_after_targets", "common_item", "heavy_user")
"""Codes of risks that change the meaning of the reported score."""

TargetDir = Annotated[Path, typer.Argument(metavar="TARGET", help="The new category: a domain's folder.")]


def adapt(
    target: TargetDir,
    out: Annotated[Path, typer.Option(help="Folder to write; results of an earlier run in it are reused.")],
    source: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="An established category: a domain, or an adapter; may be repeated."),
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time limit; what does not fit into the time left is skipped.")] = 30.0,
    base: SourcesBase = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 0,
    add_source: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="One to add to those of an earlier run; may be repeated.")
    ] = None,
    drop_source: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="One of an earlier run to leave out; may be repeated.")
    ] = None,
    engine: EngineChoice = "local",
) -> None:
    """Decide what to ship for a new category. Fits candidates, chooses one and reports, within a time limit.

    Writes the model to OUT/model, and the reasons to OUT/decision.json and OUT/report.html. Run the command again to
    resume after an interruption, or to continue with more minutes.

    \b
      xcrossrec adapt data/garden --source data/kitchen --source data/camping --out garden
    """
    from xcrossrec.adaptation.decision import check_run

    check_run(out, minutes)
    check_base(base)
    check_category(target, new=True)
    for folder in [*(source or ()), *(add_source or ())]:
        check_category(folder)
    check_engine(engine)
    prepare("train")
    from xcrossrec.adaptation.run import adapt as run

    with progress_to_stderr(), going_on(), engine_named(engine) as where:
        decide = partial(run, add_sources=add_source or (), drop_sources=drop_source or (), engine=where)
        decision = decide(target, source, out=out, minutes=minutes, base=base, seed=seed)
    echo(as_text(decision, out))


def sources(
    target: TargetDir,
    source: Annotated[
        list[Path], typer.Option(metavar="ADAPTER", help="Made by `train source` or `adapt`; may be repeated.")
    ],
    base: Base = None,
) -> None:
    """Say which established categories help. Tests adapters on at most 300 users, without training.

    \b
      xcrossrec sources data/garden --source adapters/kitchen --source adapters/camping
    """
    check_base(base)
    check_category(target, new=True)
    for folder in source:
        check_adapter(folder)
    prepare("train")
    from xcrossrec.adaptation.judge import sources_table
    from xcrossrec.adaptation.sources import judge_sources

    with progress_to_stderr():
        found, users = judge_sources(target, source, base=base)
    echo(sources_table(found, users))


def as_text(decision: Decision, out: Path) -> str:
    """A decision as text: candidates, the worth of sources and more users, the verdict, and the next commands."""
    from xcrossrec.adaptation.judge import sources_table
    from xcrossrec.evaluation.table import aligned

    header = ["candidate", "MRR", "minus the shipped one's", "time", "MB"]
    fitted = [each for each in decision.candidates if each.status == "fitted"]
    rows = [_row(each, each.name == decision.chosen) for each in fitted]
    missing = [each for each in decision.candidates if each.status != "fitted"]
    lines = [*aligned(header, rows), *(f"{each.label}: {each.status}, {each.why}" for each in missing), ""]
    if decision.sources:
        lines += [sources_table(decision.sources, min(decision.target.users.fit, 300)), ""]
    if decision.curve is not None:
        lines += [decision.curve.sentence, ""]
    catalog = quote(decision.target.folder or "TARGET")
    own = (f"{decision.target.name}: ", f"{decision.target.name} (test): ")
    risks = [each for each in decision.risks or () if each.code in _SPOILING and each.sentence.startswith(own)]
    lines += [*decision.verdict, *(f"But {each.sentence}" for each in risks), ""]
    lines.append(f"Report: {out / 'report.html'}")
    lines.append(f"Learn:  xcrossrec learn {quote(str(out / 'model'))} --interactions {catalog}")
    return "\n".join([*lines, f"Serve:  xcrossrec serve {quote(str(out / 'model'))} --catalog {catalog}"])


def _row(each: Candidate, shipped: bool) -> list[str]:
    assert each.report is not None
    assert each.minus_chosen is not None
    less = "shipped" if shipped else each.minus_chosen.shown("+")
    return [each.label, each.report["mrr"].shown(), less, in_words(each.seconds), f"{each.memory_mb:.0f}"]


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Written by `xcrossrec adapt`.")],
) -> None:
    """Write the report of an `adapt` run again. It is DIR/report.html, made from DIR/decision.json."""
    require("models")
    from xcrossrec.adaptation.report import write_report

    echo(write_report(directory))
