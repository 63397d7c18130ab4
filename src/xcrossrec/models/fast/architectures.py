"""The architectures that the fast pass knows, and where each keeps its parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from operator import attrgetter
from typing import Any

from peft import PeftModel
from torch import Tensor, nn

LINEARS = ("query", "key", "value", "out", "up", "down")
"""A layer's linear layers, by the names of its parts."""

_SHARED = {
    "up": "intermediate.dense",
    "down": "output.dense",
    "down_dropout": "output.dropout",
    "output_norm": "output.LayerNorm",
}
_BERT = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "attention_dropout": "attention.self.dropout",
    "out_dropout": "attention.output.dropout",
    **_SHARED,
}
_MPNET = {
    "query": "attention.attn.q",
    "key": "attention.attn.k",
    "value": "attention.attn.v",
    "out": "attention.attn.o",
    "attention_norm": "attention.LayerNorm",
    "attention_dropout": "attention.attn.dropout",
    "out_dropout": "attention.dropout",
    **_SHARED,
}
_ARCHITECTURES = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "mpnet": _MPNET}
"""Post-norm encoders with absolute positions at the bottom (and MPNet's bias by distance in attention)."""

_GIVE_LINEARS = {kind: attrgetter(*(parts[name] for name in LINEARS)) for kind, parts in _ARCHITECTURES.items()}


def is_known(backbone: Any) -> bool:
    """Whether a backbone is an encoder of an architecture that is known here."""
    config = backbone.config
    plain = not getattr(config, "is_decoder", False) and not getattr(config, "add_cross_attention", False)
    return plain and config.model_type in _ARCHITECTURES


def parts_of(backbone: Any) -> Mapping[str, str]:
    """Where a known backbone keeps the parts of a layer, by the names that these have in a ``Layer``."""
    return _ARCHITECTURES[backbone.config.model_type]


def unwrapped(backbone: Any) -> Any:
    """The transformers model itself, its adapters in place."""
    return backbone.base_model.model if isinstance(backbone, PeftModel) else backbone


def plain_layer(layer: Any) -> Any:
    """A layer without what mixes its output."""
    return getattr(layer, "layer", layer)


def linear_layers(backbone: Any) -> list[nn.Module]:
    """The linear layers of a known backbone, with the adapters in them."""
    linears = _GIVE_LINEARS[backbone.config.model_type]
    return [linear for layer in unwrapped(backbone).encoder.layer for linear in linears(plain_layer(layer))]


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
