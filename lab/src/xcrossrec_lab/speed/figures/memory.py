"""Peak memory of encoding with two streams over that of the plain base, at the same batch.

Every number is the peak resident memory of a fresh process (``VmHWM``; ``getrusage`` would include what the parent had
when it started the child). Three ratios are stated:

- of whole processes, which is what a machine must have (this one is the figure);
- above the bare imports, which leaves out what both pay before any model (interpreter, torch, transformers). It is the
  stricter one: two streams hold twice the activations of a batch, and nothing dilutes them;
- of the processes that only load a model, where the streams' shared copy of the base shows.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from xcrossrec_lab.speed import material
from xcrossrec_lab.speed.harness import Figure, Measured, Settings, paired_ratio

BATCH, TEXTS = 256, 256
REPETITIONS = 3
_KINDS = ("plain-imports", "ours-imports", "plain-load", "ours-load", "plain", "ours")
_COPIES_ALLOWED = 1.01


def measure_memory(settings: Settings) -> Measured:
    """Compare peaks."""
    base = material.base_name(settings)
    adapters = material.random_adapters(base, 2, settings.work / "adapters")
    texts = settings.work / "memory-texts.json"
    texts.write_text(json.dumps(material.prompt_texts(settings, TEXTS).texts), encoding="utf-8")
    rounds = 1 if settings.quick else min(settings.repetitions, REPETITIONS)
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in _KINDS}
    for _ in range(rounds):
        for kind in _KINDS:
            found[kind].append(_child(kind, base, texts, settings.threads, adapters))
    peaks = {kind: [one["peak_mib"] for one in found[kind]] for kind in _KINDS}
    middle = {kind: float(np.median(values)) for kind, values in peaks.items()}
    ratio, spread = paired_ratio(peaks["ours"], peaks["plain"])
    copies = _copies(base, found["ours"][0])
    details = {
        "batch_texts": BATCH,
        "texts": f"{TEXTS} history prompts, one batch",
        "peak_mib": middle,
        "ratio_above_imports": _above_imports(middle, "ours") / _above_imports(middle, "plain"),
        "ratio_loaded_only": middle["ours-load"] / middle["plain-load"],
        "decides": "whole processes: what a machine must have; above the imports is the stricter ratio",
        "base_copies": copies,
        "met_also": "the streams hold one copy of the base (data_ptr)",
        "repetitions": rounds,
    }
    return Measured(ratio, spread, details, met_also=copies <= _COPIES_ALLOWED)


def _above_imports(peaks: dict[str, float], kind: str) -> float:
    """Peak above the bare imports of the same side, at least 1 MiB (a smoke test's model is smaller)."""
    return max(1.0, peaks[kind] - peaks[f"{kind}-imports"])


def _copies(base: str, ours: dict[str, float]) -> float:
    """How often the base's bytes lie in our model's distinct tensors."""
    from xcrossrec.models.base import load_base

    alone = sum(p.untyped_storage().nbytes() for p in load_base(base).backbone.state_dict().values()) / 2**20
    return float(ours["base_mib"] / alone)


def _child(kind: str, base: str, texts: Path, threads: int, adapters: list[Path]) -> dict[str, Any]:
    command = [
        sys.executable,
        "-m",
        "xcrossrec_lab.speed.memory_child",
        kind,
        base,
        str(texts),
        str(BATCH),
        str(threads),
        *map(str, adapters),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"memory child {kind!r} failed: {done.stderr.strip()[-500:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


FIGURES = (
    Figure(
        name="memory-scoring",
        title="Peak memory of encoding with 2 streams",
        goal=1.3,
        better="lower",
        unit="of the plain base's process at the same batch",
        measure=measure_memory,
    ),
)
