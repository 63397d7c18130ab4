"""Why an item has its score: history items that matched, and what each source gave at which layer.

Legend: ``source`` = stream of one domain's adapter, ``slot`` = a history's item, ``item`` = one item to
explain, ``dim`` = vector size, ``batch`` = text, ``token`` = position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xcrossrec.answers import Explanation, HistoryMatch, LayerShare, SourceShare
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.prompts import history_prompt
from xcrossrec.types import Scoring


def explain_scores(
    model: Model,
    history: Sequence[str],
    items: Sequence[str],
    *,
    history_ids: Sequence[str | None],
    item_ids: Sequence[str | None],
) -> list[Explanation]:
    """Explain the scores of some items for one history.

    Args:
        model: `dual` or `pair`, integrated or not; put back as it was.
        history: titles, oldest first; at least one.
        items: titles to explain.
        history_ids: ids of the history's items, None for free titles.
        item_ids: ids of the items, None for free titles.
    """
    probe = _PROBES[kind_of(model).name](model, history, items)
    matches = _explain_history(probe, history_ids)
    parts = _explain_sources(probe)
    return [
        Explanation(item_ids[number], title, float(probe.full[number]), matches[number], **parts[number])
        for number, title in enumerate(items)
    ]


class _Probe(ABC):
    """Scores a few items for one history, encoding everything afresh each time.

    Args:
        model: of the probe's kind.
        history: titles, oldest first.
        items: titles to score.
    """

    def __init__(self, model: Model, history: Sequence[str], items: Sequence[str]) -> None:
        self.model = model
        self.history = list(history)
        self.items = list(items)
        self.full = self.scores(self.history)

    @abstractmethod
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Score the items for these history titles."""

    @abstractmethod
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """Run the encoder over every text once; returns from which tokens the score of each item comes."""

    @abstractmethod
    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """Cosines (slot, item) of items encoded alone, and their shares of the soft maximum, where there are any."""

    def effect(self) -> Float[np.ndarray, " item"]:
        """The full scores minus those of the model as it is now (ablated, that is)."""
        effect: Float[np.ndarray, " item"] = self.full - self.scores(self.history)
        return effect

    def _features(self, texts: Sequence[Any]) -> dict[str, Tensor]:
        """Tokenize texts and run the encoder over them."""
        encoder = encoder_of(self.model)
        device = next(encoder.parameters()).device
        features = {key: value.to(device) for key, value in encoder.preprocess(texts).items()}
        encoder(dict(features))
        return features


class _DualProbe(_Probe):
    """History items and items are encoded apart."""

    @torch.inference_mode()
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Match vectors with the model's own matcher."""
        vectors = encode_titles(self.model, [*history, *self.items])
        slots, items = vectors[: len(history)], vectors[len(history) :]
        matcher = deepcopy(matcher_of(self.model)).cpu()  # vectors are compared on the CPU
        present = torch.ones(1, len(slots), dtype=torch.bool)
        scores: Float[np.ndarray, " item"] = matcher.match(slots[None], present, items)[0].double().numpy()
        return scores

    @torch.inference_mode()
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """A score comes from the history's texts and the item's own."""
        real = self._features([*self.history, *self.items])["attention_mask"].bool()
        slots = len(self.history)
        read = torch.zeros(len(self.items), len(real), dtype=torch.bool, device=real.device)
        read[:, :slots] = True
        read[torch.arange(len(self.items)), slots + torch.arange(len(self.items))] = True
        return read[:, :, None] & real

    @torch.inference_mode()
    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """Of the soft maximum over the history's items."""
        slots = len(self.history)
        vectors = encode_titles(self.model, [*self.history, *self.items])
        cosines = vectors[:slots] @ vectors[slots:].t()
        matcher = matcher_of(self.model)
        weight = matcher.recency_weight(torch.arange(slots - 1, -1, -1)).cpu()
        logits = weight.log()[:, None] + matcher.sharpness.cpu() * cosines
        return cosines, logits.softmax(0)


class _PairProbe(_Probe):
    """The history stands in one text with each item."""

    @torch.inference_mode()
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Read the history with every item."""
        pairs = [(history_prompt(history), item) for item in self.items]
        scores: Float[np.ndarray, " item"] = self.model.predict(pairs, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float64).reshape(-1)

    @torch.inference_mode()
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """A score comes from the pair's own text."""
        prompt = history_prompt(self.history)
        features = self._features([(prompt, item) for item in self.items])
        if "candidate" in features:
            return self._tokens_in_row(features)
        own = torch.eye(len(self.items), dtype=torch.bool, device=features["attention_mask"].device)
        return own[:, :, None] & features["attention_mask"].bool()

    def _tokens_in_row(self, features: Mapping[str, Tensor]) -> Bool[Tensor, "item batch token"]:
        """An item's own tokens and those of the history that it sees, where all stand in one row."""
        candidate, history = features["candidate"], features["history"]
        masks = [candidate == item for item in range(len(self.items))]
        return torch.stack([own | ((history == history[own][0]) & (candidate < 0)) for own in masks])

    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """No item is encoded alone."""
        return None, None


_PROBES: Mapping[Scoring, type[_Probe]] = {"dual": _DualProbe, "pair": _PairProbe}


def _explain_history(probe: _Probe, ids: Sequence[str | None]) -> list[tuple[HistoryMatch, ...]]:
    """Per item, what each history item has to do with it."""
    cosines, shares = probe.cosines_and_shares()
    effects = _leave_one_out(probe)
    return [
        tuple(
            HistoryMatch(ids[slot], title, *(_cell(table, slot, item) for table in (cosines, shares, effects)))
            for slot, title in enumerate(probe.history)
        )
        for item in range(len(probe.items))
    ]


def _leave_one_out(probe: _Probe) -> Tensor | None:
    """Effect (slot, item) of each history item on the score; None for a history of one."""
    if len(probe.history) < 2:
        return None
    rest = [probe.history[:slot] + probe.history[slot + 1 :] for slot in range(len(probe.history))]
    return torch.from_numpy(np.stack([probe.full - probe.scores(history) for history in rest]))


def _cell(table: Tensor | None, row: int, column: int) -> float | None:
    return None if table is None else float(table[row, column])


def _explain_sources(probe: _Probe) -> list[dict[str, Any]]:
    """Per item, what its sources give, by ablation; nothing for a model of one source."""
    encoder = encoder_of(probe.model)
    if isinstance(encoder, MergedEncoder):
        return _explain_merged(probe, encoder)
    if isinstance(encoder, XCrossEncoder):
        return _explain_xcross(probe, encoder)
    return [{} for _ in probe.items]


def _explain_merged(probe: _Probe, encoder: MergedEncoder) -> list[dict[str, Any]]:
    """Per item, what each source adds to its score as a part of the one stream."""
    weight = 1 / len(encoder.sources)
    shares: list[list[SourceShare]] = [[] for _ in probe.items]
    for source, name in enumerate(encoder.sources):
        with encoder.left_out(source):
            effects = probe.effect()
        for item, effect in enumerate(effects):
            shares[item].append(SourceShare(name, 0.0, weight, weight, float(effect)))
    return [{"sources": tuple(found)} for found in shares]


@dataclass(frozen=True)
class _Effects:
    """What the scores lose by each ablation of an X-Cross encoder."""

    integration: Float[np.ndarray, " item"]
    at_layer: Float[np.ndarray, "layer source item"]
    in_all: Float[np.ndarray, "source item"]
    in_sum: Float[np.ndarray, "source item"]


def _ablate(probe: _Probe, encoder: XCrossEncoder) -> _Effects:
    with encoder.integration_off():
        integration = probe.effect()
    layers, sources = range(len(encoder.integrated_layers)), range(len(encoder.sources))
    at_layer = np.empty((len(layers), len(sources), len(probe.items)))
    in_all, in_sum = np.empty(at_layer.shape[1:]), np.empty(at_layer.shape[1:])
    for source in sources:
        for layer in layers:
            with encoder.ablated(layer, source):
                at_layer[layer, source] = probe.effect()
        with encoder.silenced(source):
            in_all[source] = probe.effect()
        with encoder.left_out(source):
            in_sum[source] = probe.effect()
    return _Effects(integration, at_layer, in_all, in_sum)


def _explain_xcross(probe: _Probe, encoder: XCrossEncoder) -> list[dict[str, Any]]:
    """Per item, the effects of sources and layers on its score."""
    effects = _ablate(probe, encoder)
    coefficients = _mean_coefficients(probe, encoder)
    weights = encoder.stream_weight.detach().double().cpu().numpy()
    shares = np.abs(weights) / max(float(np.abs(weights).sum()), 1e-12)

    def source_share(source: int, name: str, item: int) -> SourceShare:
        in_all, in_sum = effects.in_all[source, item], effects.in_sum[source, item]
        return SourceShare(name, float(in_all), float(weights[source]), float(shares[source]), float(in_sum))

    def layer_share(place: int, source: int, name: str, item: int) -> LayerShare:
        effect, coefficient = effects.at_layer[place, source, item], coefficients[item, place, source]
        return LayerShare(encoder.layer_numbers[place], name, float(effect), float(coefficient))

    named = list(enumerate(encoder.sources))
    places = range(len(encoder.integrated_layers))
    return [
        {
            "integration_effect": float(effects.integration[item]),
            "sources": tuple(source_share(source, name, item) for source, name in named),
            "layers": tuple(layer_share(place, source, name, item) for place in places for source, name in named),
        }
        for item in range(len(probe.items))
    ]


def _mean_coefficients(probe: _Probe, encoder: XCrossEncoder) -> Float[np.ndarray, "item layer source"]:
    """Mean absolute coefficient with which the other streams take each source, over an item's own texts."""
    with encoder.observing() as records:
        tokens = probe.encode()
    count = len(encoder.sources)
    means = np.empty((len(probe.items), len(records), count))
    for item in range(len(probe.items)):
        for layer, record in enumerate(records):
            taken = record[0][..., tokens[item]].abs().mean(-1)
            for source in range(count):
                others = [receiver for receiver in range(count) if receiver != source]
                means[item, layer, source] = float(taken[others, source].mean())
    return means
