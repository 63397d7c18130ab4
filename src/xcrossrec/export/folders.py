"""Folders of other libraries: a plain SentenceTransformer, a PEFT LoRA, and how each is read back for the check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32
from peft import LoraConfig, PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from xcrossrec.export.stream import Reading, Stream, Vectors
from xcrossrec.models.adapters import ADAPTER_WEIGHTS
from xcrossrec.models.base import DEFAULT_BASE, Base
from xcrossrec.models.files import save_tensors
from xcrossrec.models.identity import EMBEDDED
from xcrossrec.replacing import scratch_folder

Encode: TypeAlias = Callable[[Sequence[str], bool], Float32[np.ndarray, "text dim"]]
"""Texts to unit vectors; whether they are a history's items."""

BATCH = 64
"""Texts that are encoded together."""


def write_sentence_transformer(stream: Stream, folder: Path) -> None:
    """Write a model of sentence-transformers' own classes."""
    reading = stream.reading
    with scratch_folder() as place:
        stream.backbone.save_pretrained(str(place))
        reading.tokenizer.save_pretrained(str(place))
        first = Transformer(str(place), max_seq_length=reading.max_tokens)
    usual = "document" if any(reading.prompts.values()) else None
    model = SentenceTransformer(
        modules=[first, *stream.head.modules()], prompts=reading.prompts, default_prompt_name=usual, device="cpu"
    )
    model.save_pretrained(str(folder), create_model_card=False)


def read_sentence_transformer(folder: Path) -> Encode:
    """As its user does."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)

    def encode(texts: Sequence[str], as_history: bool) -> Float32[np.ndarray, "text dim"]:
        ask = model.encode_query if as_history else model.encode_document
        found: Float32[np.ndarray, "text dim"] = ask(list(texts), show_progress_bar=False)
        return found

    return encode


def write_peft(stream: Stream, folder: Path, base: str) -> None:
    """Write the update as one LoRA over the base, as sentence-transformers too reads it: the head stands beside.

    Factors are filled up with zeros to one rank, so that nothing depends on the pattern of names.
    """
    write_sentence_transformer(stream, folder)
    for weights in (*folder.glob("model*.safetensors*"), folder / "config.json"):
        weights.unlink()
    rank = max(len(factors.down) for factors in stream.update.values())
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=sorted(stream.update), bias="none")
    config.base_model_name_or_path, config.inference_mode = named_for_others(base), True
    config.save_pretrained(str(folder))
    tensors = {}
    for path, factors in stream.update.items():
        filled = factors.of_rank(rank)
        tensors[f"base_model.model.{path}.lora_A.weight"] = filled.down
        tensors[f"base_model.model.{path}.lora_B.weight"] = filled.up
    save_tensors(tensors, folder / ADAPTER_WEIGHTS)


def named_for_others(base: str) -> str:
    """What others call a base: the embedded one by its name on the hub."""
    return EMBEDDED[0] if base == DEFAULT_BASE else base


def read_peft(stream: Stream, folder: Path, base: Base) -> Encode:
    """By PEFT, over a fresh base, which is taken over."""
    return by_torch(stream.reading, Vectors(PeftModel.from_pretrained(base.backbone, str(folder)), stream.head).eval())


def by_torch(reading: Reading, model: Vectors) -> Encode:
    """Encode by a module of torch."""

    @torch.inference_mode()
    def encode(texts: Sequence[str], as_history: bool) -> Float32[np.ndarray, "text dim"]:
        runs = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        found: Float32[np.ndarray, "text dim"] = torch.cat(
            [model(*reading.tokens(run, as_history)) for run in runs]
        ).numpy()
        return found

    return encode
