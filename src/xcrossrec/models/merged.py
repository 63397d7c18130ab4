"""The default form: the sources' LoRA updates, averaged exactly, and a small LoRA of the target's own, in one stream.

It costs one encoder pass a text however many sources there are, and it is a plain language model: the base with the
mean of the updates added to its weights, under one adapter of PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from xcrossrec.config import Integration
from xcrossrec.models.adapters import Adapter, LoraFactors, mean_update, read_lora_settings
from xcrossrec.models.base import Base
from xcrossrec.models.encoder import IntegratedSettings, check_sources, read_adapters
from xcrossrec.models.fast.linear import laid_out
from xcrossrec.models.files import save_tensors, take_over
from xcrossrec.models.source import SingleStreamEncoder, save_peft
from xcrossrec.types import PairAttention

TARGET_FOLDER = "target"
"""PEFT folder of the target's own LoRA, inside a bundle."""

SCALE_WEIGHTS = "scale.safetensors"

_SCALING = 2
"""Of the target's LoRA: alpha over rank, as the sources have by default."""


class MergedEncoder(SingleStreamEncoder):
    """The base with the exact mean of its sources' updates, and a LoRA that trains on the target.

    The target's LoRA stands in the layers that a source adapts, and starts at zero. Beside it one scalar trains, the
    factor of all states (``scale``). Base and sources are frozen.

    Args:
        base, max_tokens, pair_attention: as of :class:`xcrossrec.models.encoder.TitleEncoder`.
        adapters: at least two, of one base, with different names.
        rank: of the target's LoRA.

    Raises:
        ModelError: fewer than two adapters, or two of one name.
        ConfigError: ``rank`` is below 1.
    """

    settings_schema = IntegratedSettings

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter],
        *,
        rank: int = 2,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        self.sources = check_sources(adapters)
        self.integration = Integration("merged", rank=rank)
        self.adapters = tuple(adapters)
        mean = mean_update(adapters)
        add_to_weights(base.backbone, mean)
        fresh = {path: _fresh(base.backbone.get_submodule(path), rank) for path in sorted(mean)}
        self.backbone = under_lora(base.backbone, fresh, scaling=_SCALING)
        self.scale = nn.Parameter(torch.ones(()))

    def _combine(self, streams: Sequence[Float[Tensor, "*batch dim"]]) -> Float[Tensor, "*batch dim"]:
        return streams[0] * self.scale

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The target's LoRA, and the scale, which belongs to the head."""
        return {"target_learning_rate": list(self.lora_state().values()), "head_learning_rate": [self.scale]}

    @contextmanager
    def left_out(self, source: int) -> Iterator[None]:
        """Within the block, a source has no part in the mean; the others keep theirs.

        The weights are exchanged, not changed, so that copies of the model that share them are not disturbed.
        """
        share = self.adapters[source].factors
        under = self.backbone.base_model.model.get_submodule
        linears = {path: under(path).get_base_layer() for path in share}
        before = {path: linear.weight for path, linear in linears.items()}
        with torch.no_grad():
            for path, linear in linears.items():
                part = share[path].up @ share[path].down / len(self.adapters)
                linear.weight = nn.Parameter(laid_out(before[path] - part), requires_grad=False)
        try:
            yield
        finally:
            for path, linear in linears.items():
                linear.weight = before[path]

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write what every encoder does, the target's PEFT folder and the scale."""
        super().save(output_path)
        save_peft(self.backbone, Path(output_path) / TARGET_FOLDER)
        save_tensors({"scale": self.scale}, Path(output_path) / SCALE_WEIGHTS)

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        adapters = read_adapters(folder, settings["sources"], base)
        with torch.random.fork_rng():  # the draws of the fresh LoRA, which the saved one replaces
            model = cls(
                base,
                adapters,
                rank=settings["integration"]["rank"],
                max_tokens=settings["max_tokens"],
                pair_attention=settings["pair_attention"],
            )
        read_lora_settings(folder / TARGET_FOLDER)
        model._take_over_lora(folder / TARGET_FOLDER, trainable=trainable)
        take_over({"scale": model.scale}, folder / SCALE_WEIGHTS)
        return model


@torch.no_grad()
def add_to_weights(backbone: nn.Module, updates: Mapping[str, LoraFactors]) -> None:
    """Add each update to the weight of its layer, in place."""
    for path, update in updates.items():
        linear = backbone.get_submodule(path)
        assert isinstance(linear, nn.Linear)
        linear.weight.data = laid_out(linear.weight + update.up @ update.down)


def _fresh(linear: Any, rank: int) -> LoraFactors:
    """An update that changes nothing yet."""
    down = nn.init.kaiming_uniform_(torch.empty(rank, linear.in_features), a=5**0.5)
    return LoraFactors(down, torch.zeros(linear.out_features, rank))


def under_lora(backbone: Any, factors: Mapping[str, LoraFactors], *, scaling: int = 1) -> PeftModel:
    """Put a backbone under one LoRA that trains, its alpha over its rank being ``scaling``.

    Args:
        factors: of each layer, filled up with zeros to one rank, as PEFT has them before the scaling.
    """
    rank = max(len(each.down) for each in factors.values())
    lora = LoraConfig(r=rank, lora_alpha=scaling * rank, target_modules=sorted(factors), bias="none")
    with torch.random.fork_rng():
        adapted: PeftModel = get_peft_model(backbone, lora)
    with torch.no_grad():
        for path, each in factors.items():
            layer, filled = adapted.base_model.model.get_submodule(path), each.of_rank(rank)
            layer.lora_A["default"].weight.copy_(filled.down)
            layer.lora_B["default"].weight.copy_(filled.up)
    return adapted
