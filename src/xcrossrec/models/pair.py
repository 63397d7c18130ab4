"""`pair` models, the paper's way: history and candidate stand in one text, and each candidate costs encoder passes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from sentence_transformers import CrossEncoder
from torch import nn

from xcrossrec.models.base import reads_backwards_only
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.model import Model, encoder_of, usual_device
from xcrossrec.models.pair_head import PairHead
from xcrossrec.prompts import history_prompt, item_texts
from xcrossrec.types import EncodingPrecision, PairReading, PairStart, Scoring

_PREDICT_BATCH = 64

_SHARED_CHARACTERS = 8_000
"""Most text of one forward pass with shared histories, about 2,000 tokens."""

_SHARED_CHARACTERS_ON_GPU = 64_000
"""The same on a GPU, where a pass launches as many kernels whatever the number of its tokens."""

_SHARED_CANDIDATES = 256
"""Most candidates of one user in one forward pass."""


class PairKind:
    """What is particular to `pair` models; see :data:`xcrossrec.models.kinds.ModelKind`."""

    name: ClassVar[Scoring] = "pair"

    def head(self, encoder: TitleEncoder, pair_start: PairStart) -> list[nn.Module]:
        """The pair head, which reads what the attention lets it tell candidates by."""
        blind = encoder.pair_attention == "shared" or reads_backwards_only(encoder.backbone)
        reads: PairReading = "candidate" if blind else "first"
        return [PairHead(encoder.dim, reads=reads, starts=pair_start)]

    def assemble(self, modules: Sequence[nn.Module]) -> CrossEncoder:
        """Make a ``CrossEncoder``, which gives a score for each history and candidate and asks no hub for anything."""
        model = CrossEncoder(modules=list(modules), activation_fn=nn.Identity(), device=usual_device())
        model.model_card_data.local_files_only = True
        return model

    def scorer(self, model: Model, titles: Sequence[str]) -> PairScorer:
        """Bind to a catalogue, of which nothing is encoded beforehand."""
        return PairScorer(model, titles)

    def dim(self, model: Model) -> int:
        """No item has a vector."""
        return 0

    def encode_items(self, model: Model, titles: Sequence[str]) -> Float32[np.ndarray, "item dim"]:
        """Give no columns."""
        return np.empty((len(titles), 0), dtype=np.float32)

    def with_projection(self, model: Model, rank: int, seed: int) -> Model:
        """There is no vector to project: the model as it is."""
        return model

    def centered(self, model: Model, titles: Sequence[str], *, precision: EncodingPrecision = "fp32") -> Model:
        """There is no vector to center: the model as it is."""
        return model


class PairScorer:
    """Scores (history, candidate) pairs of a catalogue in row order; a model that shares histories reads each once a
    batch."""

    def __init__(self, model: CrossEncoder, titles: Sequence[str]) -> None:
        self.model = model
        self.titles = item_texts(titles)

    def score(
        self, histories: Sequence[Sequence[int]], candidates: Int[np.ndarray, "user candidate"] | None = None
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates, as :class:`xcrossrec.scoring.Scorer` says; no history may be empty."""
        if candidates is None:
            candidates = np.tile(np.arange(len(self.titles)), (len(histories), 1))
        return self.score_titles([[self.titles[row] for row in history] for history in histories], candidates)

    def score_titles(
        self, histories: Sequence[Sequence[str]], candidates: Int[np.ndarray, "user candidate"]
    ) -> Float[np.ndarray, "user candidate"]:
        """Score items of the catalogue by their rows for histories that it need not hold: per user titles, oldest
        first; at least one."""
        prompts = [history_prompt(titles) for titles in histories]
        if encoder_of(self.model).shares_history:
            return self._share(prompts, candidates)
        pairs = [(prompt, self.titles[row]) for prompt, rows in zip(prompts, candidates, strict=True) for row in rows]
        scores = self.model.predict(pairs, batch_size=_PREDICT_BATCH, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float32).reshape(candidates.shape)

    def _share(
        self, prompts: Sequence[str], candidates: Int[np.ndarray, "user candidate"]
    ) -> Float[np.ndarray, "user candidate"]:
        scores = np.empty(candidates.shape, dtype=np.float32)
        for batch in self._batches(prompts, candidates):
            pairs = [(prompts[user], self.titles[row]) for user, columns in batch for row in candidates[user, columns]]
            found = iter(np.split(score_pairs(self.model, pairs), np.cumsum([len(c) for _, c in batch])[:-1]))
            for user, columns in batch:
                scores[user, columns] = next(found)
        return scores

    def _batches(
        self, prompts: Sequence[str], candidates: Int[np.ndarray, "user candidate"]
    ) -> Iterator[list[tuple[int, Int[np.ndarray, " column"]]]]:
        """Users of like history together, as many as the budget of characters holds; many candidates in parts."""
        parts = -(-candidates.shape[1] // _SHARED_CANDIDATES)
        columns = np.array_split(np.arange(candidates.shape[1]), max(parts, 1))
        most = _SHARED_CHARACTERS if self.model.device.type == "cpu" else _SHARED_CHARACTERS_ON_GPU
        batch: list[tuple[int, Int[np.ndarray, " column"]]] = []
        used = 0
        for user in sorted(range(len(prompts)), key=lambda user: len(prompts[user])):
            for part in columns:
                cost = len(prompts[user]) + sum(len(self.titles[row]) for row in candidates[user, part])
                if batch and used + cost > most:
                    yield batch
                    batch, used = [], 0
                batch.append((user, part))
                used += cost
        if batch:
            yield batch


@torch.inference_mode()
def score_pairs(model: CrossEncoder, pairs: Sequence[tuple[str, str]]) -> Float[np.ndarray, " pair"]:
    """Score pairs of history prompt and candidate title, at least one, in one forward pass in evaluation mode."""
    model.eval()
    features = model.preprocess(list(pairs))
    scores = model({name: value.to(model.device) for name, value in features.items()})["scores"]
    found: Float[np.ndarray, " pair"] = scores[:, 0].float().cpu().numpy()
    return found
