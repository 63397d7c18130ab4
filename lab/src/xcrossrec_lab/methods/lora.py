"""LoRA on the target, from the base or from a source, and the head alone."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from pathlib import Path

from xcrossrec import train_source
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import Model
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.models.source import SourceEncoder
from xcrossrec.training.checkpoints import forget_checkpoints
from xcrossrec.training.loop import fit
from xcrossrec.training.source import with_head
from xcrossrec_lab.methods.held_loss import next_item_loss
from xcrossrec_lab.task import Fitted, Source, Task, check_settings

LORA_RATE = 1e-3
"""AdamW's rate, the best of the search in lab/log."""

_USERS_TO_CHOOSE_BY = 256


def lora(task: Task) -> Fitted:
    """LoRA (r=8 on query and value) from the base, with the same head and early stopping as the integration."""
    check_settings(task, {"rank"})
    return trained_lora(task, init=None)


def lora_from_best_source(task: Task) -> Fitted:
    """LoRA warm-started from the source with the lowest loss on the budget's users."""
    check_settings(task, set())
    best, losses = best_source(task)
    fitted = trained_lora(task, init=best.adapter)
    return replace(fitted, uses_sources=True, report={**fitted.report, "init": best.name, "loss_by_source": losses})


def best_source(task: Task) -> tuple[Source, dict[str, float]]:
    """Choose a source by its loss on at most 256 of the budget's users; validation has no part in it."""
    users = task.users.take(min(_USERS_TO_CHOOSE_BY, len(task.users)), task.seed)
    models = {source.name: task.centered(bundle.load(source.adapter)) for source in task.sources}
    losses = {name: next_item_loss(model, task, users) for name, model in models.items()}
    return min(task.sources, key=lambda source: losses[source.name]), losses


def trained_lora(task: Task, init: Path | None) -> Fitted:
    """Fine-tune LoRA on the budget's users.

    Args:
        task: the cell's.
        init: adapter to start from; None starts from the base.
    """
    rate = task.setting("learning_rate", LORA_RATE)
    out = Path(tempfile.mkdtemp(dir=task.work)) / "lora"
    report = train_source(
        task.target,
        out,
        config=replace(task.training, learning_rate=rate),
        base=task.base,
        init=init,
        rank=task.setting("rank", 8),
        scoring=task.scoring,
        pair_attention=task.pair_attention,
        pair_start=task.pair_start,
        show_progress=False,
    )
    return fitted_model(bundle.load(out), task, asdict(report))


def head_on_the_base(task: Task) -> Fitted:
    """The head alone on the untrained base: what every method gets for nothing."""
    check_settings(task, {"projection_rank"})
    config = task.training
    rank = task.setting("projection_rank", config.projection_rank)
    base = load_base(task.base)
    encoder = SourceEncoder(base, pair_attention=task.attention)
    encoder.requires_grad_(False)
    model = build_model(encoder, scoring=task.scoring, pair_start=task.pair_start)
    model = with_head(model, task.target, replace(config, projection_rank=rank))
    config = replace(config, projection_learning_rate=task.setting("learning_rate", config.projection_learning_rate))
    report = fit(model, task.target, task.users, config, task.work / "head", show_progress=False)
    forget_checkpoints(task.work / "head")
    return fitted_model(model, task, asdict(report))


def fitted_model(model: Model, task: Task, report: dict[str, object]) -> Fitted:
    """Bind a trained model to the target's catalogue and count what was trained."""
    trained = report["trained_parameters"]
    assert isinstance(trained, int)
    return Fitted(
        ModelScorer(model, task.target.texts, name="model", precision=task.encoding),
        trained_parameters=trained,
        head_parameters=head_parameters(model),
        report=report,
        model=model,
    )


def head_parameters(model: Model) -> int:
    """Scalars behind the encoder: projection, matcher or pair head."""
    return sum(parameter.numel() for module in list(model)[1:] for parameter in module.parameters())
