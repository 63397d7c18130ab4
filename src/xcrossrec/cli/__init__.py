"""Command line of xcrossrec: parse, call, print.

Results go to stdout, progress and errors to stderr. Exit status: 0 done, 1 a check found something serious,
2 the user's mistake (one sentence, no traceback), 130 interrupted.

A module of commands imports nothing heavy at its top: heavy imports stand in the commands' bodies, so that ``--help``
is quick and needs no torch.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from errno import EACCES, EMFILE, ENAMETOOLONG, ENOSPC, EROFS
from io import TextIOWrapper
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from xcrossrec._version import __version__
from xcrossrec.cli import adapt, catalog, data, demo, evaluate, export, inspect, learn, recommend, serve, train
from xcrossrec.cli.console import TABLES_MB, check_memory, echo
from xcrossrec.exceptions import ConfigError, StorageError, XCrossRecError, lacking
from xcrossrec.progress import to_stderr
from xcrossrec.replacing import check_name
from xcrossrec.training.processes import Processes

INTERRUPTED = 130
USER_MISTAKE = 2

_REMEDIES = {
    ENAMETOOLONG: "choose a shorter name",
    ENOSPC: "free space on its disk",
    EACCES: "ask for access to it",
    EMFILE: "allow the process more open files (ulimit -n)",
    EROFS: "choose a place that may be written",
}


def _said(error: Exception) -> str | None:
    """An error as one sentence; those of the system with their file and a remedy. None for bugs of this library."""
    if isinstance(error, StorageError):
        return str(error)
    if isinstance(error, FileNotFoundError) and not error.filename:
        none = "no folder for temporary files may be written: let TMPDIR name one that may"
        return none if "temporary" in str(error) else "the working directory is gone: change into one that is there"
    if isinstance(error, OSError) and not isinstance(error, XCrossRecError) and error.errno and error.strerror:
        remedy = _REMEDIES.get(error.errno, "check that it is what you meant")
        return f"{str(error.filename or 'what is written or printed')[:80]}: {error.strerror}: {remedy}"
    if lack := lacking(error):
        return f"{lack} ({str(error) or type(error).__name__})"
    return str(error) if isinstance(error, (XCrossRecError, OSError)) else None


class _Commands(TyperGroup):
    """Commands whose expected failures end in one sentence."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn expected failures into a sentence and an exit status."""
        try:
            return super().main(*args, **kwargs)
        except Exception as error:
            if (said := _said(error)) is None:
                raise
            process = f" (process {os.environ['RANK']})" if os.environ.get("RANK", "0") != "0" else ""
            to_stderr(f"error{process}: {' '.join(said.split())}")
            sys.exit(USER_MISTAKE)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


class _Progress(logging.Handler):
    """Writes the package's log records to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        to_stderr(self.format(record))


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
        echo(f"xcrossrec {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
) -> None:
    """Recommend products in a new category by combining the language models of established ones."""
    logger = logging.getLogger("xcrossrec")
    if not any(isinstance(handler, _Progress) for handler in logger.handlers):
        logger.addHandler(_Progress())
    check_memory(TABLES_MB)
    for word in sys.argv[1:]:
        check_name(word)
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
    adapt.report,
    learn.forget,
    serve.serve,
    demo.demo,
):
    app.command()(_command)


def main() -> None:
    """Run the command line. SIGTERM also ends it as a container's first process, where the system ignores it."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    if isinstance(sys.stdout, TextIOWrapper):  # terminals without UTF-8 cannot show some titles
        sys.stdout.reconfigure(errors="backslashreplace")
    app()
