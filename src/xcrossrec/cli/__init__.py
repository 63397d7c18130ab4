"""Command line of xcrossrec: parse, call, print.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 a check found something serious,
2 the user's mistake (one sentence, no traceback), 130 interrupted.

A module of commands imports nothing heavy at its top: heavy imports stand in the commands' bodies, so that ``--help``
is quick and needs no torch.
"""

from __future__ import annotations

import logging
import os
import sys
from errno import EACCES, ENAMETOOLONG, ENOSPC, EROFS
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xcrossrec._version import __version__
from xcrossrec.cli import adapt, catalog, data, demo, evaluate, export, inspect, learn, recommend, report, serve, train
from xcrossrec.exceptions import ConfigError, XCrossRecError
from xcrossrec.training.processes import Processes

INTERRUPTED = 130
USER_MISTAKE = 2

_REMEDIES = {
    ENAMETOOLONG: "choose a shorter name",
    ENOSPC: "free space on its disk",
    EACCES: "ask for access to it",
    EROFS: "choose a place that may be written",
}


def _said(error: Exception) -> str:
    """An error as one sentence; the system's own with its file (80 characters of it) and what to do about it."""
    if isinstance(error, XCrossRecError) or not (isinstance(error, OSError) and error.filename):
        return str(error)
    remedy = _REMEDIES.get(error.errno or 0, "check that it is what you meant")
    return f"{str(error.filename)[:80]}: {error.strerror}: {remedy}"


class _Commands(TyperGroup):
    """Commands whose expected failures end in one sentence."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn expected failures into a sentence and an exit status."""
        try:
            return super().main(*args, **kwargs)
        except (XCrossRecError, OSError) as error:
            process = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
            typer.echo(f"error{process}: {' '.join(_said(error).split())}", err=True)
            sys.exit(USER_MISTAKE)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


class _Progress(logging.Handler):
    """Writes the package's log records to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        typer.echo(self.format(record), err=True)


app = typer.Typer(
    name="xcrossrec",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"xcrossrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Recommend in a new domain by integrating domain-specific language models."""
    logger = logging.getLogger("xcrossrec")
    if not any(isinstance(handler, _Progress) for handler in logger.handlers):
        logger.addHandler(_Progress())
    here = Processes.here()
    if here.count > 1 and context.invoked_subcommand != "train":
        raise ConfigError(
            f"{here.count} processes run `xcrossrec {context.invoked_subcommand}`: torchrun is for `train`"
        )
    logger.setLevel(logging.ERROR if not here.first else logging.WARNING if quiet else logging.INFO)


for _name, _group in {"data": data, "train": train, "catalog": catalog}.items():
    app.add_typer(_group.app, name=_name)
for _command in (
    adapt.adapt,
    adapt.sources,
    evaluate.evaluate,
    evaluate.compare,
    evaluate.bases,
    recommend.recommend,
    recommend.recommend_batch,
    inspect.inspect,
    export.export,
    learn.learn,
    report.report,
    learn.forget,
    serve.serve,
    demo.demo,
):
    app.command()(_command)


def main() -> None:
    """Run the command line."""
    app()
