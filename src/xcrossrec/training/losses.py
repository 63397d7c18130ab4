"""Losses: -log softmax of the positive over the positive and the negatives.

Legend: ``user`` = one sequence, ``step`` = position in it, ``item`` = an item encoded in this batch,
``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xcrossrec.models.heads import HistoryMatcher


class NextItemLoss(nn.Module):
    """Next-item loss of a `dual` model over one batch of users.

    Candidates are all encoded items but the user's own (other than the target). The structure comes from
    :class:`xcrossrec.training.batches.DualBatches`.

    Args:
        model: a SentenceTransformer that ends with a :class:`HistoryMatcher`.
        matcher: that module.
    """

    def __init__(self, model: nn.Module, matcher: HistoryMatcher) -> None:
        super().__init__()
        self.model = model
        self.matcher = matcher

    def forward(self, features: Sequence[dict[str, Any]], labels: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean loss over all targets of the batch.

        Args:
            features: tokenized items in length groups; then the same as histories have them, where that differs.
            labels: ``sequences`` (user, step; -1 pads) and ``member`` (user, item).
        """
        vectors = [self.model(dict(group))["sentence_embedding"].float() for group in features]
        with torch.autocast(vectors[0].device.type, enabled=False):  # similarities need all their digits
            count, encoded, sequences = labels["member"].shape[1], torch.cat(vectors), labels["sequences"]
            items, slots = encoded[:count], encoded[-count:]
            position = torch.arange(1, sequences.shape[1], device=sequences.device).expand(len(sequences), -1)
            scores = self._late_scores(items, slots, sequences)
            return self._cross_entropy(scores * self.matcher.scale, position, sequences, labels["member"])

    def _late_scores(
        self, items: Float[Tensor, "item dim"], slots: Float[Tensor, "item dim"], sequences: Int[Tensor, "user step"]
    ) -> Float[Tensor, "user target item"]:
        """Score all items after each prefix: the soft maximum, as running sums over the steps."""
        similarity = slots @ items.t()
        sharpness = self.matcher.sharpness
        step = torch.arange(sequences.shape[1], device=items.device)
        # kernel[t, k]: weight of history step k when step t + 1 is the target
        age = step[:-1, None] - step[None, :-1]
        kernel = self.matcher.recency_weight(age) * (age >= 0)
        kernel = kernel / kernel.sum(1, keepdim=True)
        # similarities are at most 1, so the shift by 1 keeps the exponentials in range
        exponentials = torch.exp(sharpness * (similarity[sequences[:, :-1].clamp(min=0)] - 1))
        summed = torch.einsum("tk,uki->uti", kernel, exponentials)
        return 1 + torch.log(summed.clamp(min=1e-30)) / sharpness

    @staticmethod
    def _cross_entropy(
        scores: Float[Tensor, "user target item"],
        position: Int[Tensor, "user target"],
        sequences: Int[Tensor, "user step"],
        member: Bool[Tensor, "user item"],
    ) -> Float[Tensor, ""]:
        targets = sequences.gather(1, position)
        valid = (targets >= 0) & ~_seen_before(targets, position, sequences)
        index = targets.clamp(min=0)
        own = member[:, None, :].expand_as(scores)
        is_target = torch.zeros_like(own).scatter(2, index[..., None], True)
        logits = scores.masked_fill(own & ~is_target, -torch.inf)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), index.flatten(), reduction="none")
        weight = valid.flatten().to(losses.dtype)
        return (losses * weight).sum() / weight.sum().clamp(min=1)


def _seen_before(
    targets: Int[Tensor, "user target"], position: Int[Tensor, "user target"], sequences: Int[Tensor, "user step"]
) -> Bool[Tensor, "user target"]:
    """Targets that the history already holds: a repeat purchase teaches copying, so it is left out."""
    earlier = torch.arange(sequences.shape[1], device=sequences.device) < position[:, :, None]
    return ((targets[:, :, None] == sequences[:, None, :]) & earlier).any(-1)


class PairLoss(nn.Module):
    """Listwise loss of a `pair` model: each user's positive against that user's negatives.

    Args:
        model: a CrossEncoder.
        candidates: texts per user, the positive first.
    """

    def __init__(self, model: nn.Module, candidates: int) -> None:
        super().__init__()
        self.model = model
        self.candidates = candidates

    def forward(self, features: Sequence[dict[str, Tensor]], labels: None = None, **kwargs: Any) -> Tensor:
        """Compute the mean loss over the users.

        Args:
            features: the tokenized (user x candidate) pairs: one text a pair, or all in one row where pairs share
                their histories.
            labels: unused; the positive is always the first.
            **kwargs: the trainer's ``prompt`` and ``task``, unused.
        """
        (pairs,) = features
        by_user = self.model(dict(pairs))["scores"].view(-1, self.candidates)
        return nn.functional.cross_entropy(by_user, by_user.new_zeros(len(by_user), dtype=torch.long))
