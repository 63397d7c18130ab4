"""The command that exports a model to other systems."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xcrossrec.cli.checks import check_items, check_model
from xcrossrec.cli.console import Base, EngineChoice, ModelDir, Overwrite, echo, prepare, progress_to_stderr
from xcrossrec.engine import check_engine, engine_named
from xcrossrec.export.request import To, check_request


def export(
    model: ModelDir,
    to: Annotated[To, typer.Option(help="A plain SentenceTransformer, one LoRA, ONNX, or item vectors as Parquet.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write.")],
    catalog: Annotated[
        str | None,
        typer.Option(
            metavar="ITEMS", help="Items to export vectors of, and to compare on: a domain, a table or a catalogue."
        ),
    ] = None,
    distill: Annotated[
        bool, typer.Option("--distill", help="Train one LoRA to imitate an `xcross` model, on a domain's texts.")
    ] = False,
    int8: Annotated[bool, typer.Option("--int8", help="ONNX with 8-bit weights.")] = False,
    base: Base = None,
    overwrite: Overwrite = False,
    engine: EngineChoice = "local",
) -> None:
    """Write a model for other libraries and databases. The result is verified against the model.

    \b
      xcrossrec export models/garden --to sentence-transformers --out exported/garden
      xcrossrec export models/garden --to vectors --catalog data/garden --out exported/garden-vectors
    """
    check_model(model, base)
    check_engine(engine)
    check_request(to, out, catalogue=catalog, distill=distill, int8=int8, overwrite=overwrite)
    if catalog is not None:
        check_items(catalog, include_bought=True)
    prepare("onnx" if to == "onnx" else "models")
    from xcrossrec.export.exporting import export_model

    with progress_to_stderr(), engine_named(engine) as where:
        found = export_model(
            model, to, out, catalogue=catalog, distill=distill, int8=int8, base=base, overwrite=overwrite, engine=where
        )
    echo(f"{out}: {to}\n{found}")
