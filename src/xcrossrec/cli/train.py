"""Commands that train: a source, and a target in one of its forms."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from xcrossrec.cli import console
from xcrossrec.cli.checks import check_base, check_sources
from xcrossrec.config import Integration, TrainingConfig, rival_config, source_config, target_config
from xcrossrec.exceptions import ConfigError, StorageError
from xcrossrec.progress import to_stderr
from xcrossrec.replacing import check_vacant
from xcrossrec.training.places import is_unfinished, refuse_unfinished, work_folder
from xcrossrec.training.processes import Processes
from xcrossrec.training.trackers import Tracker, check_tracker
from xcrossrec.types import PairAttention, PoolingMode, Scoring

if TYPE_CHECKING:
    from xcrossrec.data import Domain
    from xcrossrec.training.loop import TrainingReport


@dataclass(frozen=True, kw_only=True)
class Run:
    """Options of all trainings."""

    out: Annotated[Path, typer.Option(help="Folder to write.")]
    scoring: Annotated[Scoring, typer.Option(help="History and item encoded apart (dual) or as one text (pair).")] = (
        "dual"
    )
    base: console.SourcesBase = None
    budget: Annotated[
        int | None, typer.Option(min=1, help="Train on this many users, drawn by seed.  [default: all]")
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Most passes over the users.")] = None
    config: Annotated[Path | None, typer.Option(help="TOML file of training settings; options override it.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Random seed.  [default: 0]")] = None
    report_to: Annotated[Tracker, typer.Option(help="Where losses and learning rates are logged.")] = "tensorboard"
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted run of the same settings.")] = False
    overwrite: console.Overwrite = False
    as_json: console.Json = False

    def changes(self) -> dict[str, Any]:
        """The user's settings, from the file and the options, which have priority."""
        given = {name: value for name in ("epochs", "seed") if (value := getattr(self, name)) is not None}
        return {**(_read_settings(self.config) if self.config else {}), **given}

    def users(self, domain: Domain) -> int:
        """The number of training users, on which some learning rates depend."""
        return self.budget or domain.count_users("train")

    def check(self, directory: Path) -> Domain:
        """Read the domain, after all checks that do not need a model."""
        from xcrossrec.data import read_domain

        check_vacant(self.out, overwrite=self.overwrite)
        refuse_unfinished(work_folder(self.out), resume=self.resume)
        check_base(self.base)
        check_tracker(self.report_to)
        domain = read_domain(directory)
        if self.budget is not None:
            domain.sequences("train").take(self.budget, self.seed or 0)
        return domain

    def arguments(self) -> dict[str, Any]:
        """The options that are arguments of the library's functions."""
        rest = ("out", "epochs", "config", "seed", "as_json")
        given = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in rest}
        return {**given, "show_progress": console.shows_progress()}


@dataclass(frozen=True, kw_only=True)
class Lora(Run):
    """Options of the training of one adapter."""

    rank: Annotated[int, typer.Option(min=1, help="LoRA's r, on query and value.")] = 8
    target_modules: Annotated[
        str | None, typer.Option(help="Adapt these linear layers: names with commas.  [default: query and value]")
    ] = None
    pooling: Annotated[
        PoolingMode | None,
        typer.Option(help="How token states become a vector (dual).  [default: the base folder's]"),
    ] = None
    history_prompt: Annotated[
        str | None, typer.Option(help="Text before a history's items.  [default: the base folder's]")
    ] = None
    item_prompt: Annotated[
        str | None, typer.Option(help="Text before an item that is scored.  [default: the base folder's]")
    ] = None
    pair_attention: Annotated[
        PairAttention | None,
        typer.Option(help="In a pair, the history sees the candidate (joint) or not (shared).  [default: joint]"),
    ] = None


app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train sources, and a target from them.")


@app.command()
@console.taking(Lora)
def source(directory: console.DomainDir, options: Lora) -> None:
    """Fine-tune one LoRA adapter on an established domain.

    \b
      xcrossrec train source data/electronics --out adapters/electronics --budget 4000
    """
    config = source_config(**options.changes())
    domain = options.check(directory)
    console.prepare("train")
    from xcrossrec.training.source import train_source

    targets = [name.strip() for name in options.target_modules.split(",")] if options.target_modules else None
    with console.progress_to_stderr(), _can_go_on(options):
        report = train_source(domain, options.out, config=config, **{**options.arguments(), "target_modules": targets})
    _print(report, options, "the base")


@contextmanager
def _can_go_on(options: Run) -> Iterator[None]:
    """Tell the user how to resume after an interruption, or if the disk is full."""
    try:
        yield
    except StorageError as error:
        if is_unfinished(work_folder(options.out)):
            raise StorageError(f"{error}, with --resume") from error
        raise
    except KeyboardInterrupt:
        words = [word for word in sys.argv[1:] if word != "--resume"]
        if (here := Processes.here()).first:
            to_stderr(f"interrupted: resume with\n  {here.command([*words, '--resume'])}")
        raise


def _refuse_old_name(value: str | None) -> None:
    if value is not None:
        raise ConfigError(f"--integrator is called --form now: write --form {value.replace('paper', 'xcross')}")


@app.command()
@console.taking(Run)
def target(
    directory: console.DomainDir,
    options: Run,
    sources: Annotated[
        list[Path] | None,
        typer.Option("--source", help="A source's adapter folder; at least two, except with --form lora."),
    ] = None,
    form: Annotated[
        Literal["merged", "xcross", "xcross-all", "lora"],
        typer.Option(
            help="Sources averaged in one model (merged), the paper's integration after the last two layers (xcross) "
            "or after every one (xcross-all), or a LoRA on the target for comparison (lora)."
        ),
    ] = "merged",
    strict: console.Strict = False,
    integrator: Annotated[str | None, typer.Option(hidden=True, callback=_refuse_old_name)] = None,
) -> None:
    """Combine source adapters for a new domain. Trains only a small LoRA, or integrators, and a small head.

    By default the sources' updates are averaged, and the learning rate of the LoRA depends on the number of users.
    `--form xcross-all` is X-Cross as published; docs/evidence.md compares the forms. `--form lora` is for comparison,
    with as many epochs: a LoRA on the target, from the base or from one source.

    \b
      xcrossrec train target data/toys --source adapters/electronics --source adapters/sports \\
          --out models/toys --budget 1000
      xcrossrec train target data/toys --form lora --out models/toys-lora --budget 1000
    """
    if strict and form == "lora":
        raise ConfigError("--strict is of sources that are integrated: leave it out, or leave out --form lora")
    folders = sources or []
    target_config(**options.changes())  # refuses wrong settings
    check_sources(folders, alone=form == "lora")
    domain = options.check(directory)
    console.prepare("train")
    from xcrossrec.training.source import train_source
    from xcrossrec.training.target import train_target

    given: dict[str, Any] = options.arguments()
    with console.progress_to_stderr(), _can_go_on(options):
        settings = {"users": options.users(domain), **options.changes()}
        if form == "lora":
            given |= {"init": folders[0] if folders else None, "purchases": True}
            report = train_source(domain, options.out, config=rival_config(**settings), **given)
        else:
            integration = Integration("xcross", top_layers=None) if form == "xcross-all" else Integration(form)
            config = target_config(scoring=options.scoring, integration=integration, **settings)
            given |= {"integration": integration, "strict": strict}
            report = train_target(domain, folders, options.out, config=config, **given)
    start = "the mean of the sources" if form != "lora" else str(folders[0]) if folders else "the base"
    _print(report, options, start)


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
        TrainingConfig.from_mapping(found)
    except (OSError, ValueError) as error:  # ConfigError is a ValueError
        raise ConfigError(f"settings {path} cannot be read ({error}): give a TOML file of training settings") from error
    return found


def _print(report: TrainingReport, options: Run, start: str) -> None:
    """Print what a training did, and whether the model is better than at the start."""
    if not Processes.here().first:
        return
    if options.as_json:
        console.echo({"path": str(options.out), **asdict(report), "improved": report.improved})
        return
    aside = f" ({report.holdout_users} set aside for early stopping)" if report.holdout_users else ""
    console.echo(
        f"{options.out}: {report.trained_parameters:,} parameters trained on {report.users} users{aside}, "
        f"{report.epochs:g} epochs, {report.wall_s:.0f} s"
    )
    if report.improved is None:
        console.echo(
            f"Whether this is better than {start} is not known: no users were set aside, since there are fewer than 32 "
            "(or holdout_share is 0). Rank both with `xcrossrec evaluate`."
        )
    elif report.improved:
        best = report.losses.index(min(report.losses)) + 1
        console.echo(
            f"Better than {start}: loss on the users set aside {report.initial_loss:.4f} -> {report.best_loss:.4f}, "
            f"best after epoch {best}"
        )
    else:
        console.echo(
            f"Nothing improved: after no epoch the loss on the users set aside was below the {report.initial_loss:.4f} "
            f"of the start, so this is {start} as it was. More users, or other rates (--config), may help."
        )
    if report.copurchase is not None:
        console.echo(f"Beside the text: {report.copurchase}")
