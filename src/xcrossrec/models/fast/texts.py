"""Texts without padding: how they lie one after another, and the attention of each to itself.

Legend: ``token`` = a token of any text, ``batch`` = text, ``slot`` = position in a padded text, ``dim`` = size of a
token's state or, with ``head``, of a head's part of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

_SHORT = 128
"""Tokens of a text up to which attention is computed by plain products."""

_FEW_SLOTS = 512
"""Slots, padding included, up to which texts of different lengths attend as one padded matrix."""

_LEVELS = 2**16
"""Values of 16 random bits."""

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""Maps query, key and value (token, dim), the number of heads and the share of the attention weights to drop to the
attended values (token, dim)."""


@dataclass(frozen=True)
class PackedTexts:
    """Texts without padding, shortest first.

    Attributes:
        place: per token its place in the flattened padded batch.
        groups: per length: number of texts, and the length in tokens.
    """

    place: Int[Tensor, " token"]
    groups: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, mask: Int[Tensor, "batch slot"]) -> PackedTexts | None:
        """Lay out a padded batch; None if its texts do not all start at the left and run without a gap."""
        lengths = mask.sum(1)
        slots = torch.arange(mask.shape[1], device=mask.device)
        filled = slots < lengths[:, None]
        if not torch.equal(filled, mask.bool()) or not bool((lengths > 0).all()):
            return None
        order = torch.argsort(lengths, stable=True)
        start = order[:, None] * mask.shape[1]
        place = (start + slots)[filled[order]]
        sizes, counts = torch.unique_consecutive(lengths[order], return_counts=True)
        return cls(place, tuple(zip(counts.tolist(), sizes.tolist(), strict=True)))

    def parts(self, tokens: int) -> list[PackedTexts]:
        """Cut into consecutive parts of at most so many tokens (at least one text each)."""
        parts: list[PackedTexts] = []
        groups: list[tuple[int, int]] = []
        start = end = 0
        for count, length in self.groups:
            while count:
                fits = min(count, max(0, tokens - (end - start)) // length) or (0 if groups else 1)
                if fits == 0:
                    parts.append(PackedTexts(self.place[start:end], tuple(groups)))
                    groups, start = [], end
                    continue
                groups.append((fits, length))
                end += fits * length
                count -= fits
        return [*parts, PackedTexts(self.place[start:end], tuple(groups))]

    @property
    def few(self) -> bool:
        """Whether so little text is here that the number of calls costs more than padding does."""
        return sum(count for count, _ in self.groups) * self.groups[-1][1] <= _FEW_SLOTS

    def attention(self, bias: Callable[[int], Tensor] | None = None) -> Attention:
        """Attention of each text to itself, for one stream's tokens; ``bias`` gives, for a length, what is added to the
        scores (one, head, length, length)."""

        def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
            sizes = [count * length for count, length in self.groups]
            parts = zip(
                query.split_with_sizes(sizes), key.split_with_sizes(sizes), value.split_with_sizes(sizes), strict=True
            )
            out = []
            for (count, length), part in zip(self.groups, parts, strict=True):
                q, k, v = (states.view(count, length, heads, -1).transpose(1, 2) for states in part)
                states = attend_texts(q, k, v, None if bias is None else bias(length), dropout)
                out.append(states.transpose(1, 2).reshape(count * length, -1))
            return out[0] if len(out) == 1 else torch.cat(out)

        return attend

    def padded_attention(self, streams: int, bias: Callable[[int], Tensor] | None = None) -> Attention:
        """The same for so many streams, whose tokens follow each other, all in one padded matrix."""
        longest = self.groups[-1][1]
        lengths = torch.tensor([length for count, length in self.groups for _ in range(count)] * streams)
        present = torch.arange(longest)[None, :] < lengths[:, None]
        place = present.flatten().nonzero()[:, 0]
        index = torch.zeros(present.numel(), dtype=torch.long).index_copy(0, place, torch.arange(len(place)))
        mask = torch.zeros(present.shape).masked_fill(~present, -torch.inf)[:, None, None, :]
        mask = mask if bias is None else mask + bias(longest)

        def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
            q, k, v = (
                states[index].view(len(lengths), longest, heads, -1).transpose(1, 2) for states in (query, key, value)
            )
            return attend_texts(q, k, v, mask, dropout).transpose(1, 2).reshape(present.numel(), -1)[place]

        return attend


def attend_texts(
    query: Float[Tensor, "batch head slot dim"],
    key: Float[Tensor, "batch head slot dim"],
    value: Float[Tensor, "batch head slot dim"],
    added: Float[Tensor, "#batch #head #slot slot"] | None,
    dropout: float,
) -> Float[Tensor, "batch head slot dim"]:
    """Attention of texts of one length; for short ones by plain products, which PyTorch's fused kernel does not
    reach on the CPU (half the time, in bf16 with gradients a tenth; measured in lab/log)."""
    if query.shape[2] > _SHORT:
        mask = None if added is None else added.to(query.dtype)
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    weights = (scores if added is None else scores + added).softmax(-1)
    attended: Tensor = dropped(weights.to(value.dtype), dropout) @ value
    return attended


def dropped(states: Tensor, share: float) -> Tensor:
    """Drop a ``share`` of the entries, while the others grow to keep the mean: on the CPU by 16 random bits each
    (``share`` to 1 in 65,536), a fifth of the time of PyTorch's; on other devices as PyTorch does it."""
    if states.device.type != "cpu":
        return nn.functional.dropout(states, share)
    count = round(share * _LEVELS)
    if count in (0, _LEVELS):
        return states if count == 0 else states * 0
    words = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = words.view(torch.int16)[: states.numel()].view(states.shape)
    kept = (levels >= count - _LEVELS // 2).to(states.dtype)
    return states * kept.mul_(_LEVELS / (_LEVELS - count))
