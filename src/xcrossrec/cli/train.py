"""Commands that train: a source, the integration into a target, and the rival LoRA on the target."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.console import (
    DomainDir,
    Json,
    Overwrite,
    prepare,
    print_json,
    progress_to_stderr,
    shows_progress,
)
from xcrossrec.config import (
    DEFAULT_INTEGRATOR,
    DEFAULT_TOP_LAYERS,
    FORMS_WITHOUT_INTEGRATOR,
    TrainingConfig,
    rival_config,
    source_config,
    target_config,
)
from xcrossrec.exceptions import ConfigError
from xcrossrec.types import USER, HistoryPooling, PairAttention, PairStart, Scoring

if TYPE_CHECKING:
    from xcrossrec.data import Domain
    from xcrossrec.training.loop import TrainingReport

Out = Annotated[Path, typer.Option(help="Folder to write.")]
Budget = Annotated[int | None, typer.Option(min=1, help="Train on so many users, drawn by seed.  [default: all]")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Passes over the users, at most.")]
LearningRate = Annotated[float | None, typer.Option(help="AdamW's learning rate.")]
BatchUsers = Annotated[int | None, typer.Option(min=1, help="Users a step.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of training settings; options override it.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every draw.  [default: 0]")]
Pooling = Annotated[HistoryPooling, typer.Option(help="History as one vector (prompt) or item by item (late).")]
ScoringOption = Annotated[Scoring, typer.Option(help="History and item encoded apart (dual) or in one text (pair).")]
PairAttentionOption = Annotated[
    PairAttention | None,
    typer.Option(help="In a pair, the history sees the candidate (joint) or not (shared).  [default: by base]"),
]
PairStartOption = Annotated[
    PairStart, typer.Option(help="Whether a pair head starts from the similarity, or fresh as in the paper.")
]
MaxTokens = Annotated[int | None, typer.Option(min=8, help="Longest text.  [default: the model's, at most 256]")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run of the same settings.")]
Rank = Annotated[int, typer.Option(min=1, help="LoRA's r, on query and value.")]
BaseOption = Annotated[str | None, typer.Option(help="Folder, hub name, or nothing for the embedded MiniLM.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Train sources, the integration, and rivals.")


def register(parent: typer.Typer) -> None:
    """Add the commands to the command line."""
    parent.add_typer(app, name="train")


@app.command()
def source(
    directory: DomainDir,
    out: Out,
    base: BaseOption = None,
    rank: Rank = 8,
    scoring: ScoringOption = "dual",
    pair_attention: PairAttentionOption = None,
    pair_start: PairStartOption = "similarity",
    pooling: Pooling = "late",
    budget: Budget = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    batch_users: BatchUsers = None,
    max_tokens: MaxTokens = None,
    config: Config = None,
    seed: Seed = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune one LoRA adapter on an established domain.

    \b
      xcrossrec train source data/electronics --out adapters/electronics --budget 4000
    """
    prepare("train")
    from xcrossrec.data import read_domain
    from xcrossrec.models.base import DEFAULT_BASE
    from xcrossrec.training.source import train_source

    changes = _changes(config, epochs=epochs, learning_rate=learning_rate, batch_users=batch_users, seed=seed)
    settings = source_config(**changes)
    domain = read_domain(directory)
    with progress_to_stderr():
        report = train_source(
            domain,
            out,
            config=settings,
            base=base or DEFAULT_BASE,
            budget=budget,
            rank=rank,
            scoring=scoring,
            pooling=pooling,
            max_tokens=max_tokens,
            pair_attention=pair_attention,
            pair_start=pair_start,
            resume=resume,
            overwrite=overwrite,
            show_progress=shows_progress(),
        )
    _print(out, report, as_json=as_json)


@app.command()
def target(
    context: typer.Context,
    directory: DomainDir,
    sources: Annotated[list[Path], typer.Option("--source", help="A source's adapter folder; give it at least twice.")],
    out: Out,
    integrator: Annotated[
        str, typer.Option(help="merged (one stream), paper (X-Cross), pairwise, or none (streams only averaged).")
    ] = DEFAULT_INTEGRATOR,
    scoring: ScoringOption = "dual",
    pair_attention: PairAttentionOption = None,
    pooling: Pooling = "late",
    base: BaseOption = None,
    beta: Annotated[float, typer.Option(help="Strength of what a stream takes from another.")] = 1.0,
    gamma: Annotated[float, typer.Option(help="Strength of the contrast term (paper).")] = 1.0,
    base_stream: Annotated[
        bool, typer.Option("--base-stream", help="Integrate the base as it is as one more stream.")
    ] = False,
    top_layers: Annotated[
        int, typer.Option(min=0, help="Integrate after so many last layers; 0: after every layer, as in the paper.")
    ] = DEFAULT_TOP_LAYERS,
    target_rank: Annotated[
        int | None,
        typer.Option(min=0, help="Rank of a LoRA of the target's own; 0: none.  [default: 2 if merged, else 0]"),
    ] = None,
    target_layers: Annotated[
        int, typer.Option(min=0, help="The target's own LoRA in so many last layers; 0: in all that sources adapt.")
    ] = 0,
    budget: Budget = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    target_learning_rate: Annotated[
        float | None, typer.Option(help="AdamW's learning rate of the target's own LoRA.")
    ] = None,
    batch_users: BatchUsers = None,
    max_tokens: MaxTokens = None,
    config: Config = None,
    seed: Seed = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Integrate source adapters into a new domain: only a small LoRA, or integrators, and a small head train.

    By default the sources' updates are averaged into one stream, and the learning rate of its LoRA follows the number
    of users. `--integrator paper` is X-Cross, after the last layers; docs/evidence.md compares them.

    \b
      xcrossrec train target data/toys --source adapters/electronics --source adapters/sports \\
          --out models/toys --budget 1000
    """
    _refuse_options_of_integrators(context, integrator)
    prepare("train")
    from xcrossrec.data import read_domain
    from xcrossrec.training.target import train_target

    changes = _changes(
        config,
        epochs=epochs,
        learning_rate=learning_rate,
        target_learning_rate=target_learning_rate,
        batch_users=batch_users,
        seed=seed,
    )
    domain = read_domain(directory)
    settings = target_config(integrator, users=_users(domain, budget), scoring=scoring, **changes)
    with progress_to_stderr():
        report = train_target(
            domain,
            sources,
            out,
            config=settings,
            integrator=integrator,
            beta=beta,
            gamma=gamma,
            base=base,
            budget=budget,
            scoring=scoring,
            pooling=pooling,
            max_tokens=max_tokens,
            pair_attention=pair_attention,
            base_stream=base_stream,
            top_layers=top_layers or None,
            target_rank=target_rank,
            target_layers=target_layers or None,
            resume=resume,
            overwrite=overwrite,
            show_progress=shows_progress(),
        )
    _print(out, report, as_json=as_json)


@app.command()
def lora(
    directory: DomainDir,
    out: Out,
    init: Annotated[
        Path | None,
        typer.Option(help="Start from this adapter (its base, rank, scoring, pooling and pair attention hold)."),
    ] = None,
    base: BaseOption = None,
    rank: Rank = 8,
    scoring: ScoringOption = "dual",
    pair_attention: PairAttentionOption = None,
    pair_start: PairStartOption = "similarity",
    pooling: Pooling = "late",
    budget: Budget = None,
    epochs: Epochs = None,
    learning_rate: LearningRate = None,
    batch_users: BatchUsers = None,
    max_tokens: MaxTokens = None,
    config: Config = None,
    seed: Seed = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Fine-tune LoRA on the target itself: the rival at the same budget, with as many epochs as `train target`.

    \b
      xcrossrec train lora data/toys --out models/toys-lora --budget 1000
      xcrossrec train lora data/toys --init adapters/sports --out models/toys-warm --budget 1000
    """
    prepare("train")
    from xcrossrec.data import read_domain
    from xcrossrec.models.base import DEFAULT_BASE
    from xcrossrec.training.source import train_source

    changes = _changes(config, epochs=epochs, learning_rate=learning_rate, batch_users=batch_users, seed=seed)
    domain = read_domain(directory)
    settings = rival_config(users=_users(domain, budget), **changes)
    with progress_to_stderr():
        report = train_source(
            domain,
            out,
            config=settings,
            base=base or DEFAULT_BASE,
            init=init,
            budget=budget,
            rank=rank,
            scoring=scoring,
            pooling=pooling,
            max_tokens=max_tokens,
            pair_attention=pair_attention,
            pair_start=pair_start,
            resume=resume,
            overwrite=overwrite,
            show_progress=shows_progress(),
        )
    _print(out, report, as_json=as_json)


_OF_INTEGRATORS = {"beta": "", "gamma": "", "top_layers": "", "learning_rate": ", or give --target-learning-rate"}
"""Options of `train target` that say nothing without integrators, and what may be meant instead."""


def _refuse_options_of_integrators(context: typer.Context, integrator: str) -> None:
    """Refuse what would be without effect, rather than train something else than was asked for.

    Raises:
        ConfigError: an option of integrators for a form that has none.
    """
    if integrator not in FORMS_WITHOUT_INTEGRATOR:
        return
    for name, instead in _OF_INTEGRATORS.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            remedy = f"leave it out, or pass --integrator paper{instead}"
            raise ConfigError(f"{option} is of integrators, and {integrator!r} has none: {remedy}")


def _users(domain: Domain, budget: int | None) -> int:
    """How many users a training will have: some learning rates depend on it."""
    return budget or domain.frame("train")[USER].n_unique()


def _changes(config: Path | None, **options: float | None) -> dict[str, Any]:
    """Collect what the user set, options over the file; None is not set."""
    given = {name: value for name, value in options.items() if value is not None}
    return {**(_read_settings(config) if config else {}), **given}


def _read_settings(path: Path) -> dict[str, Any]:
    """Read training settings from a TOML file; unknown keys are refused later, by name.

    Raises:
        ConfigError: no such file, not TOML, or a value of another type than the setting's.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"settings {path} cannot be read ({error}): give a TOML file of training settings") from error
    types: Mapping[str, type] = {field.name: type(field.default) for field in fields(TrainingConfig)}
    for name, value in found.items():
        expected = types.get(name, type(value))
        if isinstance(value, bool) != (expected is bool) or not isinstance(value, (int, expected)):
            raise ConfigError(f"{name} in {path} is {value!r}: expected {expected.__name__}")
    return found


def _print(out: Path, report: TrainingReport, *, as_json: bool) -> None:
    if as_json:
        print_json({"path": str(out), **asdict(report)})
        return
    aside = f" ({report.holdout_users} set aside for early stopping)" if report.holdout_users else ""
    typer.echo(
        f"{out}: {report.trained_parameters:,} parameters trained on {report.users} users{aside}, "
        f"{report.epochs:g} epochs, {report.wall_s:.0f} s"
    )
    if report.best_loss is not None:
        before = f"{report.initial_loss:.4f} -> " if report.initial_loss is not None else ""
        typer.echo(f"loss on the users set aside: {before}{report.best_loss:.4f}")
