"""The training loss of a model on some users, without training: what sources are chosen by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from xcrossrec.data.domain import Sequences
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.prompts import item_texts
from xcrossrec.training.batches import DualBatches, PairBatches, UserBatches
from xcrossrec.training.losses import NextItemLoss, PairLoss
from xcrossrec_lab.task import Task

_BATCH = 32


def next_item_loss(model: Model, task: Task, users: Sequences) -> float:
    """Mean loss over batches of users, as training computes it on the users set aside.

    Args:
        model: `dual` or `pair`.
        task: gives titles and settings.
        users: whose sequences are scored.
    """
    batches = _batches(model, task, users)
    pair = isinstance(model, CrossEncoder)
    loss = PairLoss(model, task.training.pair_negatives + 1) if pair else NextItemLoss(model, matcher_of(model))
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(users), _BATCH):
            rows = [{"user": user} for user in range(start, min(start + _BATCH, len(users)))]
            batch = on_device(batches(rows), model.device)
            value = loss([batch["pairs"]], batch["label"]) if pair else _dual_loss(loss, batch)
            total += float(value) * len(rows)
    return total / len(users)


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Any]:
    """A batch with its tensors, those of mappings in it too, on a device; the trainers do it by themselves."""
    return {
        name: on_device(value, device) if isinstance(value, Mapping) else value.to(device)
        for name, value in batch.items()
    }


def _batches(model: Model, task: Task, users: Sequences) -> UserBatches:
    config = task.training
    arguments = (users.rows, item_texts(task.target.texts), encoder_of(model).preprocess, config.seed)
    if isinstance(model, CrossEncoder):
        return PairBatches(*arguments, negatives=config.pair_negatives)
    return DualBatches(
        *arguments,
        sampled_negatives=config.sampled_negatives,
        length_groups=1,
    )


def _dual_loss(loss: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    labels = batch.pop("label")
    value: Tensor = loss(_by_prefix(batch), labels)
    return value


def _by_prefix(batch: dict[str, Tensor]) -> Sequence[dict[str, Tensor]]:
    """Undo the collator's prefixes: one mapping a group of texts."""
    groups: dict[str, dict[str, Tensor]] = {}
    for key, value in batch.items():
        prefix, column = key.split("_", 1)
        groups.setdefault(prefix, {})[column] = value
    return list(groups.values())
