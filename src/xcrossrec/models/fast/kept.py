"""What training keeps of a text: its states below all that trains, because nothing there changes.

With several streams only what mixes them trains, so each stream's output of the first mixed layer is a fixed function
of the text. It is computed when a text first comes, and looked up after that.

Legend: ``source`` = stream, ``batch`` = text, ``slot`` = position in a padded text, ``token`` = a token of any text,
``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xcrossrec.models.fast.folded import Versions
from xcrossrec.models.fast.texts import PackedTexts

_KEPT_BYTES = 2**30
"""Bytes of texts' states that are kept in training (at most)."""

TextStates: TypeAlias = Float[Tensor, "source token dim"]

TextKey: TypeAlias = tuple[bytes, torch.dtype, torch.dtype]
"""What a text's kept states depend on, besides the weights: its ids, the products' type, and that of states."""


@dataclass
class KeptStates:
    """States of texts, up to a number of bytes."""

    states: dict[TextKey, TextStates] = field(default_factory=dict)
    bytes: int = 0
    made_from: Versions = ()

    def forget(self) -> None:
        """Free all states."""
        self.states, self.bytes = {}, 0

    def forget_if_changed(self, made_from: Versions) -> None:
        """Free all states if the weights that they come from are others now."""
        if made_from != self.made_from:
            self.forget()
            self.made_from = made_from

    def of_texts(
        self,
        input_ids: Int[Tensor, "batch slot"],
        texts: PackedTexts,
        dtypes: tuple[torch.dtype, torch.dtype],
        compute: Callable[[Int[Tensor, "batch slot"], Int[Tensor, " batch"]], Iterator[TextStates]],
    ) -> TextStates:
        """The states of all tokens: those kept, the others computed.

        Args:
            dtypes: of products, and of states.
            compute: gives, a text at a time, the states of other ids and their texts' lengths, shortest first.
        """
        lengths = [length for count, length in texts.groups for _ in range(count)]
        starts = list(accumulate(lengths, initial=0))
        written = input_ids.flatten()[texts.place].long().numpy()
        keys = [(written[start:end].tobytes(), *dtypes) for start, end in pairwise(starts)]
        missing = {key: number for number, key in enumerate(keys) if key not in self.states}
        found = {key: self.states[key] for key in keys if key not in missing}
        if missing:
            rows = texts.place[[starts[number] for number in missing.values()]] // input_ids.shape[1]
            sizes = torch.tensor([lengths[number] for number in missing.values()])
            for key, states in zip(missing, compute(input_ids[rows, : int(sizes[-1])], sizes), strict=True):
                found[key] = states
                size = states.numel() * states.element_size()
                if self.bytes + size <= _KEPT_BYTES:
                    self.states[key] = states
                    self.bytes += size
        return torch.cat([found[key] for key in keys], dim=1)
