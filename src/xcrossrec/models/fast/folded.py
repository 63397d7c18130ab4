"""All layers of a backbone, made once and again whenever a weight has changed.

In each stream, adapters that rest are added to the weights, one that trains stays beside.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn

from xcrossrec.models.fast.architectures import linear_layers, parts_of, plain_layer, unwrapped
from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.fast.linear import FrozenLinear, Update, Weights, laid_out
from xcrossrec.models.fast.native import reordered
from xcrossrec.models.xcross.integrator import IntegratedLayer
from xcrossrec.models.xcross.streams import StackedLoraLinear

Versions: TypeAlias = tuple[tuple[int, int], ...]


def versions(tensors: Iterable[Tensor]) -> Versions:
    """What differs once one of the tensors has been changed or exchanged."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


@dataclass
class FoldedLayers:
    """The layers of a known backbone, ready to run; the parameters of what mixes streams in them are read afresh each
    time."""

    backbone: Any
    mixers: Sequence[IntegratedLayer] = ()
    _layers: dict[tuple[torch.dtype, bool], list[Layer]] = field(default_factory=dict)
    _made_from: tuple[Hashable, ...] = ()
    _held: list[torch.UntypedStorage] = field(default_factory=list)  # kept alive: no others get their addresses
    _found: list[nn.Module] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is made from the weights out of pickles and deep copies."""
        return {**self.__dict__, "_layers": {}, "_made_from": (), "_held": []}

    def can_be_made(self) -> bool:
        """Whether folded layers would compute what the layers do: all are plain, or have plain LoRA, and where
        gradients are kept nothing trains but one LoRA's factors."""
        linears = self._linears()
        if isinstance(self.backbone, PeftModel) and not all(map(foldable, linears)):
            return False
        if not torch.is_grad_enabled():
            return True
        mixing = {id(parameter) for mixer in self.mixers for parameter in mixer.integrator.parameters()}
        known = mixing | {id(factor) for module in linears for factor in trained_factors(module)}
        return all(id(p) in known for p in unwrapped(self.backbone).encoder.parameters() if p.requires_grad)

    def of_type(self, dtype: torch.dtype) -> list[Layer]:
        """The layers with weights of a type: to multiply only, or, where gradients are kept, to train through."""
        sources = [comes_from(module) for module in self._linears()]
        tensors = [tensor for found, _ in sources for tensor in found]
        made_from = (versions(tensors), *(standing for _, standing in sources))
        # a fused optimizer changes weights without a new version, so what trains is folded each time
        if made_from != self._made_from or any(tensor.requires_grad for tensor in tensors):
            self._layers, self._made_from, self._held = {}, made_from, [each.untyped_storage() for each in tensors]
        key = dtype, torch.is_grad_enabled()
        if key not in self._layers:
            self._layers[key] = self._fold(*key)
        return self._layers[key]

    def _linears(self) -> list[nn.Module]:
        """The linear layers; PEFT puts others in their place whenever it likes, those of streams stay."""
        if isinstance(self.backbone, PeftModel):
            return linear_layers(self.backbone)
        if not self._found:
            self._found = linear_layers(self.backbone)
        return self._found

    @torch.no_grad()
    def _fold(self, dtype: torch.dtype, with_gradients: bool) -> list[Layer]:
        model = unwrapped(self.backbone)
        places, activation = parts_of(model), model.config.hidden_act

        def weights(module: nn.Module) -> list[Weights]:
            if with_gradients:
                return trained_weights(module, dtype) or folded_weights(module, dtype)
            return [Weights(reordered(each.weight), each.bias) for each in folded_weights(module, dtype)]

        return [Layer.of(plain_layer(layer), places, activation, weights) for layer in model.encoder.layer]


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
