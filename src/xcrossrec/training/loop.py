"""One training run: trainer, early stopping, checkpoints, resume, and proof that frozen weights stayed."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback

from xcrossrec.config import TrainingConfig
from xcrossrec.copurchase.weight import Choice
from xcrossrec.data.domain import Domain, Sequences
from xcrossrec.exceptions import DataError, ModelError
from xcrossrec.models.base import weight_digest
from xcrossrec.models.fast.native import keep_freed_memory, processor_has_bfloat16
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.progress import Stage, showing, stage, to_stderr
from xcrossrec.prompts import item_texts
from xcrossrec.replacing import check_vacant, claimed, needing_room
from xcrossrec.training.batches import EpochOfBatches, UserBatches
from xcrossrec.training.checkpoints import WholeCheckpoints, prepare_work, state_of
from xcrossrec.training.kinds import TRAININGS, SharedBatches, on_cpu
from xcrossrec.training.places import work_folder
from xcrossrec.training.processes import joined
from xcrossrec.training.trackers import LOGS, Tracker, arguments_of, check_tracker, told_once, tracker_callbacks

_log = logging.getLogger(__name__)

_WARMUP_SHARE = 0.1
"""Share of the steps in which the learning rate rises; after that it falls linearly to 0."""


@dataclass(frozen=True)
class TrainingReport:
    """What a run did.

    Attributes:
        users: training users, without those set aside.
        holdout_users: users set aside for early stopping.
        best_loss: lowest loss on the users set aside, which the weights kept have; where no epoch beat the
            start, that is ``initial_loss`` and the weights are those of the start; None without any.
        initial_loss: the same loss before the first step; None without any.
        losses: per epoch, loss on the users set aside.
        wall_s: seconds.
        copurchase: how the weights of what is bought together were chosen, after the training; None where the model
            knows no purchases.
    """

    users: int
    holdout_users: int
    epochs: float
    best_loss: float | None
    initial_loss: float | None
    losses: tuple[float, ...]
    wall_s: float
    trained_parameters: int
    copurchase: Choice | None = None

    @property
    def improved(self) -> bool | None:
        """Whether the loss on the users set aside is lower than at the start; None without any."""
        if self.initial_loss is None or self.best_loss is None:
            return None
        return self.best_loss < self.initial_loss


@contextmanager
def working(out: Path, overwrite: bool, report_to: Tracker) -> Iterator[Path]:
    """Yield a run's folder for checkpoints and logs, after all checks that need no data.

    Raises:
        BundleError: ``out`` exists and may not be replaced.
        ConfigError, MissingExtraError: no such tracker; or a GPU would be idle.
        DataError: another process is at work in the folder.
        StorageError: the disk is full.
    """
    check_vacant(out, overwrite=overwrite)
    check_tracker(report_to)
    work = work_folder(out)
    claim = claimed(work) if joined(on_cpu=on_cpu()).first else nullcontext()
    states = random.getstate(), np.random.get_state()  # noqa: NPY002 - whoever trains gets them back: a trainer seeds all
    try:
        with claim, needing_room(work / LOGS), told_once(), torch.random.fork_rng(devices=[]):
            yield work
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def fit(
    model: Model,
    domain: Domain,
    users: Sequences,
    config: TrainingConfig,
    work: Path,
    *,
    resume: bool = False,
    show_progress: bool = True,
    report_to: Tracker = "tensorboard",
    callbacks: Sequence[TrainerCallback] = (),
) -> TrainingReport:
    """Train whatever requires a gradient in a model, in place; under `torchrun` each process calls this.

    Args:
        model: from :func:`xcrossrec.models.build_model`.
        domain: gives the texts.
        users: the budget's users; some are set aside for early stopping.
        work: folder for checkpoints and TensorBoard logs; once the result is saved, checkpoints can go
            (:func:`xcrossrec.training.checkpoints.forget_checkpoints`).
        resume: continue from the newest whole checkpoint in ``work``, or start again where there is none.
        show_progress, report_to, callbacks: as for :func:`xcrossrec.train_source`.

    Raises:
        ConfigError: nothing to resume, a run with other settings, or checkpoints in the way; or what
            :func:`working` refuses.
        DataError: too few users.
        ModelError: a frozen weight changed, or as :func:`parameter_groups` says.
    """
    started = time.perf_counter()
    processes = joined(on_cpu=on_cpu())
    keep_freed_memory()
    count = _holdout_count(len(users), config)
    training, holdout = users.split_off(count, config.seed) if count else (users, None)
    run = _run_record(model, domain, users, config)
    checkpoint = prepare_work(work, run, resume=resume, writes=processes.first)
    batches = TRAININGS[kind_of(model).name].batches(model, training.rows, item_texts(domain.texts), config)
    held = replace(batches, sequences=holdout.rows) if holdout else None
    encoder = encoder_of(model)
    encoder.tell_unread(domain.texts)
    if long := encoder.cut.titles:  # the collators measured the whole catalogue
        _log.info("of %d items the text is longer than the %d tokens that are read", long, encoder.max_tokens)
    encoder.cut.reset()
    frozen = _frozen_digest(model)
    start = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    trainer = _trainer(model, batches, held, config, work, report_to)
    for callback in callbacks:
        trainer.add_callback(callback)
    initial = trainer.evaluate()["eval_loss"] if held else None
    quiet = nullcontext() if processes.first else showing(None)  # other processes show no progress
    with showing(to_stderr) if show_progress and processes.first else quiet, stage("training", "steps") as bar:
        trainer.add_callback(_Told(bar))
        _train(trainer, checkpoint, config)
    if _frozen_digest(model) != frozen:
        raise ModelError("a frozen weight changed during training: this is a fault of xcrossrec, please report it")
    best = trainer.state.best_metric
    losses = tuple(entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry)
    if held:
        _verify_best(trainer, best)
    if initial is not None and best is not None and initial <= best:
        model.load_state_dict({**model.state_dict(), **start})
        best = initial
    model.eval()
    encoder_of(model).fast.forget()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    epochs, wall_s = float(trainer.state.epoch or 0.0), time.perf_counter() - started
    return TrainingReport(len(training), count, epochs, best, initial, losses, wall_s, trained)


def _holdout_count(users: int, config: TrainingConfig) -> int:
    if users < 2:
        raise DataError(f"training needs at least 2 users, got {users}: raise the budget")
    wanted = round(config.holdout_share * users)
    return min(max(wanted, 8), 256) if wanted and users >= 32 else 0


def _run_record(model: Model, domain: Domain, users: Sequences, config: TrainingConfig) -> dict[str, Any]:
    """What must be equal to resume a run."""
    settings = encoder_of(model).settings()
    start = {"start": weight_digest(model.state_dict()), **settings, "base": settings["base"]["digest"]}
    return {"config": asdict(config), "fingerprint": domain.fingerprint, "users": len(users), "model": start}


def _trainer(
    model: Model, batches: UserBatches, held: UserBatches | None, config: TrainingConfig, work: Path, report_to: Tracker
) -> Any:
    processes, training = batches.processes, TRAININGS[kind_of(model).name]
    arguments = training.arguments_class(
        **_arguments(config, work, len(batches.sequences), held is not None),
        **arguments_of(report_to, work),
        disable_tqdm=True,  # see _Told
    )
    arguments.dataloader_drop_last = False  # sentence-transformers sets it where there are several processes
    optimizer_class, defaults = Trainer.get_optimizer_cls_and_kwargs(arguments)
    optimizer = optimizer_class(parameter_groups(model, config), **defaults)
    own, stopping = {"processes": processes, "held": held}, [EarlyStoppingCallback(config.patience)] if held else []
    trainer = type("Trainer", (WholeCheckpoints, SharedBatches, training.trainer_class), own)(
        model=model,
        args=arguments,
        train_dataset=batches.dataset(),
        eval_dataset=held.dataset() if held else None,
        loss=training.loss(model, config),
        data_collator=batches,
        callbacks=[EpochOfBatches(batches), *tracker_callbacks(report_to, work), *stopping],
        optimizers=(optimizer, None),
    )
    trainer.remove_callback(PrinterCallback)  # raw dictionaries
    return trainer


def parameter_groups(model: Model, config: TrainingConfig) -> list[dict[str, Any]]:
    """The groups of an optimizer, as the modules of a model name them.

    A module with parameters has a method ``parameter_groups``, which gives its trained ones by the name of the setting
    that is their learning rate.

    Returns:
        one mapping a group, with ``params``, ``lr`` and no weight decay.

    Raises:
        ModelError: a parameter trains that no module names, or is named twice; or a group is empty, is frozen, or has
            no such rate.
    """
    names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
    missing = dict(names)
    groups = []
    for module in model:
        # sentence-transformers' own modules name nothing
        named: dict[str, list[nn.Parameter]] = getattr(module, "parameter_groups", dict)()
        for rate, parameters in named.items():
            owner = f"the group {rate!r} of {type(module).__name__}"
            if not hasattr(config, rate):
                raise ModelError(f"{owner} is no learning rate of the settings: name one of TrainingConfig's")
            if not parameters:
                raise ModelError(f"{owner} has no parameter: leave it out, or name what it trains")
            for parameter in parameters:
                if missing.pop(id(parameter), None) is None:
                    again = names.get(id(parameter))
                    frozen = f"a frozen parameter of shape {tuple(parameter.shape)}"
                    what = f"{again} a second time" if again else frozen
                    raise ModelError(f"{owner} names {what}: name each trained parameter once")
            groups.append({"params": parameters, "lr": getattr(config, rate), "weight_decay": 0.0})
    if missing:
        raise ModelError(
            f"{next(iter(missing.values()))} trains, but no module gives it a learning rate: name it in the "
            "parameter_groups of the module that owns it"
        )
    return groups


class _Told(TrainerCallback):
    """Shows a training's progress, and the last loss on the users set aside."""

    def __init__(self, bar: Stage) -> None:
        self.bar = bar
        self.losses: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count a step."""
        epoch = min(int(state.epoch) + 1, state.num_train_epochs)
        loss = f", loss {self.losses[-1]:.4f}" if self.losses else ""
        self.bar.at(state.global_step, state.max_steps, f"epoch {epoch} of {state.num_train_epochs}{loss}")

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> None:
        """Take a loss."""
        self.losses.append((metrics or {}).get("eval_loss", float("nan")))


def _train(trainer: Any, checkpoint: Path | None, config: TrainingConfig) -> None:
    """Train to the end, or load the final weights of a run that was interrupted after its last step."""
    state = state_of(checkpoint) if checkpoint else None
    stopping = state.stateful_callbacks.get(EarlyStoppingCallback.__name__, {}) if state else {}
    waited = stopping.get("attributes", {}).get("early_stopping_patience_counter", 0)
    if state is None or (state.global_step < state.max_steps and waited < config.patience):
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return
    trainer.state = state
    trainer._load_from_checkpoint(state.best_model_checkpoint or str(checkpoint))


def _arguments(config: TrainingConfig, work: Path, users: int, held: bool) -> dict[str, Any]:
    """A trainer's arguments; if users are ``held`` out, the epoch with the lowest loss on these is kept."""
    steps = -(-users // (config.batch_users * config.accumulate)) * config.epochs
    return {
        "output_dir": str(work),
        "num_train_epochs": config.epochs,
        "per_device_train_batch_size": config.batch_users,  # of all processes, see SharedBatches
        "per_device_eval_batch_size": config.batch_users,
        "gradient_accumulation_steps": config.accumulate,
        "learning_rate": config.learning_rate,
        "warmup_steps": round(steps * _WARMUP_SHARE),
        "seed": config.seed,
        "bf16": uses_bfloat16(config),
        "use_cpu": on_cpu(),
        "eval_strategy": "epoch" if held else "no",
        "load_best_model_at_end": held,
        "metric_for_best_model": "eval_loss" if held else None,
        "greater_is_better": False if held else None,
        "save_strategy": "epoch",
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # early stopping counts on where it was
        "logging_steps": 10,
        "ddp_find_unused_parameters": False,
        "ddp_broadcast_buffers": False,
        "dataloader_pin_memory": False,
    }


def uses_bfloat16(config: TrainingConfig) -> bool:
    """Whether training multiplies in bf16: as the settings say, or where the processor does it natively."""
    if config.precision != "auto":
        return config.precision == "bf16"
    return bool(torch.cuda.is_bf16_supported()) if torch.cuda.is_available() else processor_has_bfloat16()


def _frozen_digest(model: Model) -> str:
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return weight_digest({key: value for key, value in model.state_dict().items() if key not in trained})


def _verify_best(trainer: Any, best: float | None) -> None:
    """Check that the weights in memory are the best ones (sentence-transformers only logs a failed reload)."""
    trainer.callback_handler.callbacks.clear()  # trackers have ended their runs
    with torch.no_grad():
        now = trainer.evaluate()["eval_loss"]
    if best is None or abs(now - best) > 1e-3 * max(1.0, abs(best)):
        raise ModelError(f"the best checkpoint (loss {best}) was not restored (loss {now}): run again with --resume")
