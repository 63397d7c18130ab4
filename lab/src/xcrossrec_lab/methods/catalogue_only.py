"""The base trained on the target's texts alone: a start that needs neither sources nor customers."""

from __future__ import annotations

import random
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.losses import DenoisingAutoEncoderLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

from xcrossrec.models.base import load_base
from xcrossrec_lab.methods.sources import untrained_base
from xcrossrec_lab.task import Fitted, Task, check_settings

DELETED = 0.6
"""Share of a text's words that are deleted, the paper's."""

RATE = 3e-5
"""Its rate of AdamW."""

_BATCH = 8


def denoised(task: Task) -> Fitted:
    """All weights of the base trained to give back each text of the catalogue from what is left of it (TSDAE).

    Its settings are ``epochs`` (1) and ``learning_rate`` (3e-5).

    Source:
        arXiv 2104.06979, with the loss of sentence-transformers and the base's own pooling.
    """
    check_settings(task, {"epochs"})
    base = load_base(task.base)
    reader = Transformer(base.backbone.config._name_or_path, max_seq_length=base.max_tokens)
    pooling = Pooling(reader.get_embedding_dimension(), pooling_mode=base.recipe.pooling)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        model = SentenceTransformer(modules=[reader, pooling], device="cpu")
        losses = _train(model, task)
    folder = Path(tempfile.mkdtemp(dir=task.work)) / "base"
    model.save_pretrained(str(folder), create_model_card=False)
    fitted = untrained_base(replace(task, base=str(folder), settings={}))
    return replace(fitted, report={"losses": losses})


def _train(model: SentenceTransformer, task: Task) -> list[float]:
    """Gives the mean losses of ten equal parts of the training."""
    noise = random.Random(task.seed)
    texts = Dataset.from_dict({"text": list(task.target.texts)})
    texts.set_transform(lambda batch: {"left": [left_of(text, noise) for text in batch["text"]], "text": batch["text"]})
    epochs = task.setting("epochs", 1)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=tempfile.mkdtemp(dir=task.work),
        num_train_epochs=epochs,
        per_device_train_batch_size=_BATCH,
        learning_rate=task.setting("learning_rate", RATE),
        lr_scheduler_type="constant",
        weight_decay=0.0,
        logging_steps=max(1, epochs * len(texts) // _BATCH // 10),
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=task.seed,
        remove_unused_columns=False,
    )
    loss = DenoisingAutoEncoderLoss(model, tie_encoder_decoder=True)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=texts, loss=loss)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def left_of(text: str, noise: random.Random) -> str:
    """A text without about :data:`DELETED` of its words; at least one is left of what has any.

    Args:
        text: of an item.
        noise: says which words go.
    """
    words = text.split()
    left = [word for word in words if noise.random() >= DELETED]
    return " ".join(left or [noise.choice(words)]) if words else text
