"""The command that shows the whole job on simulated users."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.console import log, prepare, shows_progress
from xcrossrec.cli.recommend import as_text
from xcrossrec.exceptions import DataError
from xcrossrec.extras import require

if TYPE_CHECKING:
    from xcrossrec.data import Domain
    from xcrossrec.evaluation import Evaluation

MARKER = "xcrossrec-demo.json"
"""Marks a folder as a demo's, which the next demo may replace; holds the demo's results."""

SIMULATED = "Its customers are SIMULATED: the numbers show that the software works, and nothing about people."
_FOLDERS = ("data", "sources", "lora", "lora.training", "model", "model.training", "results")
_OURS, _LORA = "the integrated model", "a LoRA without sources"


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


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo's is replaced.")] = Path("xcrossrec-demo"),
) -> None:
    """Open a new category on simulated users: two sources, one target, its rivals, one user's reasons.

    Leaves the model in OUT/model, the domains in OUT/data, adapters in OUT/sources, per-user results in OUT/results.
    """
    prepare("train")
    require("baselines")
    claim(out)
    run(out, Plan(), seed=0)


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
    (out / MARKER).write_text(json.dumps({"simulated": True, "finished": False}), encoding="utf-8")
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


def run(out: Path, plan: Plan, *, seed: int) -> None:
    """Do the whole job and print what came of it."""
    started = time.perf_counter()
    *sources, target = _write_market(out, plan, seed)
    typer.echo(
        f"A market with two established categories, {sources[0].name} and {sources[1].name} ({plan.source_users:,} "
        f"customers each), and a new one, {target.name} ({plan.budget:,}). {SIMULATED}"
    )
    adapters = [out / "sources" / source.name for source in sources]
    _train(out, plan, seed, sources, target, adapters)
    results = _evaluate_all(out, target, adapters, plan, seed)
    verdicts = _verdicts(results)
    typer.echo("\n" + "\n".join(verdicts))
    typer.echo("\n" + _recommendations(out, target))
    wall_s = time.perf_counter() - started
    record = {
        "simulated": True,
        "finished": True,
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "verdicts": verdicts,
        "summaries": [result.summary() for result in results.values()],
    }
    (out / MARKER).write_text(json.dumps(record, indent=2), encoding="utf-8")
    typer.echo(f"\nDone in {wall_s:.0f} s. Look further:\n{_next_steps(out, target)}")


def _write_market(out: Path, plan: Plan, seed: int) -> list[Domain]:
    """Simulate three domains, the last is the target; write them to OUT/data."""
    from xcrossrec.data import write_domain
    from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings, sample_market

    market = sample_market(seed, MarketSettings(train_users=plan.source_users, test_users=plan.test_users))
    chosen = [market[name] for name in MARKET_DOMAINS[:3]]
    for domain in chosen:
        write_domain(domain, out / "data" / domain.name)
    return chosen


def _train(
    out: Path, plan: Plan, seed: int, sources: Sequence[Domain], target: Domain, adapters: Sequence[Path]
) -> None:
    from xcrossrec.config import rival_config, source_config, target_config
    from xcrossrec.models.base import DEFAULT_BASE
    from xcrossrec.training.source import train_source
    from xcrossrec.training.target import train_target

    base, bars = plan.base or DEFAULT_BASE, shows_progress() and sys.stderr.isatty()
    same: dict[str, Any] = {"seed": seed, "sampled_negatives": 0}
    for source, adapter in zip(sources, adapters, strict=True):
        with _step(f"a LoRA on {source.name}"):
            settings = source_config(**plan.source, **same)
            train_source(source, adapter, config=settings, base=base, show_progress=bars)
    with _step(f"both integrated into {target.name}"):
        settings = target_config(users=plan.budget, **plan.target, **same)
        train_target(target, adapters, out / "model", config=settings, budget=plan.budget, show_progress=bars)
    with _step(f"the rival, a LoRA on {target.name} alone"):
        settings = rival_config(**plan.rival, **same)
        train_source(target, out / "lora", config=settings, base=base, budget=plan.budget, show_progress=bars)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Announce a step and its seconds; of third parties only progress bars on a terminal are shown."""
    log.info(f"{what} ...")
    started = time.perf_counter()
    quiet = not (shows_progress() and sys.stderr.isatty())
    with redirect_stdout(StringIO()), redirect_stderr(StringIO() if quiet else sys.stderr):
        yield
    log.info(f"{what}: {time.perf_counter() - started:.0f} s")


def _evaluate_all(out: Path, target: Domain, adapters: Sequence[Path], plan: Plan, seed: int) -> dict[str, Evaluation]:
    """Rank the target's test users with every method; results by the method's name."""
    from xcrossrec.baselines.named import scorer_for
    from xcrossrec.evaluation import evaluate
    from xcrossrec.models.base import DEFAULT_BASE

    specs = {
        _OURS: str(out / "model"),
        _LORA: str(out / "lora"),
        "the mean of the sources": "+".join(map(str, adapters)),
        "the untrained base": "baseline:untrained",
        "TF-IDF of titles": "baseline:tfidf",
    }
    (out / "results").mkdir()
    results = {}
    with _step(f"ranking for {plan.test_users:,} other customers of {target.name}"):
        for name, spec in specs.items():
            scorer = scorer_for(spec, target, base=plan.base or DEFAULT_BASE).scorer
            directory = out / "data" / target.name
            found = evaluate(scorer, target, "test", negatives=["popularity"], seed=seed, directory=directory)
            results[name] = replace(found, info=replace(found.info, scorer=name))
            results[name].save(_result(out, name))
    return results


def _result(out: Path, name: str) -> Path:
    return out / "results" / f"{name.removeprefix('a ').removeprefix('the ').lower().replace(' ', '-')}.parquet"


def _verdicts(results: Mapping[str, Evaluation]) -> list[str]:
    """What won and by how much, in sentences; only an interval clear of 0 is a yes."""
    from xcrossrec.evaluation import compare, verdict

    mrr = {name: result.summary()["metrics"]["popularity"]["mrr"] for name, result in results.items()}
    ranking = ", ".join(f"{name} {mrr[name]:.3f}" for name in sorted(mrr, key=lambda name: -mrr[name]))
    users = results[_OURS].summary()["users"]
    rivals = [name for name in results if name != _OURS]
    compared = [compare(results[_OURS], results[rival], permutations=1000) for rival in rivals]
    return [
        f"For each of {users:,} other customers the next purchase was ranked among 29 items drawn by popularity. "
        f"Mean of 1 / rank (MRR): {ranking}.",
        *(f"- {said[0].upper()}{said[1:]}" for said in (verdict(found, "popularity") for found in compared)),
    ]


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
    paths = (out / "model", out / "data" / target.name, _result(out, _OURS), _result(out, _LORA))
    model, data, ours, lora = (quote(str(path)) for path in paths)
    return f"""\
  xcrossrec inspect {model}
  xcrossrec recommend {model} --catalog {data} --history "{target.titles[0]}" --explain
  xcrossrec compare {ours} {lora}
  xcrossrec serve {model} --catalog {data}"""
