"""Importing interactions: `xcrossrec data import` against the same preparation in plain pandas, by size.

Each run is a process of its own, so that its peak memory is its own; the seconds are the job's, without the imports.
Both arms read the same generated files (`import_reviews`), warm in the page cache, drop interactions of unlisted items
and exact repeats, keep the 5-core, split leave-last-out, clean the titles and write Parquet. Ours also hashes its
sources and its result. A second curve keeps all interactions (no k-core).
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl

from xcrossrec_lab.speed.figures.import_reviews import Market, write_market
from xcrossrec_lab.speed.harness import Figure, Measured, Settings, alternate, paired_ratio

MEMORY_GOAL_MB = 4 * 1000**3 / 2**20
RIVAL_LIMIT_S = 12 * 60
SEED = 0
STOPPED = "stopped"
TABLES = ("items", "train", "validation", "test")
ARMS = ("ours", "pandas")


@dataclass(frozen=True)
class Stage:
    """One point of a curve.

    Args:
        rows: interactions in the file.
        core: fewest interactions of a user and of an item; 1 keeps all.
        repetitions: timed runs of each arm.
        rival: whether pandas runs too.
    """

    rows: int
    core: int
    repetitions: int
    rival: bool = True


@dataclass
class Runs:
    """What the runs of one stage gave."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    cpu_seconds: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    peak_mb: dict[str, list[float]] = field(default_factory=lambda: {arm: [] for arm in ARMS})
    failed: dict[str, str] = field(default_factory=dict)


def stages(settings: Settings) -> list[Stage]:
    """Choose the sizes: the last one that pandas finishes gives the figure's ratio. In all about 15 minutes."""
    few = min(settings.repetitions, 3)
    if settings.quick:
        return [Stage(2000, 1, 1), Stage(2000, 2, settings.repetitions)]
    return [
        Stage(100_000, 1, few),
        Stage(1_000_000, 1, 1),
        Stage(10_000_000, 1, 1, rival=False),
        Stage(100_000, 5, settings.repetitions),
        Stage(1_000_000, 5, few),
        Stage(10_000_000, 5, 1),
    ]


def measure(settings: Settings) -> Measured:
    """Run all stages; the ratio is that of the largest size at which both arms came through.

    Raises:
        ValueError: the arms made different tables.
    """
    folder = settings.work / "import"
    curve, ratio, spread = [], float("nan"), (float("nan"), float("nan"))
    for stage in stages(settings):
        runs = _run(
            stage, _market(folder, stage.rows), folder, warmup=int(stage.repetitions > 1 and stage.rows < 10**6)
        )
        if stage.rival and "pandas" not in runs.failed:
            _refuse_difference(folder, stage)
            ratio, spread = paired_ratio(runs.seconds["pandas"], runs.seconds["ours"])
        curve.append(_point(stage, runs))
        print(json.dumps(curve[-1]), file=sys.stderr, flush=True)
    peak = max(point["ours"]["peak_mb"] for point in curve)
    details = {"curve": curve, "peak_mb": peak, "peak_goal_mb": MEMORY_GOAL_MB, "tables_equal": True}
    return Measured(ratio, spread, details, met_also=peak < MEMORY_GOAL_MB)


def _market(folder: Path, rows: int) -> Market:
    """Generate a size once, for all runs with this folder; the record is written last, so what has one is complete."""
    made = folder / f"generated-{rows}"
    record = made / "market.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if (known.get("rows"), known.get("seed")) == (rows, SEED):
        return Market(made / "reviews.json.gz", made / "metadata.json.gz", rows, known["raw_bytes"])
    record.unlink(missing_ok=True)
    market = write_market(made, rows, seed=SEED)
    record.write_text(json.dumps({**asdict(market), "seed": SEED}, default=str), encoding="utf-8")
    return market


def _run(stage: Stage, market: Market, folder: Path, *, warmup: int) -> Runs:
    """Run the arms in turn; what counts is the seconds that each job states itself."""
    runs = Runs()
    arms = ARMS if stage.rival else ARMS[:1]
    alternate({arm: partial(_child, arm, stage, market, folder, runs) for arm in arms}, stage.repetitions, warmup)
    for kept in (runs.seconds, runs.cpu_seconds, runs.peak_mb):
        for arm in arms:
            del kept[arm][: -stage.repetitions]
    return runs


def _child(arm: str, stage: Stage, market: Market, folder: Path, runs: Runs) -> None:
    command = [sys.executable, "-m", "xcrossrec_lab.speed.figures.import_job", "--arm", arm]
    command += ["--reviews", str(market.reviews), "--metadata", str(market.metadata)]
    command += ["--out", str(_out(folder, arm, stage)), "--core", str(stage.core)]
    limit = RIVAL_LIMIT_S if arm == "pandas" else None
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        runs.failed[arm] = f"{STOPPED} after {RIVAL_LIMIT_S} s"
        return
    if done.returncode:
        if arm == "ours":
            raise ValueError(f"the import of {stage.rows} rows failed ({done.returncode}): {done.stderr[-500:]}")
        runs.failed[arm] = f"exit status {done.returncode}: {done.stderr[-300:]}"
        return
    for name, value in json.loads(done.stdout).items():
        getattr(runs, name)[arm].append(value)


def _out(folder: Path, arm: str, stage: Stage) -> Path:
    return folder / f"{arm}-{stage.rows}-{stage.core}"


def _refuse_difference(folder: Path, stage: Stage) -> None:
    for table in TABLES:
        ours, rival = (pl.read_parquet(_out(folder, arm, stage) / f"{table}.parquet") for arm in ARMS)
        if not ours.equals(rival.select(ours.columns).cast(ours.schema)):
            raise ValueError(
                f"{table} of {stage.rows} rows differ between the arms ({ours.height} and {rival.height} rows): "
                "they no longer do the same"
            )


def _point(stage: Stage, runs: Runs) -> dict[str, Any]:
    """One row of the curve, medians of the runs; memory is the highest."""
    point: dict[str, Any] = {"rows": stage.rows, "core": stage.core, "repetitions": stage.repetitions}
    for arm in ARMS:
        if runs.seconds[arm]:
            point[arm] = {
                "seconds": median(runs.seconds[arm]),
                "cpu_seconds": median(runs.cpu_seconds[arm]),
                "peak_mb": max(runs.peak_mb[arm]),
            }
    if "pandas" in point:
        point["ratio"], point["spread"] = paired_ratio(runs.seconds["pandas"], runs.seconds["ours"])
    if runs.failed.get("pandas", "").startswith(STOPPED):
        point["ratio_at_least"] = RIVAL_LIMIT_S / point["ours"]["seconds"]
    return point | ({"failed": runs.failed} if runs.failed else {})


FIGURES = (
    Figure(
        name="import",
        title="Import of 10 million Amazon 2018 interactions against plain pandas",
        goal=10.0,
        better="higher",
        unit="x",
        measure=measure,
    ),
)
