"""Vectors as 8-bit integers, with a proven bound on what that costs.

A quarter of the bytes, and integer products that processors with VNNI do at memory speed. What they give is not the
cosine, but no further from it than :meth:`Codes.error_of`, so that a search over codes can be made exact by looking
again at the few items within twice that.

Legend: ``item`` = one item of the catalogue, ``slot`` = one query vector, ``dim`` = vector size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float32, Int8
from torch import Tensor

_LARGEST = 127
_BLOCK = 65_536
"""Items quantised at a time."""


@dataclass(frozen=True)
class Codes:
    """A catalogue's vectors x, each written as ``scale * values``.

    Attributes:
        values: integers from -127 to 127.
        scale: one a vector.
        error: the largest ``|x - scale * values|`` (Euclidean).
        length: the largest ``|x|``.
    """

    values: Int8[Tensor, "item dim"]
    scale: Float32[Tensor, " item"]
    error: float
    length: float

    def products(
        self, values: Int8[Tensor, "slot dim"], scale: Float32[Tensor, " slot"], start: int, end: int
    ) -> Float32[Tensor, "slot part"]:
        """Approximate inner products of quantised queries with the items from ``start`` to ``end``."""
        whole = torch._int_mm(values, self.values[start:end].t())
        return whole.to(torch.float32).mul_(self.scale[None, start:end]).mul_(scale[:, None])

    def error_of(self, queries: Float32[Tensor, "slot dim"], quantised: Codes) -> float:
        """How far :meth:`products` can be from the inner products, at most.

        ``<x, q> - <x', q'> = <x - x', q> + <x', q - q'>``, and each is at most the product of the lengths.
        """
        return self.error * quantised.length + (self.length + self.error) * quantised.error


def quantise(vectors: Float32[Tensor, "item dim"]) -> Codes:
    """Write vectors as integers; each vector has a scale of its own.

    Args:
        vectors: finite, of any length.
    """
    values = torch.empty(vectors.shape, dtype=torch.int8)
    scale = torch.empty(len(vectors))
    error = length = 0.0
    for start in range(0, len(vectors), _BLOCK):
        block = vectors[start : start + _BLOCK]
        step = (block.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole = (block / step[:, None]).round_()
        values[start : start + _BLOCK] = whole.to(torch.int8)
        scale[start : start + _BLOCK] = step
        error = max(error, float((whole.mul_(step[:, None]) - block).norm(dim=1).max()))
        length = max(length, float(block.norm(dim=1).max()))
    return Codes(values, scale, error, length)


@cache
def processor_multiplies_integers() -> bool:
    """Whether 8-bit products are quick and right here: AVX-512, and a sample with the largest values is exact.

    Without VNNI a library may add pairs of products in 16 bits, where they can overflow.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    left = torch.full((2, 64), _LARGEST, dtype=torch.int8)
    right = torch.full((64, 64), -_LARGEST, dtype=torch.int8)
    right[::2] = _LARGEST
    try:
        found = torch._int_mm(left, right.t())
    except (AttributeError, RuntimeError):  # a private operator: it may be gone
        return False
    return torch.equal(found.long(), left.long() @ right.long().t())
