"""Looks into an integrating model: the same one with its integration switched off, and what each layer mixes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from xcrossrec import Evaluation, evaluate
from xcrossrec.metrics.significance import difference_interval
from xcrossrec.models.heads import Center
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.prompts import item_texts
from xcrossrec.types import USER
from xcrossrec_lab.methods.held_loss import on_device
from xcrossrec_lab.suites.ranked import Ranked
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.task import Fitted, Task

_METRIC = "mrr"
_TITLES = 512
_BATCH = 64


def integration_switched_off(
    fitted: Fitted, suite: Suite, task: Task, ranked: Ranked, mixed: Evaluation
) -> dict[str, Any] | None:
    """Rank once more without any integration: no mixing between streams, or, where the sources are merged, no sources.

    Args:
        fitted: the cell's method.
        suite: the protocol.
        task: the cell's task; only a method whose settings say ``ablate = true``, or name this budget in a list, is
            ranked again.
        ranked: whose last items.
        mixed: the same users ranked by the method as it is.

    Returns:
        the summary of metrics and, as ``mixing_adds``, by kind of negatives the mean over the users of the MRR's
        difference, with its 95% interval; None for a method that does not integrate.
    """
    encoder = _integrating(fitted)
    wanted = task.setting("ablate", False)
    chosen = len(task.users) in wanted if isinstance(wanted, list) else wanted
    if encoder is None or fitted.model is None or not chosen:
        return None
    with _integration_off(fitted.model, encoder, task):
        found = evaluate(
            ModelScorer(fitted.model, task.target.texts, name="integration off", precision=task.encoding),
            ranked.domain,
            suite.split,
            negatives=suite.negatives,
            seed=suite.candidate_seed,
            directory=ranked.directory,
        )
    return found.summary() | {"mixing_adds": _mixing_adds(mixed, found)}


@contextmanager
def _integration_off(model: Model, encoder: XCrossEncoder | MergedEncoder, task: Task) -> Iterator[None]:
    """Within the block no layer mixes.

    Where the sources are merged there is nothing to mix, and their updates are taken out: what is left is the base with
    what was trained on the target, centered anew, since without them the catalogue has another mean.
    """
    with ExitStack() as stack:
        if isinstance(encoder, XCrossEncoder):
            stack.enter_context(encoder.integration_off())
        else:
            for source in range(len(encoder.sources)):
                stack.enter_context(encoder.left_out(source))
            stack.enter_context(_centered_anew(model, task))
        yield


@contextmanager
def _centered_anew(model: Model, task: Task) -> Iterator[None]:
    """Within the block a centered model has the mean of the target's catalogue as it encodes it now."""
    means = [module.mean for module in model if isinstance(module, Center)]
    before = [mean.clone() for mean in means]
    if means:
        kind_of(model).centered(model, task.target.texts, precision=task.encoding)
    try:
        yield
    finally:
        for mean, value in zip(means, before, strict=True):
            mean.copy_(value)


def _mixing_adds(mixed: Evaluation, off: Evaluation) -> dict[str, Any]:
    added: dict[str, Any] = {}
    for kind in mixed.negatives:
        pair = mixed.of(kind).join(off.of(kind), on=USER, suffix=" off", validate="1:1", maintain_order="left")
        difference = (pair[_METRIC] - pair[f"{_METRIC} off"]).to_numpy()
        added[kind] = {_METRIC: {"difference": float(difference.mean()), "ci": list(difference_interval(difference))}}
    return added


@torch.inference_mode()
def integration_map(fitted: Fitted, task: Task) -> dict[str, Any] | None:
    """Mean absolute mixing coefficients over the tokens of the catalogue's first titles.

    Returns:
        ``pairs`` ("giver to receiver"), ``numbers`` of the integrated layers (1 is the base's lowest) and, per such
        layer, a mapping from each pair to its mean; None for a method without layers that mix.
    """
    encoder = _integrating(fitted)
    if not isinstance(encoder, XCrossEncoder):
        return None
    titles = item_texts(task.target.texts[:_TITLES])
    totals: list[torch.Tensor] = []
    with encoder.observing() as records:
        for start in range(0, len(titles), _BATCH):
            features = on_device(encoder.preprocess(titles[start : start + _BATCH]), encoder.stream_weight.device)
            present = features["attention_mask"].float()
            encoder(features)
            sums = [torch.einsum("mjbt,bt->mj", record.abs().float(), present) for record in records]
            records.clear()
            totals.append(torch.stack([*sums, torch.full_like(sums[0], float(present.sum()))]))
    total = torch.stack(totals).sum(0)
    means = total[:-1] / total[-1]
    names = encoder.sources
    pairs = [(m, j) for m in range(len(names)) for j in range(len(names)) if m != j]
    layers = [{f"{names[j]} to {names[m]}": float(layer[m, j]) for m, j in pairs} for layer in means]
    return {"pairs": list(layers[0]), "numbers": encoder.layer_numbers, "layers": layers}


def _integrating(fitted: Fitted) -> XCrossEncoder | MergedEncoder | None:
    """The encoder of a method that integrates: by layers that mix, or by merging."""
    if fitted.model is None:
        return None
    encoder = encoder_of(fitted.model)
    return encoder if isinstance(encoder, XCrossEncoder | MergedEncoder) else None
