"""Training: seconds per user of ours over those of one PEFT LoRA trained by sentence-transformers.

What is fair. Ours is ``train_target`` (n = 2, the paper's integrator) or ``train_source`` as the command line calls
them. The rival is sentence-transformers' trainer with its own collator and MultipleNegativesRankingLoss, one PEFT LoRA
of the same rank on query and value. Both make the same steps: in every step the rival encodes the very texts that our
collator chose (all items of 32 users and 32 drawn ones, each once), laid out as its (anchor, positive) pairs. The
losses differ in which similarities they read, which costs next to nothing beside the encoder.

The base's dropout (0.1) is on in sentence-transformers' training; drawing its masks takes time. Where ours trains
without it, the rival that counts does too, and the usual one is stated beside it.

A chunk is one call of the trainer. Its clock runs from the end of the first step to the end of the last, so loading,
evaluation and checkpoints are outside; what a trainer prepares beforehand is stated apart, and the ratio of a whole run
with it (``whole_run``) must reach the goal too. Both run in this process, where our training has told the allocator to
keep freed memory; the rival profits from that.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeAlias
from unittest.mock import patch

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, TaskType
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from transformers import TrainerCallback
from transformers import trainer as transformers_trainer

from xcrossrec import Domain, Integration, TrainingConfig, source_config, target_config, train_source, train_target
from xcrossrec.models.base import load_base
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.batches import DualBatches
from xcrossrec_lab.speed import material
from xcrossrec_lab.speed.harness import Figure, Measured, Settings, medians, paired_ratio
from xcrossrec_lab.speed.plain import plain_base

Stage = Literal["target", "merged", "source"]
INTEGRATIONS: dict[Stage, Integration] = {"target": Integration("xcross"), "merged": Integration("merged")}
"""Of `train target`."""
Precision = Literal["fp32", "bf16"]

CATALOGUE = 5000
STEPS = 5
"""Of a chunk; the first is not timed."""

WHOLE_RUN_STEPS = 213
"""Of a default run: 850 of 1,000 users, 32 a step, 8 epochs."""


class StepClock(TrainerCallback):
    """Notes when each step of any Hugging Face trainer ends."""

    ends: list[float] = []  # noqa: RUF012 - one clock for the trainer of the moment

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Read the clock."""
        StepClock.ends.append(time.perf_counter())


@dataclass
class Chunk:
    """One call of a trainer."""

    step_s: float
    prepared_s: float


Arms: TypeAlias = Mapping[str, Callable[[], Any]]
OURS = "ours"
RIVALS = {True: "rival, base's dropout", False: "rival, no dropout"}


@contextmanager
def _clock() -> Iterator[None]:
    """Within the block every new trainer has the clock."""
    callbacks = transformers_trainer.DEFAULT_CALLBACKS
    callbacks.append(StepClock)
    try:
        yield
    finally:
        callbacks.remove(StepClock)


def run_chunk(train: Callable[[], Any]) -> Chunk:
    """Time one call: seconds a step after the first, and what came before the first."""
    StepClock.ends = []
    start = time.perf_counter()
    with _clock():
        train()
    first, *_, last = StepClock.ends
    step = (last - first) / (len(StepClock.ends) - 1)
    return Chunk(step_s=step, prepared_s=max(0.0, first - start - step))


def measure_training(settings: Settings, *, stage: Stage, goal: float) -> Measured:
    """Compare seconds a step at the same texts."""
    base = material.base_name(settings)
    adapters = material.random_adapters(base, 2, settings.work / "adapters")
    users, steps = (8, 2) if settings.quick else (32, STEPS)
    domain = _small_catalogue(material.training_domain(settings, "toys", users * steps))
    parts: dict[str, dict[str, Any]] = {}
    precisions: tuple[Precision, ...] = ("fp32",) if settings.quick else ("fp32", "bf16")
    for precision in precisions:
        config = _config(stage, precision, users)
        ours = partial(_train_ours, settings.work / f"{stage}-{precision}", stage, domain, adapters, base, config)
        texts = recorded_texts(ours)
        arms = {OURS: ours} | {
            name: partial(train_rival, settings.work / "rival", base, texts, precision, dropout=dropout)
            for dropout, name in RIVALS.items()
        }
        chunks = _alternate(arms, settings.repetitions if precision == "fp32" else min(settings.repetitions, 3))
        parts[precision] = _compared(chunks, RIVALS[has_dropout(stage, base)], users, texts)
    deciding = parts["fp32"]
    details = {
        "stage": stage,
        "users_a_step": users,
        "steps_a_chunk": steps,
        "fairness": "the rival's steps hold the very texts that ours encoded, as (anchor, positive) pairs",
        "met_also": "the ratio of a whole run with its preparation reaches the goal too",
        **parts,
    }
    return Measured(deciding["ratio"], deciding["spread"], details, met_also=deciding["whole_run"] <= goal)


def _alternate(arms: Arms, repetitions: int) -> dict[str, list[Chunk]]:
    chunks: dict[str, list[Chunk]] = {name: [] for name in arms}
    names = list(arms)
    for name in names[1:]:
        run_chunk(arms[name])  # warm-up; ours had it when its texts were recorded
    for repetition in range(repetitions):
        first = repetition % len(names)
        for name in names[first:] + names[:first]:
            chunks[name].append(run_chunk(arms[name]))
    return chunks


def _compared(
    chunks: Mapping[str, list[Chunk]], counted: str, users: int, texts: Sequence[Sequence[str]]
) -> dict[str, Any]:
    steps = {name: [chunk.step_s for chunk in of_arm] for name, of_arm in chunks.items()}
    against = {name: paired_ratio(steps[OURS], steps[name]) for name in RIVALS.values()}
    step = medians(steps)
    prepared = medians({name: [chunk.prepared_s for chunk in of_arm] for name, of_arm in chunks.items()})
    whole = {name: prepared[name] + WHOLE_RUN_STEPS * step[name] for name in step}
    return {
        "ratio": against[counted][0],
        "spread": against[counted][1],
        "rival_counted": counted,
        "ratios": {name: ratio for name, (ratio, _) in against.items()},
        "ms_a_user": {name: seconds / users * 1e3 for name, seconds in step.items()},
        "prepared_s": prepared,
        "whole_run": whole[OURS] / whole[counted],
        "texts_a_step": [len(step_texts) for step_texts in texts],
    }


def has_dropout(stage: Stage, base: str) -> bool:
    """Whether our training of a stage runs the base's dropout; a target's frozen base stays in evaluation mode."""
    if stage != "source":
        return False
    encoder = SourceEncoder(load_base(base), default_lora(material.RANK)).train()
    return any(
        isinstance(module, torch.nn.Dropout) and module.p > 0 and module.training for module in encoder.modules()
    )


def _config(stage: Stage, precision: Precision, users: int) -> TrainingConfig:
    make = source_config if stage == "source" else target_config
    return make(epochs=1, holdout_share=0.0, precision=precision, batch_users=users)


def _small_catalogue(domain: Domain) -> Domain:
    """Leave out most items that nobody bought: their number does not matter for a step, but for its preparation."""
    bought = {row for sequence in domain.sequences("train").rows for row in sequence}
    others = [row for row in range(domain.items.height) if row not in bought][: max(0, CATALOGUE - len(bought))]
    items = domain.items[sorted([*bought, *others])]
    return replace(domain, items=items)


def _train_ours(
    folder: Path, stage: Stage, domain: Domain, adapters: Sequence[Path], base: str, config: TrainingConfig
) -> None:
    """What ``xcrossrec train target`` and ``train source`` call."""
    for stale in (folder, folder.with_name(f"{folder.name}.training")):
        shutil.rmtree(stale, ignore_errors=True)
    if stage == "source":
        train_source(domain, folder, config=config, base=base, rank=material.RANK, show_progress=False)
    else:
        form = INTEGRATIONS[stage]
        train_target(
            domain, adapters, folder, config=config, integration=form, base=base, purchases=False, show_progress=False
        )


def recorded_texts(train: Callable[[], Any]) -> list[list[str]]:
    """Run a training of ours and note which texts its collator had encoded in every step.

    The texts follow from the batch's users and the collator's own draw; their number is checked against the batch.

    Raises:
        RuntimeError: the collator no longer encodes what this function believes.
    """
    steps: list[list[str]] = []
    make = DualBatches._batch

    def recording(self: DualBatches, users: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        drawn = deepcopy(rng).integers(len(self.titles), size=self.sampled_negatives)
        batch = make(self, users, rng)
        items = np.unique(np.concatenate([*(np.asarray(self._newest(user)) for user in users), drawn]))
        encoded = batch["label"]["member"].shape[1]
        if encoded != len(items):
            raise RuntimeError(f"the collator encoded {encoded} texts, expected {len(items)}: adapt recorded_texts")
        steps.append([self.titles[row] for row in items])
        return batch

    with patch.object(DualBatches, "_batch", recording):
        train()
    return steps


def lora_of_sentence_transformers(base: str) -> SentenceTransformer:
    """The plain base with one new PEFT LoRA."""
    model = plain_base(base)
    with material.seeded():
        config = LoraConfig(r=material.RANK, lora_alpha=2 * material.RANK, task_type=TaskType.FEATURE_EXTRACTION)
        model.add_adapter(config)
    model.model_card_data.local_files_only = True
    return model


def drop_nothing(model: torch.nn.Module) -> None:
    """Switch all dropout off; a BERT's attention reads its share off such a module too."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def train_rival(
    folder: Path, base: str, texts: Sequence[Sequence[str]], precision: Precision, *, dropout: bool
) -> None:
    """Train by sentence-transformers on given texts, step by step; an odd text of a step is left out."""
    pairs, batches = _pairs(texts)
    model = lora_of_sentence_transformers(base)
    if not dropout:
        drop_nothing(model)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=5e-4,
        bf16=precision == "bf16",
        use_cpu=True,
        batch_sampler=lambda dataset, **kwargs: _FixedBatches(batches),
        save_strategy="no",
        logging_steps=10,
        report_to=[],
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    trainer = SentenceTransformerTrainer(
        model=model, args=arguments, train_dataset=pairs, loss=MultipleNegativesRankingLoss(model)
    )
    trainer.remove_callback(trainer.model_card_callback_class)  # as ours
    trainer.train()


class _FixedBatches(torch.utils.data.Sampler[list[int]]):
    """Rows of each step, as given."""

    batch_size = 1
    drop_last = False

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def _pairs(texts: Sequence[Sequence[str]]) -> tuple[Dataset, list[list[int]]]:
    anchors: list[str] = []
    positives: list[str] = []
    batches = []
    rng = np.random.default_rng(0)
    for step in texts:
        shuffled = [step[number] for number in rng.permutation(len(step))]
        half = len(shuffled) // 2
        batches.append(list(range(len(anchors), len(anchors) + half)))
        anchors += shuffled[:half]
        positives += shuffled[half : 2 * half]
    return Dataset.from_dict({"anchor": anchors, "positive": positives}), batches


def _figure(stage: Stage, goal: float, title: str) -> Figure:
    return Figure(
        name=f"train-{stage}",
        title=title,
        goal=goal,
        better="lower",
        unit="of one LoRA's seconds a user in sentence-transformers",
        measure=partial(measure_training, stage=stage, goal=goal),
    )


FIGURES = (
    _figure("target", 1.6, "Training on the target, 2 streams, fp32"),
    _figure("merged", 1.0, "Training on the target, 2 sources merged into one stream, fp32"),
    _figure("source", 1.0, "Training a source's LoRA, fp32"),
)
