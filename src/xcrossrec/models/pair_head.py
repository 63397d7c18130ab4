"""The pair head: from the token states of a history and a candidate, read together, to a score.

Legend: ``slot`` = a history's item, ``dim`` = hidden size, ``batch`` = one (history, candidate) text, ``token`` =
position, ``pair`` = a history and a candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from xcrossrec.exceptions import ConfigError
from xcrossrec.models.heads import Head, HistoryMatcher
from xcrossrec.models.tokens import CANDIDATE_SEGMENT
from xcrossrec.types import PAIR_STARTS, PairReading, PairStart


class PairHead(Head):
    """Scores pairs of history and candidate by their token states; the last module of a `pair` model.

    ``s = scale * similarity + v . GELU(W_p h + b_p) + c``: the paper's head, added to the language model's own
    similarity of the history's and the candidate's tokens, pooled apart. v and c start at zero, so an untrained
    model ranks by similarity. h is the first token's state, as in the paper; where the history does not see the
    candidate (``shared`` attention) that state is the same for all candidates and cannot rank them, so there h
    is the mean state of the candidate's title. A head that starts ``fresh`` is the paper's alone: without the
    similarity, so that the language model has to learn the task from nothing.

    Args:
        reads: which h: ``first`` token, or ``candidate``.
        starts: from the ``similarity``, or ``fresh``.

    Raises:
        ConfigError: unknown start.
    """

    config_keys = ["dim", "reads", "starts"]  # noqa: RUF012
    config_file_name = "pair_head.json"

    def __init__(self, dim: int, *, reads: PairReading = "first", starts: PairStart = "similarity") -> None:
        super().__init__()
        if starts not in PAIR_STARTS:
            raise ConfigError(f"unknown start {starts!r} of a pair head: choose one of {', '.join(PAIR_STARTS)}")
        self.dim = dim
        self.reads: PairReading = reads
        self.starts: PairStart = starts
        self.matcher = HistoryMatcher()
        self.project = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.matcher.requires_grad_(starts == "similarity")

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of it is head; without the similarity, a fresh head leaves the matcher out."""
        return {"head_learning_rate": [p for p in self.parameters() if p.requires_grad]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``scores`` (pair, 1); a pair is a text, or a candidate where all pairs stand in one row."""
        states, segments = features["token_embeddings"], features["segments"]
        if "candidate" in features:
            parts = _parts_of_row(states[0], segments[0], features["history"][0], features["candidate"][0])
        else:
            parts = _parts_of_texts(states, segments)
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
        present[:, 0] = True  # a candidate that fills the model leaves no history: similarity 0
        return self.matcher.pool(cosine, present)


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


def _parts_of_texts(states: Float[Tensor, "batch token dim"], segments: Int[Tensor, "batch token"]) -> PairParts:
    """Pool pairs that have a text each."""
    own = (segments == CANDIDATE_SEGMENT).to(states.dtype)
    candidate = torch.einsum("btd,bt->bd", states, own) / own.sum(1, keepdim=True).clamp(min=1)
    number = torch.arange(1, int(segments.max().clamp(min=1)) + 1, device=segments.device)
    members = segments[:, None, :] == number[None, :, None]
    return PairParts(candidate, torch.bmm(members.to(states.dtype), states), members.any(-1))


def _parts_of_row(
    states: Float[Tensor, "token dim"],
    segments: Int[Tensor, " token"],
    history: Int[Tensor, " token"],
    candidate: Int[Tensor, " token"],
) -> PairParts:
    """Pool pairs whose histories and candidates stand in one row."""
    of_candidate, of_slot = candidate >= 0, segments > 0
    pairs, width = int(candidate.max()) + 1, int(segments.max().clamp(min=1))
    title = segments == CANDIDATE_SEGMENT
    total = states.new_zeros(pairs, states.shape[1]).index_add(0, candidate[title], states[title])
    count = torch.bincount(candidate[title], minlength=pairs).clamp(min=1)
    cell = (history * width + segments - 1)[of_slot]
    histories = int(history.max()) + 1
    sums = states.new_zeros(histories * width, states.shape[1]).index_add(0, cell, states[of_slot])
    present = torch.bincount(cell, minlength=histories * width) > 0
    owner = history.new_zeros(pairs).scatter(0, candidate[of_candidate], history[of_candidate])
    return PairParts(
        total / count[:, None].to(total.dtype),
        sums.view(histories, width, -1)[owner],
        present.view(histories, width)[owner],
    )
