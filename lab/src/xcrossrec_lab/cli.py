"""Command line of the laboratory: run suites and report them. Results go to stdout, progress to stderr."""

from __future__ import annotations

import logging
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from xcrossrec import ConfigError, XCrossRecError
from xcrossrec.engine import EngineName, engine_named

if TYPE_CHECKING:
    from xcrossrec_lab.suites.runner import Progress

USER_MISTAKE = 2
log = logging.getLogger("xcrossrec")


class _Commands(TyperGroup):
    """Commands whose expected failures end in one sentence."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and turn expected failures into a sentence and an exit status."""
        try:
            return super().main(*args, **kwargs)
        except (XCrossRecError, OSError) as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            sys.exit(USER_MISTAKE)


app = typer.Typer(
    name="xcrossrec-lab",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
    help="Compare methods over targets, budgets and seeds.",
)

SuiteFile = Annotated[Path, typer.Argument(metavar="SUITE", help="A suite's TOML file.")]
Workers = Annotated[int, typer.Option(min=1, help="Cells at a time.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads of each cell.  [default: cores over workers]")]
Out = Annotated[Path | None, typer.Option(help="The run's folder.  [default: the suite's]")]

EngineChoice = Annotated[EngineName, typer.Option(help="Where cells run: here, or on a cluster by Ray.")]
Address = Annotated[str | None, typer.Option(help="Ray's cluster.  [default: Ray on this machine alone]")]


@app.callback()
def _root() -> None:
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)


def _quiet_libraries() -> None:
    from transformers.utils import logging as of_transformers

    warnings.filterwarnings("ignore")
    of_transformers.set_verbosity_error()
    of_transformers.disable_progress_bar()


@app.command()
def sources(suite: SuiteFile) -> None:
    """Train the source adapters that a suite needs and that are not there yet."""
    _quiet_libraries()
    from xcrossrec_lab.suites.sources import train_sources
    from xcrossrec_lab.suites.suite import Suite

    with redirect_stdout(sys.stderr):
        trained = train_sources(Suite.read(suite), progress=log.info)
    typer.echo(f"{len(trained)} sources trained")


@app.command()
def run(
    suite: SuiteFile,
    out: Out = None,
    workers: Workers = 1,
    threads: Threads = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Patterns of cell names, such as 'toys/*/lora/512-s*'.")
    ] = None,
    engine: EngineChoice = "local",
) -> None:
    """Run the cells that are missing; finished ones are kept, so it can be killed and started again.

    \b
      xcrossrec-lab run lab/evidence/amazon.toml --workers 2
    """
    _quiet_libraries()
    from xcrossrec_lab.suites.runner import run as run_suite
    from xcrossrec_lab.suites.suite import Suite

    def show(state: Progress) -> None:
        log.info(state.line())

    folder = out or Suite.read(suite).out
    with engine_named(engine) as place:
        state = run_suite(suite, folder, workers=workers, threads=threads, only=only or (), progress=show, engine=place)
    typer.echo(f"{folder}: {state.done} of {state.total} cells are complete")
    _refuse_failed(state, folder)


def _refuse_failed(state: Progress, folder: Path) -> None:
    if state.failed:
        raise ConfigError(
            f"{len(state.failed)} cells failed, the first is {state.failed[0]}: see its .failed file in {folder}"
        )


@app.command()
def tune(suite: SuiteFile, out: Out = None, workers: Workers = 1, threads: Threads = None) -> None:
    """Try the settings that the suite searches, and choose by the loss on users set aside; nobody is ranked."""
    _quiet_libraries()
    from xcrossrec_lab.suites.runner import run as run_suite
    from xcrossrec_lab.suites.suite import Suite
    from xcrossrec_lab.suites.tuning import chosen_settings, trial_losses

    def show(state: Progress) -> None:
        log.info(state.line())

    read = Suite.read(suite)
    folder = out or read.out
    _refuse_failed(run_suite(suite, folder, workers=workers, threads=threads, tune=True, progress=show), folder)
    placed = replace(read, out=folder)
    chosen = chosen_settings(placed)
    for method, losses in trial_losses(placed).items():
        for trial, loss in losses.items():
            mark = "  <- chosen" if read.methods[method].trials()[trial] == chosen[method] else ""
            typer.echo(f"{method:24} {trial:32} {loss:.4f}{mark}")


@app.command()
def status(suite: SuiteFile, out: Out = None) -> None:
    """Say which cells are complete, which failed, and which are missing."""
    from xcrossrec_lab.suites.cells import CellFiles
    from xcrossrec_lab.suites.suite import Suite

    found = Suite.read(suite)
    files = CellFiles(out or found.out)
    cells = found.cells()
    done = [cell for cell in cells if files.done(cell)]
    failed = [cell for cell in cells if files.failure(cell).exists()]
    for cell in cells:
        word = "done" if files.done(cell) else "failed" if files.failure(cell).exists() else "missing"
        typer.echo(f"{word:8} {cell.name}")
    typer.echo(f"{len(done)} of {len(cells)} cells are complete, {len(failed)} failed")


@app.command()
def report(
    suite: SuiteFile,
    out: Out = None,
    from_: Annotated[Path | None, typer.Option("--from", help="Kept cells to report, instead of the run's.")] = None,
    to: Annotated[Path | None, typer.Option(help="Folder of the page.  [default: report in the cells' folder]")] = None,
    figures: Annotated[bool, typer.Option("--figures", help="Draw figures beside the page.")] = False,
) -> None:
    """Make a suite's tables from the cells that are complete, and from nothing else."""
    from xcrossrec_lab.report.page import write_report
    from xcrossrec_lab.suites.cells import CellFiles, Cells
    from xcrossrec_lab.suites.kept import KeptCells
    from xcrossrec_lab.suites.suite import Suite

    found = Suite.read(suite)
    cells: Cells = KeptCells(from_) if from_ else CellFiles(out or found.out)
    typer.echo(write_report(found, cells, to or cells.root / "report", with_figures=figures))


@app.command()
def pages(
    check: Annotated[bool, typer.Option("--check", help="Write nothing; exit 1 if a page differs.")] = False,
) -> None:
    """Make every committed page anew from the kept cells: one a suite, and the table of docs/evidence.md."""
    from xcrossrec_lab.report.published import differing, write_pages

    if not check:
        for path in write_pages():
            typer.echo(path)
        return
    if others := differing():
        typer.echo(f"not what the kept cells give: {', '.join(map(str, others))}")
        raise typer.Exit(1)
    typer.echo("all pages are as the kept cells give them")


@app.command()
def keep(
    suite: SuiteFile,
    to: Annotated[Path, typer.Option(help="Folder to keep them in, to be committed.")],
    out: Out = None,
) -> None:
    """Put the complete cells and the sources into a small folder without users' ids; cells that it has stay."""
    _quiet_libraries()
    from xcrossrec_lab.suites.cells import CellFiles
    from xcrossrec_lab.suites.kept import keep as keep_cells
    from xcrossrec_lab.suites.kept_sources import keep_sources
    from xcrossrec_lab.suites.suite import Suite

    found = Suite.read(suite)
    kept = keep_cells(found, CellFiles(out or found.out), to)
    sources = keep_sources(found, to)
    typer.echo(
        f"{to}: {kept.from_run} cells of the run, {kept.from_before} from before, ranks {kept.bytes:,} bytes, "
        f"{len(sources)} sources"
    )


@app.command()
def restore(
    suite: SuiteFile,
    from_: Annotated[Path, typer.Option("--from", help="Folder that `keep` has written.")],
    out: Out = None,
) -> None:
    """Make the cells and sources that `keep` has kept anew, so that run and report go on from there."""
    _quiet_libraries()
    from xcrossrec_lab.suites.cells import CellFiles
    from xcrossrec_lab.suites.kept import restore as restore_cells
    from xcrossrec_lab.suites.kept_sources import restore_sources
    from xcrossrec_lab.suites.suite import Suite

    found = Suite.read(suite)
    folder = out or found.out
    sources = restore_sources(found, from_)
    done = restore_cells(found, CellFiles(folder), from_)
    typer.echo(
        f"{folder}: {done.written} cells restored, {done.present} were complete already, "
        f"{done.not_in_suite} skipped that are not in the suite"
        + (f", {done.trials} trials restored" if done.trials else "")
        + (f", sources restored: {', '.join(folder.name for folder in sources)}" if sources else "")
    )


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
