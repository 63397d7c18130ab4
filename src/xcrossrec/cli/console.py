"""Shared by the commands: common options, progress on stderr, silent libraries, and results on stdout."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from xcrossrec.engine.engines import EngineName
from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require
from xcrossrec.progress import printable, showing, to_stderr
from xcrossrec.system import resource
from xcrossrec.types import EncodingPrecision

if TYPE_CHECKING:
    from xcrossrec.models.tokens import CutReport

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Precision = Annotated[
    EncodingPrecision,
    typer.Option(help="Encoding precision: exact (fp32), or faster on processors with bfloat16 (bf16)."),
]
Base = Annotated[
    str | None, typer.Option(help="Folder or hub name of the model's base.  [default: found by its digest]")
]
SourcesBase = Annotated[
    str | None, typer.Option(help="Folder or hub name.  [default: the adapters' base, or the embedded one]")
]
EngineChoice = Annotated[
    EngineName,
    typer.Option("--engine", help="In this process, or with Ray: here, or on the cluster at RAY_ADDRESS."),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse an adapter if only its shapes suggest that it fits the base.")
]
ModelDir = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a model or an adapter.")]
DomainDir = Annotated[Path, typer.Argument(metavar="DIR", help="A domain's folder.")]

log = logging.getLogger("xcrossrec")

TABLES_MB, _MODELS_MB = 1_200, 3_500
"""Address space that Polars, and torch with its libraries, reserve on two cores; most of it is never used."""


def taking(kind: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take a keyword-only dataclass's fields as options: it gets the object as ``options``."""
    hints = get_type_hints(kind, include_extras=True)
    shared = [each.replace(annotation=hints[name]) for name, each in signature(kind).parameters.items()]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            command(options=kind(**{each.name: given.pop(each.name) for each in shared}), **given)

        own = [each for each in signature(command, eval_str=True).parameters.values() if each.name != "options"]
        shown = [*(each.replace(kind=Parameter.KEYWORD_ONLY) for each in own), *shared]
        run.__annotations__ = {each.name: each.annotation for each in shown}
        run.__dict__["__signature__"] = Signature(shown)
        return run

    return decorate


def check_memory(least: int) -> None:
    """Refuse (ConfigError) less address space, in MB, than libraries reserve: without it they hang or crash."""
    allowed = resource.getrlimit(resource.RLIMIT_AS)[0]
    if 0 <= allowed < least * 1e6:
        raise ConfigError(
            f"this process may have {allowed / 1e6:,.0f} MB of address space (ulimit -v), and the libraries that it "
            f"needs reserve {least:,} before any work: allow it more"
        )


def prepare(extra: str) -> None:
    """Check an extra and the memory that it needs (MissingExtraError, ConfigError), and silence its libraries."""
    require(extra)
    check_memory(_MODELS_MB)
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    for name in ("sentence_transformers", "peft", "torch", "huggingface_hub"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if extra == "train":
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()


def shows_progress() -> bool:
    """Whether progress is wanted on stderr (no ``--quiet``)."""
    return log.isEnabledFor(logging.INFO)


@contextmanager
def silent() -> Iterator[None]:
    """Within the block, discard what libraries print to stdout, which is for results."""
    with redirect_stdout(io.StringIO()):
        yield


@contextmanager
def progress_to_stderr() -> Iterator[None]:
    """Within the block, show progress on stderr, except with ``--quiet``; libraries are silent."""
    with silent(), showing(to_stderr if shows_progress() else None):
        yield


@contextmanager
def going_on() -> Iterator[None]:
    """Within the block, tell a user who interrupts that the same command resumes the work."""
    try:
        yield
    except KeyboardInterrupt:
        to_stderr("interrupted: finished work is kept, run the same command again to resume")
        raise


def echo(result: object) -> None:
    """Print a result, a mapping as JSON, with terminal control characters escaped."""
    text = json.dumps(result, ensure_ascii=False, default=str) if isinstance(result, Mapping) else str(result)
    typer.echo(printable(text))


def report_cut(cut: CutReport, limit: int | None = None) -> None:
    """Report on stderr how much text was cut to the model's limit in tokens, if any."""
    if cut.prompts:
        room = f" of {limit} tokens" if limit else ""
        log.info(
            f"cut: {cut.prompts} texts outgrew the model's room{room}; {cut.items} of their oldest history items were "
            f"left out, {cut.shortened} items of histories shortened, {cut.titles} single texts cut"
        )


def first_writable(directory: Path) -> Path | None:
    """The folder for candidate files: the domain's own, or None if it is read-only."""
    target = directory / "candidates"
    if os.access(target if target.exists() else directory, os.W_OK):
        return directory
    log.info(f"{directory} is read-only: candidates are drawn again and not kept")
    return None
