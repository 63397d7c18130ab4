"""The fast pass of BERT-like bases: tokens without padding, adapters folded in, streams apart.

The same function as the Hugging Face layers with stacked adapters and integrators, computed differently:

- texts stand one after another, sorted by length, so linear layers see no padding and attention runs over
  texts of one length without a mask;
- in each stream the frozen LoRA update is added to the weight it belongs to (the other weights stay shared); one that
  trains, a single stream's or the target's own, is multiplied beside it;
- products, GELU and residuals are fused (:mod:`xcrossrec.models.linear`), streams are never copied together;
- in training, what lies below all that trains is computed once per text and kept, because nothing there changes.

Legend: ``token`` = a token of any text, ``source`` = stream, ``batch`` = text, ``slot`` = position in a padded
text, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeAlias

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from transformers.activations import ACT2FN

from xcrossrec.models.adapters import StackedLoraLinear, TargetLora
from xcrossrec.models.dropout import dropped
from xcrossrec.models.linear import FrozenLinear, Gelu, adapted_product, frozen_product, laid_out, packed_for_onednn
from xcrossrec.models.shared_history import SharedLayout, shared_attention

_TOKENS_AT_ONCE = 4096
"""Tokens of all streams that go through the layers together where no gradient is kept: their states stay in the
processor's cache, and memory does not grow with the batch (measured in LOG.md)."""

_SHORT = 128
"""Tokens of a text up to which attention is computed by plain products."""

_FEW_SLOTS = 512
"""Slots, padding included, up to which texts of different lengths attend as one padded matrix."""

_KEPT_BYTES = 2**30
"""Bytes of texts' states that are kept in training (at most)."""

_GELUS: dict[str, Gelu] = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh", "gelu_python": "none"}

Attention: TypeAlias = Callable[[Tensor, Tensor, Tensor, int, float], Tensor]
"""Maps query, key and value (token, dim), the number of heads and the share of the attention weights to drop to the
attended values (token, dim)."""


@dataclass(frozen=True)
class _Names:
    """Where an architecture keeps the parts of a layer."""

    query: str
    key: str
    value: str
    out: str
    attention_norm: str
    attention_dropout: str
    out_dropout: str

    @property
    def linears(self) -> tuple[str, ...]:
        """All linear layers."""
        return (self.query, self.key, self.value, self.out, "intermediate.dense", "output.dense")


_BERT = _Names(
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "attention.output.LayerNorm",
    "attention.self.dropout",
    "attention.output.dropout",
)
_MPNET = _Names(
    "attention.attn.q",
    "attention.attn.k",
    "attention.attn.v",
    "attention.attn.o",
    "attention.LayerNorm",
    "attention.attn.dropout",
    "attention.dropout",
)
ARCHITECTURES = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT, "mpnet": _MPNET}
"""Post-norm encoders with absolute positions at the bottom (and MPNet's bias by distance in attention)."""


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
        """Attention of each text to itself, for one stream's tokens.

        Args:
            bias: gives, for a length, what is added to the scores (one, head, length, length).
        """

        def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
            sizes = [count * length for count, length in self.groups]
            parts = zip(
                query.split_with_sizes(sizes), key.split_with_sizes(sizes), value.split_with_sizes(sizes), strict=True
            )
            out = []
            for (count, length), part in zip(self.groups, parts, strict=True):
                q, k, v = (states.view(count, length, heads, -1).transpose(1, 2) for states in part)
                states = _attend(q, k, v, None if bias is None else bias(length), dropout)
                out.append(states.transpose(1, 2).reshape(count * length, -1))
            return out[0] if len(out) == 1 else torch.cat(out)

        return attend

    def padded_attention(self, streams: int, bias: Callable[[int], Tensor] | None = None) -> Attention:
        """Attention of each text to itself, all streams' tokens in one padded matrix.

        Args:
            streams: number of streams; their tokens follow each other.
            bias: as for :meth:`attention`.
        """
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
            return _attend(q, k, v, mask, dropout).transpose(1, 2).reshape(present.numel(), -1)[place]

        return attend


def _attend(
    query: Float[Tensor, "batch head slot dim"],
    key: Float[Tensor, "batch head slot dim"],
    value: Float[Tensor, "batch head slot dim"],
    added: Float[Tensor, "#batch #head #slot slot"] | None,
    dropout: float,
) -> Float[Tensor, "batch head slot dim"]:
    """Attention of texts of one length; for short ones by plain products, which PyTorch's fused kernel does not
    reach on the CPU (half the time, in bf16 with gradients a tenth; measured in LOG.md)."""
    if query.shape[2] > _SHORT:
        mask = None if added is None else added.to(query.dtype)
        return nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
    scores = (query @ key.transpose(-1, -2)).float() * query.shape[-1] ** -0.5
    weights = (scores if added is None else scores + added).softmax(-1)
    attended: Tensor = dropped(weights.to(value.dtype), dropout) @ value
    return attended


class Mixer(Protocol):
    """What mixes the streams after a layer, such as an integrator."""

    def mix(self, hidden: Sequence[Tensor]) -> Sequence[Tensor]:
        """Refine the streams."""
        ...

    def mixing_parameters(self) -> Iterator[nn.Parameter]:
        """Its own parameters."""
        ...


@dataclass(frozen=True)
class Update:
    """A LoRA update that trains: ``scaling * up @ down``, added to a weight."""

    down: Float[Tensor, "rank inside"]
    up: Float[Tensor, "outside rank"]
    scaling: float


@dataclass(frozen=True)
class Weights:
    """One linear layer in one stream: what is frozen, and what trains beside it."""

    weight: Float[Tensor, "outside inside"]
    bias: Float[Tensor, " outside"] | None
    update: Update | None = None


@dataclass(frozen=True)
class _Dropouts:
    """The layer's own dropout modules, which know whether they train."""

    attention: nn.Dropout
    out: nn.Dropout
    down: nn.Dropout


@dataclass(frozen=True)
class _Layer:
    """One layer's parts: those that adapters change, one a stream; the others once."""

    query: list[Weights]
    key: list[Weights]
    value: list[Weights]
    out: list[Weights]
    up: list[Weights]
    down: list[Weights]
    attention_norm: nn.LayerNorm
    output_norm: nn.LayerNorm
    activation: str
    dropouts: _Dropouts

    def run(
        self, x: Float[Tensor, "token dim"], stream: int | None, attend: Attention, heads: int, dtype: torch.dtype
    ) -> Float[Tensor, "token dim"]:
        """Run one stream, or all of them one after another in ``x``; products in ``dtype``, the rest in x's type."""

        def product(states: Tensor, part: Sequence[Weights], **fused: Any) -> Tensor:
            chosen = part if stream is None or len(part) == 1 else [part[stream]]
            return _product(states.to(dtype), chosen, **fused)

        def added(states: Tensor, part: Sequence[Weights], dropout: nn.Dropout, residual: Tensor) -> Tensor:
            if share := _share(dropout):
                return residual + dropped(product(states, part), share)
            return product(states, part, residual=residual)

        narrow = x.to(dtype)
        query, key, value = (product(narrow, part) for part in (self.query, self.key, self.value))
        attended = attend(query, key, value, heads, _share(self.dropouts.attention))
        h = _normalize(added(attended, self.out, self.dropouts.out, x), self.attention_norm)
        gelu = _GELUS.get(self.activation)
        inner = product(h, self.up, gelu=gelu)
        inner = inner if gelu else ACT2FN[self.activation](inner)
        return _normalize(added(inner, self.down, self.dropouts.down, h), self.output_norm)


def _share(dropout: nn.Dropout) -> float:
    return dropout.p if dropout.training else 0.0


@contextmanager
def _without_dropout(dropout: nn.Dropout) -> Iterator[None]:
    former = dropout.training
    dropout.training = False
    try:
        yield
    finally:
        dropout.training = former


def _product(
    x: Float[Tensor, "token inside"],
    part: Sequence[Weights],
    *,
    residual: Float[Tensor, "token outside"] | None = None,
    gelu: Gelu | None = None,
) -> Float[Tensor, "token outside"]:
    """Multiply by one weight, or each stream's share of the tokens by its own."""
    if len(part) == 1:
        return _one_product(x, part[0], residual=residual, gelu=gelu)
    residuals = [None] * len(part) if residual is None else residual.chunk(len(part))
    return torch.cat(
        [
            _one_product(states, weights, residual=other, gelu=gelu)
            for states, weights, other in zip(x.chunk(len(part)), part, residuals, strict=True)
        ]
    )


def _one_product(x: Tensor, weights: Weights, *, residual: Tensor | None, gelu: Gelu | None) -> Tensor:
    if weights.update is None:
        return frozen_product(x, weights.weight, weights.bias, residual=residual, gelu=gelu)
    update = weights.update
    out = adapted_product(x, weights.weight, weights.bias, update.down, update.up, update.scaling)
    out = out if gelu is None else nn.functional.gelu(out, approximate=gelu)
    return out if residual is None else residual + out


def _normalize(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    if x.dtype != norm.weight.dtype and x.device.type != "cpu":  # only the CPU normalises mixed types
        return norm(x.to(norm.weight.dtype)).to(x.dtype)  # type: ignore[no-any-return]
    return norm(x)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class _TextKey:
    """What a text's states below all that trains depend on, besides the weights."""

    ids: bytes
    dtype: torch.dtype
    narrow: bool


@dataclass
class _KeptStates:
    """States of texts below all that trains, up to a number of bytes."""

    states: dict[_TextKey, Float[Tensor, "source token dim"]] = field(default_factory=dict)
    bytes: int = 0

    def add(self, key: _TextKey, states: Float[Tensor, "source token dim"]) -> None:
        """Keep a text's states if there is room."""
        size = states.numel() * states.element_size()
        if self.bytes + size <= _KEPT_BYTES:
            self.states[key] = states
            self.bytes += size


@dataclass
class PackedEncoder:
    """Streams of a BERT-like backbone, run without padding.

    Folded weights are made once, and again whenever a weight that they come from has changed or trains. So are the
    states that training keeps.

    Args:
        backbone: as an encoder of this project holds it: plain, with PEFT's LoRA, or stacked and integrated.
        sources: number of streams.
        mixers: after each of the last layers, what mixes the streams; none for a single stream.
    """

    backbone: Any
    sources: int = 1
    mixers: Sequence[Mixer] = ()
    _layers: dict[tuple[torch.dtype, bool], list[_Layer]] = field(default_factory=dict)
    _state: tuple[Any, ...] = ()
    _watched: list[Tensor] = field(default_factory=list)
    _kept: _KeptStates = field(default_factory=_KeptStates)
    _kept_from: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of pickles and deep copies what is made from the weights."""
        return {**self.__dict__, "_layers": {}, "_state": (), "_kept": _KeptStates(), "_kept_from": ()}

    @staticmethod
    def supports(backbone: Any) -> bool:
        """Whether a backbone is of an architecture that is known here."""
        config = backbone.config
        plain = not getattr(config, "is_decoder", False) and not getattr(config, "add_cross_attention", False)
        return plain and config.model_type in ARCHITECTURES

    def ready(self) -> bool:
        """Whether this pass gives now what the layers themselves would: on the CPU, with plain linear layers or plain
        LoRA in them, and where gradients are kept nothing but one LoRA's factors that trains."""
        model = _unwrapped(self.backbone)
        if model.embeddings.word_embeddings.weight.device.type != "cpu":
            return False
        if isinstance(self.backbone, PeftModel) and not all(map(_foldable, self._linears())):
            return False
        if not torch.is_grad_enabled():
            return not model.training
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            return False  # asked for layer by layer: transformers has renamed its own question
        factors = {id(factor) for module in self._linears() for factor in _trained_factors(module)}
        return all(id(weight) in factors for weight in self._weights() if weight.requires_grad)

    def _linears(self) -> list[nn.Module]:
        """The linear layers, with the adapters in them."""
        model = _unwrapped(self.backbone)
        paths = ARCHITECTURES[model.config.model_type].linears
        return [_plain_layer(layer).get_submodule(path) for layer in model.encoder.layer for path in paths]

    def _weights(self) -> list[Tensor]:
        """All tensors of the layers but the integrators', which are read afresh each time."""
        if self._watched:
            return self._watched
        own = self._mixing()
        encoder = _unwrapped(self.backbone).encoder
        found: list[Tensor] = [p for p in (*encoder.parameters(), *encoder.buffers()) if id(p) not in own]
        if not isinstance(self.backbone, PeftModel):  # PEFT's adapters come and go, stacked ones stay
            self._watched = found
        return found

    def _mixing(self) -> set[int]:
        """Which tensors are the integrators'."""
        return {id(p) for mixer in self.mixers for p in mixer.mixing_parameters()}

    def forget(self) -> None:
        """Free the states that training kept."""
        self._kept = _KeptStates()

    def _run(
        self,
        streams: Sequence[Float[Tensor, "token dim"]],
        attend: Attention,
        dtype: torch.dtype,
        layers: Sequence[_Layer],
        numbers: range,
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Run consecutive layers, each after what mixes its input; the output of the last one is not mixed yet.

        Args:
            streams: each stream's states: the embedding layer's output, or that of the layer before, not mixed yet.
            attend: who sees whom.
            dtype: of the products.
            layers: all layers.
            numbers: those to run.
        """
        heads = _unwrapped(self.backbone).config.num_attention_heads
        for number in numbers:
            streams = self._mixed(streams, number - 1)
            streams = [layers[number].run(x, stream, attend, heads, dtype) for stream, x in enumerate(streams)]
        return streams

    def _run_together(
        self,
        streams: Sequence[Float[Tensor, "token dim"]],
        attend: Attention,
        dtype: torch.dtype,
        layers: Sequence[_Layer],
        numbers: range,
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Run layers as :meth:`_run` does, with the streams' tokens one after another: fewer, larger products.

        Args:
            streams: as there.
            attend: who sees whom, among the tokens of all streams.
            dtype: of the products.
            layers: all layers.
            numbers: those to run.
        """
        heads = _unwrapped(self.backbone).config.num_attention_heads
        for number in numbers:
            x = _joined(self._mixed(streams, number - 1))
            streams = layers[number].run(x, None, attend, heads, dtype).chunk(self.sources)
        return streams

    def _mixed(
        self, streams: Sequence[Float[Tensor, "token dim"]], number: int
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Mix the output of a layer, where it has something that does."""
        first = self._first_mixed()
        return self.mixers[number - first].mix(streams) if self.mixers and number >= first else streams

    def _first_mixed(self) -> int:
        """The first layer after which streams are mixed."""
        return len(_unwrapped(self.backbone).encoder.layer) - len(self.mixers)

    def encode(
        self,
        input_ids: Int[Tensor, "batch slot"],
        texts: PackedTexts,
        dtype: torch.dtype,
        combine: Callable[[Sequence[Tensor]], Tensor],
        *,
        narrow_states: bool = False,
        keep: bool = False,
    ) -> Float[Tensor, "batch slot dim"]:
        """Encode a padded batch.

        Args:
            input_ids: token ids.
            texts: their layout.
            dtype: of the products.
            combine: makes one state a token of the streams' last states.
            narrow_states: keep all states in ``dtype``, not only the products.
            keep: in training, keep what lies below all that trains for the next time that a text comes.

        Returns:
            states; zero where there is padding.
        """
        layers = self._folded(dtype)
        last = len(layers) - 1
        done = []
        if keep and self._can_keep() and (kept := self._last_kept()) >= 0:
            streams = self._kept_states(input_ids, texts, dtype, layers[: kept + 1], narrow_states)
            streams = self._run_texts(streams, texts, dtype, layers, range(kept + 1, last + 1))
            done.append(combine(self._mixed(streams, last)).float())
        else:
            parts = [texts] if torch.is_grad_enabled() else texts.parts(max(1, _TOKENS_AT_ONCE // self.sources))
            embedded, share = self._embedded(input_ids)
            for part in parts:
                x = dropped(embedded[part.place].to(dtype if narrow_states else embedded.dtype), share)
                streams = self._run_texts([x] * self.sources, part, dtype, layers, range(last + 1))
                done.append(combine(self._mixed(streams, last)).float())
        states = done[0] if len(done) == 1 else torch.cat(done)
        out = states.new_zeros(input_ids.numel(), states.shape[-1]).index_copy(0, texts.place, states)
        return out.view(*input_ids.shape, -1)

    def _embedded(self, input_ids: Int[Tensor, "batch slot"]) -> tuple[Float[Tensor, "place dim"], float]:
        """The embedding layer's output before its dropout, and the share to drop."""
        embeddings = _unwrapped(self.backbone).embeddings
        share = _share(embeddings.dropout)
        with _without_dropout(embeddings.dropout):  # of padding too
            return embeddings(input_ids=input_ids).flatten(0, 1), share

    def _run_texts(
        self,
        streams: Sequence[Float[Tensor, "token dim"]],
        texts: PackedTexts,
        dtype: torch.dtype,
        layers: Sequence[_Layer],
        numbers: range,
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Run layers over texts that stand apart, as is faster for so many."""
        if texts.few:
            return self._run_together(
                streams, texts.padded_attention(self.sources, self._bias()), dtype, layers, numbers
            )
        return self._run(streams, texts.attention(self._bias()), dtype, layers, numbers)

    def _can_keep(self) -> bool:
        """Whether gradients are kept and the first layer's input depends on nothing but the text."""
        model = _unwrapped(self.backbone)
        if not torch.is_grad_enabled() or not self.mixers or model.training:
            return False
        return not any(weight.requires_grad for weight in model.embeddings.parameters())

    def _last_kept(self) -> int:
        """The last layer whose output training can keep, before it is mixed: up to it nothing trains and nothing is
        mixed; -1 where there is none."""
        mixing = self._mixing()
        layers = _unwrapped(self.backbone).encoder.layer
        for number in range(self._first_mixed() + 1):
            if any(p.requires_grad and id(p) not in mixing for p in layers[number].parameters()):
                return number - 1
        return self._first_mixed()

    def _kept_states(
        self,
        input_ids: Int[Tensor, "batch slot"],
        texts: PackedTexts,
        dtype: torch.dtype,
        layers: Sequence[_Layer],
        narrow_states: bool,
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Each stream's states after the last of these layers, not mixed: those kept, or computed."""
        self._forget_if_changed(len(layers))
        lengths = [length for count, length in texts.groups for _ in range(count)]
        starts = list(accumulate(lengths, initial=0))
        written = input_ids.flatten()[texts.place].long().numpy()
        keys = [_TextKey(written[start:end].tobytes(), dtype, narrow_states) for start, end in pairwise(starts)]
        missing = {key: n for n, key in enumerate(keys) if key not in self._kept.states}
        found = {key: self._kept.states[key] for key in keys if key not in missing}
        if missing:
            rows = texts.place[[starts[n] for n in missing.values()]] // input_ids.shape[1]
            sizes = torch.tensor([lengths[n] for n in missing.values()])
            computed = self._first_states(input_ids[rows], sizes, dtype, layers, narrow_states)
            for key, states in zip(missing, computed, strict=True):
                found[key] = states
                self._kept.add(key, states)
        return torch.cat([found[key] for key in keys], dim=1).unbind(0)

    @torch.no_grad()
    def _first_states(
        self,
        input_ids: Int[Tensor, "batch slot"],
        lengths: Int[Tensor, " batch"],
        dtype: torch.dtype,
        layers: Sequence[_Layer],
        narrow_states: bool,
    ) -> Iterator[Float[Tensor, "source token dim"]]:
        """Compute what :meth:`_kept_states` gives, a text at a time, for texts sorted by length."""
        input_ids = input_ids[:, : int(lengths[-1])]
        texts = PackedTexts.of((torch.arange(input_ids.shape[1]) < lengths[:, None]).long())
        assert texts is not None
        embedded, _ = self._embedded(input_ids)
        for part in texts.parts(max(1, _TOKENS_AT_ONCE // self.sources)):
            x = embedded[part.place].to(dtype if narrow_states else embedded.dtype)
            streams = self._run_texts([x] * self.sources, part, dtype, layers, range(len(layers)))
            sizes = [length for count, length in part.groups for _ in range(count)]
            for states in zip(*(stream.split_with_sizes(sizes) for stream in streams), strict=True):
                yield torch.stack(states)

    def encode_shared(
        self,
        features: Mapping[str, Any],
        dtype: torch.dtype,
        combine: Callable[[Sequence[Tensor]], Tensor],
        *,
        narrow_states: bool = False,
    ) -> Float[Tensor, "one token dim"] | None:
        """Encode pairs that share their histories, all in one row (see :mod:`xcrossrec.models.shared_history`).

        Args:
            features: as :meth:`xcrossrec.models.tokens.PromptTokenizer.encode_shared` gives them.
            dtype: of the products.
            combine: makes one state a token of the streams' last states.
            narrow_states: keep all states in ``dtype``, not only the products.

        Returns:
            states; None where the architecture's attention cannot be shared.
        """
        model = _unwrapped(self.backbone)
        if model.config.model_type != "bert":
            return None
        layout = SharedLayout.of(features["history"][0], features["candidate"][0], features["position_ids"][0])

        def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, dropout: float = 0.0) -> Tensor:
            q, k, v = (x.view(1, len(x), heads, -1).transpose(1, 2) for x in (query, key, value))
            attended = shared_attention(q, k, v, layout, scale=q.shape[-1] ** -0.5, dropout=dropout)
            return attended.reshape(len(query), -1)

        x = model.embeddings(input_ids=features["input_ids"], position_ids=features["position_ids"])[0]
        layers = self._folded(dtype)
        embedded = [x.to(dtype) if narrow_states else x] * self.sources
        streams = self._run(embedded, attend, dtype, layers, range(len(layers)))
        return combine(self._mixed(streams, len(layers) - 1)).float()[None]

    def _bias(self) -> Callable[[int], Tensor] | None:
        model = _unwrapped(self.backbone)
        if model.config.model_type != "mpnet":
            return None
        kept: dict[int, Tensor] = {}

        def bias(length: int) -> Tensor:
            if length not in kept:
                like = model.embeddings.word_embeddings.weight.new_empty(1, length, 1)
                kept[length] = model.encoder.compute_position_bias(like)
            return kept[length]

        return bias

    def _folded(self, dtype: torch.dtype) -> list[_Layer]:
        model = _unwrapped(self.backbone)
        weights = self._weights()
        watched = (*weights, *model.embeddings.parameters())
        state = _versions(watched)
        # a fused optimizer changes weights without a new version, so what trains is folded each time
        if state != self._state or any(weight.requires_grad for weight in weights):
            self._layers, self._state = {}, state
        key = dtype, torch.is_grad_enabled()  # a packed weight has no backward
        if key not in self._layers:
            with torch.no_grad():
                self._layers[key] = [self._fold(layer, *key) for layer in model.encoder.layer]
        return self._layers[key]

    def _forget_if_changed(self, layers: int) -> None:
        """Free the kept states if a weight of so many first layers, which they come from, has changed, or if they come
        from another number of layers."""
        model = _unwrapped(self.backbone)
        below = (model.embeddings, *model.encoder.layer[:layers])
        mixing = self._mixing()
        tensors = [t for part in below for t in (*part.parameters(), *part.buffers()) if id(t) not in mixing]
        state = (layers, _versions(tensors))
        if state != self._kept_from:
            self.forget()
            self._kept_from = state

    def _fold(self, layer: Any, dtype: torch.dtype, with_gradients: bool) -> _Layer:
        model = _unwrapped(self.backbone)
        layer = _plain_layer(layer)
        names = ARCHITECTURES[model.config.model_type]

        def part(path: str) -> list[Weights]:
            module = layer.get_submodule(path)
            if with_gradients:
                return _trained_weights(module, dtype) or _folded_weights(module, dtype)
            return [Weights(packed_for_onednn(w.weight), w.bias) for w in _folded_weights(module, dtype)]

        return _Layer(
            query=part(names.query),
            key=part(names.key),
            value=part(names.value),
            out=part(names.out),
            up=part("intermediate.dense"),
            down=part("output.dense"),
            attention_norm=layer.get_submodule(names.attention_norm),
            output_norm=layer.output.LayerNorm,
            activation=model.config.hidden_act,
            dropouts=_Dropouts(
                layer.get_submodule(names.attention_dropout),
                layer.get_submodule(names.out_dropout),
                layer.output.dropout,
            ),
        )


def _versions(tensors: Iterable[Tensor]) -> tuple[tuple[int, int], ...]:
    """What differs once one of the tensors has been changed or exchanged."""
    return tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)


def _joined(streams: Sequence[Float[Tensor, "token dim"]]) -> Float[Tensor, "rows dim"]:
    return streams[0] if len(streams) == 1 else torch.cat(list(streams))


def _plain_layer(layer: Any) -> Any:
    """A layer without its integrator."""
    return getattr(layer, "layer", layer)


def _unwrapped(backbone: Any) -> Any:
    return backbone.base_model.model if isinstance(backbone, PeftModel) else backbone


def _foldable(module: nn.Module) -> bool:
    """Whether a layer is a plain linear one, perhaps with a low-rank update that can be added to its weight."""
    if not isinstance(module, PeftLinear):
        return isinstance(module, StackedLoraLinear) or type(module) in (nn.Linear, FrozenLinear)
    names = _active(module)
    plain = type(module) is PeftLinear and type(module.get_base_layer()) in (nn.Linear, FrozenLinear)
    return plain and not any(name in module.lora_variant or module.lora_bias[name] for name in names)


def _active(module: PeftLinear) -> list[str]:
    return [name for name in module.active_adapters if name in module.lora_A]


def _trained_factors(module: nn.Module) -> list[nn.Parameter]:
    """A LoRA's factors, where a layer has one that works and can be multiplied beside the weight; else none."""
    if isinstance(module, StackedLoraLinear):
        factors = [] if module.target is None else [module.target.down, module.target.up]
        return [] if any(factor.dtype != torch.float32 for factor in factors) else factors
    if not isinstance(module, PeftLinear) or module.merged or module.disable_adapters or module.fan_in_fan_out:
        return []
    names = _active(module)
    if len(names) != 1:
        return []
    dropout = module.lora_dropout[names[0]]
    factors = [module.lora_A[names[0]].weight, module.lora_B[names[0]].weight]
    drops = isinstance(dropout, nn.Dropout) and dropout.p > 0
    return [] if drops or any(factor.dtype != torch.float32 for factor in factors) else factors


def _trained_weights(module: nn.Module, dtype: torch.dtype) -> list[Weights]:
    """A layer without an update, or with one that trains, from weights that :class:`FrozenLinear` keeps converted; none
    for other layers."""
    if isinstance(module, FrozenLinear):
        return [Weights(*module.in_type(dtype))]
    factors = _trained_factors(module)
    if not any(factor.requires_grad for factor in factors):
        return []
    if isinstance(module, StackedLoraLinear):
        update = Update(factors[0], factors[1], TargetLora.scaling)
        return [Weights(stream.weight, stream.bias, update) for stream in _stacked_weights(module, dtype)]
    assert isinstance(module, PeftLinear)
    (name,) = _active(module)
    base: Any = module.get_base_layer()
    (frozen,) = _trained_weights(base, dtype) or _folded_weights(base, dtype)
    return [Weights(frozen.weight, frozen.bias, Update(factors[0], factors[1], module.scaling[name]))]


def _folded_weights(module: nn.Module, dtype: torch.dtype) -> list[Weights]:
    """A linear layer's weight and bias in each stream, or once where no adapter changes it."""
    if isinstance(module, StackedLoraLinear):
        return _stacked_weights(module, dtype, None if module.target is None else module.target.delta())
    if isinstance(module, PeftLinear):
        linear: Any = module.get_base_layer()
        off = module.merged or module.disable_adapters
        deltas = [] if off else [module.get_delta_weight(name) for name in _active(module)]
        updates = [sum(deltas)] if deltas else []
    else:
        linear, updates = module, []
    return _changed_weights(linear, updates, dtype)


def _stacked_weights(module: StackedLoraLinear, dtype: torch.dtype, target: Tensor | None = None) -> list[Weights]:
    """A stacked layer's weight and bias in each stream, with the target's update in them if one is given."""
    updates = [(d @ u).t() for d, u in zip(module.down, module.up, strict=True)]
    return _changed_weights(module.linear, updates if target is None else [u + target for u in updates], dtype)


def _changed_weights(linear: Any, updates: Sequence[Tensor], dtype: torch.dtype) -> list[Weights]:
    """A linear layer with each update added to its weight; as it is if there are none."""
    bias = None if linear.bias is None else linear.bias.detach().to(dtype)
    if not updates:
        return [Weights(linear.weight.detach().to(dtype), bias)]
    return [Weights(laid_out((linear.weight + update).detach()).to(dtype), bias) for update in updates]
