"""Several streams distilled into one: a LoRA over the base whose vectors come as near to the model's as they can."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from transformers import get_cosine_schedule_with_warmup

from xcrossrec.export.stream import Head, Reading, Stream, Vectors, affine, factors_of, plain
from xcrossrec.models.adapters import mean_update
from xcrossrec.models.base import Base
from xcrossrec.models.dual import encode_titles, vector_dim
from xcrossrec.models.merged import under_lora
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.progress import stage

STEPS, BATCH, RATE = 800, 32, 1e-3
_WARMUP = 0.05


def distilled(model: Model, base: Base, texts: Sequence[str]) -> Stream:
    """Train one LoRA, and the affine map behind it, towards the vectors of a `dual` model of the form ``xcross``.

    It starts as the exact mean of the sources' updates, side by side, so its rank is the sum of theirs. The loss is the
    squared distance of unit vectors, of items and, where these are read otherwise, of a history's items in turn. The
    base is the model's anew; taken over.
    """
    encoder = encoder_of(model)
    assert isinstance(encoder, XCrossEncoder)
    head = Head.of(model, float(encoder.stream_weight.detach().sum()))
    if head.item is None:
        head = replace(head, item=affine(torch.eye(vector_dim(model)), torch.zeros(vector_dim(model))))
    reading, backbone = Reading.of(encoder), under_lora(base.backbone, mean_update(encoder.adapters))
    backbone.eval()  # no dropout: the goals have none
    student = Vectors(backbone, head)
    modes = (False, True) if head.history else (False,)
    goals = [encode_titles(model, texts, as_history=mode).clone() for mode in modes]
    maps = [each.requires_grad_(True) for each in (head.item, head.history) if each is not None]
    trained = [p for module in (*maps, backbone) for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, RATE, weight_decay=0)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(_WARMUP * STEPS), STEPS)
    with stage("distilling", "steps") as bar, torch.enable_grad():
        for step, rows in enumerate(_batches(len(texts), np.random.default_rng(0))):
            as_history = step % len(modes) == 1
            found = student(*reading.tokens([texts[row] for row in rows], as_history))
            loss = (found - goals[as_history][rows]).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.at(step + 1, STEPS, f"loss {loss.item():.5f}")
    student.requires_grad_(False).eval()
    return Stream(plain(backbone), head, factors_of(backbone), reading)


def _batches(count: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Rows of texts, each as often as another."""
    order: list[int] = []
    for _ in range(STEPS):
        while len(order) < min(BATCH, count):
            order += rng.permutation(count).tolist()
        yield order[:BATCH]
        order = order[BATCH:]
