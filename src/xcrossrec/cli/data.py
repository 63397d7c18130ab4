"""Commands on data: import, lint, market."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from xcrossrec.cli.console import EngineChoice, Json, Overwrite, echo, progress_to_stderr
from xcrossrec.engine import check_engine, engine_named
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.progress import to_stderr
from xcrossrec.replacing import check_folder
from xcrossrec.types import Incomplete, Repeats, Split, SplitWay, UnknownItems

if TYPE_CHECKING:
    from xcrossrec.data import Domain

Format = Literal["amazon2014", "amazon2018", "amazon2023", "recbole", "csv", "parquet", "jsonl"]

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Import, check and prepare data.")


@app.command("import")
def import_(
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist.")],
    interactions: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Purchases, to be split here: file, folder or pattern; may be repeated."),
    ] = None,
    items: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Items and titles, if in other files; may be repeated.")
    ] = None,
    train: Annotated[str | None, typer.Option(metavar="FILE", help="Purchases that are already split: train.")] = None,
    validation: Annotated[str | None, typer.Option(metavar="FILE", help="The same: validation.")] = None,
    test: Annotated[str | None, typer.Option(metavar="FILE", help="The same: test.")] = None,
    domain: Annotated[str | None, typer.Option(help="Name of the domain.  [default: OUT's name]")] = None,
    form: Annotated[
        Format | None, typer.Option("--format", help="Format of the files.  [default: detected for each]")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROLE=NAME",
            help="Name of the column of user, item, title, time, clock, position, brand, category, description, price, "
            "in_stock or history; dotted if nested; may be repeated.  [default: detected]",
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Which purchases count (also != < > <= >=); may be repeated."),
    ] = None,
    separator: Annotated[
        str | None, typer.Option(help="Separator of a text table's columns.  [default: detected]")
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Encoding of text, such as cp1252 or utf-16.  [default: detected]")
    ] = None,
    incomplete: Annotated[
        Incomplete, typer.Option(help="Purchases without user, item or time; items without an id.")
    ] = "error",
    k_core: Annotated[int, typer.Option(min=1, help="Least interactions of each user and item.")] = 1,
    repeats: Annotated[
        Repeats,
        typer.Option(help="Drop exact repeats (user, item, time); keep all (consumables); or first purchases only."),
    ] = "drop",
    split: Annotated[
        SplitWay | None, typer.Option(help="How to split.  [default: leave-last-out, or the files' own]")
    ] = None,
    shares: Annotated[
        str,
        typer.Option(
            metavar="V,T", help="Share of the users (by-user) or purchases (temporal) for validation, and for test."
        ),
    ] = "0.1,0.1",
    unknown_items: Annotated[UnknownItems, typer.Option(help="Purchases whose item is not among the items.")] = "error",
    text: Annotated[
        str | None,
        typer.Option(
            metavar="TEMPLATE",
            help="What models read of an item, columns in braces.  [default: '{title}; {brand}; {category}', as far as "
            "they are there]",
        ),
    ] = None,
    shared_users: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIR", help="Imported category; customers are joined by id; may be repeated."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split by user.")] = 0,
    overwrite: Overwrite = False,
    engine: EngineChoice = "local",
    as_json: Json = False,
) -> None:
    """Import purchases and titles into a domain's folder. They are split for training and evaluation.

    Columns are detected by their usual names (user_id, customer, item_id, sku, title, name, timestamp, date, ...).
    Purchases that are already split (--train, --validation, --test) are not changed.

    \b
      xcrossrec data import --interactions purchases.csv --items products.csv --out data/garden
      xcrossrec data import --format amazon2023 --interactions Toys.jsonl.gz --items meta_Toys.jsonl.gz \\
          --k-core 5 --split by-user --out data/toys
    """
    from xcrossrec.data import read_domain, with_shared_users, write_domain
    from xcrossrec.data.readers import Columns, Condition, Inputs, Recipe, by_file, import_domain
    from xcrossrec.data.store import refuse_taken

    check_engine(engine)
    given = {"train": train, "validation": validation, "test": test}
    splits = {cast(Split, name): path for name, path in given.items() if path is not None}
    conditions = [Condition.parse(text) for text in where or []]
    columns = Columns.parse(column or [])
    inputs = Inputs(interactions or (), items or (), splits, columns, separator, encoding, conditions, incomplete)
    recipe = Recipe(k_core, repeats, split, *_shares(shares), seed, unknown_items, text)
    refuse_taken(out, overwrite=overwrite)
    if any(out.glob(".catalogue-*")):
        from xcrossrec.catalogue.kept import check_beside

        check_beside(out)
    others = [read_domain(path) for path in shared_users or ()]
    with progress_to_stderr(), engine_named(engine) as place, by_file(place, out, form, inputs) as blocks:
        imported = import_domain(domain or out.resolve().name, form, inputs, recipe, blocks)
        imported = with_shared_users(imported, others) if others else imported
        write_domain(imported, out, overwrite=overwrite)
    _report(imported.manifest["filters"])
    echo(_summary(out, imported) if as_json else _shown(out, imported))


@app.command()
def lint(
    directories: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Domains' folders, imported or with CSV files.")
    ],
    as_json: Json = False,
) -> None:
    """Find defects in data, within and between folders. The exit status is 1 if any is an error."""
    from xcrossrec.data.lint import lint as find_defects

    with progress_to_stderr():
        report = find_defects(directories)
    echo(report.to_dict() if as_json else report.to_text())
    raise typer.Exit(report.exit_code)


@app.command()
def market(
    out: Annotated[Path, typer.Option(help="Folder to write, with a folder for each domain.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation.")] = 0,
) -> None:
    """Write the sample market: four small simulated domains."""
    from xcrossrec.data import read_domain, write_domain
    from xcrossrec.data.market import sample_market
    from xcrossrec.data.store import MANIFEST, refuse_taken

    check_folder(out)
    market = sample_market(seed)
    there = {name for name in market if (out / name / MANIFEST).is_file()}  # from an interrupted run, or other data
    for name, domain in market.items():
        if name not in there:
            refuse_taken(out / name, overwrite=False)
        elif read_domain(out / name).fingerprint != domain.fingerprint:
            raise DataError(f"{out / name} holds another domain: choose another --out")
    for name, domain in market.items():
        if name not in there:
            write_domain(domain, out / name)
        echo(_shown(out / name, domain))


def _shares(text: str) -> tuple[float, float]:
    try:
        validation, test = map(float, text.split(","))
    except ValueError as error:
        raise ConfigError(f"--shares {text!r} is not two numbers joined by a comma: give 0.1,0.1, say") from error
    return validation, test


_REASONS = {
    "read": "interactions read",
    "where": "left out: excluded by --where",
    "incomplete": "left out: without user, item or time (--incomplete drop)",
    "histories": "added: what users of later parts bought before",
    "unknown_items": "left out: their items are not in the catalogue (--unknown-items drop)",
    "without_target": "left out: of users whose last item of that part is not in the catalogue",
    "repeats": "left out: repeats (--repeats {repeats})",
    "core": "left out: of users or items with fewer than {core} interactions (--k-core)",
    "kept": "interactions kept",
}


def _report(filters: dict[str, Any]) -> None:
    """Report on stderr which rows were left out, for each reason, and what was repaired."""
    from xcrossrec.data.interactions import HEAVY

    for name, count in filters.get("rows", {}).items():
        to_stderr(f"{count:>12,} {_REASONS[name].format_map(filters)}")
    if heavy := filters.get("heavy_users"):
        to_stderr(f"{heavy['users']:,} users have {heavy['interactions']:,} interactions, {HEAVY}")
        to_stderr("  " + " ".join(f'--where "COLUMN!={user}"' for user in heavy["examples"]))
    if any(single := list(filters.get("one_order", {}).values())):
        to_stderr(f"{max(single):,} users have no earlier order in validation or test, and are not evaluated there")
    if lacking := filters.get("items_without_id"):
        to_stderr(f"{lacking:,} rows of items without an id were left out (--incomplete drop)")
    if two := filters.get("conflicting_titles"):
        to_stderr(f"{two['items']:,} items have several titles, the first was taken ({'; '.join(two['examples'][:1])})")
    if empty := filters.get("empty_titles"):
        shown = ", ".join(empty["examples"])
        to_stderr(f"{empty['items']:,} items have no title: models read 'untitled item' ({shown})")
    for role, said in filters.get("not_understood", {}).items():
        to_stderr(f"{role}: {said}")
    if escaped := filters.get("html_entities"):
        to_stderr(f"HTML entities in {escaped['items']:,} titles were converted to characters")
    for field, cut in filters.get("text_cut", {}).items():
        to_stderr(f"of {field}, {cut['items']:,} items have more than the {cut['words']} words that are read")


def _shown(path: Path, domain: Domain) -> str:
    summary = _summary(path, domain)
    label = " (simulated)" if summary["simulated"] else ""
    lines = [f"{summary['domain']}{label}: {summary['items']} items, in {summary['path']}"]
    for split, users in summary["users"].items():
        lines.append(f"  {split:<10} {users:>9} users {summary['interactions'][split]:>10} interactions")
    for other in summary["shared_users"] or ():
        lines.append(f"  {other['users']:,} users share their id with {other['domain']}")
    return "\n".join([*lines, f"  item text {summary['text']}", f"  fingerprint {summary['fingerprint'][:16]}"])


def _summary(path: Path, domain: Domain) -> dict[str, Any]:
    from xcrossrec.data.store import manifest_of

    manifest = manifest_of(domain)
    stated = ("simulated", "filters", "seed", "sources", "text", "shared_users", "fingerprint")
    kept = {key: manifest.get(key) for key in stated}
    return {"domain": domain.name, "path": str(path), **manifest["counts"], **kept}
