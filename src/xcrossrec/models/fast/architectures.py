"""The architectures that the fast pass knows, and where each keeps its parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from operator import attrgetter
from typing import Any

from peft import PeftModel
from torch import Tensor, nn


@dataclass(frozen=True)
class Names:
    """Where an architecture keeps the parts of a layer."""

    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    attention_dropout: str
    out_dropout: str

    @cached_property
    def linears(self) -> Callable[[Any], tuple[nn.Module, ...]]:
        """Gives a layer's linear layers."""
        return attrgetter(self.query, self.key, self.value, self.out, "intermediate.dense", "output.dense")


_BERT = Names(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "attention.self.dropout",
    "attention.output.dropout",
)
_MPNET = Names(
    "attention.attn.q",
    "attention.attn.k",
    "attention.attn.v",
    "attention.attn.o",
    "attention.LayerNorm",
    "attention.attn.dropout",
    "attention.dropout",
)
_ARCHITECTURES = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "mpnet": _MPNET}
"""Post-norm encoders with absolute positions at the bottom (and MPNet's bias by distance in attention)."""


def is_known(backbone: Any) -> bool:
    """Whether a backbone is an encoder of an architecture that is known here."""
    config = backbone.config
    plain = not getattr(config, "is_decoder", False) and not getattr(config, "add_cross_attention", False)
    return plain and config.model_type in _ARCHITECTURES


def names_of(backbone: Any) -> Names:
    """Where a known backbone keeps the parts of a layer."""
    return _ARCHITECTURES[backbone.config.model_type]


def unwrapped(backbone: Any) -> Any:
    """The transformers model itself, its adapters in place."""
    return backbone.base_model.model if isinstance(backbone, PeftModel) else backbone


def plain_layer(layer: Any) -> Any:
    """A layer without what mixes its output."""
    return getattr(layer, "layer", layer)


def linear_layers(backbone: Any) -> list[nn.Module]:
    """The linear layers of a known backbone, with the adapters in them."""
    parts = names_of(backbone).linears
    return [linear for layer in unwrapped(backbone).encoder.layer for linear in parts(plain_layer(layer))]


def distance_bias(backbone: Any) -> Callable[[int], Tensor] | None:
    """MPNet's part of the scores by distance, (one, head, length, length) of a length; None for other architectures."""
    model = unwrapped(backbone)
    if model.config.model_type != "mpnet":
        return None

    @cache
    def bias(length: int) -> Tensor:
        like = model.embeddings.word_embeddings.weight.new_empty(1, length, 1)
        of_length: Tensor = model.encoder.compute_position_bias(like)
        return of_length

    return bias
