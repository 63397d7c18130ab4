"""Pairs whose history is encoded once: candidates see the history and themselves, the history sees itself.

Under ``shared`` attention a history's states do not depend on the candidate, so all candidates of one history
can share them, layer by layer. That mask is part of the model's meaning; how it is computed is not:

- *shared pass*: all tokens of a batch stand in one row without padding, each history once. Linear layers and
  integrators act token by token. Attention is computed in three parts (history to itself, candidates to their
  history, each candidate to itself); the last two are merged into one softmax.
- *reference*: one row a pair and a mask over token pairs; for bases whose attention cannot be split like this.

Legend: ``token`` = position in the row of all tokens, ``row`` = stream, ``group`` = history, or candidate,
``slot`` = a group's token, padded, ``batch`` = (history, candidate) text, ``dim`` = size of a head.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models.dropout import dropped
from xcrossrec.types import PAIR_ATTENTIONS, PairAttention, Scoring

DEFAULT_PAIR_ATTENTION: PairAttention = "joint"
"""Of `pair` models on bases that can share histories; on others it is ``joint``."""

_LOG = logging.getLogger(__name__)
_NAME = "xcrossrec_shared_history"
_SHARING = frozenset({"bert", "modernbert"})
"""Architectures whose attention goes through Hugging Face's interface, with position ids that may restart."""

_FAR = -1e9
"""Added to the score of what must not be seen; finite, so that a query that sees nothing is no NaN."""

_MATRICES = 4
"""Matrices, at most, that histories (or candidates) are padded in; one has the longest text's length for all."""

_GROUPS_A_MATRIX = 4
"""Fewest groups for a matrix of their own."""

_WARNED: set[str] = set()

Part: TypeAlias = tuple[Tensor, Tensor]
"""Two tensors; of attention, its output and the logarithm of its softmax's denominator."""


def can_share_history(backbone: nn.Module) -> bool:
    """Whether pairs of one history can share its encoding on this base."""
    return getattr(backbone.config, "model_type", None) in _SHARING


def choose_pair_attention(wanted: PairAttention | None, scoring: Scoring, backbone: nn.Module) -> PairAttention:
    """Settle the kind of attention of a new model.

    Args:
        wanted: the user's choice; None takes the default of a base that can, or cannot, share histories.
        scoring: only ``pair`` has a choice.
        backbone: the base's.

    Raises:
        ConfigError: a choice for ``dual``.
    """
    if scoring == "dual":
        if wanted not in (None, "joint"):
            raise ConfigError(f"pair attention {wanted!r} belongs to pair scoring, got dual: add --scoring pair")
        return "joint"
    return wanted or (DEFAULT_PAIR_ATTENTION if can_share_history(backbone) else "joint")


def set_up_pair_attention(backbone: Any, attention: PairAttention) -> bool:
    """Make a backbone ready for a kind of pair attention, in place.

    Args:
        backbone: the base's; for ``shared``, its attention is replaced by one that can do the shared pass and is
            otherwise PyTorch's own.
        attention: ``joint`` or ``shared``.

    Returns:
        whether pairs share their history's encoding.

    Raises:
        ConfigError: unknown kind.
        ModelError: the base mixes neighbouring tokens by a convolution, so no mask keeps the history apart.
    """
    if attention not in PAIR_ATTENTIONS:
        raise ConfigError(f"unknown pair attention {attention!r}: choose one of {', '.join(PAIR_ATTENTIONS)}")
    if attention == "joint":
        return False
    kind = backbone.config.model_type
    if getattr(getattr(backbone, "encoder", None), "conv", None) is not None:
        raise ModelError(
            f"this {kind} base mixes neighbouring tokens by a convolution, so its history sees the candidate "
            "whatever the mask: use --pair-attention joint"
        )
    if can_share_history(backbone):
        backbone.set_attn_implementation(_NAME)
        return True
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


def attention_arguments(config: Any, features: Mapping[str, Any], attention: PairAttention) -> dict[str, Any]:
    """What a backbone needs beside the token ids.

    Args:
        config: the backbone's.
        features: tokenized texts, pairs in rows (``attention_mask``, ``segments``), or pairs that share their
            histories (see :meth:`xcrossrec.models.tokens.PromptTokenizer.encode_shared`).
        attention: the model's kind.
    """
    if "candidate" in features:
        mask = {"full_attention": None, "sliding_attention": None} if config.model_type == "modernbert" else None
        layout = SharedLayout.of(features["history"][0], features["candidate"][0], features["position_ids"][0])
        return {"attention_mask": mask, "position_ids": features["position_ids"], "shared_layout": layout}
    mask = features["attention_mask"]
    if attention == "joint" or not bool((features.get("segments", mask) < 0).any()):
        return {"attention_mask": mask}
    return {"attention_mask": _backbone_mask(config, pair_mask(features["segments"], mask))}


def repeat_rows(arguments: Mapping[str, Any], count: int) -> dict[str, Any]:
    """Repeat every tensor along its first axis, once a stream."""
    return {key: _repeated(value, count) for key, value in arguments.items()}


def _repeated(value: Any, count: int) -> Any:
    if isinstance(value, Tensor):
        return value.repeat(count, *[1] * (value.ndim - 1))
    return repeat_rows(value, count) if isinstance(value, dict) else value


def pair_mask(
    segments: Int[Tensor, "batch token"], mask: Int[Tensor, "batch token"]
) -> Bool[Tensor, "batch token token"]:
    """Which token (second axis) sees which (third): all see the history, the candidate's tokens each other too.

    Args:
        segments: negative for the candidate's tokens, its end included.
        mask: 0 for padding, which nobody sees.
    """
    candidate = segments < 0
    visible = ~candidate[:, None, :] | candidate[:, :, None]
    return visible & mask.bool()[:, None, :]


def _backbone_mask(config: Any, visible: Bool[Tensor, "batch token token"]) -> Any:
    """The mask in the form that the architecture takes."""
    kind = config.model_type
    if kind == "deberta-v2":
        return visible.long()
    four = visible[:, None]
    if kind == "modernbert":
        index = torch.arange(visible.shape[1], device=visible.device)
        near = (index[:, None] - index[None, :]).abs() <= config.sliding_window
        return {"full_attention": four, "sliding_attention": four & near}
    return torch.zeros_like(four, dtype=torch.float32).masked_fill(~four, _FAR) if kind == "mpnet" else four


@dataclass(frozen=True)
class Block:
    """Some groups of like length as a padded matrix.

    Attributes:
        index: the token in each slot; 0 where the slot is empty.
        present: which slots are filled.
    """

    index: Int[Tensor, "group slot"]
    present: Bool[Tensor, "group slot"]

    def pad(self, states: Float[Tensor, "row head token dim"]) -> Float[Tensor, "rowgroup head slot dim"]:
        """Gather the block's tokens."""
        _, heads, _, dim = states.shape
        gathered = states.transpose(1, 2)[:, self.index.flatten()]
        return gathered.view(-1, self.index.shape[1], heads, dim).transpose(1, 2)


@dataclass(frozen=True)
class Blocks:
    """Consecutive tokens of the row, laid out by group in padded matrices.

    Attributes:
        parts: the matrices.
        place: per token, in the row's order, its slot in the flattened matrices, one after another.
    """

    parts: tuple[Block, ...]
    place: Int[Tensor, " token"]

    @classmethod
    def of(cls, group: Int[Tensor, " token"], first: int, members: Sequence[Int[Tensor, " _"]]) -> Blocks:
        """Lay out tokens.

        Args:
            group: each token's group, in any order; a group's tokens keep theirs.
            first: the first token's number in the row.
            members: the groups of each matrix; every group of ``group`` is in one of them.
        """
        order = torch.argsort(group, stable=True)
        sizes = torch.bincount(group, minlength=sum(map(len, members)))
        starts = sizes.cumsum(0) - sizes
        place = torch.empty_like(group)
        parts, before = [], 0
        for chosen in members:
            longest = int(sizes[chosen].max()) if len(group) else 0
            slot = torch.arange(longest, device=group.device)
            present = slot < sizes[chosen, None]
            tokens = order[(starts[chosen, None] + slot)[present]]
            index = group.new_zeros(present.shape).masked_scatter(present, tokens + first)
            place[tokens] = before + present.flatten().nonzero()[:, 0]
            parts.append(Block(index, present))
            before += present.numel()
        return cls(tuple(parts), place)

    def unpad(self, states: Sequence[Float[Tensor, "_ head _ dim"]], rows: int) -> Float[Tensor, "_ token head dim"]:
        """Bring the matrices' tokens back into the row's order."""
        flat = [part.transpose(1, 2).reshape(rows, -1, part.shape[1], part.shape[3]) for part in states]
        return torch.cat(flat, 1)[:, self.place]


def _of_like_size(sizes: Int[Tensor, " group"]) -> tuple[Int[Tensor, " _"], ...]:
    """Share groups out by size, so that little is padded where they are many."""
    matrices = max(1, min(_MATRICES, len(sizes) // _GROUPS_A_MATRIX))
    return torch.argsort(sizes, stable=True).tensor_split(matrices)


class SharedLayout:
    """Where the tokens of histories and candidates stand in the row, as the parts of attention need them.

    Args:
        history: tokens of histories, by history.
        seeing: tokens of candidates, by the history that they see; as many matrices, of the same groups.
        own: tokens of candidates, by candidate.
        position: each token's position in its text.
    """

    def __init__(self, history: Blocks, seeing: Blocks, own: Blocks, position: Int[Tensor, " token"]) -> None:
        self.history, self.seeing, self.own = history, seeing, own
        self.position = position
        self._masks: dict[tuple[int, int, int, int | None], Tensor | None] = {}

    @classmethod
    def of(
        cls, history: Int[Tensor, " token"], candidate: Int[Tensor, " token"], position: Int[Tensor, " token"]
    ) -> SharedLayout:
        """Find the blocks.

        Args:
            history: each token's history, from 0; tokens of histories come first.
            candidate: each token's candidate, from 0; -1 for tokens of histories.
            position: each token's position in its text.
        """
        split = int((candidate < 0).sum())
        past, seen, own = history[:split], history[split:], candidate[split:]
        by_history = _of_like_size(torch.bincount(past, minlength=int(history.max()) + 1))
        by_candidate = _of_like_size(torch.bincount(own, minlength=int(candidate.max()) + 1))
        return cls(
            Blocks.of(past, 0, by_history),
            Blocks.of(seen, split, by_history),
            Blocks.of(own, split, by_candidate),
            position,
        )

    def mask(
        self, queries: Block, keys: Block, rows: int, window: int | None
    ) -> Float[Tensor, "rowgroup one query key"] | None:
        """What to add to the scores of a part: nothing for what is seen, :data:`_FAR` for the rest.

        Args:
            queries: block of the part's queries.
            keys: block of its keys, of the same groups.
            rows: number of streams.
            window: farthest position that is seen; None for all.
        """
        name = (id(queries), id(keys), rows, window)
        if name not in self._masks:
            self._masks[name] = self._make_mask(queries, keys, rows, window)
        return self._masks[name]

    def _make_mask(self, queries: Block, keys: Block, rows: int, window: int | None) -> Tensor | None:
        if window is None and bool(keys.present.all()):
            return None
        visible = keys.present[:, None, :]
        if window is not None:
            distance = self.position[queries.index][:, :, None] - self.position[keys.index][:, None, :]
            visible = visible & (distance.abs() <= window)
        added = torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, _FAR)
        return added[:, None].repeat(rows, 1, 1, 1)


def shared_attention(
    query: Float[Tensor, "row head token dim"],
    key: Float[Tensor, "row head token dim"],
    value: Float[Tensor, "row head token dim"],
    layout: SharedLayout,
    *,
    scale: float,
    dropout: float = 0.0,
    window: int | None = None,
) -> Float[Tensor, "row token head dim"]:
    """Attention of histories to themselves, and of candidates to their history and themselves.

    Args:
        query: of all tokens, as key and value.
        key: see query.
        value: see query.
        layout: who belongs to whom.
        scale: factor of the dot products.
        dropout: share of the attention weights dropped.
        window: farthest position that is seen; None for all.
    """
    rows = query.shape[0]
    history, seeing, own = layout.history, layout.seeing, layout.own

    def padded(keys: Blocks) -> list[tuple[Tensor, Tensor]]:
        return [(block.pad(key), block.pad(value)) for block in keys.parts]

    def part(queries: Blocks, keys: Blocks, states: Sequence[tuple[Tensor, Tensor]]) -> Part:
        attended = [
            _attend(asking.pad(query), *seen, layout.mask(asking, block, rows, window), scale, dropout)
            for asking, block, seen in zip(queries.parts, keys.parts, states, strict=True)
        ]
        totals = [total[..., None] for _, total in attended]
        return queries.unpad([out for out, _ in attended], rows), queries.unpad(totals, rows)

    past = padded(history)
    to_itself, _ = part(history, history, past)
    to_history = part(seeing, history, past)
    to_own = part(own, own, padded(own))
    return torch.cat([to_itself, _merge(to_history, to_own)], 1)


def _attend(
    query: Float[Tensor, "rowgroup head query dim"],
    key: Float[Tensor, "rowgroup head key dim"],
    value: Float[Tensor, "rowgroup head key dim"],
    mask: Float[Tensor, "rowgroup one #query key"] | None,
    scale: float,
    dropout: float,
) -> Part:
    """Attention's output and, per query, the logarithm of the softmax's denominator."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    if query.device.type == "cpu" and not needs_gradient and dropout == 0.0:
        fused: Part = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, False, attn_mask=None if mask is None else mask.to(query.dtype), scale=scale
        )
        return fused
    scores = (query * scale) @ key.transpose(-1, -2)
    scores = scores.float() if mask is None else scores + mask
    weights, total = _SoftmaxWithTotal.apply(scores)  # type: ignore[no-untyped-call]
    return dropped(weights.to(value.dtype), dropout) @ value, total


class _SoftmaxWithTotal(torch.autograd.Function):
    """Softmax over the last axis and the logarithm of its denominator, from one round of exponentials: they are a
    quarter of a training step's time on the CPU where each of the two, and the backward pass, computes its own."""

    @staticmethod
    def forward(ctx: Any, scores: Float[Tensor, "*batch query key"]) -> Part:
        """Give the weights, and the logarithm from the largest of them."""
        weights = scores.softmax(-1)
        peak, where = scores.max(-1, keepdim=True)
        ctx.save_for_backward(weights)
        return weights, (peak - weights.gather(-1, where).log()).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_weights: Tensor, of_total: Tensor) -> Tensor:
        """The softmax's gradient; the logarithm's is the weights themselves."""
        (weights,) = ctx.saved_tensors
        inner = (of_weights * weights).sum(-1, keepdim=True)
        gradient: Tensor = weights * (of_weights - inner + of_total[..., None])
        return gradient


def _merge(first: Part, second: Part) -> Tensor:
    """One softmax over the keys of both parts."""
    share = torch.sigmoid(first[1] - second[1]).to(first[0].dtype)
    return share * first[0] + (1 - share) * second[0]


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
        plain: tuple[Tensor, None] = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
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
