"""Streams through the layers, mixed in between.

Legend: ``token`` = a token of any text, ``rows`` = tokens of all streams, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.fast.texts import Attention, PackedTexts
from xcrossrec.models.xcross.integrator import IntegratedLayer

States: TypeAlias = Sequence[Float[Tensor, "token dim"]]
"""One tensor a stream."""


@dataclass(frozen=True)
class StreamRunner:
    """Runs streams through layers; the output of the last one is not mixed yet.

    Attributes:
        mixers: after each of the last layers, what mixes the streams; none for a single stream.
        bias: gives, for a text's length, what is added to the scores (one, head, length, length).
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
        if texts.few:
            return self._together(streams, texts.padded_attention(len(streams), self.bias), numbers)
        return self.apart(streams, texts.attention(self.bias), numbers)

    def apart(self, streams: States, attend: Attention, numbers: range) -> States:
        """Run one stream after the other.

        Args:
            streams: the embedding layer's output, or that of the layer before, not mixed yet.
            attend: who sees whom.
            numbers: the layers to run, one after another.
        """
        for number in numbers:
            streams = self.mixed(streams, number - 1)
            layer = self.layers[number]
            streams = [layer.run(x, stream, attend, self.heads, self.dtype) for stream, x in enumerate(streams)]
        return streams

    def _together(self, streams: States, attend: Attention, numbers: range) -> States:
        """Run layers with the streams' tokens one after another: fewer, larger products."""
        count = len(streams)
        for number in numbers:
            mixed = self.mixed(streams, number - 1)
            rows = mixed[0] if count == 1 else torch.cat(list(mixed))
            streams = self.layers[number].run(rows, None, attend, self.heads, self.dtype).chunk(count)
        return streams

    def mixed(self, streams: States, number: int) -> States:
        """Mix the output of a layer, where it has something that does."""
        mixes = self.mixers and number >= self.first_mixed
        return self.mixers[number - self.first_mixed].mix(streams) if mixes else streams
