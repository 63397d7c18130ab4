"""One layer of an architecture, run over tokens without padding.

Legend: ``token`` = a token of any text, ``inside`` and ``outside`` = a product's sizes, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers.activations import ACT2FN

from xcrossrec.models.fast.architectures import LINEARS
from xcrossrec.models.fast.linear import Weights
from xcrossrec.models.fast.native import Gelu
from xcrossrec.models.fast.texts import Attention, dropped

_GELUS: dict[str, Gelu] = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_python": "none"}


@dataclass(frozen=True)
class Layer:
    """One layer's parts: those that adapters change, one a stream; the others once.

    The dropouts are the layer's own modules, which know whether they train.
    """

    query: list[Weights]
    key: list[Weights]
    value: list[Weights]
    out: list[Weights]
    up: list[Weights]
    down: list[Weights]
    attention_norm: nn.LayerNorm
    output_norm: nn.LayerNorm
    activation: str
    attention_dropout: nn.Dropout
    out_dropout: nn.Dropout
    down_dropout: nn.Dropout

    @classmethod
    def of(
        cls, layer: Any, places: Mapping[str, str], activation: str, weights: Callable[[nn.Module], list[Weights]]
    ) -> Layer:
        """Take a layer apart; ``weights`` makes a linear layer's, one a stream or one for all."""
        parts = {name: layer.get_submodule(place) for name, place in places.items()}
        return cls(activation=activation, **{**parts, **{name: weights(parts[name]) for name in LINEARS}})

    def run(
        self, x: Float[Tensor, "token dim"], stream: int | None, attend: Attention, heads: int, dtype: torch.dtype
    ) -> Float[Tensor, "token dim"]:
        """Run one stream, or all of them one after another in ``x``; products in ``dtype``, the rest in x's type."""

        def product(states: Tensor, part: Sequence[Weights], **fused: Any) -> Tensor:
            chosen = part if stream is None or len(part) == 1 else [part[stream]]
            return _product(states.to(dtype), chosen, **fused)

        def added(states: Tensor, part: Sequence[Weights], dropout: nn.Dropout, residual: Tensor) -> Tensor:
            if share := dropout_share(dropout):
                return residual + dropped(product(states, part), share)
            return product(states, part, residual=residual)

        narrow = x.to(dtype)
        query, key, value = (product(narrow, part) for part in (self.query, self.key, self.value))
        attended = attend(query, key, value, heads, dropout_share(self.attention_dropout))
        h = self.attention_norm(added(attended, self.out, self.out_dropout, x))
        gelu = _GELUS.get(self.activation)
        inner = product(h, self.up, gelu=gelu)
        inner = inner if gelu else ACT2FN[self.activation](inner)
        states: Tensor = self.output_norm(added(inner, self.down, self.down_dropout, h))
        return states


def dropout_share(dropout: nn.Dropout) -> float:
    """The share that a dropout module drops now."""
    return dropout.p if dropout.training else 0.0


@contextmanager
def without_dropout(dropout: nn.Dropout) -> Iterator[None]:
    """Within the block a module drops nothing."""
    former = dropout.training
    dropout.training = False
    try:
        yield
    finally:
        dropout.training = former


def _product(
    x: Float[Tensor, "token inside"],
    part: Sequence[Weights],
    *,
    residual: Float[Tensor, "token outside"] | None = None,
    gelu: Gelu | None = None,
) -> Float[Tensor, "token outside"]:
    """Multiply by one weight, or each stream's share of the tokens by its own."""
    if len(part) == 1:
        return part[0].product(x, residual=residual, gelu=gelu)
    residuals = [None] * len(part) if residual is None else residual.chunk(len(part))
    return torch.cat(
        [
            weights.product(states, residual=other, gelu=gelu)
            for states, weights, other in zip(x.chunk(len(part)), part, residuals, strict=True)
        ]
    )
