"""Commands on data: import, lint, candidates, market."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from xcrossrec.types import Negatives, Split

if TYPE_CHECKING:
    from xcrossrec.data import Domain

Format = Literal["amazon2014", "amazon2018", "amazon2023", "recbole", "author", "csv", "parquet", "jsonl"]
SplitOption = Literal["leave-last-out", "by-user", "temporal", "none"]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a domain that is already there.")]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Import, check and prepare data.")


def register(parent: typer.Typer) -> None:
    """Add the commands to the command line."""
    parent.add_typer(app, name="data")


@app.command("import")
def import_(
    domain: Annotated[str, typer.Option(help="Name of the domain.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must be free.")],
    form: Annotated[Format, typer.Option("--format", help="What the files are.")] = "csv",
    items: Annotated[Path | None, typer.Option("--items", "--metadata", help="File of items and titles.")] = None,
    interactions: Annotated[
        Path | None, typer.Option("--interactions", "--reviews", help="File of all interactions.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Folder with train.json, umap.json, ... (format author).")] = None,
    train: Annotated[Path | None, typer.Option(help="Interactions that come split: train.")] = None,
    validation: Annotated[Path | None, typer.Option(help="The same: validation.")] = None,
    test: Annotated[Path | None, typer.Option(help="The same: test.")] = None,
    user_column: Annotated[str, typer.Option(help="Own tables: the user's id.")] = "user_id",
    item_column: Annotated[str, typer.Option(help="Own tables: the item's id.")] = "item_id",
    title_column: Annotated[str, typer.Option(help="Own tables: the item's title.")] = "title",
    time_column: Annotated[
        str | None, typer.Option(help="Own tables: the time.  [default: timestamp, if it is there]")
    ] = None,
    position_column: Annotated[
        str | None, typer.Option(help="Own tables: order in a sequence.  [default: position, if it is there]")
    ] = None,
    time_unit: Annotated[
        Literal["s", "ms", "us", "ns", "iso"], typer.Option(help="Own tables and RecBole: unit of times.")
    ] = "s",
    min_user: Annotated[
        int, typer.Option("--min-user-interactions", min=1, help="k-core: fewest interactions of a user.")
    ] = 1,
    min_item: Annotated[
        int, typer.Option("--min-item-interactions", min=1, help="k-core: fewest interactions of an item.")
    ] = 1,
    keep_repeats: Annotated[
        bool, typer.Option("--keep-repeats", help="Keep exact repeats (same user, item and time).")
    ] = False,
    first_purchase_only: Annotated[
        bool, typer.Option("--first-purchase-only", help="Keep a user's first purchase of an item only.")
    ] = False,
    split: Annotated[
        SplitOption | None,
        typer.Option(help="How to split.  [default: leave-last-out, or as the files come]"),
    ] = None,
    validation_share: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the users (by-user, temporal).")
    ] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the users (by-user, temporal).")] = 0.1,
    empty_titles: Annotated[
        Literal["keep", "drop", "error"], typer.Option(help="Items whose title is empty or NaN.")
    ] = "keep",
    unknown_items: Annotated[
        Literal["error", "drop"], typer.Option(help="Interactions whose item is not among the items.")
    ] = "error",
    max_words: Annotated[int | None, typer.Option(min=1, help="Cut titles to so many words.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split by user.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Read interactions and titles, filter and split them, and write a domain's folder.

    Interactions in one file (--interactions) are split here; files that come split (--train, --validation,
    --test) and the author's folder are taken as they are.

    \b
      xcrossrec data import --domain toys --items items.csv.gz --train train.csv.gz --out data/toys
      xcrossrec data import --format amazon2023 --interactions Toys.jsonl.gz --items meta_Toys.jsonl.gz \\
          --domain toys --min-user-interactions 5 --min-item-interactions 5 --split by-user --out data/toys
    """
    from xcrossrec.data import write_domain
    from xcrossrec.data.readers import Columns, Inputs, Recipe, import_domain

    columns = Columns(user_column, item_column, time_column, position_column, title_column, time_unit)
    given = {"train": train, "validation": validation, "test": test}
    splits = {cast(Split, name): path for name, path in given.items() if path is not None}
    inputs = Inputs(_one_of(interactions, folder), items, splits, columns)
    recipe = Recipe(
        min_user=min_user,
        min_item=min_item,
        keep_repeats=keep_repeats,
        first_purchase_only=first_purchase_only,
        split=split,
        validation=validation_share,
        test=test_share,
        seed=seed,
        empty_titles=empty_titles,
        unknown_items=unknown_items,
        max_words=max_words,
    )
    imported = import_domain(domain, form, inputs, recipe)
    write_domain(imported, out, overwrite=overwrite)
    _report_repairs(imported.manifest["filters"])
    _print_domains({out: imported}, as_json=as_json)


@app.command()
def lint(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Folders of domains, imported or of CSV files.")
    ],
    as_json: Json = False,
) -> None:
    """Find defects in data, within each folder and between them; exit 1 if any is serious."""
    from xcrossrec.data.lint import lint as find_defects

    report = find_defects(directories)
    typer.echo(json.dumps(report.to_dict()) if as_json else report.to_text())
    raise typer.Exit(report.exit_code)


@app.command()
def candidates(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A domain's folder.")],
    split: Annotated[Split, typer.Option(help="Whose users.")] = "validation",
    negatives: Annotated[
        str, typer.Option(help="uniform, popularity, or both joined by a comma.")
    ] = "uniform,popularity",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Negatives a user.")] = 29,
    as_json: Json = False,
) -> None:
    """Draw each user's candidates once and keep them in the domain's folder."""
    from xcrossrec.data import read_domain
    from xcrossrec.data.candidates import candidates_file, candidates_for

    domain = read_domain(directory)
    written: list[dict[str, Any]] = []
    for way in (cast(Negatives, name.strip()) for name in negatives.split(",")):
        drawn = candidates_for(domain, split, way, seed=seed, directory=directory, count=count)
        file = candidates_file(directory, split, way, seed=seed, count=count)
        written.append({"path": str(file), "negatives": way, "users": len(drawn), "count": count})
    if as_json:
        typer.echo(json.dumps({"seed": seed, "split": split, "files": written}))
        return
    for entry in written:
        typer.echo(f"{entry['path']}: {entry['users']} users, 1 positive + {count} {entry['negatives']}")


@app.command()
def market(
    out: Annotated[Path, typer.Option(help="Folder that gets one folder a domain.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Write the built-in sample market: four small domains with simulated users."""
    from xcrossrec.data import write_domain
    from xcrossrec.data.market import sample_market

    written: dict[Path, Domain] = {}
    for name, domain in sample_market(seed).items():
        write_domain(domain, out / name, overwrite=overwrite)
        written[out / name] = domain
    _print_domains(written, as_json=as_json)


def _one_of(interactions: Path | None, folder: Path | None) -> Path | None:
    if interactions is not None and folder is not None:
        raise typer.BadParameter("--interactions and --folder exclude each other: give one of them")
    return interactions or folder


def _report_repairs(filters: dict[str, Any]) -> None:
    """Say on stderr what the import repaired or left out."""
    if empty := filters.get("empty_titles"):
        done = "kept with an empty title" if empty["policy"] == "keep" else "dropped"
        examples = ", ".join(empty["examples"])
        typer.echo(f"{empty['items']} items whose title is NaN or empty were {done} ({examples})", err=True)
    if escaped := filters.get("html_entities"):
        typer.echo(f"HTML entities in {escaped['items']} titles were made characters", err=True)
    if unknown := filters.get("unknown_items"):
        lost = f"{unknown['interactions']} interactions with {unknown['items']} items"
        typer.echo(f"{lost} that the catalogue lacks were dropped", err=True)


def _print_domains(domains: dict[Path, Domain], *, as_json: bool) -> None:
    summaries = [_summary(path, domain) for path, domain in domains.items()]
    if as_json:
        typer.echo(json.dumps(summaries[0] if len(summaries) == 1 else {"domains": summaries}))
        return
    for summary in summaries:
        label = " (simulated)" if summary["simulated"] else ""
        typer.echo(f"{summary['domain']}{label}: {summary['items']} items, in {summary['path']}")
        for split, users in summary["users"].items():
            typer.echo(f"  {split:<10} {users:>9} users {summary['interactions'][split]:>10} interactions")
        typer.echo(f"  fingerprint {summary['fingerprint'][:16]}")


def _summary(path: Path, domain: Domain) -> dict[str, Any]:
    from xcrossrec.data.store import manifest_of

    manifest = manifest_of(domain)
    kept = {key: manifest.get(key) for key in ("simulated", "filters", "seed", "sources", "fingerprint")}
    return {"domain": domain.name, "path": str(path), **manifest["counts"], **kept}
