"""Where the milliseconds of encoding and of training go, and how far that is from the floor.

    .venv/bin/python -m xcrossrec_lab.speed.profile_encoder [--what encode|train] [--sources 2] [--texts 2048] [--json]

Prints the share of self time by kind of operation (torch.profiler), the time outside of torch's operations (Python,
tokenization, waiting), the GFLOP/s reached and the floor: the time that the matrix products of n streams would take at
this machine's measured throughput, without padding and with nothing else to do.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xcrossrec_lab.speed.harness import (
    THREADS,
    WORK,
    Settings,
    Shape,
    encoder_flops,
    floor_seconds,
    matrix_throughput,
    pin_threads,
    pin_torch,
    timed,
)

_KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("matrix products", ("addmm", "aten::mm", "linear", "mkldnn", "onednn")),
    ("batched products (LoRA, integrators, scores)", ("bmm",)),
    ("attention", ("attention",)),
    ("normalisation", ("layer_norm",)),
    ("activation", ("gelu", "silu", "relu", "tanh")),
    ("softmax and loss", ("softmax", "nll_loss", "logsumexp", "aten::log", "aten::exp")),
    ("copies and layout", ("copy", "clone", "contiguous", "cat", "stack", "reshape", "repeat", "index", "gather")),
    ("optimizer", ("_foreach", "_fused_adam", "Optimizer")),
    ("element-wise", ("aten::add", "aten::mul", "aten::sub", "aten::div", "addcmul", "where", "fill", "sum", "mean")),
)


def kind_of(operation: str) -> str:
    """Put an operation into a kind."""
    for kind, parts in _KINDS:
        if any(part in operation for part in parts):
            return kind
    return "other"


def profile(run: Callable[[], Any]) -> dict[str, Any]:
    """Profile one call after a warm-up.

    Returns:
        ``wall_s`` without the profiler, ``share`` of self time by kind, ``operations``: the ten costliest.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    run()
    wall = min(timed(run) for _ in range(3))
    with torch_profile(activities=[ProfilerActivity.CPU]) as profiler:
        profiled = timed(run)
    kinds: dict[str, float] = defaultdict(float)
    events = [(event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages()]
    for key, seconds in events:
        kinds[kind_of(key)] += seconds
    kinds["outside of torch's operations"] = max(0.0, profiled - sum(kinds.values()))
    total = sum(kinds.values())
    ordered = sorted(kinds.items(), key=lambda item: -item[1])
    costliest = sorted(events, key=lambda event: -event[1])[:10]
    return {
        "wall_s": wall,
        "profiled_s": profiled,
        "share": {kind: seconds / total for kind, seconds in ordered},
        "operations": {key: seconds / total for key, seconds in costliest},
    }


def profile_encode(settings: Settings, sources: int, texts: int) -> list[dict[str, Any]]:
    """Profile our encoder and the plain base on titles and on history prompts."""
    from xcrossrec.models.dual import encode_titles
    from xcrossrec_lab.speed import material
    from xcrossrec_lab.speed.plain import plain_base

    base = material.base_name(settings)
    model = material.integrated_model(base, material.random_adapters(base, sources, settings.work / "adapters"))
    plain = plain_base(base)
    shape = Shape.of(model[0].backbone.config)
    throughput = matrix_throughput(shape)
    rows = []
    for corpus in (material.title_texts(settings, texts), material.prompt_texts(settings, texts // 4)):
        flops = encoder_flops(shape, material.token_lengths(base, corpus.texts))
        for name, streams, run in (
            ("plain base, sentence-transformers", 1, lambda t=corpus.texts: plain.encode(t)),
            (f"ours, n={sources}", sources, lambda t=corpus.texts: encode_titles(model, t)),
        ):
            found = profile(run)
            rows.append(_row(f"{name}, {len(corpus.texts)} {corpus.name}", streams, flops, found, throughput))
    return rows


def profile_train(settings: Settings, sources: int, users: int) -> list[dict[str, Any]]:
    """Profile forward, backward and the collator of target training (paper's integrator, fp32), 32 users a step."""
    import torch

    from xcrossrec.models.fast.native import keep_freed_memory
    from xcrossrec.models.model import encoder_of, matcher_of
    from xcrossrec.prompts import item_texts
    from xcrossrec.training.batches import DualBatches
    from xcrossrec.training.losses import NextItemLoss
    from xcrossrec_lab.speed import material

    keep_freed_memory()
    base = material.base_name(settings)
    model = material.integrated_model(base, material.random_adapters(base, sources, settings.work / "adapters"))
    model.train()
    domain = material.training_domain(settings, "toys", users)
    titles = item_texts(domain.texts)
    sequences = domain.sequences("train").rows
    batches = DualBatches(sequences, titles, encoder_of(model).preprocess, 0, 20, sampled_negatives=32)
    loss = NextItemLoss(model, matcher_of(model))
    rows = [{"user": user} for user in range(min(32, len(sequences)))]
    batch = batches(rows)
    groups = [key.removesuffix("_input_ids") for key in batch if key.endswith("_input_ids")]
    features = [{key: batch[f"{group}_{key}"] for key in ("input_ids", "attention_mask")} for group in groups]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    shape = Shape.of(model[0].backbone.config)
    lengths = torch.cat([group["attention_mask"].sum(1) for group in features]).numpy()
    flops = encoder_flops(shape, lengths)
    throughput = matrix_throughput(shape)

    def forward_and_backward() -> None:
        torch.autograd.grad(loss(features, batch["label"]), trained)

    parts: tuple[tuple[str, int, Callable[[], Any]], ...] = (
        (f"target step, n={sources}, forward and backward, {len(lengths)} titles", 2 * sources, forward_and_backward),
        ("its collator", 0, lambda: batches(rows)),
    )
    return [_row(name, passes, flops, profile(run), throughput) for name, passes, run in parts]


def _row(name: str, passes: int, flops: float, found: dict[str, Any], throughput: dict[str, float]) -> dict[str, Any]:
    floors = {f"floor_s_{kind}": floor_seconds(passes, flops, value) for kind, value in throughput.items()}
    reached = passes * flops / found["wall_s"] / 1e9
    return {"what": name, "gflops_reached": reached, "throughput_gflops": throughput, **floors, **found}


def _print(row: dict[str, Any]) -> None:
    floors = ", ".join(f"{kind} {row[f'floor_s_{kind}'] * 1e3:.0f} ms" for kind in row["throughput_gflops"])
    print(f"\n{row['what']}: {row['wall_s'] * 1e3:.0f} ms, {row['gflops_reached']:.0f} GFLOP/s; floor: {floors}")
    for kind, share in row["share"].items():
        if share >= 0.005:
            print(f"  {share:6.1%}  {kind}")
    costliest = ", ".join(f"{key} {share:.0%}" for key, share in row["operations"].items() if share >= 0.03)
    print(f"  costliest: {costliest}")


def main() -> None:
    """Parse, profile, print."""
    parser = argparse.ArgumentParser(description="Where the milliseconds go.")
    parser.add_argument("--what", choices=("encode", "train"), default="encode")
    parser.add_argument("--sources", type=int, default=2)
    parser.add_argument("--texts", type=int, default=2048, help="titles; a quarter as many history prompts")
    parser.add_argument("--threads", type=int, default=THREADS)
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    pin_threads(options.threads)
    pin_torch(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    settings = Settings(threads=options.threads, work=options.work)
    if options.what == "encode":
        rows = profile_encode(settings, options.sources, options.texts)
    else:
        rows = profile_train(settings, options.sources, 64)
    if options.json:
        print(json.dumps(rows, indent=2))
        return
    print("measured throughput, GFLOP/s:", ", ".join(f"{k} {v:.0f}" for k, v in rows[0]["throughput_gflops"].items()))
    for row in rows:
        _print(row)


if __name__ == "__main__":
    main()
