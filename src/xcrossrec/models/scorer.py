"""Trained models as scorers of one catalogue."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float, Int
from sentence_transformers import CrossEncoder, SentenceTransformer

from xcrossrec.exceptions import DataError
from xcrossrec.models.bundle import Model, matcher_of
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.prompts import history_prompt, item_texts

_ENCODE_BATCH = 256


def build_scorer(model: Model, titles: Sequence[str], *, name: str = "model") -> DualScorer | PairScorer:
    """Bind a model to a catalogue.

    Args:
        model: from ``xcrossrec.load`` or a training.
        titles: the catalogue, in row order.
        name: what tables call it.
    """
    if isinstance(model, CrossEncoder):
        return PairScorer(model, titles, name=name)
    return DualScorer(model, titles, name=name)


def check_rows(histories: Sequence[Sequence[int]], candidates: np.ndarray | None, catalog_size: int) -> None:
    """Refuse empty histories and rows outside the catalogue.

    Raises:
        DataError: names the first offender.
    """
    if any(len(history) == 0 for history in histories):
        raise DataError("a history is empty: give at least one item id or title")
    rows = np.concatenate([np.asarray(history, dtype=np.int64) for history in histories]) if histories else np.empty(0)
    if candidates is not None:
        rows = np.concatenate([rows, candidates.ravel()])
    outside = rows[(rows < 0) | (rows >= catalog_size)]
    if outside.size:
        raise DataError(f"item row {int(outside[0])} is outside the catalogue of {catalog_size} items: use its rows")


def encode_titles(model: SentenceTransformer, texts: Sequence[str]) -> Float[torch.Tensor, "text dim"]:
    """Encode texts into unit vectors, longest first, without a progress bar."""
    vectors: torch.Tensor = model.encode(
        list(texts), batch_size=_ENCODE_BATCH, convert_to_tensor=True, show_progress_bar=False
    )
    return vectors.cpu()


class DualScorer:
    """Scores by the cosine of separately encoded history and items; the catalogue is encoded once.

    Args:
        model: a `dual` model.
        titles: the catalogue, in row order.
        name: what tables call it.
        vectors: the catalogue's vectors (item, dim), if they are known already.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        titles: Sequence[str],
        *,
        name: str = "model",
        vectors: Float[torch.Tensor, "item dim"] | None = None,
    ) -> None:
        self.model = model
        self.titles = item_texts(titles)
        self._name = name
        self.vectors = encode_titles(model, self.titles) if vectors is None else vectors
        self.matcher: HistoryMatcher = deepcopy(matcher_of(model)).cpu()  # vectors are kept on the CPU

    @property
    def name(self) -> str:
        """What tables and result files call it."""
        return self._name

    @torch.inference_mode()
    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates for each history; see :class:`xcrossrec.scoring.Scorer`."""
        check_rows(histories, candidates, len(self.titles))
        if self.matcher.pooling == "prompt":
            prompts = [history_prompt([self.titles[row] for row in history]) for history in histories]
            slots = encode_titles(self.model, prompts)[:, None, :]
            return self.score_vectors(slots, [1] * len(histories), candidates)
        longest = max(map(len, histories), default=0)
        padded = torch.tensor([[*history, *[0] * (longest - len(history))] for history in histories])
        return self.score_vectors(self.vectors[padded], [len(history) for history in histories], candidates)

    @torch.inference_mode()
    def score_vectors(
        self,
        slots: Float[torch.Tensor, "user slot dim"],
        lengths: Sequence[int],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score histories that are vectors already.

        Args:
            slots: unit vectors, oldest first, filled from the left.
            lengths: how many slots of each user are filled.
            candidates: item rows, or None for the catalogue.
        """
        present = torch.arange(slots.shape[1])[None, :] < torch.tensor(lengths)[:, None]
        if candidates is None:
            rows = [
                self.matcher.match(slots[user, None], present[user, None], self.vectors) for user in range(len(slots))
            ]
            return torch.cat(rows).numpy().astype(np.float32)
        items = self.vectors[torch.from_numpy(candidates)]
        similarity = torch.einsum("usd,ucd->ucs", slots, items)
        scores = self.matcher.pool(similarity, present[:, None, :].expand_as(similarity))
        return scores.numpy().astype(np.float32)


class PairScorer:
    """Scores each (history, candidate) text by itself, as the paper does.

    Args:
        model: a `pair` model.
        titles: the catalogue, in row order.
        name: what tables call it.
    """

    def __init__(self, model: CrossEncoder, titles: Sequence[str], *, name: str = "model") -> None:
        self.model = model
        self.titles = item_texts(titles)
        self._name = name

    @property
    def name(self) -> str:
        """What tables and result files call it."""
        return self._name

    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates for each history; see :class:`xcrossrec.scoring.Scorer`."""
        check_rows(histories, candidates, len(self.titles))
        if candidates is None:
            candidates = np.tile(np.arange(len(self.titles)), (len(histories), 1))
        texts = [history_prompt([self.titles[row] for row in history]) for history in histories]
        pairs = [(text, self.titles[row]) for text, rows in zip(texts, candidates, strict=True) for row in rows]
        scores = self.model.predict(pairs, batch_size=_ENCODE_BATCH // 4, show_progress_bar=False)
        return np.asarray(scores, dtype=np.float32).reshape(candidates.shape)
