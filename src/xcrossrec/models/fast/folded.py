"""All layers of a backbone with their adapters folded in, made once and again whenever a weight has changed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from peft import PeftModel
from torch import Tensor, nn

from xcrossrec.models.fast.architectures import linear_layers, names_of, plain_layer, unwrapped
from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.fast.native import reordered
from xcrossrec.models.fast.weights import (
    Weights,
    comes_from,
    foldable,
    folded_weights,
    trained_factors,
    trained_weights,
)
from xcrossrec.models.xcross.integrator import IntegratedLayer

Versions: TypeAlias = tuple[tuple[int, int], ...]


def versions(tensors: Iterable[Tensor]) -> Versions:
    """What differs once one of the tensors has been changed or exchanged."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


@dataclass
class FoldedLayers:
    """The layers of a known backbone, ready to run.

    Args:
        backbone: plain, with PEFT's LoRA, or with one update a stream.
        mixers: what mixes streams in its layers; their own parameters are read afresh each time.
    """

    backbone: Any
    mixers: Sequence[IntegratedLayer] = ()
    _layers: dict[tuple[torch.dtype, bool], list[Layer]] = field(default_factory=dict)
    _made_from: tuple[Hashable, ...] = ()
    _found: list[nn.Module] = field(default_factory=list)

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is made from the weights out of pickles and deep copies."""
        return {**self.__dict__, "_layers": {}, "_made_from": ()}

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
            self._layers, self._made_from = {}, made_from
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
        names, activation = names_of(model), model.config.hidden_act

        def weights(module: nn.Module) -> list[Weights]:
            if with_gradients:
                return trained_weights(module, dtype) or folded_weights(module, dtype)
            return [Weights(reordered(each.weight), each.bias) for each in folded_weights(module, dtype)]

        return [Layer.of(plain_layer(layer), names, activation, weights) for layer in model.encoder.layer]
