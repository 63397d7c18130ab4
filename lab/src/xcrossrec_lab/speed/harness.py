"""What every speed figure shares: the contract, alternating timings, ratios with spread, the machine's record.

A figure is a function from :class:`Settings` to :class:`Measured`. Its module lies in ``figures/`` and names its
figures in a tuple ``FIGURES``; ``run.py`` finds them there. This module imports torch only where a function needs it,
so that a figure without torch can measure its memory.
"""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xcrossrec_lab import places
from xcrossrec_lab.places import REPOSITORY, SHARED

RESULTS = places.RESULTS / "speed"
WORK = places.REPOSITORY / "runs" / "speed"

REPETITIONS = 7
THREADS = 2
SPREAD = "quartiles of the per-repetition ratios"

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS")
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")
_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "accelerate",
    "tokenizers",
    "numpy",
    "polars",
    "pandas",
)


@dataclass(frozen=True)
class Settings:
    """How a figure is to be measured.

    Attributes:
        repetitions: timed rounds of all arms.
        threads: threads of torch and BLAS; pinned before their import by ``run.py``.
        shared: the folder with ``data/amazon``, which may be absent.
        work: a folder for what a figure makes on the way; kept between runs.
        quick: a smoke test on little data, whose figures mean nothing.
    """

    repetitions: int = REPETITIONS
    threads: int = THREADS
    shared: Path = SHARED
    work: Path = WORK
    quick: bool = False


@dataclass(frozen=True)
class Measured:
    """What a figure came to.

    Attributes:
        ratio: ours against the rival, in the figure's unit.
        spread: lower and upper end; see :data:`SPREAD`.
        details: medians of every arm, side conditions, choices; plain JSON values.
        met_also: whether the side conditions (recall, MRR lost, p95) hold; ``details`` names them.
    """

    ratio: float
    spread: tuple[float, float]
    details: dict[str, Any]
    met_also: bool = True


@dataclass(frozen=True)
class Figure:
    """One claim about speed or memory.

    Attributes:
        name: what ``--figure`` takes, and the result file's name.
        title: one line for the table.
        goal: what the ratio must reach.
        better: whether a higher or a lower ratio is better.
        unit: what the ratio is of what.
        measure: runs it, rivals included.
    """

    name: str
    title: str
    goal: float
    better: Literal["higher", "lower"]
    unit: str
    measure: Callable[[Settings], Measured]

    def met(self, measured: Measured) -> bool:
        """Whether the goal is reached and the side conditions hold."""
        reached = measured.ratio >= self.goal if self.better == "higher" else measured.ratio <= self.goal
        return bool(reached and measured.met_also)


def alternate(
    arms: Mapping[str, Callable[[], Any]], repetitions: int = REPETITIONS, warmup: int = 1
) -> dict[str, list[float]]:
    """Time several arms in turn, so that a slow minute of the machine hits all of them.

    Within a repetition every arm runs once; the arm that starts changes from one repetition to the next. Garbage is
    collected before each run and not during it.

    Args:
        arms: by name, what to time.
        repetitions: timed rounds.
        warmup: untimed rounds before.

    Returns:
        per arm its wall seconds, one a repetition, in the order of the repetitions.
    """
    names = list(arms)
    for _ in range(warmup):
        for name in names:
            arms[name]()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    gc.collect()
    gc.freeze()  # collecting all that the imports made takes longer than some arms
    try:
        for repetition in range(repetitions):
            first = repetition % len(names)
            for name in names[first:] + names[:first]:
                gc.collect()
                seconds[name].append(timed(arms[name]))
    finally:
        gc.unfreeze()
    return seconds


def timed(arm: Callable[[], Any]) -> float:
    """Wall seconds of one call, during which no garbage is collected."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        start = time.perf_counter()
        arm()
        return time.perf_counter() - start
    finally:
        if enabled:
            gc.enable()


def paired_ratio(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Compare two arms of :func:`alternate`, repetition by repetition.

    Args:
        slow: seconds of the arm in the numerator.
        fast: seconds of the arm in the denominator, of the same repetitions.

    Returns:
        median of slow / fast, and its lower and upper quartile.

    Raises:
        ValueError: no repetitions, or unequal numbers of them.
    """
    if len(slow) != len(fast) or not slow:
        raise ValueError(
            f"pairs need as many repetitions on both sides and at least 1, got {len(slow)} and {len(fast)}"
        )
    ratios = np.asarray(slow, dtype=float) / np.asarray(fast, dtype=float)
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    return float(middle), (float(low), float(high))


def medians(seconds: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Median seconds of every arm."""
    return {name: float(np.median(times)) for name, times in seconds.items()}


def pin_threads(threads: int) -> None:
    """Bind this process, and those it starts, to a number of threads; call it before torch is imported."""
    for variable in _THREAD_VARIABLES:
        os.environ[variable] = str(threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pin_torch(threads: int) -> None:
    """Bind torch itself, where it is installed."""
    try:
        import torch
    except ImportError:
        return
    torch.set_num_threads(threads)


@dataclass
class MachineRecord:
    """Where and when a figure was measured; ``load_end`` is filled in by :func:`recording`."""

    cpu: str
    cores: int
    flags: list[str]
    memory_gb: float
    system: str
    python: str
    versions: dict[str, str]
    threads: int
    commit: str
    dirty: bool
    started: str
    load_start: float
    load_end: float | None = None
    wall_s: float | None = None
    throughput_gflops: dict[str, float] = field(default_factory=dict)


@contextmanager
def recording(threads: int) -> Iterator[MachineRecord]:
    """Describe the machine; the load average is read when the block begins and ends."""
    record = MachineRecord(
        cpu=_cpu_model(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        flags=_cpu_flags(),
        memory_gb=_memory_gb(),
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
        threads=threads,
        commit=_git("rev-parse", "--short", "HEAD"),
        dirty=bool(_git("status", "--porcelain", "--untracked-files=no")),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        load_start=_load(),
    )
    start = time.perf_counter()
    try:
        yield record
    finally:
        record.load_end = _load()
        record.wall_s = round(time.perf_counter() - start, 1)


def _cpu_model() -> str:
    return _cpu_field("model name") or platform.processor() or "unknown"


def _cpu_flags() -> list[str]:
    present = set(_cpu_field("flags").split())
    return [flag for flag in _FLAGS if flag in present]


def _cpu_field(name: str) -> str:
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.partition(":")[0].strip() == name:
            return line.partition(":")[2].strip()
    return ""


def _memory_gb() -> float:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return 0.0


def _load() -> float:
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


@dataclass(frozen=True)
class Shape:
    """What the arithmetic of a BERT-like encoder depends on."""

    layers: int
    dim: int
    inside: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read it off a Hugging Face configuration."""
        return cls(int(config.num_hidden_layers), int(config.hidden_size), int(config.intermediate_size))


def encoder_flops(shape: Shape, lengths: Sequence[int] | np.ndarray) -> float:
    """Floating-point operations (multiply and add apart) of one stream's matrix products.

    ``L * sum_t (2 t (4 d^2 + 2 d m) + 4 t^2 d)`` over texts of t tokens: query, key, value, output, the two layers of
    the feed-forward part, scores and their sum. No padding, no LoRA, no element-wise work.

    Args:
        shape: of the encoder.
        lengths: tokens of each text, special tokens included.
    """
    t = np.asarray(lengths, dtype=float)
    linear = 2 * t * (4 * shape.dim**2 + 2 * shape.dim * shape.inside)
    return float(shape.layers * (linear + 4 * t**2 * shape.dim).sum())


def floor_seconds(streams: int, flops_per_stream: float, throughput_gflops: float) -> float:
    """Least time for the matrix products of n streams, if everything else were free."""
    return streams * flops_per_stream / (throughput_gflops * 1e9)


def matrix_throughput(shape: Shape, *, rows: int = 4096, tries: int = 15) -> dict[str, float]:
    """Measure what matrix products of an encoder's shapes reach here, in GFLOP/s.

    The mix of a layer: four products ``dim x dim``, one each ``dim x inside`` and ``inside x dim``; the best of several
    tries, because this is what the floor is made of.

    Args:
        shape: of the encoder.
        rows: tokens at once.
        tries: how often each way is timed.

    Returns:
        ``fp32_linear`` (``F.linear``, which is MKL on x86), ``fp32_onednn`` (oneDNN with packed weights; absent
        where torch has none) and ``bf16`` (``F.linear`` on bfloat16).
    """
    import torch
    from torch.nn.functional import linear

    sizes = [(shape.dim, shape.dim)] * 4 + [(shape.dim, shape.inside), (shape.inside, shape.dim)]
    inputs = {width: torch.randn(rows, width) for width in (shape.dim, shape.inside)}
    weights = [torch.randn(outside, inside) for inside, outside in sizes]
    flops = sum(2 * rows * inside * outside for inside, outside in sizes)

    def best(products: Callable[[], Any]) -> float:
        products()
        return flops / min(timed(products) for _ in range(tries)) / 1e9

    with torch.inference_mode():
        found = {"fp32_linear": best(lambda: [linear(inputs[w.shape[1]], w) for w in weights])}
        if torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
            pointwise = torch.ops.mkldnn._linear_pointwise
            packed = [(w.shape[1], w.to_mkldnn()) for w in weights]
            found["fp32_onednn"] = best(
                lambda: [pointwise(inputs[inside], w, None, "none", [], "") for inside, w in packed]
            )
        half_inputs = {width: x.bfloat16() for width, x in inputs.items()}
        halves = [w.bfloat16() for w in weights]
        found["bf16"] = best(lambda: [linear(half_inputs[w.shape[1]], w) for w in halves])
    return {name: round(value, 2) for name, value in found.items()}


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within the block torch uses so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
