"""Folders for others, and how each is read back: a plain SentenceTransformer, a PEFT LoRA, a table of vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import torch
from jaxtyping import Float32
from peft import LoraConfig, PeftModel
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer

from xcrossrec.catalogue import BlockEncoder, StoredItem
from xcrossrec.export.stream import Reading, Stream, Vectors
from xcrossrec.models.adapters import ADAPTER_WEIGHTS
from xcrossrec.models.base import DEFAULT_BASE, Base
from xcrossrec.models.files import save_tensors
from xcrossrec.models.identity import EMBEDDED
from xcrossrec.models.model import encoder_of
from xcrossrec.prompts import item_texts
from xcrossrec.replacing import scratch_folder
from xcrossrec.types import ITEM, TITLE

Encode: TypeAlias = Callable[[Sequence[str], bool], Float32[np.ndarray, "text dim"]]
"""Texts to unit vectors; whether they are a history's items."""

BATCH = 64
"""Texts that are encoded together."""

ITEMS = "items.parquet"
VECTOR, OF_HISTORY = "vector", "history_vector"


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
    adapted = PeftModel.from_pretrained(base.backbone, str(folder), torch_device="cpu")
    return by_torch(stream.reading, Vectors(adapted, stream.head).eval())


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


def write_vectors(
    encode: BlockEncoder, items: Sequence[StoredItem], vectors: Float32[np.ndarray, "item dim"], folder: Path
) -> None:
    """Write id, title and unit vector of each item; where the model's prompts differ also its vector in a history."""
    kind, encoder = pl.Array(pl.Float32, vectors.shape[1]), encoder_of(encode.model)
    columns: dict[str, Any] = {ITEM: [item.item_id for item in items], TITLE: [item.title for item in items]}
    columns[VECTOR] = pl.Series(vectors, dtype=kind)
    if encoder.recipe.apart:
        texts = item_texts([item.read(encoder.text) for item in items])
        columns[OF_HISTORY] = pl.Series(encode.texts(texts, as_history=True), dtype=kind)
    pl.DataFrame(columns).write_parquet(folder / ITEMS)


def read_vectors(folder: Path, ids: Sequence[str]) -> Encode:
    """Of items by their ids, whatever texts are asked for."""
    table = pl.DataFrame({ITEM: ids}).join(pl.read_parquet(folder / ITEMS), on=ITEM, how="left", maintain_order="left")

    def encode(texts: Sequence[str], as_history: bool) -> Float32[np.ndarray, "item dim"]:
        column = OF_HISTORY if as_history and OF_HISTORY in table.columns else VECTOR
        found: Float32[np.ndarray, "item dim"] = table[column].to_numpy()
        return found

    return encode
