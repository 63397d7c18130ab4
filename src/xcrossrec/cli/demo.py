"""The command that shows the whole job on simulated users."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.console import log, prepare, progress_to_stderr, shows_progress
from xcrossrec.cli.recommend import as_text
from xcrossrec.exceptions import DataError
from xcrossrec.extras import require

if TYPE_CHECKING:
    from xcrossrec.data import Domain
    from xcrossrec.evaluation import Evaluation

MARKER = "xcrossrec-demo.json"
"""Marks a folder as a demo's, which the next demo may replace."""

SIMULATED = "Its customers are SIMULATED: the numbers show that the software works, and nothing about people."
_FOLDERS = ("data", "sources", "lora", "lora.training", "model", "model.training", "results")
OURS, RIVAL = "integrated-model", "lora-without-sources"


@dataclass(frozen=True)
class Plan:
    """How much the demo does; sized for about two minutes on two idle cores.

    A batch holds most of the small catalogue, so no further items are sampled. Learning rates are those with the least
    loss on users set aside.

    Attributes:
        source_users: simulated users of each source.
        test_users: target users who are ranked; nothing is chosen by them.
        budget: target users to learn from.
        source: training settings of each source.
        target: of the integration.
        rival: of LoRA on the target.
        base: the base model; None takes the embedded MiniLM.
    """

    source_users: int = 1500
    test_users: int = 1000
    budget: int = 100
    source: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 2, "batch_users": 64, "learning_rate": 2e-3})
    target: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 8, "target_learning_rate": 8e-3})
    rival: Mapping[str, Any] = field(default_factory=lambda: {"epochs": 8, "learning_rate": 8e-3})
    base: str | None = None


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo's is replaced.")] = Path("xcrossrec-demo"),
) -> None:
    """Open a new category on simulated users: two sources, one target, its rivals, one user's reasons.

    Leaves the model in OUT/model, the domains in OUT/data, adapters in OUT/sources, per-user results in OUT/results.
    """
    require("train")
    require("baselines")
    claim(out)
    prepare("train")
    run(out, Plan())


def claim(out: Path) -> None:
    """Make the folder ready; a former demo's content goes, nobody else's does.

    Raises:
        DataError: the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).exists():
        raise DataError(f"{out} exists and is not an earlier demo (it has no {MARKER}): choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text('{"simulated": true}', encoding="utf-8")
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


def run(out: Path, plan: Plan) -> None:
    """Do the whole job and print what came of it."""
    from xcrossrec.evaluation import compare, verdict

    started = time.perf_counter()
    *sources, target = _write_market(out, plan)
    typer.echo(
        f"A market with two established categories, {sources[0].name} and {sources[1].name} ({plan.source_users:,} "
        f"customers each), and a new one, {target.name} ({plan.budget:,}). {SIMULATED}"
    )
    adapters = [out / "sources" / source.name for source in sources]
    _train(out, plan, sources, target, adapters)
    ours, *rivals = _evaluate_all(out, target, adapters, plan)
    mrr = {each.info.scorer: each.summary()["metrics"]["popularity"]["mrr"] for each in (ours, *rivals)}
    ranking = ", ".join(f"{name} {mrr[name]:.3f}" for name in sorted(mrr, key=lambda name: -mrr[name]))
    typer.echo(
        f"\nFor each of {ours.summary()['users']:,} other customers the next purchase was ranked among 29 items drawn "
        f"by popularity. Mean of 1 / rank (MRR): {ranking}."
    )
    for rival in rivals:  # only an interval clear of 0 is a yes
        said = verdict(compare(ours, rival, permutations=1000), "popularity")
        typer.echo(f"- {said[0].upper()}{said[1:]}")
    typer.echo("\n" + _recommendations(out, target))
    typer.echo(f"\nDone in {time.perf_counter() - started:.0f} s. Look further:\n{_next_steps(out, target)}")


def _write_market(out: Path, plan: Plan) -> list[Domain]:
    """Simulate three domains, the last is the target; write them to OUT/data."""
    from xcrossrec.data import write_domain
    from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings, sample_market

    market = sample_market(0, MarketSettings(train_users=plan.source_users, test_users=plan.test_users))
    chosen = [market[name] for name in MARKET_DOMAINS[:3]]
    for domain in chosen:
        write_domain(domain, out / "data" / domain.name)
    return chosen


def _train(out: Path, plan: Plan, sources: Sequence[Domain], target: Domain, adapters: Sequence[Path]) -> None:
    from xcrossrec.config import rival_config, source_config, target_config
    from xcrossrec.models.base import DEFAULT_BASE
    from xcrossrec.training.source import train_source
    from xcrossrec.training.target import train_target

    base, bars = plan.base or DEFAULT_BASE, shows_progress()
    for source, adapter in zip(sources, adapters, strict=True):
        with _step(f"a LoRA on {source.name}"):
            settings = source_config(**plan.source, sampled_negatives=0)
            train_source(source, adapter, config=settings, base=base, show_progress=bars)
    with _step(f"both integrated into {target.name}"):
        settings = target_config(users=plan.budget, **plan.target, sampled_negatives=0)
        train_target(target, adapters, out / "model", config=settings, budget=plan.budget, show_progress=bars)
    with _step(f"the rival, a LoRA on {target.name} alone"):
        settings = rival_config(**plan.rival, sampled_negatives=0)
        train_source(target, out / "lora", config=settings, base=base, budget=plan.budget, show_progress=bars)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Announce a step, tell how far it is, and its seconds."""
    log.info(f"{what} ...")
    started = time.perf_counter()
    with progress_to_stderr():
        yield
    log.info(f"{what}: {time.perf_counter() - started:.0f} s")


def _evaluate_all(out: Path, target: Domain, adapters: Sequence[Path], plan: Plan) -> list[Evaluation]:
    """Rank the target's test users with every method, the integrated model first; the results are kept, too."""
    from xcrossrec.baselines.named import scorer_for
    from xcrossrec.evaluation import evaluate
    from xcrossrec.models.base import DEFAULT_BASE

    specs = {
        OURS: ("the integrated model", str(out / "model")),
        RIVAL: ("a LoRA without sources", str(out / "lora")),
        "mean-of-the-sources": ("the mean of the sources", "+".join(map(str, adapters))),
        "untrained-base": ("the untrained base", "baseline:untrained"),
        "tf-idf-of-titles": ("TF-IDF of titles", "baseline:tfidf"),
    }
    (out / "results").mkdir()
    results = []
    with _step(f"ranking for {plan.test_users:,} other customers of {target.name}"):
        for file, (name, spec) in specs.items():
            scorer = scorer_for(spec, target, base=plan.base or DEFAULT_BASE).scorer
            found = evaluate(scorer, target, "test", negatives=["popularity"], directory=out / "data" / target.name)
            results.append(replace(found, info=replace(found.info, scorer=name)))
            results[-1].save(out / "results" / f"{file}.parquet")
    return results


def _recommendations(out: Path, target: Domain) -> str:
    """One test user's history, three recommendations with reasons, and what the user bought next."""
    from xcrossrec.recommender import Recommender

    sequences = target.sequences("test")
    ids = target.items["item_id"].to_list()
    history, bought = [ids[row] for row in sequences.rows[0][:-1]], sequences.rows[0][-1]
    with _step("one customer's recommendations"):
        recommender = Recommender.from_pretrained(out / "model", target)
        found = recommender.recommend(history, k=target.items.height)
        reasons = recommender.explain_many(history, [f"id:{each.item_id}" for each in found[:3]])
    rank = next((each.rank for each in found if each.item_id == ids[bought]), None)
    lines = [f"Customer {sequences.user_ids[0]} bought:"]
    lines += [f"  - {target.titles[row]}" for row in sequences.rows[0][:-1]]
    lines += ["and is recommended:", as_text(found[:3], reasons)]
    lines += [f"(bought next: {target.titles[bought]}, rank {rank} of {len(found)})"]
    return "\n".join(lines)


def _next_steps(out: Path, target: Domain) -> str:
    paths = ("model", f"data/{target.name}", f"results/{OURS}.parquet", f"results/{RIVAL}.parquet")
    model, data, ours, rival = (quote(str(out / path)) for path in paths)
    return f"""\
  xcrossrec inspect {model}
  xcrossrec recommend {model} --catalog {data} --history "{target.titles[0]}" --explain
  xcrossrec compare {ours} {rival}
  xcrossrec serve {model} --catalog {data}"""
