"""Why an item has its score: history items that matched, and what each source gave at which layer.

Legend: ``source`` = stream of one domain's adapter, ``slot`` = a history's item, ``item`` = one item to
explain, ``dim`` = vector size, ``batch`` = text, ``token`` = position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from xcrossrec.answers import Explanation, HistoryMatch, LayerShare, SourceShare
from xcrossrec.copurchase import Term
from xcrossrec.models.dual import encode_titles
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.pair import PairScorer
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.prompts import history_prompt
from xcrossrec.recommender.questions import Known
from xcrossrec.types import Scoring


def explain_scores(
    model: Model, history: Sequence[Known], found: Sequence[tuple[Known, float]], *, term: Term | None, share: float
) -> list[Explanation]:
    """Explain the scores of some items for one history, oldest first, of at least one.

    Args:
        model: `dual` or `pair`, integrated or not; put back as it was.
        term: what co-purchases add to the text's scores; None adds nothing.
        share: of the bridge from other categories in the scores; the text has the rest.
    """
    items = [known for known, _ in found]
    probe = _PROBES[kind_of(model).name](model, [k.text for k in history], [k.text for k in items], 1 - share)
    matches = _explain_history(probe, term, history, items)
    parts = _explain_sources(probe)
    effects = [None] * len(found) if term is None else _bonus(term, history, items).tolist()
    return [
        Explanation(known.item_id, known.title, score, matches[at], copurchase_effect=effects[at], **parts[at])
        for at, (known, score) in enumerate(found)
    ]


def _bonus(term: Term | None, history: Sequence[Known], items: Sequence[Known]) -> Float[np.ndarray, " item"]:
    """What co-purchases add to the scores of items for a history."""
    bonus = {} if term is None else term.bonus([known.item_id or "" for known in history])
    return np.array([bonus.get(known.item_id or "", 0.0) for known in items])


class _Probe(ABC):
    """Scores a few items for one history (texts, oldest first), encoding everything anew each time.

    ``weight`` is that of the text in the score.
    """

    def __init__(self, model: Model, history: Sequence[str], items: Sequence[str], weight: float) -> None:
        self.model = model
        self.history = list(history)
        self.items = list(items)
        self.weight = weight
        self.full = self.scores(self.history)

    @abstractmethod
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Score the items for these history titles."""

    @abstractmethod
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """Run the encoder over every text once; returns which tokens the score of each item depends on."""

    @abstractmethod
    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """Cosines (slot, item) of items encoded alone, and their shares of the soft maximum; None for a pair model."""

    def effect(self) -> Float[np.ndarray, " item"]:
        """The full scores minus those of the model as it is now, ablated."""
        return self.less(self.history)

    def less(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """The full scores minus those for another history, times the text's weight."""
        effect: Float[np.ndarray, " item"] = self.weight * (self.full - self.scores(history))
        return effect

    def _encoded(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the encoder over tokenized texts; returns these on the encoder's device."""
        encoder = encoder_of(self.model)
        device = next(encoder.parameters()).device
        placed = {key: value.to(device) for key, value in features.items()}
        encoder(dict(placed))
        return placed


class _DualProbe(_Probe):
    """Encodes every text alone."""

    @torch.inference_mode()
    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Match vectors with the model's own matcher."""
        slots, items = self._vectors(history)
        found = self._matcher().match(slots[None], torch.ones(1, len(slots), dtype=torch.bool), items)[0]
        return np.asarray(found.double())

    @torch.inference_mode()
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """A score comes from the history's texts and the item's own."""
        slots, encoder = len(self.history), encoder_of(self.model)
        prompts = [encoder.recipe.history_prompt] * slots + [encoder.recipe.item_prompt] * len(self.items)
        texts = encoder.preprocess_each([*self.history, *self.items], prompts)
        real = self._encoded(texts)["attention_mask"].bool()
        read = torch.zeros(len(self.items), len(real), dtype=torch.bool, device=real.device)
        read[:, :slots] = True
        read[torch.arange(len(self.items)), slots + torch.arange(len(self.items))] = True
        return read[:, :, None] & real

    @torch.inference_mode()
    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """Of the soft maximum over the history's items."""
        slots, items = self._vectors(self.history)
        cosines, matcher = slots @ items.t(), self._matcher()
        weight = matcher.recency_weight(torch.arange(len(slots) - 1, -1, -1))
        logits = weight.log()[:, None] + matcher.sharpness * cosines
        return cosines, logits.softmax(0)

    def _matcher(self) -> HistoryMatcher:
        matcher: HistoryMatcher = deepcopy(matcher_of(self.model)).cpu()  # vectors are compared on the CPU
        return matcher

    def _vectors(self, history: Sequence[str]) -> tuple[Float[Tensor, "slot dim"], Float[Tensor, "item dim"]]:
        """Encode the history and the items, in one batch where the model reads both alike."""
        if encoder_of(self.model).recipe.apart:
            return encode_titles(self.model, history, as_history=True), encode_titles(self.model, self.items)
        vectors = encode_titles(self.model, [*history, *self.items])
        return vectors[: len(history)], vectors[len(history) :]


class _PairProbe(_Probe):
    """Reads the history in one text with each item."""

    def scores(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """Read the history with every item."""
        found = PairScorer(self.model, self.items).score_titles([history], np.arange(len(self.items))[None])
        return np.asarray(found[0], dtype=np.float64)

    @torch.inference_mode()
    def encode(self) -> Bool[Tensor, "item batch token"]:
        """A score comes from the pair's own text."""
        prompt = history_prompt(self.history)
        features = self._encoded(encoder_of(self.model).preprocess([(prompt, item) for item in self.items]))
        if "candidate" in features:  # all in one row: an item's own tokens, and those of the history that it sees
            candidate, history = features["candidate"], features["history"]
            masks = [candidate == item for item in range(len(self.items))]
            return torch.stack([own | ((history == history[own][0]) & (candidate < 0)) for own in masks])
        own = torch.eye(len(self.items), dtype=torch.bool, device=features["attention_mask"].device)
        return own[:, :, None] & features["attention_mask"].bool()

    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """No item is encoded alone."""
        return None, None


_PROBES: Mapping[Scoring, type[_Probe]] = {"dual": _DualProbe, "pair": _PairProbe}


def _explain_history(
    probe: _Probe, term: Term | None, history: Sequence[Known], items: Sequence[Known]
) -> list[tuple[HistoryMatch, ...]]:
    """Per item, how each history item matches it."""
    cosines, shares = probe.cosines_and_shares()
    effects = _leave_one_out(probe, term, history, items)

    def match(slot: int, item: int) -> HistoryMatch:
        known, first, second = history[slot], history[slot].item_id, items[item].item_id
        together = term.counts.together(first, second) if term and first and second else None
        cosine, share, effect = (_cell(table, slot, item) for table in (cosines, shares, effects))
        return HistoryMatch(known.item_id, known.title, cosine, share, effect, together)

    return [tuple(match(slot, item) for slot in range(len(history))) for item in range(len(items))]


def _leave_one_out(probe: _Probe, term: Term | None, history: Sequence[Known], items: Sequence[Known]) -> Tensor | None:
    """Effect (slot, item) of each history item on the score; None for a history of one."""
    if len(history) < 2:
        return None
    full, effects = _bonus(term, history, items), []
    for slot in range(len(history)):
        rest = [*history[:slot], *history[slot + 1 :]]
        effects.append(probe.less([known.text for known in rest]) + full - _bonus(term, rest, items))
    return torch.from_numpy(np.stack(effects))


def _cell(table: Tensor | None, row: int, column: int) -> float | None:
    return None if table is None else float(table[row, column])


def _explain_sources(probe: _Probe) -> list[dict[str, Any]]:
    """Per item, the effects of the sources, by ablation; nothing for a model without sources."""
    encoder = encoder_of(probe.model)
    if isinstance(encoder, MergedEncoder):
        return _explain_merged(probe, encoder)
    return _explain_xcross(probe, encoder) if isinstance(encoder, XCrossEncoder) else [{} for _ in probe.items]


def _explain_merged(probe: _Probe, encoder: MergedEncoder) -> list[dict[str, Any]]:
    """Per item, what each source adds to its score as a part of the merged stream."""
    part, effects = 1 / len(encoder.sources), _effects(probe, encoder.left_out, len(encoder.sources)).T
    named = [zip(encoder.sources, column, strict=True) for column in effects]
    return [{"sources": tuple(SourceShare(name, 0.0, part, part, float(by)) for name, by in each)} for each in named]


def _effects(
    probe: _Probe, without: Callable[[int], AbstractContextManager[None]], sources: int
) -> Float[np.ndarray, "source item"]:
    """What the scores lose without each source."""
    effects = []
    for source in range(sources):
        with without(source):
            effects.append(probe.effect())
    return np.stack(effects)


def _explain_xcross(probe: _Probe, encoder: XCrossEncoder) -> list[dict[str, Any]]:
    """Per item, the effects of sources and layers on its score, by ablation."""
    with encoder.integration_off():
        integration = probe.effect()
    named, places = list(enumerate(encoder.sources)), range(len(encoder.integrated_layers))
    in_all = _effects(probe, encoder.silenced, len(named))
    in_sum = _effects(probe, encoder.left_out, len(named))
    at_layer = [_effects(probe, partial(encoder.silenced, layer=place), len(named)) for place in places]
    coefficients = _mean_coefficients(probe, encoder)
    weights = encoder.stream_weight.detach().cpu().double().numpy()
    shares = np.abs(weights) / max(float(np.abs(weights).sum()), 1e-12)

    def source_share(source: int, name: str, item: int) -> SourceShare:
        values = in_all[source, item], weights[source], shares[source], in_sum[source, item]
        return SourceShare(name, *map(float, values))

    def layer_share(place: int, source: int, name: str, item: int) -> LayerShare:
        values = at_layer[place][source, item], coefficients[item, place, source]
        return LayerShare(encoder.layer_numbers[place], name, *map(float, values))

    return [
        {
            "integration_effect": float(integration[item]),
            "sources": tuple(source_share(source, name, item) for source, name in named),
            "layers": tuple(layer_share(place, source, name, item) for place in places for source, name in named),
        }
        for item in range(len(probe.items))
    ]


def _mean_coefficients(probe: _Probe, encoder: XCrossEncoder) -> Float[np.ndarray, "item layer source"]:
    """Mean absolute coefficient with which the other streams take each source, over an item's own texts."""
    with encoder.observing() as records:
        tokens = probe.encode()
    means = np.empty((len(probe.items), len(records), len(encoder.sources)))
    for item, layer in np.ndindex(means.shape[:2]):
        taken = records[layer][..., tokens[item]].abs().mean(-1)
        means[item, layer] = (taken.fill_diagonal_(0).sum(0) / (len(taken) - 1)).cpu().numpy()
    return means
