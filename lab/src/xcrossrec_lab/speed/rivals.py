"""What a practitioner would use instead, on the same base and the same adapters.

Legend: ``source`` = an adapter, ``batch`` = text, ``token`` = position, ``dim`` = hidden size.

The three PEFT rivals get what sentence-transformers' ``encode`` does for the plain base: texts sorted by length,
batches padded to their longest text, one tokenization. So they differ from it in the forward passes alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, TaskType, XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from transformers import AutoTokenizer

from xcrossrec_lab.speed.harness import timed
from xcrossrec_lab.speed.material import seeded
from xcrossrec_lab.speed.plain import MAX_TOKENS, base_location, plain_backbone

BATCH_SIZES = (16, 32, 64, 128)
"""Batch sizes among which a rival's best is looked for; 32 is sentence-transformers' default."""


class PeftRival(ABC):
    """n adapters in PEFT over one base.

    Args:
        base: its name.
        adapters: PEFT LoRA folders.
    """

    def __init__(self, base: str, adapters: Sequence[Path]) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(base_location(base))
        self.names = [str(number) for number in range(len(adapters))]
        self.model = self._load(base, adapters)
        self.model.eval()

    def _load(self, base: str, adapters: Sequence[Path]) -> Any:
        first, *others = adapters
        with seeded():
            model = PeftModel.from_pretrained(plain_backbone(base), str(first), adapter_name=self.names[0])
            for name, folder in zip(self.names[1:], others, strict=True):
                model.load_adapter(str(folder), adapter_name=name)
        return model

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch_size: int = 32) -> np.ndarray:
        """Give each text the unit vector of its mean state, averaged over the sources."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        batches = [self._tokenize([texts[row] for row in chunk]) for chunk in _chunks(order, batch_size)]
        vectors = nn.functional.normalize(self._vectors(batches), dim=-1)
        result = torch.empty_like(vectors)
        result[torch.from_numpy(order)] = vectors
        return np.asarray(result.numpy())

    def _tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        encoded = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt", verbose=False
        )
        return {key: encoded[key] for key in ("input_ids", "attention_mask")}

    def _vectors(self, batches: Sequence[dict[str, Tensor]]) -> Tensor:
        return torch.cat([_mean(self.states(**batch), batch["attention_mask"]).mean(0) for batch in batches])

    @abstractmethod
    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Last hidden states (source, batch, token, dim)."""


class SwitchedAdapters(PeftRival):
    """One forward pass per adapter; over a corpus an adapter is switched once, not once a batch."""

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run the adapters one after another."""
        return torch.stack([self._one(name, input_ids, attention_mask) for name in self.names])

    def _one(self, name: str, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        if self.model.active_adapter != name:
            self.model.set_adapter(name)
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden

    def _vectors(self, batches: Sequence[dict[str, Tensor]]) -> Tensor:
        by_source = [
            torch.cat([_mean(self._one(name, **batch), batch["attention_mask"]) for batch in batches])
            for name in self.names
        ]
        return torch.stack(by_source).mean(0)


class MixedBatches(PeftRival):
    """PEFT's mixed-adapter batches: each text n times in one batch, each row with its adapter."""

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run all adapters in one pass."""
        n, batch = len(self.names), len(input_ids)
        names = [name for name in self.names for _ in range(batch)]
        hidden = self.model(
            input_ids=input_ids.repeat(n, 1), attention_mask=attention_mask.repeat(n, 1), adapter_names=names
        ).last_hidden_state
        states: Tensor = hidden.view(n, batch, *hidden.shape[1:])
        return states


class XLora(PeftRival):
    """PEFT X-LoRA: one stream, whose adapters a classifier scales per token after a first pass without adapters.

    The encoder stands in a module with ``.model`` and ``.config``, the adapters are named "0", "1", ... (see
    :class:`_WithModel` and :func:`_resaved`): PEFT 0.21 loads encoders' adapters in no other way.
    """

    def _load(self, base: str, adapters: Sequence[Path]) -> Any:
        backbone = plain_backbone(base)
        backbone.config.use_cache = False
        config = XLoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            hidden_size=backbone.config.hidden_size,
            adapters={name: str(_resaved(folder)) for name, folder in zip(self.names, adapters, strict=True)},
        )
        with seeded():
            return get_peft_model(_WithModel(backbone), config)

    def states(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Run both passes; there is one stream."""
        hidden: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return hidden[None]


class _WithModel(nn.Module):
    """The form in which X-LoRA looks for a model."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def _resaved(folder: Path) -> Path:
    """Write an adapter as one trained on :class:`_WithModel` would be."""
    place = folder.with_name(f"{folder.name}-wrapped")
    if not (place / "adapter_config.json").exists():
        place.mkdir(parents=True, exist_ok=True)
        prefix = "base_model.model."
        tensors = load_file(folder / "adapter_model.safetensors")
        renamed = {key.replace(prefix, f"{prefix}model.", 1): value for key, value in tensors.items()}
        save_file(renamed, place / "adapter_model.safetensors")
        (place / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    return place


def lora_cross_encoder(base: str, *, rank: int = 8) -> CrossEncoder:
    """sentence-transformers' CrossEncoder over the base with one PEFT LoRA on query and value."""
    with seeded():
        model = CrossEncoder(base_location(base), num_labels=1, max_length=MAX_TOKENS)
        config = LoraConfig(r=rank, lora_alpha=2 * rank, task_type=TaskType.SEQ_CLS)
        model.add_adapter(config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.02)
    model.eval()
    return model


def best_batch_size(run: Callable[[int], Any], sizes: Sequence[int] = BATCH_SIZES) -> tuple[int, dict[int, float]]:
    """Find a rival's fastest batch size.

    Args:
        run: encodes everything with a batch size.
        sizes: to choose from.

    Returns:
        the fastest, and the seconds of each.
    """
    run(sizes[0])
    seconds = {size: min(timed(lambda size=size: run(size)) for _ in range(2)) for size in sizes}  # type: ignore[misc]
    return min(seconds, key=lambda size: seconds[size]), seconds


def peft_rivals(base: str, adapters: Sequence[Path]) -> Mapping[str, PeftRival]:
    """All rivals that use the same n adapters in PEFT."""
    return {
        "PEFT switched": SwitchedAdapters(base, adapters),
        "PEFT mixed batches": MixedBatches(base, adapters),
        "PEFT X-LoRA": XLora(base, adapters),
    }


def _chunks(order: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    weight = mask.to(states.dtype)
    return torch.einsum("...btd,bt->...bd", states, weight) / weight.sum(-1, keepdim=True)
