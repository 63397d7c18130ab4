"""Measure speed figures, rivals included.

    .venv/bin/python -m xcrossrec_lab.speed.run --list
    .venv/bin/python -m xcrossrec_lab.speed.run --figure NAME [--json] [--quick] [--threads N]
    .venv/bin/python -m xcrossrec_lab.speed.run --all

Results are kept in ``lab/results/speed/NAME.json`` (not with ``--quick``); the last line printed is
``{"figure": ..., "ratio": ..., "goal": ..., "met": ...}``. Progress goes to stderr. ``page.py`` makes the page.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from xcrossrec_lab.places import SHARED
from xcrossrec_lab.speed.harness import (
    REPETITIONS,
    RESULTS,
    SPREAD,
    THREADS,
    WORK,
    Figure,
    MachineRecord,
    Measured,
    Settings,
    pin_threads,
    pin_torch,
    recording,
)

_QUICK_REPETITIONS = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and measure; gives the exit status."""
    options = _parser().parse_args(arguments)
    pin_threads(options.threads)  # before a figure imports torch
    figures = discover()
    if options.list:
        for figure in figures.values():
            print(f"{figure.name}: {figure.title} (goal {figure.goal:g}, {figure.better} is better)")
        return 0
    if options.all:
        return _run_all(list(figures), options)
    if options.figure not in figures:
        print(f"unknown figure {options.figure!r}: choose one of {', '.join(figures)}", file=sys.stderr)
        return 2
    figure = figures[options.figure]
    result = run_figure(figure, _settings(options))
    if not options.quick:
        write_result(result, options.results)
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        print(_sentence(figure, result))
    print(json.dumps({key: result[key] for key in ("figure", "ratio", "goal", "met")}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure speed figures, rivals included.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--list", action="store_true", help="name the figures")
    what.add_argument("--figure", metavar="NAME", help="measure one")
    what.add_argument("--all", action="store_true", help="measure all, one after another, each in its own process")
    parser.add_argument("--json", action="store_true", help="print the whole result before the last line")
    parser.add_argument("--quick", action="store_true", help="a smoke test on little data; nothing is kept")
    parser.add_argument("--threads", type=_positive, default=THREADS, help="threads of torch and BLAS")
    parser.add_argument("--repetitions", type=_positive, help=f"timed rounds (default {REPETITIONS})")
    parser.add_argument("--shared", type=Path, default=SHARED, help="the folder with data/amazon")
    parser.add_argument("--work", type=Path, default=WORK, help="what figures make on the way; kept")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where results are kept")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected at least 1")
    return number


def _settings(options: argparse.Namespace) -> Settings:
    repetitions = options.repetitions or (_QUICK_REPETITIONS if options.quick else REPETITIONS)
    options.work.mkdir(parents=True, exist_ok=True)
    return Settings(repetitions, options.threads, options.shared, options.work, options.quick)


def discover() -> dict[str, Figure]:
    """Find the figures of all modules in ``figures/``, in the order of their file names.

    Raises:
        ValueError: two figures of one name.
    """
    found: dict[str, Figure] = {}
    for path in sorted((Path(__file__).parent / "figures").glob("[!_]*.py")):
        figures: Iterable[Figure] = getattr(import_module(f"xcrossrec_lab.speed.figures.{path.stem}"), "FIGURES", ())
        for figure in figures:
            if figure.name in found:
                raise ValueError(f"two figures are named {figure.name!r}: rename the one in {path.name}")
            found[figure.name] = figure
    return found


def run_figure(figure: Figure, settings: Settings) -> dict[str, Any]:
    """Measure one figure in this process and describe it in plain values.

    Raises:
        ValueError: the ratio is no finite number.
    """
    pin_torch(settings.threads)
    with recording(settings.threads) as machine, redirect_stdout(sys.stderr):  # trainers print what they do
        measured = figure.measure(settings)
    if not math.isfinite(measured.ratio):
        raise ValueError(f"figure {figure.name} came to {measured.ratio}: its measurement is broken")
    return _result(figure, settings, measured, machine)


def _result(figure: Figure, settings: Settings, measured: Measured, machine: MachineRecord) -> dict[str, Any]:
    return {
        "figure": figure.name,
        "title": figure.title,
        "ratio": measured.ratio,
        "spread": list(measured.spread),
        "spread_is": SPREAD,
        "goal": figure.goal,
        "better": figure.better,
        "unit": figure.unit,
        "met": figure.met(measured),
        "met_also": measured.met_also,
        "details": measured.details,
        "settings": {"repetitions": settings.repetitions, "threads": settings.threads, "quick": settings.quick},
        "machine": asdict(machine),
    }


def write_result(result: dict[str, Any], folder: Path) -> Path:
    """Keep a result; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{result['figure']}-", suffix=".json")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        path = folder / f"{result['figure']}.json"
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _sentence(figure: Figure, result: dict[str, Any]) -> str:
    low, high = result["spread"]
    return (
        f"{figure.title}: {result['ratio']:.3f} [{low:.3f}, {high:.3f}] {figure.unit}; "
        f"goal {figure.goal:.3g}, {figure.better} is better: {'met' if result['met'] else 'not met'}"
    )


def _run_all(names: Sequence[str], options: argparse.Namespace) -> int:
    """Each figure in a process of its own, so that none finds another's caches or memory."""
    failed = []
    for name in names:
        print(f"--- {name}", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "xcrossrec_lab.speed.run", "--figure", name, "--threads", str(options.threads)]
        command += ["--shared", str(options.shared), "--work", str(options.work), "--results", str(options.results)]
        command += ["--repetitions", str(options.repetitions)] if options.repetitions else []
        command += [f"--{flag}" for flag in ("json", "quick") if getattr(options, flag)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
