"""A linear layer's weights in each stream: adapters that rest are added to them, one that trains stays beside.

Legend: ``inside`` and ``outside`` = the layer's sizes, ``rank`` = the adapter's.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from xcrossrec.models.fast.linear import FrozenLinear, laid_out
from xcrossrec.models.xcross.streams import StackedLoraLinear


@dataclass(frozen=True)
class Update:
    """A LoRA update that trains: ``scaling * up @ down``, added to a weight."""

    down: Float[Tensor, "rank inside"]
    up: Float[Tensor, "outside rank"]
    scaling: float


@dataclass(frozen=True)
class Weights:
    """One linear layer in one stream: what is frozen, and what trains beside it."""

    weight: Float[Tensor, "outside inside"]
    bias: Float[Tensor, " outside"] | None
    update: Update | None = None


def foldable(module: nn.Module) -> bool:
    """Whether a layer is a plain linear one, perhaps with a low-rank update that can be added to its weight."""
    if not isinstance(module, PeftLinear):
        return isinstance(module, StackedLoraLinear) or type(module) in (nn.Linear, FrozenLinear)
    names = _active(module)
    plain = type(module) is PeftLinear and type(module.get_base_layer()) in (nn.Linear, FrozenLinear)
    return plain and not any(name in module.lora_variant or module.lora_bias[name] for name in names)


def _active(module: PeftLinear) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def comes_from(module: Any) -> tuple[list[Tensor], Hashable]:
    """The tensors that a layer's folded weights are made of, and how its adapters stand."""
    if isinstance(module, StackedLoraLinear):
        return [*module.parameters(), *module.buffers()], None
    if not isinstance(module, PeftLinear):
        return _tensors(module), None
    names = _active(module)
    factors = [factor.weight for name in names for factor in (module.lora_A[name], module.lora_B[name])]
    standing = (module.merged, module.disable_adapters, *((name, module.scaling[name]) for name in names))
    return [*_tensors(module.get_base_layer()), *factors], standing


def _tensors(linear: Any) -> list[Tensor]:
    return [linear.weight] if linear.bias is None else [linear.weight, linear.bias]


def trained_factors(module: nn.Module) -> list[nn.Parameter]:
    """A LoRA's factors, where a layer has one that works and can be multiplied beside the weight; else none."""
    if not isinstance(module, PeftLinear) or module.merged or module.disable_adapters or module.fan_in_fan_out:
        return []
    names = _active(module)
    if len(names) != 1:
        return []
    dropout = module.lora_dropout[names[0]]
    factors = [module.lora_A[names[0]].weight, module.lora_B[names[0]].weight]
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0
    return [] if drops or any(factor.dtype != torch.float32 for factor in factors) else factors


def trained_weights(module: nn.Module, dtype: torch.dtype) -> list[Weights]:
    """A layer without an update, or with one that trains, from weights that :class:`FrozenLinear` keeps converted; none
    for other layers."""
    if isinstance(module, FrozenLinear):
        return [Weights(*module.in_type(dtype))]
    factors = trained_factors(module)
    if not any(factor.requires_grad for factor in factors):
        return []
    assert isinstance(module, PeftLinear)
    (name,) = _active(module)
    base: Any = module.get_base_layer()
    (frozen,) = trained_weights(base, dtype) or folded_weights(base, dtype)
    return [Weights(frozen.weight, frozen.bias, Update(factors[0], factors[1], module.scaling[name]))]


def folded_weights(module: nn.Module, dtype: torch.dtype) -> list[Weights]:
    """A linear layer's weight and bias in each stream, or once where no adapter changes it."""
    if isinstance(module, StackedLoraLinear):
        linear: Any = module.linear
        updates = [(d @ u).t() for d, u in zip(module.down, module.up, strict=True)]
    elif isinstance(module, PeftLinear):
        linear = module.get_base_layer()
        off = module.merged or module.disable_adapters
        deltas = [] if off else [module.get_delta_weight(name) for name in _active(module)]
        updates = [sum(deltas)] if deltas else []
    else:
        linear, updates = module, []
    bias = None if linear.bias is None else linear.bias.detach().to(dtype)
    if not updates:
        return [Weights(linear.weight.detach().to(dtype), bias)]
    return [Weights(laid_out((linear.weight + update).detach()).to(dtype), bias) for update in updates]
