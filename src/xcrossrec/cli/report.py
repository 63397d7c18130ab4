"""The command that writes a decision's page anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.extras import require


def report(directory: Annotated[Path, typer.Argument(metavar="DIR", help="What 'xcrossrec adapt' left.")]) -> None:
    """Write DIR/report.html anew from DIR/decision.json: one file, for screens of any width and paper."""
    require("models")
    from xcrossrec.adaptation.report import write_report

    typer.echo(write_report(directory))
