"""Encoding texts with n integrated streams against the plain base, PEFT's ways beside them.

Ours is what this project uses to encode a catalogue (``xcrossrec.models.dual.encode_titles``); the plain base is
sentence-transformers' ``encode`` with its best batch size of a few. Both start from strings and end with unit vectors.
A figure is the worst of three corpora: titles, titles with brand and category, and history prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import torch
from sentence_transformers import SentenceTransformer

from xcrossrec.models.dual import encode_titles
from xcrossrec.models.model import encoder_of
from xcrossrec.types import Form
from xcrossrec_lab.speed import material, rivals
from xcrossrec_lab.speed.harness import (
    Figure,
    Measured,
    Settings,
    Shape,
    alternate,
    encoder_flops,
    floor_seconds,
    matrix_throughput,
    medians,
    paired_ratio,
)
from xcrossrec_lab.speed.plain import plain_base
from xcrossrec_lab.speed.quality import lost_mrr

Precision = Literal["fp32", "bf16"]
Encode = Callable[[list[str]], Any]

TITLES, FIELDS, PROMPTS = 512, 192, 96
OTHERS_REPETITIONS = 3
MRR_LOSS_ALLOWED = 0.005
OURS = "ours"
PLAIN, PLAIN_BEST = "plain base, batch 32", "plain base, best batch"


def _ours(model: SentenceTransformer, precision: Precision) -> Encode:
    """Give the function that encodes texts with our model in a precision.

    THE ONE PLACE TO ADAPT when the fast path's switch changes; :func:`xcrossrec_lab.speed.quality.lost_mrr` measures
    what the same function loses. An encoder without a switch runs bf16 under torch's autocast.
    """
    encoder: Any = encoder_of(model)
    switch = hasattr(encoder, "precision")

    def encode(texts: list[str]) -> Any:
        if switch:
            encoder.precision = precision
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16" and not switch):
            return encode_titles(model, texts)

    return encode


def measure_encode(
    settings: Settings, *, sources: int, precision: Precision = "fp32", form: Form = "xcross"
) -> Measured:
    """Compare throughputs: texts a second of ours over the plain fp32 base's."""
    base = material.base_name(settings)
    adapters = material.random_adapters(base, sources, settings.work / "adapters")
    model = material.integrated_model(base, adapters, form)
    streams = 1 if form == "merged" else sources
    ours = _ours(model, precision)
    plain = plain_base(base)
    others = rivals.peft_rivals(base, adapters) if precision == "fp32" else {}
    shape = Shape.of(encoder_of(model).backbone.config)
    throughput = matrix_throughput(shape)
    corpora = [
        material.title_texts(settings, TITLES),
        material.field_texts(settings, FIELDS),
        material.prompt_texts(settings, PROMPTS),
    ]
    parts = {}
    for corpus in corpora:
        compared = _compare(corpus.texts, ours, plain, others, settings.repetitions)
        flops = encoder_flops(shape, material.token_lengths(base, corpus.texts))
        floors = {kind: floor_seconds(streams, flops, value) for kind, value in throughput.items()}
        parts[corpus.name] = {**compared, "gflop_per_stream": flops / 1e9, "floor_s": floors}
    worst = min(parts, key=lambda name: parts[name]["ratio"])
    details = {
        "decides": f"the worst corpus, here {worst}",
        "precision": precision,
        "sources": sources,
        "streams": streams,
        "throughput_gflops": throughput,
        "corpora": parts,
    }
    return Measured(parts[worst]["ratio"], parts[worst]["spread"], details)


def _compare(
    texts: list[str],
    ours: Encode,
    plain: SentenceTransformer,
    others: Mapping[str, rivals.PeftRival],
    repetitions: int,
) -> dict[str, Any]:
    size, _ = rivals.best_batch_size(lambda size: plain.encode(texts, batch_size=size))
    arms: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours(texts),
        PLAIN: lambda: plain.encode(texts),
        PLAIN_BEST: lambda: plain.encode(texts, batch_size=size),
    }
    seconds = alternate(arms, repetitions)
    against = {name: paired_ratio(seconds[name], seconds[OURS]) for name in (PLAIN, PLAIN_BEST)}
    strongest = min((PLAIN, PLAIN_BEST), key=lambda name: against[name][0])
    slower = _against_others(texts, ours, others, size, repetitions) if others else {}
    return {
        "ratio": against[strongest][0],
        "spread": against[strongest][1],
        "plain_base_counted": strongest,
        "plain_best_batch_size": size,
        "texts": len(texts),
        "texts_per_s": {name: len(texts) / value for name, value in medians(seconds).items()},
        "ours_times_faster_than": {name: ratio for name, (ratio, _) in against.items()} | slower,
    }


def _against_others(
    texts: list[str], ours: Encode, others: Mapping[str, rivals.PeftRival], size: int, repetitions: int
) -> dict[str, float]:
    """How many times faster ours is than PEFT's ways; apart and in fewer repetitions, no goal hangs on them."""
    arms: dict[str, Callable[[], Any]] = {OURS: lambda: ours(texts)}
    arms |= {name: partial(rival.encode, texts, size) for name, rival in others.items()}
    seconds = alternate(arms, min(repetitions, OTHERS_REPETITIONS), warmup=0)
    return {name: paired_ratio(seconds[name], seconds[OURS])[0] for name in others}


def measure_fast(settings: Settings) -> Measured:
    """The fastest setting at n = 2 against the plain fp32 base, with what it loses in MRR."""
    measured = measure_encode(settings, sources=2, precision="bf16")
    lost = lost_mrr(settings, lambda model: _ours(model, "fp32"), lambda model: _ours(model, "bf16"))
    small = lost["relative_loss"] <= MRR_LOSS_ALLOWED
    details = {**measured.details, "mrr": lost, "met_also": f"at most {MRR_LOSS_ALLOWED:.1%} of the MRR lost"}
    return Measured(measured.ratio, measured.spread, details, met_also=small)


def _figure(sources: int) -> Figure:
    return Figure(
        name=f"encode-n{sources}",
        title=f"Encoding texts, {sources} integrated streams, fp32",
        goal=0.95 / sources,
        better="higher",
        unit="of the plain base's texts/s",
        measure=partial(measure_encode, sources=sources),
    )


FIGURES = (
    *(_figure(sources) for sources in (2, 3, 4)),
    Figure(
        name="encode-merged",
        title="Encoding texts, 3 sources merged into one stream, fp32",
        goal=0.95,
        better="higher",
        unit="of the plain base's texts/s",
        measure=partial(measure_encode, sources=3, form="merged"),
    ),
    Figure(
        name="encode-n2-fast",
        title="Encoding texts, 2 integrated streams, fastest setting",
        goal=1.0,
        better="higher",
        unit="of the plain fp32 base's texts/s",
        measure=measure_fast,
    ),
)
