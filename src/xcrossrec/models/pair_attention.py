"""Who sees whom in a pair: under ``joint`` all tokens, under ``shared`` the history only itself.

Under ``shared`` attention candidates see the history and themselves, so a history's states do not depend on the
candidate and all candidates of one history can share them, layer by layer. That mask is part of the model's meaning;
how it is computed is not:

- *shared pass*: all tokens of a batch stand in one row without padding, each history once
  (:mod:`xcrossrec.models.fast.shared`). Linear layers and integrators act token by token.
- *reference*: one row a pair and a mask over token pairs; for bases whose attention cannot be split like this.

Legend: ``token`` = position in a text, ``batch`` = (history, candidate) text.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models.fast import switched_on
from xcrossrec.models.fast.shared import FAR, SharedLayout, shared_attention
from xcrossrec.types import PAIR_ATTENTIONS, PairAttention, Scoring

_LOG = logging.getLogger(__name__)
_NAME = "xcrossrec_shared_history"
_SHARING = frozenset({"bert", "modernbert"})
"""Architectures whose attention goes through Hugging Face's interface, with position ids that may restart."""

_MASKED = frozenset({"albert", "camembert", "deberta-v2", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"})
"""Architectures that take a mask over pairs of tokens."""

_WARNED: set[str] = set()


def choose_pair_attention(wanted: PairAttention | None, scoring: Scoring) -> PairAttention:
    """Settle the kind of attention of a new model, by default ``joint``; only ``pair`` has a choice (else
    ConfigError)."""
    if scoring == "dual" and wanted not in (None, "joint"):
        raise ConfigError(f"pair attention {wanted!r} belongs to pair scoring, got dual: add --scoring pair")
    return wanted or "joint"


def set_up_pair_attention(backbone: Any, attention: PairAttention) -> bool:
    """Make a backbone ready for a kind of pair attention, in place.

    Args:
        backbone: the base's; for ``shared``, its attention is replaced by one that can do the shared pass and is
            otherwise PyTorch's own.

    Returns:
        whether pairs share their history's encoding; not where the fast pass is switched off.

    Raises:
        ConfigError: unknown kind.
        ModelError: the base mixes neighbouring tokens by a convolution, so no mask keeps the history apart.
    """
    if attention not in PAIR_ATTENTIONS:
        raise ConfigError(f"unknown pair attention {attention!r}: choose one of {', '.join(PAIR_ATTENTIONS)}")
    if attention == "joint":
        return False
    kind = backbone.config.model_type
    if kind not in _SHARING | _MASKED:
        raise ModelError(
            f"{kind} bases take no mask that lets a candidate see its history and not the other way: use "
            "--pair-attention joint (in a decoder a history never sees what comes after it)"
        )
    if getattr(getattr(backbone, "encoder", None), "conv", None) is not None:
        raise ModelError(
            f"this {kind} base mixes neighbouring tokens by a convolution, so its history sees the candidate "
            "whatever the mask: use --pair-attention joint"
        )
    if kind in _SHARING:
        backbone.set_attn_implementation(_NAME)
        return switched_on()
    if kind == "deberta-v2":
        backbone.embeddings.register_forward_pre_hook(_flatten_mask, with_kwargs=True)
    if kind not in _WARNED:
        _WARNED.add(kind)
        _LOG.warning(
            "%s bases cannot share a history's encoding: each (history, candidate) pair is encoded by itself, "
            "which gives the scores of shared attention at the price of joint",
            kind,
        )
    return False


def _flatten_mask(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """DeBERTa's embedding layer gets the attention's mask and wants only to know which tokens are padding."""
    mask = kwargs.get("mask")
    flat = mask.amax(1) if mask is not None and mask.ndim == 3 else mask
    return args, {**kwargs, "mask": flat}


def attention_arguments(backbone: nn.Module, features: Mapping[str, Any], attention: PairAttention) -> dict[str, Any]:
    """What a backbone needs beside the token ids.

    Args:
        backbone: the base's, its adapters in place.
        features: tokenized texts, pairs in rows (``attention_mask``, ``segments``), or pairs that share their
            histories (see :meth:`xcrossrec.models.tokens.PromptTokenizer.encode_shared`).
    """
    config: Any = backbone.config
    if "candidate" in features:
        mask = {"full_attention": None, "sliding_attention": None} if config.model_type == "modernbert" else None
        layout = SharedLayout(features["history"][0], features["candidate"][0], features["position_ids"][0])
        return {"attention_mask": mask, "position_ids": features["position_ids"], "shared_layout": layout}
    mask = features["attention_mask"]
    if attention == "joint" or not bool((features.get("segments", mask) < 0).any()):
        return {"attention_mask": mask}
    dtype = next(backbone.parameters()).dtype
    return {"attention_mask": _backbone_mask(config, pair_mask(features["segments"], mask), dtype)}


def repeat_rows(value: Any, count: int) -> Any:
    """Repeat a tensor, or every tensor of nested dictionaries, along its first axis, once a stream."""
    if isinstance(value, dict):
        return {key: repeat_rows(each, count) for key, each in value.items()}
    return value.repeat(count, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value


def pair_mask(
    segments: Int[Tensor, "batch token"], mask: Int[Tensor, "batch token"]
) -> Bool[Tensor, "batch token token"]:
    """Which token (second axis) sees which (third): all see the history, the candidate's tokens (negative segments, its
    end included) each other too, and nobody sees padding (mask 0)."""
    candidate = segments < 0
    visible = ~candidate[:, None, :] | candidate[:, :, None]
    return visible & mask.bool()[:, None, :]


def _backbone_mask(config: Any, visible: Bool[Tensor, "batch token token"], dtype: torch.dtype) -> Any:
    """The mask in the form that the architecture takes."""
    kind = config.model_type
    if kind == "deberta-v2":
        return visible.long()
    four = visible[:, None]
    if kind == "modernbert":
        index = torch.arange(visible.shape[1], device=visible.device)
        near = (index[:, None] - index[None, :]).abs() <= config.sliding_window
        return {"full_attention": four, "sliding_attention": four & near}
    far = max(FAR, torch.finfo(dtype).min)
    return torch.zeros_like(four, dtype=dtype).masked_fill(~four, far) if kind == "mpnet" else four


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_layout: SharedLayout | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """What Hugging Face calls: PyTorch's attention, or the shared pass where a layout comes with the call."""
    if shared_layout is None:
        kwargs |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        plain: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return plain
    # ModernBERT hands over flash attention's window, which is one more than the farthest position seen
    window = None if sliding_window is None else sliding_window - 1
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key, value = _in_autocast_type(query, key, value)
    states = shared_attention(query, key, value, shared_layout, scale=scale, dropout=dropout, window=window)
    return states.reshape(query.shape[0], query.shape[2], -1), None


def _in_autocast_type(*states: Tensor) -> tuple[Tensor, ...]:
    """Cast to autocast's type where it is on, as PyTorch's own attention does: some adapters (X-LoRA) give float32
    projections beside frozen ones in bfloat16."""
    kind = states[0].device.type
    if not torch.is_autocast_enabled(kind):
        return states
    return tuple(one.to(torch.get_autocast_dtype(kind)) for one in states)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
