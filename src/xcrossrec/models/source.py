"""One stream: a base as it is, or with one LoRA adapter of PEFT's. A source's own model is one of these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from torch import nn

from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models.adapters import ADAPTER_WEIGHTS, Adapter, read_adapter
from xcrossrec.models.base import Base
from xcrossrec.models.encoder import EncoderSettings, TitleEncoder
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.files import take_over
from xcrossrec.types import PairAttention

_QUERY_VALUE = (
    ["query", "value"],
    ["q_proj", "v_proj"],
    ["q_lin", "v_lin"],
    ["query_proj", "value_proj"],
    ["q", "v"],
    ["Wqkv"],
    ["qkv_proj"],
    ["query_key_value"],
)
"""What query and value are called where PEFT has no default; a fused layer adds as many parameters as two apart."""


class SingleStreamEncoder(TitleEncoder):
    """What encoders of one stream share: a backbone, plain or with one adapter of PEFT's, run once a text."""

    def __init__(self, base: Base, max_tokens: int | None, pair_attention: PairAttention = "joint") -> None:
        super().__init__(base, max_tokens, pair_attention)
        self.backbone: Any = base.backbone
        self.fast = FastPass(self)

    @property
    def has_adapter(self) -> bool:
        """Whether a LoRA adapter of PEFT's is in place."""
        return isinstance(self.backbone, PeftModel)

    def lora_state(self) -> dict[str, nn.Parameter]:
        """The factors of the adapter, as PEFT's files name them."""
        found = self.backbone.named_parameters()
        return {name.replace(".default", ""): parameter for name, parameter in found if "lora_" in name}

    def _take_over_lora(self, folder: Path, *, trainable: bool) -> None:
        """Take over an adapter's saved factors, to train on or not."""
        take_over(self.lora_state(), folder / ADAPTER_WEIGHTS)
        for parameter in self.lora_state().values():
            parameter.requires_grad_(trainable)


class SourceSettings(EncoderSettings):
    """What a saved folder records of a single language model."""

    adapter: bool


class SourceEncoder(SingleStreamEncoder):
    """One language model: the base alone, or with one LoRA adapter trained by PEFT.

    A saved one *is* a PEFT LoRA folder (with this project's sidecars beside).

    Args:
        base, max_tokens, pair_attention: as of :class:`TitleEncoder`.
        lora: a new adapter to train; None leaves the base as it is.
    """

    settings_schema = SourceSettings

    def __init__(
        self,
        base: Base,
        lora: LoraConfig | None = None,
        *,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        if lora is not None:
            self.backbone = get_peft_model(base.backbone, _with_targets(lora, base.backbone))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The adapter's factors, or whatever else of the backbone trains; no group where nothing does."""
        trained = [p for p in self.backbone.parameters() if p.requires_grad]
        return {"learning_rate": trained} if trained else {}

    def settings(self) -> dict[str, Any]:
        """With whether there is an adapter."""
        return {**super().settings(), "adapter": self.has_adapter}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write a PEFT folder (if there is an adapter) and the settings."""
        super().save(output_path)
        if self.has_adapter:
            save_peft(self.backbone, Path(output_path))

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        model = cls(base, max_tokens=settings["max_tokens"], pair_attention=settings["pair_attention"])
        if settings["adapter"]:
            adapter = read_adapter(folder, base, of_model=True)
            model._adapt(adapter)
            model._take_over_lora(folder, trainable=trainable)
        return model

    def _adapt(self, adapter: Adapter) -> None:
        """Put an adapter's layers in place, exactly those that it has tensors for."""
        named, adapter.config.target_modules = adapter.config.target_modules, set(adapter.factors)
        adapter.config.base_model_name_or_path = None  # PEFT warns of any other name than the base's here
        with torch.random.fork_rng():  # their draws are replaced by the saved factors
            self.backbone = get_peft_model(self.backbone, adapter.config)
        adapter.config.target_modules = named


def save_peft(backbone: PeftModel, folder: Path) -> None:
    """Write an adapter's PEFT folder, without PEFT's empty model card."""
    backbone.save_pretrained(str(folder), save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)


def default_lora(rank: int = 8, target_modules: Sequence[str] | None = None) -> LoraConfig:
    """LoRA on query and value, as PEFT's defaults choose them for the base's architecture; alpha is twice the rank.

    Args:
        target_modules: names of other linear layers to adapt.

    Raises:
        ConfigError: a rank that is not from 1 to 1,024.
    """
    if not 1 <= rank <= 1024:
        raise ConfigError(f"rank is {rank}: expected a whole number from 1 to 1,024")
    return LoraConfig(r=rank, lora_alpha=2 * rank, bias="none", target_modules=list(target_modules or ()) or None)


def _with_targets(lora: LoraConfig, backbone: Any) -> LoraConfig:
    """Fill in the layers to adapt where the caller names none: PEFT's choice, or what is called query and value."""
    kind = backbone.config.model_type
    linear = {name.rpartition(".")[2] for name, module in backbone.named_modules() if isinstance(module, nn.Linear)}
    if not linear:
        raise ModelError(f"this {kind} base has no linear layers, which LoRA adapts: use another base")
    usual = next((names for names in _QUERY_VALUE if linear.issuperset(names)), [])
    named = lora.target_modules or TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(kind) or usual
    lost = [] if isinstance(named, str) else [name for name in named if name.rpartition(".")[2] not in linear]
    if lost or not named:
        wanted = f"not {sorted(lost)[0]!r}" if lost else "of which none is known to be query or value"
        raise ModelError(
            f"this {kind} base has the linear layers {', '.join(sorted(linear))}, {wanted}: choose some of them with "
            "`train source --target-modules` (target_modules in Python)"
        )
    filled = copy(lora)
    filled.target_modules = named if isinstance(named, str) else set(named)
    return filled
