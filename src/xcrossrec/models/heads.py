"""From token states to scores: the history matcher of `dual` and the pair head of `pair`.

Legend: ``user`` = one history, ``slot`` = a history's item, ``item`` = an item to score, ``dim`` = vector
size, ``batch`` = one (history, candidate) text, ``token`` = position.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import save_file
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models.adapters import load_tensors
from xcrossrec.models.tokens import CANDIDATE_SEGMENT
from xcrossrec.types import HISTORY_POOLINGS, PAIR_READINGS, PAIR_STARTS, HistoryPooling, PairReading, PairStart

RECENCY_SLOTS = 8
"""History positions, counted from the newest, with a learned weight of their own; older ones share the last."""


def soft_maximum(
    similarity: Float[Tensor, "*batch slot"],
    weight: Float[Tensor, "*batch slot"],
    sharpness: Float[Tensor, ""],
) -> Float[Tensor, "*batch"]:
    """Weighted soft maximum: ``log(sum_k w_k exp(a s_k) / sum_k w_k) / a``.

    Args:
        similarity: cosines s.
        weight: non-negative w; 0 leaves a slot out; at least one positive.
        sharpness: a > 0; towards 0 the mean, towards infinity the maximum.
    """
    peak = similarity.masked_fill(weight == 0, -torch.inf).amax(-1, keepdim=True)
    shares = weight / weight.sum(-1, keepdim=True)
    total = (shares * torch.exp(sharpness * (similarity - peak))).sum(-1)
    return peak.squeeze(-1) + torch.log(total) / sharpness


class _Head(Module):
    """Saves settings as JSON and tensors as safetensors, and refuses what does not fit."""

    config_keys: list[str] = []  # noqa: RUF012 - sentence-transformers' own convention
    weights_name = "head.safetensors"

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings and tensors."""
        folder = Path(output_path)
        self.save_config(str(folder))
        state = {key: value.detach().cpu().contiguous() for key, value in self.state_dict().items()}
        save_file(state, folder / self.weights_name)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Read back; a tensor that is missing, surplus or of another shape is a :class:`BundleError`."""
        folder = Path(model_name_or_path) / subfolder
        path = folder / cls.config_file_name
        if not path.exists():
            raise BundleError(f"{folder} has no {cls.config_file_name}: the model was not written to its end")
        head = cls(**json.loads(path.read_text(encoding="utf-8")))
        state = load_tensors(folder / cls.weights_name)
        try:
            head.load_state_dict(state)
        except RuntimeError as error:
            raise BundleError(f"{folder / cls.weights_name} does not fit its settings: {error}") from error
        return head


class HistoryMatcher(_Head):
    """Scores items against a history by cosine; the last module of a `dual` model.

    ``prompt``: the history is one vector h, ``s = h . i``. ``late``: each history item keeps its vector,
    ``s = softmax-like maximum over items`` (:func:`soft_maximum`) with a learned sharpness and a learned weight
    per recency. The temperature only scales training's softmax.

    Args:
        pooling: ``prompt`` or ``late``.
        sharpness: starting value of the soft maximum's factor.
        temperature: starting value of the training softmax's temperature.

    Raises:
        ConfigError: unknown pooling.
    """

    config_keys = ["pooling"]  # noqa: RUF012
    config_file_name = "history_matcher.json"

    def __init__(self, pooling: HistoryPooling = "late", *, sharpness: float = 12.0, temperature: float = 0.25) -> None:
        super().__init__()
        if pooling not in HISTORY_POOLINGS:
            raise ConfigError(f"unknown history pooling {pooling!r}: choose one of {', '.join(HISTORY_POOLINGS)}")
        self.pooling: HistoryPooling = pooling
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.log_recency = nn.Parameter(torch.zeros(RECENCY_SLOTS))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """Inverse temperature of training's softmax, kept below 100."""
        return self.log_scale.clamp(max=math.log(100.0)).exp()

    @property
    def sharpness(self) -> Float[Tensor, ""]:
        """Factor of the soft maximum."""
        return self.log_sharpness.exp()

    def recency_weight(self, age: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Weight of a history item by its age (0 = newest)."""
        return self.log_recency.exp()[age.clamp(0, RECENCY_SLOTS - 1)]

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pass on: the text's vector is ready, matching needs two texts."""
        return features

    def match(
        self,
        history: Float[Tensor, "user slot dim"],
        present: Bool[Tensor, "user slot"],
        items: Float[Tensor, "item dim"],
    ) -> Float[Tensor, "user item"]:
        """Score every item for every history.

        Args:
            history: unit vectors, oldest first, the present slots at the left; for ``prompt`` one slot.
            present: which slots are filled; at least one a user.
            items: unit vectors.
        """
        similarity = torch.einsum("usd,id->uis", history, items)
        return self.pool(similarity, present[:, None, :].expand_as(similarity))

    def pool(
        self, similarity: Float[Tensor, "*batch slot"], present: Bool[Tensor, "*batch slot"]
    ) -> Float[Tensor, "*batch"]:
        """Reduce per-slot cosines to one score."""
        if self.pooling == "prompt":
            return similarity[..., 0]
        slot = torch.arange(similarity.shape[-1], device=similarity.device)
        age = present.sum(-1, keepdim=True) - 1 - slot
        return soft_maximum(similarity, self.recency_weight(age) * present, self.sharpness)


class Projection(_Head):
    """A low-rank linear map on a text's vector, added to it: ``x + W_up W_down x``; the trained part of a `dual` head.

    ``W_up`` starts at zero, so an untrained model keeps the language model's own similarity. ``2 d r`` parameters.

    Args:
        dim: vector size d.
        rank: r.
    """

    config_keys = ["dim", "rank"]  # noqa: RUF012
    config_file_name = "projection.json"

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        if rank < 1:
            raise ConfigError(f"the projection's rank is {rank}: give at least 1, or leave the projection out")
        self.dim = dim
        self.rank = rank
        self.down = nn.Parameter(torch.randn(rank, dim) * dim**-0.5)
        self.up = nn.Parameter(torch.zeros(dim, rank))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Replace ``sentence_embedding`` (batch, dim) by its projection."""
        vectors = features["sentence_embedding"]
        features["sentence_embedding"] = vectors + vectors @ self.down.t() @ self.up.t()
        return features


class Center(_Head):
    """Subtracts a catalogue's mean vector from a text's vector.

    All titles of one domain have something in common ("toy", say). It tells no item from another, yet it is a large
    part of every cosine between them; without it the language model's similarity ranks better before any training, and
    what one domain teaches carries over to the next (measured in LOG.md). The mean is computed once, from titles alone
    (:func:`xcrossrec.models.centering.center_on`), and never trained.

    Args:
        dim: vector size d.
    """

    config_keys = ["dim"]  # noqa: RUF012
    config_file_name = "center.json"
    mean: Float[Tensor, " dim"]

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("mean", torch.zeros(dim))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Subtract the mean from ``sentence_embedding`` (batch, dim)."""
        features["sentence_embedding"] = features["sentence_embedding"] - self.mean
        return features


class PairHead(_Head):
    """Scores pairs of history and candidate by their token states; the last module of a `pair` model.

    ``s = scale * similarity + v . GELU(W_p h + b_p) + c``: the paper's head, added to the language model's own
    similarity of the history's and the candidate's tokens, pooled apart. v and c start at zero, so an untrained
    model ranks by similarity. h is the first token's state, as in the paper; where the history does not see the
    candidate (``shared`` attention) that state is the same for all candidates and cannot rank them, so there h
    is the mean state of the candidate's title. A head that starts ``fresh`` is the paper's alone: without the
    similarity, so that the language model has to learn the task from nothing.

    Args:
        dim: hidden size.
        pooling: ``prompt`` pools the whole history, ``late`` each of its items (soft maximum).
        reads: which h: ``first`` token, or ``candidate``.
        starts: from the ``similarity``, or ``fresh``.
        sharpness: starting value of the soft maximum's factor.
        temperature: starting value of the similarity's temperature.

    Raises:
        ConfigError: unknown pooling, reading or start.
    """

    config_keys = ["dim", "pooling", "reads", "starts"]  # noqa: RUF012
    config_file_name = "pair_head.json"

    def __init__(
        self,
        dim: int,
        pooling: HistoryPooling = "late",
        *,
        reads: PairReading = "first",
        starts: PairStart = "similarity",
        sharpness: float = 12.0,
        temperature: float = 0.25,
    ) -> None:
        super().__init__()
        if reads not in PAIR_READINGS:
            raise ConfigError(f"unknown reading {reads!r} of a pair: choose one of {', '.join(PAIR_READINGS)}")
        if starts not in PAIR_STARTS:
            raise ConfigError(f"unknown start {starts!r} of a pair head: choose one of {', '.join(PAIR_STARTS)}")
        self.dim = dim
        self.reads: PairReading = reads
        self.starts: PairStart = starts
        self.matcher = HistoryMatcher(pooling, sharpness=sharpness, temperature=temperature)
        self.project = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.matcher.requires_grad_(starts == "similarity")

    @property
    def pooling(self) -> HistoryPooling:
        """How the history is pooled."""
        return self.matcher.pooling

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``scores`` (pair, 1); a pair is a text, or a candidate where all pairs stand in one row."""
        states, segments = features["token_embeddings"], features["segments"]
        if "candidate" in features:
            slots = self._slots(segments[0])
            parts = _parts_of_row(states[0], slots, segments[0], features["history"][0], features["candidate"][0])
        else:
            parts = _parts_of_texts(states, self._slots(segments), segments)
        read = parts.candidate if self.reads == "candidate" else states[:, 0]
        score = self.value(nn.functional.gelu(self.project(read))).squeeze(-1)
        if self.starts == "similarity":
            score = self.matcher.scale * self.similarity(parts) + score
        features["scores"] = score.unsqueeze(-1)
        return features

    def similarity(self, parts: PairParts) -> Float[Tensor, " pair"]:
        """Cosine of the candidate's mean state with the history's (or its items', soft maximum)."""
        candidate = nn.functional.normalize(parts.candidate, dim=-1)
        history = nn.functional.normalize(parts.history, dim=-1)
        cosine = torch.einsum("psd,pd->ps", history, candidate)
        present = parts.present.clone()
        present[:, 0] = True  # a candidate that fills the model leaves no history: similarity 0, as for `prompt`
        return self.matcher.pool(cosine, present)

    def _slots(self, segments: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Each token's vector of the history, from 1; 0 for tokens of none."""
        return segments.clamp(min=0) if self.pooling == "late" else (segments > 0).long()


@dataclass(frozen=True)
class PairParts:
    """What the pair head pools out of the token states.

    Attributes:
        candidate: mean state of the candidate's title; zero if it has no token.
        history: per slot the sum of its tokens' states.
        present: which slots have a token.
    """

    candidate: Float[Tensor, "pair dim"]
    history: Float[Tensor, "pair slot dim"]
    present: Bool[Tensor, "pair slot"]


def _parts_of_texts(
    states: Float[Tensor, "batch token dim"], slots: Int[Tensor, "batch token"], segments: Int[Tensor, "batch token"]
) -> PairParts:
    """Pool pairs that have a text each."""
    own = (segments == CANDIDATE_SEGMENT).to(states.dtype)
    candidate = torch.einsum("btd,bt->bd", states, own) / own.sum(1, keepdim=True).clamp(min=1)
    number = torch.arange(1, int(slots.max().clamp(min=1)) + 1, device=slots.device)
    members = slots[:, None, :] == number[None, :, None]
    return PairParts(candidate, torch.bmm(members.to(states.dtype), states), members.any(-1))


def _parts_of_row(
    states: Float[Tensor, "token dim"],
    slots: Int[Tensor, " token"],
    segments: Int[Tensor, " token"],
    history: Int[Tensor, " token"],
    candidate: Int[Tensor, " token"],
) -> PairParts:
    """Pool pairs whose histories and candidates stand in one row."""
    of_candidate = candidate >= 0
    pairs, width = int(candidate.max()) + 1, int(slots.max().clamp(min=1))
    title = segments == CANDIDATE_SEGMENT
    total = states.new_zeros(pairs, states.shape[1]).index_add(0, candidate[title], states[title])
    count = torch.bincount(candidate[title], minlength=pairs).clamp(min=1)
    cell = (history * width + slots - 1)[slots > 0]
    histories = int(history.max()) + 1
    sums = states.new_zeros(histories * width, states.shape[1]).index_add(0, cell, states[slots > 0])
    present = torch.bincount(cell, minlength=histories * width) > 0
    owner = history.new_zeros(pairs).scatter(0, candidate[of_candidate], history[of_candidate])
    return PairParts(
        total / count[:, None].to(total.dtype),
        sums.view(histories, width, -1)[owner],
        present.view(histories, width)[owner],
    )
