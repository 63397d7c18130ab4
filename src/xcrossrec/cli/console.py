"""What the commands share: progress on stderr, silence of third parties, one object on stdout."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require
from xcrossrec.types import NEGATIVES, EncodingPrecision, Negatives

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is already there.")]
Precision = Annotated[
    EncodingPrecision,
    typer.Option(help="Of encoding: exact (fp32), or faster where the processor multiplies bfloat16 (bf16)."),
]
DomainDir = Annotated[Path, typer.Argument(metavar="DIR", help="A domain's folder.")]

log = logging.getLogger("xcrossrec")


def prepare(extra: str) -> None:
    """Check that an extra is installed, and silence the libraries it brings.

    Raises:
        MissingExtraError: names the install line.
    """
    require(extra)
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
def progress_to_stderr() -> Iterator[None]:
    """Within the block whatever a library prints goes to stderr, or nowhere under ``--quiet``."""
    with redirect_stdout(sys.stderr if shows_progress() else io.StringIO()):
        yield


def counter(what: str) -> Callable[[int, int], None]:
    """Make a callback that shows (done, total) in one line of a terminal; silent elsewhere."""

    def show(done: int, total: int) -> None:
        if shows_progress() and sys.stderr.isatty():
            sys.stderr.write(f"\r{what}: {done}/{total}" + ("\n" if done >= total else ""))
            sys.stderr.flush()

    return show


def print_json(value: Mapping[str, Any]) -> None:
    """Print one object on one line, on stdout."""
    typer.echo(json.dumps(value, ensure_ascii=False, default=str))


def parse_negatives(text: str) -> tuple[Negatives, ...]:
    """Read ``uniform,popularity,full``.

    Raises:
        ConfigError: an unknown kind, or none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if bad := [name for name in names if name not in NEGATIVES]:
        raise ConfigError(f"unknown negatives {bad[0]!r}: choose one or more of {','.join(NEGATIVES)}")
    if not names:
        raise ConfigError(f"no negatives are given: choose one or more of {','.join(NEGATIVES)}")
    return cast(tuple[Negatives, ...], tuple(dict.fromkeys(names)))


def report_cut(prompts: int, items: int, titles: int, limit: int | None) -> None:
    """Say on stderr how much text did not fit the model, if any."""
    if prompts:
        room = f" of {limit} tokens" if limit else ""
        log.info(
            f"cut: {prompts} texts outgrew the model's room{room}; {items} of their oldest history items were left "
            f"out, {titles} single titles shortened"
        )


def first_writable(directory: Path) -> Path | None:
    """The folder for candidate files: the domain's own, or None where it cannot be written."""
    target = directory / "candidates"
    if os.access(target if target.exists() else directory, os.W_OK):
        return directory
    log.info(f"{directory} is read-only: candidates are drawn again and not kept")
    return None
