"""Stage 1: one frozen base, and for each source domain a stream of it with that domain's frozen LoRA.

The streams are the leading part of the batch axis, so each base weight multiplies all of them at once and the updates
are two batched products.

Source: X-Cross (SIGIR 2025, arXiv 2504.20859), stage 1: ``h_m = (W + A_m B_m) x_m``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from xcrossrec.exceptions import ModelError
from xcrossrec.models.adapters import LoraFactors


class StackedLoraLinear(nn.Module):
    """A frozen linear layer, shared and not copied, with one low-rank update per stream.

    The base weight multiplies all streams at once; the updates are two batched products. Ranks may differ (short ones
    are padded with zeros) and a stream without an update here (None) has a zero one.
    """

    down: Tensor
    up: Tensor

    def __init__(self, linear: nn.Linear, factors: Sequence[LoraFactors | None]) -> None:
        super().__init__()
        self.linear = linear
        nothing = LoraFactors(torch.zeros(0, linear.in_features), torch.zeros(linear.out_features, 0))
        rank = max(len(f.down) for f in factors if f is not None)
        padded = [(f or nothing).of_rank(rank) for f in factors]
        self.register_buffer("down", torch.stack([f.down.t() for f in padded]).to(linear.weight))
        self.register_buffer("up", torch.stack([f.up.t() for f in padded]).to(linear.weight))
        self.only_stream: int | None = None

    def forward(self, x: Float[Tensor, "rows token inside"]) -> Float[Tensor, "rows token outside"]:
        """Map all streams, stacked along the rows; within :func:`one_stream` all rows belong to that stream."""
        out = self.linear(x)
        down, up = self.down, self.up
        if self.only_stream is not None:
            down, up = down[self.only_stream, None], up[self.only_stream, None]
        n = down.shape[0]
        update = torch.baddbmm(out.reshape(n, -1, out.shape[-1]), torch.bmm(x.reshape(n, -1, x.shape[-1]), down), up)
        return update.view_as(out)


@contextmanager
def one_stream(layers: Sequence[StackedLoraLinear], stream: int) -> Iterator[None]:
    """Within the block stacked layers treat every row as one stream's, for inputs without a batch axis."""
    for layer in layers:
        layer.only_stream = stream
    try:
        yield
    finally:
        for layer in layers:
            layer.only_stream = None


def stack_adapters(backbone: nn.Module, streams: Sequence[Mapping[str, LoraFactors]]) -> None:
    """Replace, in place, every linear layer that some adapter updates by a stacked one; ``streams`` has each stream's
    updates by module. ModelError: adapters are already stacked on this backbone."""
    for path in sorted({module for factors in streams for module in factors}):
        linear = backbone.get_submodule(path)
        if not isinstance(linear, nn.Linear):
            raise ModelError(f"{path} is a {type(linear).__name__}: adapters are already stacked on this backbone")
        stacked = StackedLoraLinear(linear, [factors.get(path) for factors in streams])
        parent, _, attribute = path.rpartition(".")
        setattr(backbone.get_submodule(parent) if parent else backbone, attribute, stacked)
    for module in backbone.modules():
        stacked_inside = any(isinstance(child, StackedLoraLinear) for child in module.children())
        if hasattr(module, "disentangled_attention_bias") and stacked_inside:
            bias = _StreamwisePositionBias(module, len(streams))
            module.disentangled_attention_bias = bias  # type: ignore[assignment]


class _StreamwisePositionBias:
    """DeBERTa's position-to-content bias, computed stream by stream.

    Its relative positions go through the adapted query and key projections without a batch axis, so the
    stream they belong to cannot be read off their shape (PEFT's mixed batches crash here).
    """

    def __init__(self, attention: Any, streams: int) -> None:
        self.original = attention.disentangled_attention_bias
        self.layers = [m for m in attention.children() if isinstance(m, StackedLoraLinear)]
        self.streams = streams

    def __call__(
        self, query: Tensor, key: Tensor, relative_pos: Tensor, rel_embeddings: Tensor, scale_factor: int
    ) -> Tensor:
        parts = []
        queries, keys = query.chunk(self.streams), key.chunk(self.streams)
        for stream, (q, k) in enumerate(zip(queries, keys, strict=True)):
            with one_stream(self.layers, stream):
                parts.append(self.original(q, k, relative_pos, rel_embeddings, scale_factor))
        return torch.cat(parts)
