"""Trained models as scorers of one catalogue."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import numpy as np
import torch
from jaxtyping import Float, Int
from sentence_transformers import CrossEncoder, SentenceTransformer

from xcrossrec.exceptions import DataError
from xcrossrec.models.bundle import Model, encoder_of, matcher_of
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.prompts import history_prompt, item_texts

_ENCODE_BATCH = 256

_SIMILARITIES = 2**22
"""Most cosines of one product of histories with the catalogue (16 MiB)."""

_SHARED_CHARACTERS = 8_000
"""Most text of one forward pass with shared histories, about 2,000 tokens."""

_SHARED_CHARACTERS_ON_GPU = 64_000
"""The same on a GPU, where a pass launches as many kernels whatever the number of its tokens."""

_SHARED_CANDIDATES = 256
"""Most candidates of one user in one forward pass."""


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


@torch.inference_mode()
def encode_titles(model: SentenceTransformer, texts: Sequence[str]) -> Float[torch.Tensor, "text dim"]:
    """Encode texts into unit vectors, each different text once, longest first; leaves the model in evaluation mode.

    Equal texts have equal vectors, so that their items tie.
    """
    if model.training:
        model.eval()
    place = {text: number for number, text in enumerate(sorted(set(texts), key=lambda text: (-len(text), text)))}
    different = list(place)
    encode = encoder_of(model).preprocess
    parts = []
    for start in range(0, len(different), _ENCODE_BATCH):
        features = encode(different[start : start + _ENCODE_BATCH])
        parts.append(model({key: value.to(model.device) for key, value in features.items()})["sentence_embedding"])
    if not parts:
        return torch.empty(0, encoder_of(model).dim)
    return torch.cat(parts).float().cpu()[[place[text] for text in texts]]


def _runs_within(lengths: Sequence[int], most: int) -> Iterator[range]:
    """Cut users into consecutive runs of at most so many slots (at least one user each)."""
    start = used = 0
    for user, length in enumerate(lengths):
        if user > start and used + length > most:
            yield range(start, user)
            start, used = user, 0
        used += length
    if start < len(lengths):
        yield range(start, len(lengths))


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
            return torch.cat(list(self._catalogue_scores(slots, lengths))).numpy().astype(np.float32)
        items = self.vectors[torch.from_numpy(candidates)]
        similarity = torch.einsum("usd,ucd->ucs", slots, items)
        scores = self.matcher.pool(similarity, present[:, None, :].expand_as(similarity))
        return scores.numpy().astype(np.float32)

    def _catalogue_scores(
        self, slots: Float[torch.Tensor, "user slot dim"], lengths: Sequence[int]
    ) -> Iterator[Float[torch.Tensor, "one item"]]:
        """Score the catalogue user by user; several users' slots go through one product."""
        at_once = max(1, _SIMILARITIES // max(1, len(self.vectors)))
        for users in _runs_within(lengths, at_once):
            rows = torch.cat([slots[user, : lengths[user]] for user in users]) @ self.vectors.t()
            for part in rows.split_with_sizes([lengths[user] for user in users]):
                similarity = part.t()[None]
                yield self.matcher.pool(similarity, torch.ones_like(similarity, dtype=torch.bool))


class PairScorer:
    """Scores (history, candidate) pairs; a model that shares histories reads each once a batch.

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
        return self.score_titles([[self.titles[row] for row in history] for history in histories], candidates)

    def score_titles(
        self, histories: Sequence[Sequence[str]], candidates: Int[np.ndarray, "user candidate"]
    ) -> Float[np.ndarray, "user candidate"]:
        """Score items of the catalogue for histories that it need not hold.

        Args:
            histories: per user titles, oldest first; at least one.
            candidates: item rows.
        """
        prompts = [history_prompt(titles) for titles in histories]
        if encoder_of(self.model).shares_history:
            return self._share(prompts, candidates)
        pairs = [(prompt, self.titles[row]) for prompt, rows in zip(prompts, candidates, strict=True) for row in rows]
        scores = self.model.predict(pairs, batch_size=_ENCODE_BATCH // 4, show_progress_bar=False)
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
    """Score pairs in one forward pass.

    Args:
        model: a `pair` model; put into evaluation mode.
        pairs: (history prompt, candidate title); at least one.
    """
    model.eval()
    features = model.preprocess(list(pairs))
    scores = model({name: value.to(model.device) for name, value in features.items()})["scores"]
    found: Float[np.ndarray, " pair"] = scores[:, 0].float().cpu().numpy()
    return found
