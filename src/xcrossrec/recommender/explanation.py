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
        share: of the bridge from other categories in the scores, which the text has the rest of.
    """
    items = [known for known, _ in found]
    probe = _PROBES[kind_of(model).name](model, [k.text for k in history], [k.text for k in items], 1 - share)
    bought = _Bought(term, [known.item_id or "" for known in history], [known.item_id or "" for known in items])
    matches = _explain_history(probe, bought, history)
    parts = _explain_sources(probe)
    effects = [None] * len(found) if term is None else [float(effect) for effect in bought.full]
    return [
        Explanation(known.item_id, known.title, score, matches[at], copurchase_effect=effects[at], **parts[at])
        for at, (known, score) in enumerate(found)
    ]


class _Bought:
    """What co-purchases add to a few items for one history; ids are empty where there are none."""

    def __init__(self, term: Term | None, history: Sequence[str], items: Sequence[str]) -> None:
        self.term, self.history, self.items = term, history, items
        self.full = self.added(history)

    def added(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """To the scores of the items for this history."""
        bonus = {} if self.term is None else self.term.bonus(history)
        return np.array([bonus.get(item, 0.0) for item in self.items])

    def without(self, slot: int) -> Float[np.ndarray, " item"]:
        """What less is added without one item of the history."""
        lost: Float[np.ndarray, " item"] = self.full - self.added([*self.history[:slot], *self.history[slot + 1 :]])
        return lost

    def together(self, slot: int, item: int) -> int | None:
        """Customers who bought both."""
        first, second = self.history[slot], self.items[item]
        return None if self.term is None or not first or not second else self.term.counts.together(first, second)


class _Probe(ABC):
    """Scores a few items for one history (texts, oldest first), encoding everything afresh each time; ``weight`` is the
    text's."""

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
        """Run the encoder over every text once; returns from which tokens the score of each item comes."""

    @abstractmethod
    def cosines_and_shares(self) -> tuple[Tensor | None, Tensor | None]:
        """Cosines (slot, item) of items encoded alone, and their shares of the soft maximum, where there are any."""

    def effect(self) -> Float[np.ndarray, " item"]:
        """The full scores minus those of the model as it is now (ablated, that is)."""
        return self.less(self.history)

    def less(self, history: Sequence[str]) -> Float[np.ndarray, " item"]:
        """The full scores minus those for another history, as far as the text counts."""
        effect: Float[np.ndarray, " item"] = self.weight * (self.full - self.scores(history))
        return effect

    def _encoded(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the encoder over tokenized texts, and give them back where it stands."""
        encoder = encoder_of(self.model)
        device = next(encoder.parameters()).device
        placed = {key: value.to(device) for key, value in features.items()}
        encoder(dict(placed))
        return placed


class _DualProbe(_Probe):
    """History items and items are encoded apart."""

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
        """Of the history and of the items; encoded together where the model reads both alike."""
        if encoder_of(self.model).recipe.apart:
            return encode_titles(self.model, history, as_history=True), encode_titles(self.model, self.items)
        vectors = encode_titles(self.model, [*history, *self.items])
        return vectors[: len(history)], vectors[len(history) :]


class _PairProbe(_Probe):
    """The history stands in one text with each item."""

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


def _explain_history(probe: _Probe, bought: _Bought, history: Sequence[Known]) -> list[tuple[HistoryMatch, ...]]:
    """Per item, what each history item has to do with it."""
    cosines, shares = probe.cosines_and_shares()
    effects = _leave_one_out(probe, bought)
    return [
        tuple(
            HistoryMatch(
                known.item_id,
                known.title,
                _cell(cosines, slot, item),
                _cell(shares, slot, item),
                _cell(effects, slot, item),
                bought.together(slot, item),
            )
            for slot, known in enumerate(history)
        )
        for item in range(len(probe.items))
    ]


def _leave_one_out(probe: _Probe, bought: _Bought) -> Tensor | None:
    """Effect (slot, item) of each history item on the score; None for a history of one."""
    if len(probe.history) < 2:
        return None
    rest = [probe.history[:slot] + probe.history[slot + 1 :] for slot in range(len(probe.history))]
    effects = [probe.less(history) + bought.without(slot) for slot, history in enumerate(rest)]
    return torch.from_numpy(np.stack(effects))


def _cell(table: Tensor | None, row: int, column: int) -> float | None:
    return None if table is None else float(table[row, column])


def _explain_sources(probe: _Probe) -> list[dict[str, Any]]:
    """Per item, what its sources give, by ablation; nothing for a model that combines none."""
    encoder = encoder_of(probe.model)
    if isinstance(encoder, MergedEncoder):
        return _explain_merged(probe, encoder)
    return _explain_xcross(probe, encoder) if isinstance(encoder, XCrossEncoder) else [{} for _ in probe.items]


def _explain_merged(probe: _Probe, encoder: MergedEncoder) -> list[dict[str, Any]]:
    """Per item, what each source adds to its score as a part of the one stream."""
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
