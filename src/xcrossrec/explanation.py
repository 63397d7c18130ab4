"""Why an item has its score: history items that matched, and what each source gave at which layer.

Legend: ``source`` = stream of one domain's adapter, ``slot`` = a history's item, ``item`` = one item to
explain, ``dim`` = vector size, ``batch`` = text, ``token`` = position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xcrossrec.answers import Explanation, HistoryMatch, LayerShare, SourceShare
from xcrossrec.models import bundle
from xcrossrec.models.bundle import Model
from xcrossrec.models.encoder import IntegratedEncoder
from xcrossrec.models.scorer import encode_titles
from xcrossrec.prompts import history_prompt


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
    probe = _Probe(model, history, items)
    matches = _explain_history(probe, history_ids)
    parts = _explain_sources(probe) if isinstance(model[0], IntegratedEncoder) else [{}] * len(items)
    return [
        Explanation(item_ids[number], title, float(probe.full[number]), matches[number], **parts[number])
        for number, title in enumerate(items)
    ]


class _Probe:
    """Scores a few items for one history, encoding everything afresh each time.

    Args:
        model: `dual` or `pair`.
        history: titles, oldest first.
        items: titles to score.
    """

    def __init__(self, model: Model, history: Sequence[str], items: Sequence[str]) -> None:
        self.model = model
        self.history = list(history)
        self.items = list(items)
        self.pair = bundle.scoring_of(model) == "pair"
        self.matcher = deepcopy(bundle.matcher_of(model)).cpu()  # vectors are compared on the CPU
        self.full = self.scores(self.history)

    @property
    def late(self) -> bool:
        """Whether history items keep a vector each."""
        return not self.pair and self.matcher.pooling == "late"

    @torch.inference_mode()
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Score the items for these history titles."""
        if self.pair:
            pairs = [(history_prompt(history), item) for item in self.items]
            scores: Float[np.ndarray, " item"] = self.model.predict(pairs, show_progress_bar=False)
            return np.asarray(scores, dtype=np.float64).reshape(-1)
        texts = list(history) if self.late else [history_prompt(history)]
        vectors = encode_titles(self.model, [*texts, *self.items])
        return self.match(vectors[: len(texts)], vectors[len(texts) :])

    @torch.inference_mode()
    def match(self, slots: Float[Tensor, "slot dim"], items: Float[Tensor, "item dim"]) -> Float[np.ndarray, " item"]:
        """Score vectors with the model's own matcher."""
        present = torch.ones(1, len(slots), dtype=torch.bool)
        scores: Float[np.ndarray, " item"] = self.matcher.match(slots[None], present, items)[0].double().numpy()
        return scores

    def effect(self) -> Float[np.ndarray, " item"]:
        """The full scores minus those of the model as it is now (ablated, that is)."""
        effect: Float[np.ndarray, " item"] = self.full - self.scores(self.history)
        return effect

    @torch.inference_mode()
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """Run the encoder over every text once; returns from which tokens the score of each item comes."""
        encoder = bundle.encoder_of(self.model)
        prompt = [history_prompt(self.history)]
        texts: list[Any] = [*(self.history if self.late else prompt), *self.items]
        if self.pair:
            texts = [(prompt[0], item) for item in self.items]
        device = next(encoder.parameters()).device
        features = {key: value.to(device) for key, value in encoder.preprocess(texts).items()}
        encoder(dict(features))
        if "candidate" in features:
            return self._tokens_in_row(features)
        real = features["attention_mask"].bool()
        read = torch.zeros(len(self.items), len(texts), dtype=torch.bool, device=device)
        for item in range(len(self.items)):
            read[item, self._texts_of(item)] = True
        return read[:, :, None] & real

    def _tokens_in_row(self, features: Mapping[str, Tensor]) -> Bool[Tensor, "item batch token"]:
        """An item's own tokens and those of the history that it sees, where all stand in one row."""
        candidate, history = features["candidate"], features["history"]
        masks = [candidate == item for item in range(len(self.items))]
        return torch.stack([own | ((history == history[own][0]) & (candidate < 0)) for own in masks])

    def _texts_of(self, item: int) -> list[int]:
        """Which of the texts the score of an item comes from."""
        if self.pair:
            return [item]
        texts = len(self.history) if self.late else 1
        return [*range(texts), texts + item]


def _explain_history(probe: _Probe, ids: Sequence[str | None]) -> list[tuple[HistoryMatch, ...]]:
    """Per item, what each history item has to do with it."""
    cosines, shares = _cosines_and_shares(probe)
    effects = _leave_one_out(probe)
    return [
        tuple(
            HistoryMatch(ids[slot], title, *(_cell(table, slot, item) for table in (cosines, shares, effects)))
            for slot, title in enumerate(probe.history)
        )
        for item in range(len(probe.items))
    ]


@torch.inference_mode()
def _cosines_and_shares(probe: _Probe) -> tuple[Tensor | None, Tensor | None]:
    """Cosines (slot, item) of items encoded alone, and for `late` their shares of the soft maximum."""
    if probe.pair:
        return None, None
    slots = len(probe.history)
    vectors = encode_titles(probe.model, [*probe.history, *probe.items])
    cosines = vectors[:slots] @ vectors[slots:].t()
    if not probe.late:
        return cosines, None
    weight = probe.matcher.recency_weight(torch.arange(slots - 1, -1, -1)).cpu()
    logits = weight.log()[:, None] + probe.matcher.sharpness.cpu() * cosines
    return cosines, logits.softmax(0)


def _leave_one_out(probe: _Probe) -> Tensor | None:
    """Effect (slot, item) of each history item on the score; None for a history of one."""
    if len(probe.history) < 2:
        return None
    rest = [probe.history[:slot] + probe.history[slot + 1 :] for slot in range(len(probe.history))]
    return torch.from_numpy(np.stack([probe.full - probe.scores(history) for history in rest]))


def _cell(table: Tensor | None, row: int, column: int) -> float | None:
    return None if table is None else float(table[row, column])


def _explain_sources(probe: _Probe) -> list[dict[str, Any]]:
    """Per item, the effects of sources and layers on its score, by ablation."""
    encoder = bundle.encoder_of(probe.model)
    assert isinstance(encoder, IntegratedEncoder)
    layers, names = len(encoder.integrated_layers), encoder.sources
    if encoder.streams == 1:
        return _explain_merged(probe, encoder)
    with encoder.integration_off():
        integration = probe.effect()
    at_layer = np.empty((layers, len(names), len(probe.items)))
    in_all, in_sum = np.empty(at_layer.shape[1:]), np.empty(at_layer.shape[1:])
    for source in range(len(names)):
        for layer in range(layers):
            with encoder.ablated(layer, source):
                at_layer[layer, source] = probe.effect()
        with ExitStack() as stack:
            for layer in range(layers):
                stack.enter_context(encoder.ablated(layer, source))
            in_all[source] = probe.effect()
        with encoder.left_out(source):
            in_sum[source] = probe.effect()
    coefficients = _mean_coefficients(probe, encoder)
    weights = encoder.stream_weight.detach().double().cpu().numpy()
    stream_shares = np.abs(weights) / max(float(np.abs(weights).sum()), 1e-12)
    return [
        {
            "integration_effect": float(integration[item]),
            "sources": tuple(
                SourceShare(
                    name,
                    float(in_all[source, item]),
                    float(weights[source]),
                    float(stream_shares[source]),
                    float(in_sum[source, item]),
                )
                for source, name in enumerate(names)
            ),
            "layers": tuple(
                LayerShare(
                    encoder.layer_numbers[layer],
                    name,
                    float(at_layer[layer, source, item]),
                    float(coefficients[item, layer, source]),
                )
                for layer in range(layers)
                for source, name in enumerate(names)
            ),
        }
        for item in range(len(probe.items))
    ]


def _explain_merged(probe: _Probe, encoder: IntegratedEncoder) -> list[dict[str, Any]]:
    """Per item, what each source adds to its score as a part of the one stream, by ablation."""
    weight = 1 / len(encoder.sources)
    shares: list[list[SourceShare]] = [[] for _ in probe.items]
    for source, name in enumerate(encoder.sources):
        with encoder.left_out(source):
            effects = probe.effect()
        for item, effect in enumerate(effects):
            shares[item].append(SourceShare(name, 0.0, weight, weight, float(effect)))
    return [{"sources": tuple(found)} for found in shares]


def _mean_coefficients(probe: _Probe, encoder: IntegratedEncoder) -> Float[np.ndarray, "item layer source"]:
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
