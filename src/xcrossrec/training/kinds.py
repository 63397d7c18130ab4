"""How each kind of model trains: its batches, its loss, and the trainer of sentence-transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import broadcast
from sentence_transformers import (
    CrossEncoderTrainer,
    CrossEncoderTrainingArguments,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from torch.utils.data import DataLoader

from xcrossrec.config import TrainingConfig
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.training.batches import LENGTH_GROUPS, DualBatches, PairBatches, UserBatches
from xcrossrec.training.losses import NextItemLoss, PairLoss
from xcrossrec.training.processes import Processes
from xcrossrec.types import Scoring


class SharedBatches:
    """Mixin of a sentence-transformers trainer: every process gets every batch and encodes a share of its texts; the
    users set aside (``held``, None if there are none) have a collator of their own."""

    held: UserBatches | None
    data_collator: UserBatches | None
    processes: Processes
    args: Any
    accelerator: Any
    model: Model
    is_in_train: bool

    def create_accelerator_and_postprocess(self) -> None:
        """Take each held-out loss from the first process: all compute the same, and must decide alike."""
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        if self.processes.count > 1:
            self.accelerator.gather = broadcast

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate; before training, undo accelerate's preparation of the model, which it would not repeat."""
        found: dict[str, float] = super().evaluate(*args, **kwargs)  # type: ignore[misc]
        if self.processes.count > 1 and not self.is_in_train:
            self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
            vars(self.model).pop("_is_accelerate_prepared", None)
        return found

    def get_eval_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """Load the users set aside with their own collator."""
        training, self.data_collator = self.data_collator, self.held
        try:
            return super().get_eval_dataloader(*args, **kwargs)  # type: ignore[misc, no-any-return]
        finally:
            self.data_collator = training

    def _build_dataloader(self, *args: Any, **kwargs: Any) -> DataLoader[Any]:
        """Prepare the loader as for one process, since accelerate would distribute whole batches."""
        loader: Any = super()._build_dataloader(*args, **kwargs)  # type: ignore[misc]
        if self.processes.count > 1:
            settings = {"num_processes": 1, "process_index": 0, "put_on_device": True, "use_seedable_sampler": True}
            loader = prepare_data_loader(loader, self.args.device, **settings)
            loader._is_accelerate_prepared = True
        return loader  # type: ignore[no-any-return]


class DualTraining:
    """Next items among all that a batch encodes."""

    trainer_class: ClassVar[Any] = SentenceTransformerTrainer
    arguments_class: ClassVar[Any] = SentenceTransformerTrainingArguments

    def batches(
        self, model: Model, sequences: Sequence[Sequence[int]], titles: Sequence[str], config: TrainingConfig
    ) -> UserBatches:
        """Items once each, in groups of like length unless the encoder leaves padding out by itself."""
        encoder = encoder_of(model)
        return DualBatches(
            sequences,
            titles,
            encoder.preprocess,
            config.seed,
            sampled_negatives=config.sampled_negatives,
            length_groups=1 if on_cpu() and encoder.fast.leaves_padding_out_in_training else LENGTH_GROUPS,
            history=partial(encoder.preprocess, prompt=encoder.recipe.history_prompt) if encoder.recipe.apart else None,
        )

    def loss(self, model: Model, config: TrainingConfig) -> nn.Module:
        """See :class:`NextItemLoss`."""
        return NextItemLoss(model, matcher_of(model))


class PairTraining:
    """One positive against sampled negatives, each read together with the history."""

    trainer_class: ClassVar[Any] = CrossEncoderTrainer
    arguments_class: ClassVar[Any] = CrossEncoderTrainingArguments

    def batches(
        self, model: Model, sequences: Sequence[Sequence[int]], titles: Sequence[str], config: TrainingConfig
    ) -> UserBatches:
        """The positive first, then the negatives."""
        preprocess = encoder_of(model).preprocess
        return PairBatches(sequences, titles, preprocess, config.seed, negatives=config.pair_negatives)

    def loss(self, model: Model, config: TrainingConfig) -> nn.Module:
        """See :class:`PairLoss`."""
        return PairLoss(model, config.pair_negatives + 1)


TRAININGS: Mapping[Scoring, DualTraining | PairTraining] = {"dual": DualTraining(), "pair": PairTraining()}


def on_cpu() -> bool:
    """Whether the trainer has no accelerator to move the model to."""
    return not torch.cuda.is_available()
