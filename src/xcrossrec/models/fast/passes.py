"""The fast pass of BERT-like bases: tokens without padding, adapters folded in, streams apart.

The same function as the Hugging Face layers with stacked adapters and integrators, computed differently:

- texts stand one after another, sorted by length, so linear layers see no padding and attention runs over
  texts of one length without a mask;
- in each stream the frozen LoRA update is added to the weight it belongs to (the other weights stay shared); one that
  trains, a single stream's or the target's own, is multiplied beside it;
- products, GELU and residuals are fused (:mod:`xcrossrec.models.fast.linear`), streams are never copied together;
- in training, what lies below all that trains is computed once per text and kept, because nothing there changes.

Legend: ``token`` = a token of any text, ``source`` = stream, ``batch`` = text, ``slot`` = position in a padded
text, ``dim`` = hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from torch import Tensor, nn

from xcrossrec.models.fast.dropout import dropped
from xcrossrec.models.fast.kept import KeptStates, TextKey
from xcrossrec.models.fast.layers import ARCHITECTURES, Dropouts, Layer, dropout_share, without_dropout
from xcrossrec.models.fast.linear import packed_for_onednn
from xcrossrec.models.fast.shared import SharedLayout, shared_attention
from xcrossrec.models.fast.texts import Attention, PackedTexts
from xcrossrec.models.fast.weights import Weights, foldable, folded_weights, trained_factors, trained_weights

_TOKENS_AT_ONCE = 4096
"""Tokens of all streams that go through the layers together where no gradient is kept: their states stay in the
processor's cache, and memory does not grow with the batch (measured in LOG.md)."""


class Mixer(Protocol):
    """What mixes the streams after a layer, such as an integrator."""

    def mix(self, hidden: Sequence[Tensor]) -> Sequence[Tensor]:
        """Refine the streams."""
        ...

    def mixing_parameters(self) -> Iterator[nn.Parameter]:
        """Its own parameters."""
        ...


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
    _layers: dict[tuple[torch.dtype, bool], list[Layer]] = field(default_factory=dict)
    _state: tuple[Any, ...] = ()
    _watched: list[Tensor] = field(default_factory=list)
    _kept: KeptStates = field(default_factory=KeptStates)
    _kept_from: tuple[Any, ...] = ()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out of pickles and deep copies what is made from the weights."""
        return {**self.__dict__, "_layers": {}, "_state": (), "_kept": KeptStates(), "_kept_from": ()}

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
        if isinstance(self.backbone, PeftModel) and not all(map(foldable, self._linears())):
            return False
        if not torch.is_grad_enabled():
            return not model.training
        if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
            return False  # asked for layer by layer: transformers has renamed its own question
        factors = {id(factor) for module in self._linears() for factor in trained_factors(module)}
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
        self._kept = KeptStates()

    def _run(
        self,
        streams: Sequence[Float[Tensor, "token dim"]],
        attend: Attention,
        dtype: torch.dtype,
        layers: Sequence[Layer],
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
        layers: Sequence[Layer],
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
        share = dropout_share(embeddings.dropout)
        with without_dropout(embeddings.dropout):  # of padding too
            return embeddings(input_ids=input_ids).flatten(0, 1), share

    def _run_texts(
        self,
        streams: Sequence[Float[Tensor, "token dim"]],
        texts: PackedTexts,
        dtype: torch.dtype,
        layers: Sequence[Layer],
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
        layers: Sequence[Layer],
        narrow_states: bool,
    ) -> Sequence[Float[Tensor, "token dim"]]:
        """Each stream's states after the last of these layers, not mixed: those kept, or computed."""
        self._forget_if_changed(len(layers))
        lengths = [length for count, length in texts.groups for _ in range(count)]
        starts = list(accumulate(lengths, initial=0))
        written = input_ids.flatten()[texts.place].long().numpy()
        keys = [TextKey(written[start:end].tobytes(), dtype, narrow_states) for start, end in pairwise(starts)]
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
        layers: Sequence[Layer],
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
        """Encode pairs that share their histories, all in one row (see :mod:`xcrossrec.models.pair_attention`).

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

    def _folded(self, dtype: torch.dtype) -> list[Layer]:
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

    def _fold(self, layer: Any, dtype: torch.dtype, with_gradients: bool) -> Layer:
        model = _unwrapped(self.backbone)
        layer = _plain_layer(layer)
        names = ARCHITECTURES[model.config.model_type]

        def part(path: str) -> list[Weights]:
            module = layer.get_submodule(path)
            if with_gradients:
                return trained_weights(module, dtype) or folded_weights(module, dtype)
            return [Weights(packed_for_onednn(w.weight), w.bias) for w in folded_weights(module, dtype)]

        return Layer(
            query=part(names.query),
            key=part(names.key),
            value=part(names.value),
            out=part(names.out),
            up=part("intermediate.dense"),
            down=part("output.dense"),
            attention_norm=layer.get_submodule(names.attention_norm),
            output_norm=layer.output.LayerNorm,
            activation=model.config.hidden_act,
            dropouts=Dropouts(
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
