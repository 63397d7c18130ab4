"""What training keeps of a text: its states below all that trains, because nothing there changes."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

_KEPT_BYTES = 2**30
"""Bytes of texts' states that are kept in training (at most)."""


@dataclass(frozen=True)
class TextKey:
    """What a text's states below all that trains depend on, besides the weights."""

    ids: bytes
    dtype: torch.dtype
    narrow: bool


@dataclass
class KeptStates:
    """States of texts below all that trains, up to a number of bytes."""

    states: dict[TextKey, Float[Tensor, "source token dim"]] = field(default_factory=dict)
    bytes: int = 0

    def add(self, key: TextKey, states: Float[Tensor, "source token dim"]) -> None:
        """Keep a text's states if there is room."""
        size = states.numel() * states.element_size()
        if self.bytes + size <= _KEPT_BYTES:
            self.states[key] = states
            self.bytes += size
