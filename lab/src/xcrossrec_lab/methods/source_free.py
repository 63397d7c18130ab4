"""The sources' adapters merged with shares that need no customer of the target: by its items alone.

Each item of the catalogue stands for a customer who bought it and nothing else. The shares are those, of a grid, with
which the merged model is surest of what such customers buy, or nearest to what the sources say of them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from xcrossrec.models import bundle
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.model import matcher_of
from xcrossrec.models.scorer import trained
from xcrossrec_lab.methods.merging import merged_adapter
from xcrossrec_lab.task import Fitted, Task, check_settings

ITEMS = 512
"""Items that are asked about, evenly spread over the catalogue."""

STEPS = 4
"""Shares are multiples of 1 / STEPS."""

Predictions: TypeAlias = Float[Tensor, "item other"]
"""For each item the logarithm of the probability that the customer buys each other one next."""


def merged_entropy(task: Task) -> Fitted:
    """The shares with which the merged model's predictions have the lowest entropy.

    Source:
        the weights of RecCocktail (arXiv 2502.08271), here of the sources' adapters and over pseudo-users.
    """
    return _merged(task, lambda own, _: entropy(own))


def merged_pseudo_users(task: Task) -> Fitted:
    """The shares with which the merged model predicts most like the sources: the lowest mean divergence from each.

    Source:
        the pseudo-users and the distillation of MergeRec (arXiv 2601.01753).
    """
    return _merged(task, divergence)


def entropy(own: Predictions) -> float:
    """Mean entropy of predictions, in nats."""
    return float(-(own.exp() * own).nan_to_num().sum(-1).mean())


def divergence(own: Predictions, teachers: list[Predictions]) -> float:
    """Mean Kullback-Leibler divergence of the teachers' predictions from one's own, in nats."""
    each = [(teacher.exp() * (teacher - own)).nan_to_num().sum(-1).mean() for teacher in teachers]
    return float(torch.stack(each).mean())


def shares_of(sources: int) -> Iterator[tuple[float, ...]]:
    """All shares of a grid that add up to 1."""
    for parts in product(range(STEPS + 1), repeat=sources):
        if sum(parts) == STEPS:
            yield tuple(part / STEPS for part in parts)


def _merged(task: Task, loss: Callable[[Predictions, list[Predictions]], float]) -> Fitted:
    check_settings(task, set())
    work = Path(tempfile.mkdtemp(dir=task.work))
    grid = list(shares_of(len(task.sources)))
    folders = [merged_adapter(task, "cat", work / str(number), shares=shares) for number, shares in enumerate(grid)]
    teachers = [_predictions(task, source.adapter) for source in task.sources]
    losses = [loss(_predictions(task, folder), teachers) for folder in folders]
    best = losses.index(min(losses))
    scorer = trained(folders[best], task.target.texts, center=task.training.center, precision=task.encoding)
    report = {"shares": grid[best], "losses": dict(zip(map(str, grid), losses, strict=True))}
    return Fitted(scorer, uses_sources=True, report=report)


@torch.inference_mode()
def _predictions(task: Task, folder: Path) -> Predictions:
    """What a `dual` model says of the target's items."""
    model = task.centered(bundle.load(folder))
    texts = task.target.texts[:: -(-len(task.target.texts) // ITEMS)]
    vectors = encode_titles(model, texts)
    scores = matcher_of(model).scale * (vectors @ vectors.t())
    return scores.fill_diagonal_(-torch.inf).log_softmax(-1)
