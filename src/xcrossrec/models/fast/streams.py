"""Streams through the layers, mixed in between.

oneDNN makes a kernel for every number of rows that it meets, and keeps the last 1,024: some milliseconds and half a
megabyte each (measured in lab/log). Where no gradient is kept, spare rows make these numbers few.

Legend: ``token`` = a token of any text, ``rows`` = tokens of all streams and spare ones, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.fast.texts import Attention, PackedTexts
from xcrossrec.models.xcross.integrator import IntegratedLayer

States: TypeAlias = Sequence[Float[Tensor, "token dim"]]
"""One tensor a stream."""

_SIZES = 5  # up to 2^5 all numbers of rows are used; above, half as many from each power of two to the next


@dataclass(frozen=True)
class StreamRunner:
    """Runs streams through layers; the output of the last one is not mixed yet.

    Attributes:
        mixers: after each of the last layers, what mixes the streams; none for a single stream.
        bias: as for :meth:`PackedTexts.attention`.
    """

    layers: Sequence[Layer]
    heads: int
    mixers: Sequence[IntegratedLayer]
    dtype: torch.dtype
    bias: Callable[[int], Tensor] | None = None

    @property
    def first_mixed(self) -> int:
        """The first layer after which streams are mixed."""
        return len(self.layers) - len(self.mixers)

    def over_texts(self, streams: States, texts: PackedTexts, numbers: range) -> States:
        """Run these layers over texts that stand apart, as is faster for so many."""
        attend = texts.padded_attention(len(streams), self.bias) if texts.few else texts.attention(self.bias)
        return self.run(streams, attend, numbers, together=texts.few)

    def run(self, streams: States, attend: Attention, numbers: range, *, together: bool = False) -> States:
        """Run layers.

        Args:
            streams: the embedding layer's output, or that of the layer before, not mixed yet.
            attend: who sees whom.
            numbers: the layers to run, one after another.
            together: the streams' tokens one after another, in fewer, larger products; else stream by stream.
        """
        count, tokens = len(streams), len(streams[0])
        streams, attend = _with_spare_rows(streams, attend, count if together else 1)
        for number in numbers:
            mixed, layer = self.mixed(streams, number - 1), self.layers[number]
            if together and count > 1:
                streams = layer.run(torch.cat(list(mixed)), None, attend, self.heads, self.dtype).chunk(count)
            else:
                streams = [layer.run(x, stream, attend, self.heads, self.dtype) for stream, x in enumerate(mixed)]
        return [x[:tokens] if len(x) > tokens else x for x in streams]

    def mixed(self, streams: States, number: int) -> States:
        """Mix the output of a layer, where it has something that does."""
        mixes = self.mixers and number >= self.first_mixed
        return self.mixers[number - self.first_mixed].mix(streams) if mixes else streams


def _with_spare_rows(streams: States, attend: Attention, together: int) -> tuple[Sequence[Tensor], Attention]:
    """Add rows to each stream, which attend to themselves alone; ``attend`` gets those of so many streams at once."""
    tokens = len(streams[0])
    spare: int = -tokens % (1 << max(0, (tokens - 1).bit_length() - _SIZES))
    if torch.is_grad_enabled() or not spare:
        return streams, attend

    def beside(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
        rows = [x.view(together, -1, x.shape[-1]) for x in (query, key, value)]
        q, k, v = (x[:, :tokens].flatten(0, 1) for x in rows)
        states = attend(q, k, v, heads, dropout).view(together, tokens, -1)
        return torch.cat([states, rows[-1][:, tokens:]], 1).flatten(0, 1)

    return [pad(x, (0, 0, 0, spare)) for x in streams], beside
