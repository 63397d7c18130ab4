"""Products with frozen weights: oneDNN's kernels, and a backward pass for the activations alone.

PyTorch multiplies float32 matrices on the CPU with MKL, which uses half of the vector width on AMD processors;
oneDNN, which comes with PyTorch too, uses all of it (2.3 times as fast on the machine of lab/log). It also adds
a residual or applies GELU on the way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xcrossrec.models.fast import switched_on
from xcrossrec.models.fast.native import Gelu, onednn_linear, onednn_linear_added, onednn_multiplies


def _multiply(
    x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None, gelu: Gelu | None = None
) -> Tensor:
    """``gelu(x W^T + b) + residual`` without gradients, by the fastest kernel at hand."""
    alike = x.device.type == "cpu" and x.dtype == weight.dtype and x.numel() > 0
    if not (alike and switched_on() and onednn_multiplies(x.dtype)):
        return finished(nn.functional.linear(x, weight, bias), residual, gelu)
    if residual is not None and residual.dtype == x.dtype and gelu is None:
        return onednn_linear_added(x, residual, weight, bias)
    return finished(onednn_linear(x, weight, bias, gelu), residual, None)


def finished(out: Tensor, residual: Tensor | None, gelu: Gelu | None) -> Tensor:
    """Apply to a product what no kernel has applied on the way out: GELU, then the residual."""
    out = out if gelu is None else nn.functional.gelu(out, approximate=gelu)
    return out if residual is None else residual + out


class _FrozenProduct(torch.autograd.Function):
    """A product whose weight takes no gradient, so that its input need not be kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return _multiply(x, weight, bias, residual)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        (weight,) = ctx.saved_tensors
        grad = grads[0].contiguous()
        to_input = _multiply(grad, weight.t(), None) if ctx.needs_input_grad[0] else None
        return to_input, None, None, grads[0] if ctx.needs_input_grad[3] else None


def frozen_product(
    x: Float[Tensor, "*batch inside"],
    weight: Float[Tensor, "outside inside"],
    bias: Float[Tensor, " outside"] | None = None,
    *,
    residual: Float[Tensor, "*batch outside"] | None = None,
    gelu: Gelu | None = None,
) -> Float[Tensor, "*batch outside"]:
    """Compute ``gelu(x W^T + b) + residual`` for a weight that does not train, of x's type.

    Args:
        residual: added to the product, in its own type; gradients reach it.
        gelu: form of GELU applied to the product; None applies none.
    """
    if torch.is_grad_enabled() and (x.requires_grad or (residual is not None and residual.requires_grad)):
        same = residual is not None and residual.dtype == x.dtype and gelu is None
        out: Tensor = _FrozenProduct.apply(x, weight, bias, residual if same else None)  # type: ignore[no-untyped-call]
        return finished(out, None if same else residual, gelu)
    return _multiply(x, weight, bias, residual, gelu)


class _AdaptedProduct(torch.autograd.Function):
    """``x W^T + b + scaling x down^T up^T`` for a frozen weight of x's type and a low-rank update that trains."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scaling: float
    ) -> Tensor:
        narrow_down, narrow_up = down.to(x.dtype), (up * scaling).to(x.dtype)
        inner = x @ narrow_down.t()
        ctx.save_for_backward(x, inner, weight, narrow_down, narrow_up)
        ctx.scaling = scaling
        return _multiply(x, weight, bias).addmm_(inner, narrow_up.t())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None]:
        x, inner, weight, down, up = ctx.saved_tensors
        grad = grads[0].contiguous()
        through = grad @ up
        to_input = _multiply(grad, weight.t(), None).addmm_(through, down) if ctx.needs_input_grad[0] else None
        to_down, to_up = (through.t() @ x).float(), (grad.t() @ inner).float() * ctx.scaling
        return to_input, None, None, to_down, to_up, None


@dataclass(frozen=True)
class Update:
    """A LoRA update that trains, in float32: ``scaling * up @ down``, added to a weight."""

    down: Float[Tensor, "rank inside"]
    up: Float[Tensor, "outside rank"]
    scaling: float


@dataclass(frozen=True)
class Weights:
    """One linear layer in one stream: what is frozen, and what trains beside it."""

    weight: Float[Tensor, "outside inside"]
    bias: Float[Tensor, " outside"] | None
    update: Update | None = None

    def product(self, x: Tensor, *, residual: Tensor | None = None, gelu: Gelu | None = None) -> Tensor:
        """Compute ``gelu(x W^T + b) + residual``, W with the update where there is one."""
        if self.update is None:
            return frozen_product(x, self.weight, self.bias, residual=residual, gelu=gelu)
        factors = self.update.down, self.update.up, self.update.scaling
        out: Tensor = _AdaptedProduct.apply(x, self.weight, self.bias, *factors)  # type: ignore[no-untyped-call]
        return finished(out, residual, gelu)


class FrozenLinear(nn.Linear):
    """A linear layer of a frozen base; exactly a :class:`torch.nn.Linear` once its weight trains again, and where the
    fast pass is switched off."""

    def forward(self, input: Tensor) -> Tensor:
        """Multiply; under autocast, with a copy of the weight in autocast's type that is kept."""
        trains = self.weight.requires_grad or (self.bias is not None and self.bias.requires_grad)
        if trains or not switched_on():
            return super().forward(input)
        kind = input.device.type
        if not torch.is_autocast_enabled(kind):
            return frozen_product(input, self.weight, self.bias)
        weight, bias = self.in_type(torch.get_autocast_dtype(kind))
        with torch.autocast(kind, enabled=False):
            return frozen_product(input.to(weight.dtype), weight, bias)

    def in_type(self, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in another type, converted once as long as neither changes."""
        if dtype == self.weight.dtype:
            return self.weight, self.bias
        state = (dtype, self.weight.data_ptr(), self.weight._version, self.weight.device)
        kept = self.__dict__.get("_converted")
        if kept is None or kept[0] != state:
            bias = None if self.bias is None else self.bias.detach().to(dtype)
            kept = (state, self.weight.detach().to(dtype), bias, self.weight.detach())  # alive: state has its address
            self.__dict__["_converted"] = kept
        return kept[1], kept[2]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the converted copy out of pickles and deep copies."""
        return {key: value for key, value in self.__dict__.items() if key != "_converted"}


def use_frozen_products(backbone: nn.Module) -> None:
    """Turn every plain linear layer of a frozen backbone, in place, into a :class:`FrozenLinear`.

    Weights keep their shape and values, but lie in memory input by input, as oneDNN reads float32 fastest.
    """
    for module in backbone.modules():
        if type(module) is nn.Linear:
            module.__class__ = FrozenLinear
            module.weight.data = laid_out(module.weight.data)


def laid_out(weight: Float[Tensor, "outside inside"]) -> Float[Tensor, "outside inside"]:
    """The same matrix, with the entries of one input next to each other in memory."""
    return weight.t().contiguous().t()
