"""One training run: trainer, early stopping, checkpoints, resume, and proof that frozen weights stayed."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import (
    CrossEncoder,
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import get_last_checkpoint

from xcrossrec.config import TrainingConfig
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.exceptions import ConfigError, DataError, ModelError
from xcrossrec.models.base import weight_digest
from xcrossrec.models.bundle import Model, encoder_of, matcher_of
from xcrossrec.models.fast.memory import keep_freed_memory
from xcrossrec.models.fast.native import processor_has_bfloat16
from xcrossrec.models.heads import Projection
from xcrossrec.prompts import item_texts
from xcrossrec.training.batches import LENGTH_GROUPS, DualBatches, EpochOfBatches, PairBatches, UserBatches
from xcrossrec.training.losses import NextItemLoss, PairLoss

_PROJECTION = r"\.[23]\.(down|up)$"
_STATE_FILE = "training.json"
_TARGET_LORA = r"\.target\.(down|up)$"
_ENCODER_SETTINGS = (
    "max_tokens",
    "integrator",
    "beta",
    "gamma",
    "pair_attention",
    "top_layers",
    "target_rank",
    "target_layers",
)
_LOGS = "TENSORBOARD_LOGGING_DIR"


@dataclass(frozen=True)
class TrainingReport:
    """What a run did.

    Attributes:
        users: training users, without those set aside.
        holdout_users: users set aside for early stopping.
        epochs: epochs run.
        best_loss: lowest loss on the users set aside, which the weights kept have; where no epoch beat the
            start, that is ``initial_loss`` and the weights are those of the start; None without any.
        initial_loss: the same loss before the first step; None without any.
        losses: per epoch, loss on the users set aside.
        wall_s: seconds.
        trained_parameters: number of trained scalars.
    """

    users: int
    holdout_users: int
    epochs: float
    best_loss: float | None
    initial_loss: float | None
    losses: tuple[float, ...]
    wall_s: float
    trained_parameters: int


def fit(
    model: Model,
    domain: Domain,
    users: Sequences,
    config: TrainingConfig,
    work: Path,
    *,
    head_patterns: tuple[str, ...],
    resume: bool = False,
    show_progress: bool = True,
) -> TrainingReport:
    """Train whatever requires a gradient in a model, in place.

    Args:
        model: from :func:`xcrossrec.models.bundle.build_model`.
        domain: gives the titles.
        users: the budget's users; some are set aside for early stopping.
        config: settings.
        work: folder for checkpoints and TensorBoard logs; checkpoints are removed at the end.
        head_patterns: regular expressions of the parameters that take ``head_learning_rate``.
        resume: continue from the last checkpoint in ``work``.
        show_progress: draw progress bars on stderr.

    Raises:
        ConfigError: resume without a checkpoint, with other settings, or checkpoints in the way.
        DataError: too few users.
        ModelError: a frozen weight changed.
    """
    started = time.perf_counter()
    keep_freed_memory()
    count = _holdout_count(len(users), config)
    training, holdout = users.split_off(count, config.seed) if count else (users, None)
    run = {
        "config": config.to_dict(),
        "fingerprint": domain.fingerprint,
        "users": len(users),
        "model": _identity(model),
    }
    checkpoint = _prepare_work(work, run, resume)
    batches = _batches(model, domain, training, config)
    held = replace(batches, sequences=holdout.rows) if holdout else None
    encoder_of(model).cut.reset()  # the collators measured the whole catalogue
    frozen = _frozen_digest(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with _logs_in(work / "logs"):
        trainer = _trainer(model, batches, held, config, work, head_patterns, show_progress)
        initial = trainer.evaluate()["eval_loss"] if held else None
        trainer.train(resume_from_checkpoint=checkpoint)
    if _frozen_digest(model) != frozen:
        raise ModelError("a frozen weight changed during training: this is a fault of xcrossrec, please report it")
    losses = tuple(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    best = trainer.state.best_metric
    if held:
        _verify_best(trainer, best)
    if initial is not None and best is not None and initial <= best:
        model.load_state_dict({**model.state_dict(), **start})
        best = initial
    for folder in work.glob("checkpoint-*"):
        shutil.rmtree(folder)
    model.eval()
    encoder_of(model).fast.forget()
    return TrainingReport(
        users=len(training),
        holdout_users=count,
        epochs=float(trainer.state.epoch or 0.0),
        best_loss=best,
        initial_loss=initial,
        losses=losses,
        wall_s=time.perf_counter() - started,
        trained_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
    )


def _holdout_count(users: int, config: TrainingConfig) -> int:
    if users < 2:
        raise DataError(f"training needs at least 2 users, got {users}: raise the budget")
    wanted = round(config.holdout_share * users)
    return min(max(wanted, 8), 256) if wanted and users >= 32 else 0


def _identity(model: Model) -> dict[str, Any]:
    """What must be the same for a run to go on: the weights it started from and what is not in them."""
    encoder = encoder_of(model)
    settings = {name: getattr(encoder, name, None) for name in _ENCODER_SETTINGS}
    return {"start": weight_digest(model.state_dict()), "pooling": matcher_of(model).pooling, **settings}


def _prepare_work(work: Path, run: Mapping[str, Any], resume: bool) -> str | None:
    """Refuse to mix runs; give the checkpoint to continue from."""
    last = get_last_checkpoint(str(work)) if work.is_dir() else None
    path = work / _STATE_FILE
    if resume:
        if last is None:
            raise ConfigError(f"nothing to resume in {work}: run without --resume")
        if json.loads(path.read_text(encoding="utf-8")) != run:
            raise ConfigError(
                f"{work} holds a run with other settings, data or sources: resume with the same, or remove it"
            )
        return str(last)
    if last is not None:
        raise ConfigError(f"{work} holds an unfinished run: continue it with --resume, or remove the folder")
    work.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run), encoding="utf-8")
    return None


def _batches(model: Model, domain: Domain, users: Sequences, config: TrainingConfig) -> UserBatches:
    preprocess = encoder_of(model).preprocess
    if isinstance(model, CrossEncoder):
        return PairBatches(
            users.rows,
            item_texts(domain.titles),
            preprocess,
            config.seed,
            config.history_limit,
            negatives=config.pair_negatives,
        )
    return DualBatches(
        users.rows,
        item_texts(domain.titles),
        preprocess,
        config.seed,
        config.history_limit,
        sampled_negatives=config.sampled_negatives,
        with_prompts=matcher_of(model).pooling == "prompt",
        length_groups=1 if _on_cpu() and encoder_of(model).fast.leaves_padding_out_in_training else LENGTH_GROUPS,
    )


@contextmanager
def _logs_in(folder: Path) -> Iterator[None]:
    """Within the block trainers write their TensorBoard logs there (they take it from the environment)."""
    former = os.environ.get(_LOGS)
    os.environ[_LOGS] = str(folder)
    try:
        yield
    finally:
        if former is None:
            del os.environ[_LOGS]
        else:
            os.environ[_LOGS] = former


class _WithHeldOutUsers:
    """Collates training rows with one collator and the users set aside with another."""

    def __init__(self, training: UserBatches, held: UserBatches | None) -> None:
        self.training, self.held = training, held
        self.valid_label_columns = training.valid_label_columns

    def __call__(self, rows: list[dict[str, int]]) -> Mapping[str, Any]:
        if self.held is not None and rows[0]["user"] >= len(self.training.sequences):
            offset = len(self.training.sequences)
            return self.held([{"user": row["user"] - offset} for row in rows])  # type: ignore[operator, no-any-return]
        return self.training(rows)  # type: ignore[operator, no-any-return]


def _trainer(
    model: Model,
    batches: UserBatches,
    held: UserBatches | None,
    config: TrainingConfig,
    work: Path,
    head_patterns: tuple[str, ...],
    show_progress: bool,
) -> Any:
    pair = isinstance(model, CrossEncoder)
    has_projection = any(isinstance(module, Projection) for module in model)
    has_target_lora = bool(getattr(encoder_of(model), "target_rank", 0))
    steps = -(-len(batches.sequences) // config.batch_users) * config.epochs
    arguments = (CrossEncoderTrainingArguments if pair else SentenceTransformerTrainingArguments)(
        output_dir=str(work),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_users,
        per_device_eval_batch_size=config.batch_users,
        learning_rate=config.learning_rate,
        learning_rate_mapping={
            **dict.fromkeys(head_patterns, config.head_learning_rate),
            **({_PROJECTION: config.projection_learning_rate} if has_projection else {}),
            **({_TARGET_LORA: config.target_learning_rate} if has_target_lora else {}),
        },
        weight_decay=config.weight_decay,
        warmup_steps=round(steps * config.warmup_share),
        seed=config.seed,
        bf16=uses_bfloat16(config),
        use_cpu=_on_cpu(),
        eval_strategy="epoch" if held else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=held is not None,
        restore_callback_states_from_checkpoint=True,  # early stopping counts on where it was
        metric_for_best_model="eval_loss" if held else None,
        greater_is_better=False if held else None,
        logging_steps=10,
        report_to=["tensorboard"],
        disable_tqdm=not show_progress,
        dataloader_pin_memory=False,
    )
    callbacks: list[Any] = [EpochOfBatches(batches)]
    eval_dataset = None
    if held:
        callbacks.append(EarlyStoppingCallback(config.patience))
        offset = len(batches.sequences)
        eval_dataset = held.dataset().map(lambda row: {"user": row["user"] + offset})
    loss: nn.Module = PairLoss(model, config.pair_negatives + 1) if pair else NextItemLoss(model, matcher_of(model))
    trainer = (CrossEncoderTrainer if pair else SentenceTransformerTrainer)(
        model=model,
        args=arguments,
        train_dataset=batches.dataset(),
        eval_dataset=eval_dataset,
        loss=loss,
        data_collator=_WithHeldOutUsers(batches, held),
        callbacks=callbacks,
    )
    trainer.remove_callback(trainer.model_card_callback_class)  # it encodes examples for a card that nobody asked for
    return trainer


def _on_cpu() -> bool:
    """Whether the trainer has no accelerator to move the model to."""
    return not (torch.cuda.is_available() or torch.backends.mps.is_available())


def uses_bfloat16(config: TrainingConfig) -> bool:
    """Whether training multiplies in bf16: as the settings say, or where the processor does it natively."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported())
    return processor_has_bfloat16()


def _frozen_digest(model: Model) -> str:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return weight_digest({key: value for key, value in model.state_dict().items() if key not in trained})


def _verify_best(trainer: Any, best: float | None) -> None:
    """Check that the weights in memory are the best ones (sentence-transformers only logs a failed reload)."""
    with torch.no_grad():
        now = trainer.evaluate()["eval_loss"]
    if best is None or abs(now - best) > 1e-3 * max(1.0, abs(best)):
        raise ModelError(f"the best checkpoint (loss {best}) was not restored (loss {now}): run again with --resume")
