"""Losses against loops over users, targets and candidates."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xcrossrec.models.heads import RECENCY_SLOTS, HistoryMatcher
from xcrossrec.training.losses import NextItemLoss, PairLoss

SEQUENCES = [[0, 1, 2, 3], [4, 5], [6, 2, 6, 0, 2], [7, 8, 7]]
"""Item numbers, oldest first; the last two users buy again what they had."""
ELSEWHERE = {0: [9], 2: [1]}
"""Encoded items that a user has further back than training looks."""
ITEMS = 11


class Lookup(nn.Module):
    """Stands for the encoder: gives the vectors that the test chose."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": features["vectors"]}


@pytest.fixture
def vectors() -> Tensor:
    return nn.functional.normalize(torch.randn(ITEMS, 6, generator=torch.Generator().manual_seed(0)), dim=-1)


@pytest.fixture
def matcher() -> HistoryMatcher:
    matcher = HistoryMatcher(sharpness=5.0, temperature=0.2)
    with torch.no_grad():
        matcher.log_recency.copy_(torch.linspace(0.4, -1.0, RECENCY_SLOTS))
    return matcher


def labels() -> dict[str, Tensor]:
    longest = max(map(len, SEQUENCES))
    member = torch.zeros(len(SEQUENCES), ITEMS, dtype=torch.bool)
    for user, sequence in enumerate(SEQUENCES):
        member[user, [*sequence, *ELSEWHERE.get(user, [])]] = True
    padded = torch.tensor([[*s, *[-1] * (longest - len(s))] for s in SEQUENCES])
    return {"sequences": padded, "member": member}


def groups(vectors: Tensor) -> list[dict[str, Tensor]]:
    return [{"vectors": part} for part in vectors.split(4)]


def cross_entropy(scores: list[float], target: int, user: int) -> float:
    """-log softmax of the target over itself and all items that are not the user's."""
    own = {*SEQUENCES[user], *ELSEWHERE.get(user, [])} - {target}
    rivals = [math.exp(score) for item, score in enumerate(scores) if item not in own]
    return -math.log(math.exp(scores[target]) / sum(rivals))


def loop_late(matcher: HistoryMatcher, vectors: Tensor) -> float:
    recency, sharpness, scale = matcher.log_recency.exp().tolist(), matcher.sharpness.item(), matcher.scale.item()
    losses = []
    for user, sequence in enumerate(SEQUENCES):
        for step in range(1, len(sequence)):
            history, target = sequence[:step], sequence[step]
            if target in history:
                continue
            weight = [recency[min(step - 1 - k, RECENCY_SLOTS - 1)] for k in range(step)]
            scores = []
            for item in range(ITEMS):
                cosines = [(vectors[row] @ vectors[item]).item() for row in history]
                total = sum(w * math.exp(sharpness * c) for w, c in zip(weight, cosines, strict=True)) / sum(weight)
                scores.append(scale * math.log(total) / sharpness)
            losses.append(cross_entropy(scores, target, user))
    assert len(losses) == 3 + 1 + 2 + 1
    return sum(losses) / len(losses)


def test_late_loss_equals_the_loop(matcher: HistoryMatcher, vectors: Tensor) -> None:
    got = NextItemLoss(Lookup(), matcher)(groups(vectors), labels())
    assert got.item() == pytest.approx(loop_late(matcher, vectors), rel=1e-5)


def test_own_items_get_no_gradient_as_negatives(vectors: Tensor) -> None:
    matcher = HistoryMatcher()
    vectors.requires_grad_()
    structure = {
        "sequences": torch.tensor([[0, 1]]),
        "member": torch.tensor([[row in (0, 1, 9) for row in range(ITEMS)]]),
    }
    NextItemLoss(Lookup(), matcher)([{"vectors": vectors}], structure).backward()
    assert vectors.grad is not None
    moved = vectors.grad.abs().sum(1) > 0
    assert moved.tolist() == [row != 9 for row in range(ITEMS)]


def test_a_batch_of_repeat_purchases_alone_gives_zero(matcher: HistoryMatcher, vectors: Tensor) -> None:
    structure = {"sequences": torch.tensor([[3, 3, 3]]), "member": torch.eye(ITEMS, dtype=torch.bool)[[3]]}
    assert NextItemLoss(Lookup(), matcher)(groups(vectors), structure).item() == 0


def test_pair_loss_equals_the_loop() -> None:
    class Scores(nn.Module):
        def forward(self, features: dict[str, Any]) -> dict[str, Tensor]:
            return {"scores": features["input_ids"].float().unsqueeze(-1)}

    scores = [[1.0, 0.0, 2.0], [3.0, 3.0, 3.0]]
    flat = torch.tensor(scores).flatten()
    expected = sum(-math.log(math.exp(row[0]) / sum(map(math.exp, row))) for row in scores) / 2
    got = PairLoss(Scores(), 3)([{"input_ids": flat}], torch.zeros(2, dtype=torch.long))
    assert got.item() == pytest.approx(expected, rel=1e-5)
