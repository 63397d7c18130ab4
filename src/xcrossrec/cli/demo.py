"""The whole job on the built-in sample market: train sources, integrate them into a new domain, judge honestly."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from xcrossrec.cli.console import Nowhere, Overwrite, log, prepare, shows_progress, table
from xcrossrec.cli.recommend import as_text
from xcrossrec.exceptions import DataError
from xcrossrec.types import NEGATIVES

if TYPE_CHECKING:
    from xcrossrec.data import Domain
    from xcrossrec.evaluation import Evaluation

MARKER = "xcrossrec-demo.json"
"""Marks a folder as a demo's, which the next demo may replace; holds the demo's results."""

SIMULATED = "SIMULATED users: these numbers show that the software works, and nothing about people."
_FOLDERS = ("data", "target", "sources", "rivals", "model", "model.training", "results")
_MODEL = "xcrossrec"
_PAPER = "X-Cross's integrators"


def _plan(**settings: Any) -> dict[str, Any]:
    """Training settings; a batch holds most of the small catalogue, so no further items are sampled."""
    return {"sampled_negatives": 0, **settings}


@dataclass(frozen=True)
class Plan:
    """How much the demo does; sized for about 5 minutes on two idle cores.

    Attributes:
        train_users: simulated users of each source.
        test_users: target users who are ranked; nothing is chosen by them.
        budget: target users to learn from.
        source: training settings of each source.
        target: of the integration, in its default form and with the paper's integrators.
        rival: of LoRA on the target; its learning rate and that of ours by the loss on users set aside (LOG.md).
        base: the base model; None takes the embedded MiniLM.
    """

    train_users: int = 1500
    test_users: int = 1000
    budget: int = 300
    source: dict[str, Any] = field(default_factory=lambda: _plan(epochs=4, batch_users=64, learning_rate=2e-3))
    target: dict[str, Any] = field(
        default_factory=lambda: _plan(epochs=8, batch_users=32, learning_rate=1e-3, target_learning_rate=8e-3)
    )
    rival: dict[str, Any] = field(default_factory=lambda: _plan(epochs=8, batch_users=32, learning_rate=8e-3))
    base: str | None = None


FAST = Plan(
    train_users=48,
    test_users=40,
    budget=24,
    source={"epochs": 1, "batch_users": 24},
    target={"epochs": 1, "batch_users": 12},
    rival={"epochs": 1, "batch_users": 12},
)
"""For tests: learns nothing."""


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("demo")(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("xcrossrec-demo"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulation and of every draw.")] = 0,
    base: Annotated[str | None, typer.Option(help="Base model.  [default: embedded MiniLM]")] = None,
    overwrite: Overwrite = False,
    fast: Annotated[bool, typer.Option("--fast", hidden=True)] = False,
) -> None:
    """Adapt to a new domain on simulated users: two sources, one target, every rival, one user's reasons.

    Leaves the model in OUT/model, the target's data in OUT/target, adapters in OUT/sources, per-user results in
    OUT/results. A folder of an earlier demo is replaced.
    """
    prepare("train")
    require_baselines()
    plan = FAST if fast else Plan()
    claim(out, overwrite=overwrite)
    run(out, plan if base is None else Plan(**{**vars(plan), "base": base}), seed)


def require_baselines() -> None:
    """Check that TF-IDF can be computed before minutes of training."""
    from xcrossrec.extras import require

    require("baselines")


def claim(out: Path, *, overwrite: bool) -> None:
    """Make the folder ready; a former demo's content goes, nobody else's does.

    Raises:
        DataError: the folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: choose another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).exists() and not overwrite:
        raise DataError(
            f"{out} exists and is not an earlier demo (it has no {MARKER}): choose another --out, or pass "
            f"--overwrite to replace {', '.join(_FOLDERS)} in it"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text(json.dumps({"simulated": True, "finished": False}), encoding="utf-8")
    for name in _FOLDERS:
        shutil.rmtree(out / name, ignore_errors=True)


def run(out: Path, plan: Plan, seed: int) -> None:
    """Do the whole job and print what came of it."""
    started = time.perf_counter()
    domains = _write_market(out, plan, seed)
    sources, target = list(domains.values())[:2], list(domains.values())[2]
    typer.echo(f"Simulated market: sources {sources[0].name} and {sources[1].name}, new domain {target.name}.")
    typer.echo(SIMULATED)
    adapters = [out / "sources" / source.name for source in sources]
    _train(out, plan, seed, sources, target, adapters)
    results = _evaluate_all(out, target, adapters, plan, seed)
    summaries = {name: result.summary() for name, result in results.items()}
    differences = {name: _paired(results[_MODEL], result) for name, result in results.items() if name != _MODEL}
    typer.echo(f"\n{_results_table(summaries, differences)}\n\n{SIMULATED}\n")
    verdicts = _verdicts(summaries, differences, [adapter.name for adapter in adapters])
    typer.echo("\n".join(verdicts))
    typer.echo(f"\n{_cost(out)}")
    _recommend(out, target)
    _keep_catalogue(out)
    wall_s = time.perf_counter() - started
    record = {
        "simulated": True,
        "finished": True,
        "seed": seed,
        "wall_s": round(wall_s, 1),
        "verdicts": verdicts,
        "summaries": list(summaries.values()),
        "differences": differences,
    }
    (out / MARKER).write_text(json.dumps(record, indent=2), encoding="utf-8")
    typer.echo(f"\nDone in {wall_s:.0f} s. Look further:\n{_next_steps(out, target)}")


def _write_market(out: Path, plan: Plan, seed: int) -> dict[str, Domain]:
    """Simulate three domains; sources go to OUT/data, the target to OUT/target."""
    from xcrossrec.data import write_domain
    from xcrossrec.data.market import MARKET_DOMAINS, MarketSettings, sample_market

    settings = MarketSettings(train_users=plan.train_users, test_users=plan.test_users)
    market = sample_market(seed, settings)
    chosen = {name: market[name] for name in MARKET_DOMAINS[:3]}
    for number, (name, domain) in enumerate(chosen.items()):
        write_domain(domain, out / "target" if number == 2 else out / "data" / name)
    return chosen


def _train(
    out: Path, plan: Plan, seed: int, sources: Sequence[Domain], target: Domain, adapters: Sequence[Path]
) -> None:
    from xcrossrec.config import DEFAULT_INTEGRATOR, rival_config, source_config, target_config
    from xcrossrec.models.base import DEFAULT_BASE
    from xcrossrec.training.source import train_source
    from xcrossrec.training.target import train_target

    base, bars = plan.base or DEFAULT_BASE, shows_progress() and sys.stderr.isatty()
    for source, adapter in zip(sources, adapters, strict=True):
        with _step(f"LoRA on {source.name} ({plan.train_users:,} users)"):
            settings = source_config(**{**plan.source, "seed": seed})
            train_source(source, adapter, config=settings, base=base, show_progress=bars)
    for form, folder in ((DEFAULT_INTEGRATOR, out / "model"), ("paper", out / "rivals" / "paper")):
        with _step(f"integration into {target.name}, {form} ({plan.budget:,} users)"):
            settings = target_config(form, users=plan.budget, **{**plan.target, "seed": seed})
            train_target(
                target, adapters, folder, config=settings, integrator=form, budget=plan.budget, show_progress=bars
            )
    rival = out / "rivals" / "lora"
    with _step(f"the rival: LoRA on {target.name} (the same {plan.budget:,} users)"):
        settings = rival_config(**{**plan.rival, "seed": seed})
        train_source(target, rival, config=settings, base=base, budget=plan.budget, show_progress=bars)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Announce a step and its seconds; of third parties only progress bars on a terminal are shown."""
    log.info(f"{what} ...")
    started = time.perf_counter()
    quiet = not (shows_progress() and sys.stderr.isatty())
    with redirect_stdout(Nowhere()), redirect_stderr(Nowhere() if quiet else sys.stderr):
        yield
    log.info(f"{what}: {time.perf_counter() - started:.0f} s")


def _evaluate_all(out: Path, target: Domain, adapters: Sequence[Path], plan: Plan, seed: int) -> dict[str, Evaluation]:
    """Rank the target's test users with every method; results by the method's name."""
    from xcrossrec.baselines.neural import scorer_for
    from xcrossrec.evaluation import evaluate
    from xcrossrec.models.base import DEFAULT_BASE

    specs = {
        "popularity": "baseline:popularity",
        "TF-IDF of titles": "baseline:tfidf",
        "untrained base": "baseline:untrained",
        "untrained base, centered": "baseline:centered",
        **{f"{adapter.name} alone": str(adapter) for adapter in adapters},
        "mean of the sources": "+".join(map(str, adapters)),
        "LoRA on the target": str(out / "rivals" / "lora"),
        _PAPER: str(out / "rivals" / "paper"),
        _MODEL: str(out / "model"),
    }
    folder = out / "results"
    folder.mkdir()
    results = {}
    with _step(f"ranking {plan.test_users:,} unseen users of {target.name} with {len(specs)} methods"):
        for name, spec in specs.items():
            subject = scorer_for(spec, target, base=plan.base or DEFAULT_BASE, name=name)
            seen = subject.seen_users(target, "test")
            results[name] = evaluate(
                subject.scorer, target, "test", seed=seed, directory=out / "target", seen_users=seen
            )
            results[name].save(folder / f"{''.join(c if c.isalnum() else '-' for c in name.lower())}.parquet")
    return results


def _results_table(summaries: dict[str, dict[str, Any]], differences: dict[str, dict[str, Any]]) -> str:
    """All methods under all negatives, and what ours has more (paired, with its interval)."""
    ours = summaries[_MODEL]
    rows = [["MRR, mean [95%]", *NEGATIVES, f"{_MODEL} minus it, popularity negatives"]]
    for name, summary in summaries.items():
        found = summary["metrics"]
        cells = [_interval(found[kind]["mrr"], found[kind]["ci"]["mrr"], "") for kind in NEGATIVES]
        more = differences.get(name)
        rows.append([name, *cells, _interval(more["difference"], more["ci"], "+") if more else ""])
    return (
        f"{ours['domain']} (simulated), {ours['users']:,} test users, 1 positive + 29 negatives, or the full "
        f"catalogue:\n\n{table(rows)}"
    )


def _interval(mean: float, ci: Sequence[float], sign: str) -> str:
    return f"{mean:{sign}.3f} [{ci[0]:{sign}.3f}, {ci[1]:{sign}.3f}]"


def _paired(ours: Evaluation, other: Evaluation) -> dict[str, Any]:
    """The paired difference in MRR under popularity negatives, with its interval."""
    from xcrossrec.evaluation import Evaluation, compare

    a, b = (Evaluation(result.of("popularity"), result.info) for result in (ours, other))
    found: dict[str, Any] = compare(a, b, permutations=1000)["metrics"]["popularity"]["mrr"]
    return found


def _verdicts(
    summaries: dict[str, dict[str, Any]], differences: dict[str, dict[str, Any]], sources: Sequence[str]
) -> list[str]:
    """Say whether integration helped, against what matters most; only an interval clear of 0 is a yes."""
    best = max(sources, key=lambda name: float(summaries[f"{name} alone"]["metrics"]["popularity"]["mrr"]))
    rivals = ("untrained base", f"{best} alone", "mean of the sources", "LoRA on the target", _PAPER)
    sentences = (_verdict(name, differences[name]) for name in rivals)
    return ["Did it help? (MRR, popularity negatives, paired by user)", *sentences]


def _verdict(rival: str, found: dict[str, Any]) -> str:
    low, high = found["ci"]
    numbers = f"{found['difference']:+.3f}, 95% interval {low:+.3f} to {high:+.3f}"
    if low > 0:
        return f"- Yes, against {rival}: integration is better by {found['difference']:.3f} ({numbers})."
    if high < 0:
        return f"- No, against {rival}: integration is worse by {-found['difference']:.3f} ({numbers})."
    return f"- Against {rival}: no clear difference ({numbers})."


def _cost(out: Path) -> str:
    from xcrossrec.models import bundle
    from xcrossrec.training.target import count_parameters

    counts = count_parameters(bundle.load(out / "model"))
    small = counts["stream_weights"] + counts["head"]
    return (
        f"Trained for the new domain: a LoRA of {counts['target_lora']:,} parameters, {counts['share']:.1%} of one "
        f"source's ({counts['lora_per_source']:,}), and {small} of stream weight and head; served as one model."
    )


def _recommend(out: Path, target: Domain) -> None:
    """Show one test user's history, three recommendations with reasons, and what the user bought next."""
    from xcrossrec.recommender import Recommender

    sequences = target.sequences("test")
    history, bought = sequences.rows[0][:-1], sequences.rows[0][-1]
    ids = target.items["item_id"].to_list()
    with _step("one user's recommendations"):
        recommender = Recommender.from_pretrained(out / "model").index(target)
        found = recommender.recommend([ids[row] for row in history], k=target.items.height)
        shown = found[:3]
        reasons = recommender.explain_many([ids[row] for row in history], [f"id:{r.item_id}" for r in shown])
    rank = next((r.rank for r in found if r.item_id == ids[bought]), None)
    typer.echo(f"\nFor simulated user {sequences.user_ids[0]}, who bought:")
    typer.echo("\n".join(f"  - {target.titles[row]}" for row in history))
    typer.echo(f"recommended:\n{as_text(shown, reasons)}")
    typer.echo(f"(bought next: {target.titles[bought]}, rank {rank} of {len(found)})")


def _keep_catalogue(out: Path) -> None:
    """Encode the target's items for the service, so that it starts at once."""
    from xcrossrec.catalogue.catalogues import open_or_build
    from xcrossrec.models import bundle

    with _step("the catalogue to serve"):
        open_or_build(bundle.load(out / "model"), out / "target").close()


def _next_steps(out: Path, target: Domain) -> str:
    title = target.titles[0]
    return "\n".join(
        f"  xcrossrec {line}"
        for line in (
            f"inspect {out / 'model'}",
            f'recommend {out / "model"} --catalog {out / "target"} --history "{title}" --explain',
            f"compare {out / 'results' / 'xcrossrec.parquet'} {out / 'results' / 'lora-on-the-target.parquet'}",
            f"data lint {out / 'target'}",
            f"serve {quote(str(out / 'model'))} --catalog {quote(str(out / 'target'))}",
        )
    )
