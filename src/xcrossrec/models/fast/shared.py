"""Attention of pairs whose history is encoded once: all tokens of a batch in one row without padding.

It is computed in three parts (histories to themselves, candidates to their history, each candidate to itself); the
last two are merged into one softmax.

Legend: ``token`` = position in the row of all tokens, ``row`` = stream, ``group`` = history, or candidate,
``slot`` = a group's token, padded, ``dim`` = size of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from xcrossrec.models.fast import switched_on
from xcrossrec.models.fast.native import WithTotal, attention_gives_totals, attention_with_total
from xcrossrec.models.fast.texts import dropped

FAR = -1e9
"""Added to the score of what must not be seen; finite, so that a query that sees nothing is no NaN."""

_MATRICES = 4
"""Matrices, at most, that histories (or candidates) are padded in; one has the longest text's length for all."""

_GROUPS_A_MATRIX = 4
"""Fewest groups for a matrix of their own."""


@dataclass(frozen=True)
class Block:
    """Some groups of like length as a padded matrix.

    Attributes:
        index: the token in each slot; 0 where the slot is empty.
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
        place: per token, in the row's order, its slot in the flattened matrices, one after another.
    """

    parts: tuple[Block, ...]
    place: Int[Tensor, " token"]

    @classmethod
    def of(cls, group: Int[Tensor, " token"], first: int, members: Sequence[Int[Tensor, " _"]]) -> Blocks:
        """Lay out tokens; those of a group keep their order.

        Args:
            group: each token's group, in any order.
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
        history: each token's history, from 0; tokens of histories come first.
        candidate: each token's candidate, from 0; -1 for tokens of histories.
        position: each token's position in its text.

    Attributes:
        history: tokens of histories, by history.
        seeing: tokens of candidates, by the history that they see; as many matrices, of the same groups.
        own: tokens of candidates, by candidate.
    """

    def __init__(
        self, history: Int[Tensor, " token"], candidate: Int[Tensor, " token"], position: Int[Tensor, " token"]
    ) -> None:
        split = int((candidate < 0).sum())
        past, seen, own = history[:split], history[split:], candidate[split:]
        by_history = _of_like_size(torch.bincount(past, minlength=int(history.max()) + 1))
        by_candidate = _of_like_size(torch.bincount(own, minlength=int(candidate.max()) + 1))
        self.history = Blocks.of(past, 0, by_history)
        self.seeing = Blocks.of(seen, split, by_history)
        self.own = Blocks.of(own, split, by_candidate)
        self.position = position
        self._masks: dict[tuple[int, int, int, int | None], Tensor | None] = {}

    def mask(
        self, queries: Block, keys: Block, rows: int, window: int | None
    ) -> Float[Tensor, "rowgroup one query key"] | None:
        """What to add to the scores of a part, of blocks of the same groups: nothing for what is seen, :data:`FAR` for
        the rest; what is farther than ``window`` positions is not seen."""
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
        added = torch.zeros_like(visible, dtype=torch.float32).masked_fill(~visible, FAR)
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
        scale: factor of the dot products.
        dropout: share of the attention weights dropped.
        window: farthest position that is seen; None for all.
    """
    rows = query.shape[0]
    history, seeing, own = layout.history, layout.seeing, layout.own

    def padded(keys: Blocks) -> list[tuple[Tensor, Tensor]]:
        return [(block.pad(key), block.pad(value)) for block in keys.parts]

    def part(queries: Blocks, keys: Blocks, states: Sequence[tuple[Tensor, Tensor]]) -> WithTotal:
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
    share = torch.sigmoid(to_history[1] - to_own[1]).to(to_own[0].dtype)  # one softmax over the keys of both parts
    return torch.cat([to_itself, share * to_history[0] + (1 - share) * to_own[0]], 1)


def _attend(
    query: Float[Tensor, "rowgroup head query dim"],
    key: Float[Tensor, "rowgroup head key dim"],
    value: Float[Tensor, "rowgroup head key dim"],
    mask: Float[Tensor, "rowgroup one #query key"] | None,
    scale: float,
    dropout: float,
) -> WithTotal:
    """Attention's output and, per query, the logarithm of the softmax's denominator."""
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad)
    plain = query.device.type == "cpu" and not needs_gradient and dropout == 0.0
    if plain and switched_on() and attention_gives_totals(query.dtype):
        return attention_with_total(query, key, value, None if mask is None else mask.to(query.dtype), scale)
    scores = (query * scale) @ key.transpose(-1, -2)
    scores = scores.float() if mask is None else scores + mask
    weights, total = _SoftmaxWithTotal.apply(scores)  # type: ignore[no-untyped-call]
    return dropped(weights.to(value.dtype), dropout) @ value, total


class _SoftmaxWithTotal(torch.autograd.Function):
    """Softmax over the last axis and the logarithm of its denominator, from one round of exponentials: they are a
    quarter of a training step's time on the CPU where each of the two, and the backward pass, computes its own."""

    @staticmethod
    def forward(ctx: Any, scores: Float[Tensor, "*batch query key"]) -> WithTotal:
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
