"""The next-item loss of a model on some users, without training: what sources are chosen by."""

from __future__ import annotations

import torch
from torch import Tensor

from xcrossrec.benchmark.task import Task
from xcrossrec.data.domain import Sequences
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.bundle import Model, encoder_of, matcher_of, scoring_of
from xcrossrec.prompts import item_texts
from xcrossrec.training.batches import DualBatches
from xcrossrec.training.losses import NextItemLoss

_BATCH = 32


def next_item_loss(model: Model, task: Task, users: Sequences) -> float:
    """Mean loss over batches of users, as training computes it on the users set aside.

    Args:
        model: a `dual` model.
        task: gives titles and settings.
        users: whose sequences are scored.

    Raises:
        ConfigError: a `pair` model.
    """
    if scoring_of(model) != "dual":
        raise ConfigError("sources are compared by the loss of dual models: a pair suite names its source by number")
    matcher = matcher_of(model)
    config = task.training
    batches = DualBatches(
        users.rows,
        item_texts(task.target.titles),
        encoder_of(model).preprocess,
        config.seed,
        config.history_limit,
        sampled_negatives=config.sampled_negatives,
        with_prompts=matcher.pooling == "prompt",
        length_groups=1,
    )
    loss = NextItemLoss(model, matcher)
    model.eval()
    total = 0.0
    with torch.inference_mode():
        for start in range(0, len(users), _BATCH):
            rows = [{"user": user} for user in range(start, min(start + _BATCH, len(users)))]
            total += float(_loss_of_batch(loss, batches(rows))) * len(rows)
    return total / len(users)


def _loss_of_batch(loss: NextItemLoss, batch: dict[str, Tensor]) -> Tensor:
    labels = batch.pop("label")
    prefixes = list(dict.fromkeys(key.split("_", 1)[0] for key in batch))
    features = [
        {key.split("_", 1)[1]: value for key, value in batch.items() if key.startswith(f"{prefix}_")}
        for prefix in prefixes
    ]
    value: Tensor = loss(features, labels)
    return value
