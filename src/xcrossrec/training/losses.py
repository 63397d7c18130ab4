"""Losses: -log softmax of the positive over the positive and the negatives.

Legend: ``user`` = one sequence, ``step`` = position in it, ``item`` = an item encoded in this batch,
``dim`` = vector size, ``row`` = what processes share, ``own`` = one process's part of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from sentence_transformers.util.distributed import all_gather
from torch import Tensor, nn

from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.training.processes import Processes


def whole(own: Float[Tensor, "own dim"], rows: int, processes: Processes) -> Float[Tensor, "row dim"]:
    """Gather what all processes computed of their shares (:meth:`Processes.share`), in the order of all ``rows``.

    Gradients reach this process's share alone, times the number of processes: their mean over the processes, which is
    applied, is then the gradient of a single process.
    """
    if processes.count == 1:
        return own
    if own.requires_grad:
        own.register_hook(lambda gradient: gradient * processes.count)  # type: ignore[no-untyped-call]
    every: Tensor = all_gather(own.contiguous())
    return every.view(processes.count, -1, own.shape[1]).transpose(0, 1).flatten(0, 1)[:rows]


class NextItemLoss(nn.Module):
    """Next-item loss of a `dual` model over one batch of users.

    Candidates are all encoded items but the user's own (other than the target). The structure comes from
    :class:`xcrossrec.training.batches.DualBatches`.

    Args:
        model: a SentenceTransformer that ends with a :class:`HistoryMatcher`.
        processes: that share the encoding; each computes the whole loss. None takes those that `torchrun` started.
    """

    def __init__(self, model: nn.Module, matcher: HistoryMatcher, processes: Processes | None = None) -> None:
        super().__init__()
        self.model = model
        self.matcher = matcher
        self.processes = processes or Processes.here()

    def forward(self, features: Sequence[dict[str, Any]], labels: Mapping[str, Tensor]) -> Tensor:
        """Compute the mean loss over all targets of the batch.

        Args:
            features: this process's share of the items, tokenized, in length groups; then the same as histories have
                them, where that differs.
            labels: ``sequences`` (user, step; -1 pads) and ``member`` (user, item).
        """
        vectors = [self.model(dict(group))["sentence_embedding"].float() for group in features]
        with torch.autocast(vectors[0].device.type, enabled=False):  # similarities need all their digits
            count, encoded, sequences = labels["member"].shape[1], torch.cat(vectors), labels["sequences"]
            own = -(-count // self.processes.count)
            items = whole(encoded[:own], count, self.processes)
            slots = items if len(encoded) == own else whole(encoded[-own:], count, self.processes)
            scores = self._late_scores(items, slots, sequences)
            return self._cross_entropy(scores * self.matcher.scale, sequences, labels["member"])

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
        sequences: Int[Tensor, "user step"],
        member: Bool[Tensor, "user item"],
    ) -> Float[Tensor, ""]:
        targets, step = sequences[:, 1:], torch.arange(sequences.shape[1], device=sequences.device)
        earlier = step < step[1:, None]
        bought = ((targets[:, :, None] == sequences[:, None, :]) & earlier).any(-1)  # a repeat teaches copying
        valid = (targets >= 0) & ~bought
        index = targets.clamp(min=0)
        own = member[:, None, :].expand_as(scores)
        is_target = torch.zeros_like(own).scatter(2, index[..., None], True)
        logits = scores.masked_fill(own & ~is_target, -torch.inf)
        losses = nn.functional.cross_entropy(logits.flatten(0, 1), index.flatten(), reduction="none")
        weight = valid.flatten().to(losses.dtype)
        return (losses * weight).sum() / weight.sum().clamp(min=1)


class PairLoss(nn.Module):
    """Listwise loss of a `pair` model: each user's positive against that user's negatives.

    Args:
        candidates: texts per user, the positive first.
        processes: as of :class:`NextItemLoss`.
    """

    def __init__(self, model: nn.Module, candidates: int, processes: Processes | None = None) -> None:
        super().__init__()
        self.model = model
        self.candidates = candidates
        self.processes = processes or Processes.here()

    def forward(self, features: Sequence[dict[str, Tensor]], labels: Int[Tensor, " user"], **kwargs: Any) -> Tensor:
        """Compute the mean loss over the users.

        Args:
            features: the tokenized (user x candidate) pairs of this process's share of the users: one text a pair, or
                all in one row where pairs share their histories.
            labels: each user's positive among the candidates, which is the first: 0.
        """
        (pairs,) = features
        by_user = self.model(dict(pairs))["scores"].view(-1, self.candidates)
        return nn.functional.cross_entropy(whole(by_user, len(labels), self.processes), labels)
