"""The fast pass itself: tokens without padding, adapters folded in, streams apart.

The same function as the layers of transformers with stacked adapters and integrators, computed differently:

- texts stand one after another, sorted by length, so linear layers see no padding and attention runs over
  texts of one length without a mask (:mod:`xcrossrec.models.fast.texts`);
- in each stream the frozen LoRA update is added to the weight it belongs to (the other weights stay shared); a single
  stream's LoRA that trains is multiplied beside it (:mod:`xcrossrec.models.fast.folded`);
- products, GELU and residuals are fused (:mod:`xcrossrec.models.fast.linear`), streams are never copied together;
- in training, what lies below all that trains is computed once per text (:class:`KeptStates`).

Legend: ``token`` = a token of any text, ``source`` = stream, ``batch`` = text, ``slot`` = position in a padded
text, ``place`` = slot of any text, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from xcrossrec.models.fast.architectures import distance_bias, plain_layer, unwrapped
from xcrossrec.models.fast.folded import FoldedLayers, Versions, versions
from xcrossrec.models.fast.layers import dropout_share, without_dropout
from xcrossrec.models.fast.shared import SharedLayout, shared_attention
from xcrossrec.models.fast.streams import States, StreamRunner
from xcrossrec.models.fast.texts import PackedTexts, dropped
from xcrossrec.models.xcross.integrator import IntegratedLayer

_TOKENS_AT_ONCE = 4096
"""Tokens of all streams that go through the layers together where no gradient is kept: their states stay in the
processor's cache, and memory does not grow with the batch (measured in lab/log)."""

Combine: TypeAlias = Callable[[Sequence[Tensor]], Tensor]
"""Makes one state a token of the streams' last states."""


@dataclass(frozen=True)
class NumberTypes:
    """Types of a pass's numbers: what matrices are multiplied in, and that of all states between the products."""

    products: torch.dtype
    states: torch.dtype


_KEPT_BYTES = 2**30
"""Bytes of texts' states that are kept in training (at most)."""

TextStates: TypeAlias = Float[Tensor, "source token dim"]

TextKey: TypeAlias = tuple[bytes, NumberTypes]
"""What a text's kept states depend on, besides the weights: its token ids and the types of numbers."""


@dataclass
class KeptStates:
    """What training keeps of texts, up to a number of bytes: their states below all that trains.

    With several streams only what mixes them trains, so each stream's output of the first mixed layer is a fixed
    function of the text. It is computed when a text first comes, and looked up after that.
    """

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
        types: NumberTypes,
        compute: Callable[[Int[Tensor, "batch slot"], Int[Tensor, " batch"]], Iterator[TextStates]],
    ) -> TextStates:
        """The states of all tokens: those kept, the others computed.

        Args:
            compute: gives, a text at a time, the states of other ids and their texts' lengths, shortest first.
        """
        lengths = [length for count, length in texts.groups for _ in range(count)]
        starts = list(accumulate(lengths, initial=0))
        written = input_ids.flatten()[texts.place].long().numpy()
        keys = [(written[start:end].tobytes(), types) for start, end in pairwise(starts)]
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


class PackedPass:
    """Streams of a known backbone, run without padding; :class:`xcrossrec.models.fast.door.FastPass` decides when, and
    says what backbone and mixers are."""

    def __init__(self, backbone: Any, mixers: Sequence[IntegratedLayer]) -> None:
        self.backbone = backbone
        self.streams = mixers[0].integrator.sources if mixers else 1
        self.mixers = mixers
        self.folded = FoldedLayers(backbone, mixers)
        self.kept = KeptStates()

    def __getstate__(self) -> dict[str, Any]:
        """Leave kept states out of pickles and deep copies."""
        return {**self.__dict__, "kept": KeptStates()}

    def of_texts(
        self,
        input_ids: Int[Tensor, "batch slot"],
        texts: PackedTexts,
        types: NumberTypes,
        combine: Combine,
        *,
        keep: bool,
    ) -> Float[Tensor, "batch slot dim"]:
        """Encode a padded batch; zero where there is padding. In training what lies below all that trains is kept for
        the next time that a text comes, where ``keep`` says so."""
        runner = self._runner(types.products)
        last = len(runner.layers) - 1
        done = []
        if keep and self._can_keep():
            streams = self._kept_states(input_ids, texts, types, runner)
            streams = runner.over_texts(streams, texts, range(runner.first_mixed + 1, last + 1))
            done.append(combine(runner.mixed(streams, last)).float())
        else:
            for part, x in self._embedded_parts(input_ids, texts, types):
                streams = runner.over_texts([x] * self.streams, part, range(last + 1))
                done.append(combine(runner.mixed(streams, last)).float())
        states = done[0] if len(done) == 1 else torch.cat(done)
        out = states.new_zeros(input_ids.numel(), states.shape[-1]).index_copy(0, texts.place, states)
        return out.view(*input_ids.shape, -1)

    def of_shared_pairs(
        self, features: Mapping[str, Any], types: NumberTypes, combine: Combine
    ) -> Float[Tensor, "one token dim"]:
        """Encode pairs that share their histories, all in one row, as
        :meth:`xcrossrec.models.tokens.PromptTokenizer.encode_shared` gives them."""
        layout = SharedLayout(features["history"][0], features["candidate"][0], features["position_ids"][0])

        def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
            q, k, v = (x.view(1, len(x), heads, -1).transpose(1, 2) for x in (query, key, value))
            attended = shared_attention(q, k, v, layout, scale=q.shape[-1] ** -0.5, dropout=dropout)
            return attended.reshape(len(query), -1)

        embeddings = unwrapped(self.backbone).embeddings
        x = embeddings(input_ids=features["input_ids"], position_ids=features["position_ids"])[0]
        runner = self._runner(types.products)
        count = len(runner.layers)
        streams = runner.run([x.to(types.states)] * self.streams, attend, range(count))
        return combine(runner.mixed(streams, count - 1)).float()[None]

    def _runner(self, dtype: torch.dtype) -> StreamRunner:
        heads = unwrapped(self.backbone).config.num_attention_heads
        return StreamRunner(self.folded.of_type(dtype), heads, self.mixers, dtype, distance_bias(self.backbone))

    def _embedded_parts(
        self, input_ids: Int[Tensor, "batch slot"], texts: PackedTexts, types: NumberTypes
    ) -> Iterator[tuple[PackedTexts, Float[Tensor, "token dim"]]]:
        """The embedding layer's output, in as many parts as run one after another; dropout spares padding."""
        embeddings = unwrapped(self.backbone).embeddings
        share = dropout_share(embeddings.dropout)
        with without_dropout(embeddings.dropout):
            embedded = embeddings(input_ids=input_ids).flatten(0, 1)
        whole = torch.is_grad_enabled()
        for part in [texts] if whole else texts.parts(max(1, _TOKENS_AT_ONCE // self.streams)):
            yield part, dropped(embedded[part.place].to(types.states), share)

    # ---- states kept in training

    def _can_keep(self) -> bool:
        """Whether gradients are kept and the first layer's input depends on nothing but the text."""
        model = unwrapped(self.backbone)
        if not torch.is_grad_enabled() or not self.mixers or model.training:
            return False
        return not any(weight.requires_grad for weight in model.embeddings.parameters())

    def _kept_states(
        self, input_ids: Int[Tensor, "batch slot"], texts: PackedTexts, types: NumberTypes, runner: StreamRunner
    ) -> States:
        """Each stream's states after the first mixed layer, not mixed: those kept, or computed."""
        numbers = range(runner.first_mixed + 1)

        @torch.no_grad()
        def compute(ids: Int[Tensor, "batch slot"], lengths: Int[Tensor, " batch"]) -> Iterator[TextStates]:
            several = PackedTexts.of((torch.arange(ids.shape[1]) < lengths[:, None]).long())
            assert several is not None
            for part, x in self._embedded_parts(ids, several, types):
                streams = runner.over_texts([x] * self.streams, part, numbers)
                sizes = [length for count, length in part.groups for _ in range(count)]
                for states in zip(*(stream.split_with_sizes(sizes) for stream in streams), strict=True):
                    yield torch.stack(states)

        model = unwrapped(self.backbone)
        below = (model.embeddings, *(plain_layer(layer) for layer in model.encoder.layer[: len(numbers)]))
        tensors = (tensor for part in below for tensor in (*part.parameters(), *part.buffers()))
        self.kept.forget_if_changed(versions(tensors))
        return self.kept.of_texts(input_ids, texts, types, compute).unbind(0)
