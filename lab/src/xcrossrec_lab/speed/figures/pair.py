"""`pair` scoring of 30 candidates a user: the history read once, against every pair by itself.

The integrated encoder has two sources. All arms but the cross-encoder's give the same scores, which is checked: the
shared pass, the same mask with a row for each pair (in one padded batch), and the same model asked pair by pair. The
cross-encoder has one LoRA, and history and candidate see each other in it: what the paper's rival would do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from xcrossrec import Integration
from xcrossrec.models.model import encoder_of
from xcrossrec.models.pair import score_pairs
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.prompts import history_prompt, item_texts, split_prompt
from xcrossrec.training.target import build_target_model
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

SOURCES, USERS, CANDIDATES = 2, 4, 30
SHARED, ONE_BY_ONE = "shared pass", "one by one"
_TOLERANCE = 1e-4

Pairs = list[tuple[str, str]]


def measure_pair(settings: Settings) -> Measured:
    """Compare seconds a user."""
    base = material.base_name(settings)
    model = _model(base, settings)
    users = _users(settings)
    rival = rivals.lora_cross_encoder(base)
    size, _ = rivals.best_batch_size(
        lambda size: rival.predict(users[0], batch_size=size, show_progress_bar=False), sizes=(8, 16, 32)
    )
    arms: dict[str, Callable[[], Any]] = {
        SHARED: lambda: [score_pairs(model, pairs) for pairs in users],
        "one padded batch": lambda: [_score_rows(model, pairs) for pairs in users],
        ONE_BY_ONE: lambda: [_score_singly(model, pairs) for pairs in users],
        "cross-encoder, one LoRA": lambda: [
            rival.predict(pairs, batch_size=size, show_progress_bar=False) for pairs in users
        ],
    }
    apart = _largest_difference(arms[SHARED](), arms["one padded batch"](), arms[ONE_BY_ONE]())
    seconds = alternate(arms, settings.repetitions)
    ratios = {name: paired_ratio(times, seconds[SHARED]) for name, times in seconds.items() if name != SHARED}
    details = {
        "users": len(users),
        "candidates": CANDIDATES,
        "sources": SOURCES,
        "times_faster_than": {name: ratio for name, (ratio, _) in ratios.items()},
        "median_ms_a_user": {name: 1e3 * value / len(users) for name, value in medians(seconds).items()},
        "largest_difference_of_scores": apart,
        "rival_batch_size": size,
        "met_also": f"scores within {_TOLERANCE:g} of one row a pair",
        **_floor(model, users),
    }
    return Measured(*ratios[ONE_BY_ONE], details, met_also=apart < _TOLERANCE)


def _model(base: str, settings: Settings) -> CrossEncoder:
    adapters = material.random_adapters(base, SOURCES, settings.work / "adapters")
    with material.seeded(), torch.no_grad():
        model = build_target_model(
            adapters, Integration("xcross", top_layers=None), base=base, scoring="pair", pair_attention="shared"
        )
        encoder = encoder_of(model)
        assert isinstance(encoder, XCrossEncoder)
        for integrator in encoder.integrators:
            for parameter in integrator.parameters():
                nn.init.normal_(parameter, std=0.2 / encoder.dim**0.5)
        nn.init.normal_(model[-1].value.weight, std=0.02)
    model.eval()
    assert isinstance(model, CrossEncoder)
    return model


def _users(settings: Settings) -> list[Pairs]:
    """Real histories of the newest items, each with candidates drawn from the catalogue."""
    titles = item_texts(material.read_amazon_items(settings, "toys")["title"].to_list())
    histories = [item_texts(bought) for bought in material.read_histories(settings, "toys")]
    long_enough = [bought for bought in histories if len(bought) >= material.HISTORY]
    rng = np.random.default_rng(0)
    chosen = rng.choice(len(long_enough), min(1 if settings.quick else USERS, len(long_enough)), replace=False)
    return [
        [
            (history_prompt(long_enough[user][-material.HISTORY :]), titles[row])
            for row in rng.choice(len(titles), CANDIDATES, replace=False)
        ]
        for user in chosen
    ]


@torch.inference_mode()
def _score_rows(model: CrossEncoder, pairs: Pairs) -> np.ndarray:
    """Score under the same mask, one row a pair."""
    histories = [split_prompt(history) for history, _ in pairs]
    features = encoder_of(model).prompts.encode_pairs(histories, [candidate for _, candidate in pairs])
    scores: np.ndarray = model(features)["scores"][:, 0].numpy()
    return scores


def _score_singly(model: CrossEncoder, pairs: Pairs) -> np.ndarray:
    return np.concatenate([score_pairs(model, [pair]) for pair in pairs])


def _largest_difference(first: list[np.ndarray], *others: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for other in others for a, b in zip(first, other, strict=True))


def _floor(model: CrossEncoder, users: list[Pairs]) -> dict[str, Any]:
    """What the matrix products would take at this machine's throughput: of the shared pass, and of one row a pair."""
    encoder = encoder_of(model)
    shape = Shape.of(encoder.backbone.config)
    throughput = matrix_throughput(shape)
    features = [encoder.preprocess(pairs) for pairs in users]
    lengths = np.concatenate([_pair_lengths(found["candidate"][0]) for found in features])
    flops = {
        "shared": sum(_shared_flops(shape, found["candidate"][0]) for found in features) / len(users),
        "one row a pair": encoder_flops(shape, lengths) / len(users),
    }
    return {
        "tokens_a_user": {
            "shared": sum(found["candidate"].numel() for found in features) / len(users),
            "one row a pair": float(lengths.sum()) / len(users),
        },
        "floor_ms_a_user": {
            name: {kind: 1e3 * floor_seconds(SOURCES, count, value) for kind, value in throughput.items()}
            for name, count in flops.items()
        },
        "throughput_gflops": throughput,
    }


def _pair_lengths(candidate: Tensor) -> np.ndarray:
    """Tokens of each pair's own text, from each token's candidate (-1 for the one history)."""
    own: np.ndarray = torch.bincount(candidate[candidate >= 0]).numpy()
    return own + int((candidate < 0).sum())


def _shared_flops(shape: Shape, candidate: Tensor) -> float:
    """Products of the shared pass: linear layers of every token once, attention of what is seen."""
    history = int((candidate < 0).sum())
    lengths = _pair_lengths(candidate)
    seen = history**2 + float(((lengths - history) * lengths).sum())
    alone = encoder_flops(shape, np.ones(candidate.numel()))
    return alone + shape.layers * 4 * shape.dim * (seen - candidate.numel())


FIGURES = (
    Figure(
        name="pair-shared-history",
        title=f"pair scoring of {CANDIDATES} candidates, history read once, against one pair at a time (n={SOURCES})",
        goal=3.0,
        better="higher",
        unit="x",
        measure=measure_pair,
    ),
)
