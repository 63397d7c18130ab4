"""The head of `dual` models: from a text's vector to scores.

Legend: ``user`` = one history, ``slot`` = a history's item, ``item`` = an item to score, ``dim`` = vector size.
"""

from __future__ import annotations

import math
import reprlib
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from sentence_transformers.base.modules import Module
from torch import Tensor, nn

from xcrossrec.exceptions import BundleError
from xcrossrec.models.files import Dim, Rank, Settings, read_settings, save_tensors, take_over
from xcrossrec.models.recipe import OF_HISTORY
from xcrossrec.types import PairReading, PairStart

RECENCY_SLOTS = 8
"""History positions, counted from the newest, with a learned weight of their own; older ones share the last."""


def soft_maximum(
    similarity: Float[Tensor, "*batch slot"], weight: Float[Tensor, "*#batch slot"], sharpness: Float[Tensor, ""]
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


class HeadSettings(Settings):
    """What the heads' settings may hold."""

    dim: Dim = 1
    rank: Rank = 1
    reads: PairReading = "first"
    starts: PairStart = "similarity"


class Head(Module):
    """Saves settings as JSON and tensors as safetensors, and refuses what does not fit."""

    config_keys: list[str] = []  # noqa: RUF012 - sentence-transformers' own convention
    weights_name = "head.safetensors"

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Pass on what is ready; what matches or knows something else is asked by its own methods."""
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings and tensors."""
        folder = Path(output_path)
        self.save_config(str(folder))
        save_tensors(self.state_dict(), folder / self.weights_name)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> Self:
        """Read back; a tensor that is missing, surplus or of another shape is a :class:`BundleError`."""
        folder = Path(model_name_or_path) / subfolder
        found = read_settings(folder / cls.config_file_name, HeadSettings)
        if set(found) != set(cls.config_keys):
            holds = f"holds {reprlib.repr(list(found))}, expected {cls.config_keys}"
            raise BundleError(f"{folder / cls.config_file_name} {holds}: copy it again")
        head = cls(**found)
        take_over(head.state_dict(), folder / cls.weights_name)
        return head


class HistoryMatcher(Head):
    """Scores items against a history by cosine; the last module of a `dual` model.

    Each history item keeps its vector (`late` interaction), and ``s`` is a soft maximum over the items
    (:func:`soft_maximum`) with a learned sharpness and a learned weight per recency. The temperature only scales
    training's softmax. Sharpness and temperature start as given.
    """

    config_file_name = "history_matcher.json"

    def __init__(self, *, sharpness: float = 12.0, temperature: float = 0.25) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(-math.log(temperature)))
        self.log_sharpness = nn.Parameter(torch.tensor(math.log(sharpness)))
        self.log_recency = nn.Parameter(torch.zeros(RECENCY_SLOTS))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """All of it is head."""
        return {"head_learning_rate": list(self.parameters())}

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

    def match(
        self,
        history: Float[Tensor, "user slot dim"],
        present: Bool[Tensor, "user slot"],
        items: Float[Tensor, "item dim"],
    ) -> Float[Tensor, "user item"]:
        """Score every item for every history; vectors are unit ones, present slots stand at the left, oldest first, at
        least one a user."""
        similarity = torch.einsum("usd,id->uis", history, items)
        return self.pool(similarity, present[:, None, :].expand_as(similarity))

    def pool(
        self, similarity: Float[Tensor, "*batch slot"], present: Bool[Tensor, "*#batch slot"]
    ) -> Float[Tensor, "*batch"]:
        """Reduce per-slot cosines to one score."""
        slot = torch.arange(similarity.shape[-1], device=similarity.device)
        age = present.sum(-1, keepdim=True) - 1 - slot
        return soft_maximum(similarity, self.recency_weight(age) * present, self.sharpness)


class Projection(Head):
    """A low-rank linear map on a text's vector of size d, added to it: ``x + W_up W_down x``, of rank r, at least 1;
    the trained part of a `dual` head.

    ``W_up`` starts at zero, so an untrained model keeps the language model's own similarity. ``2 d r`` parameters.
    """

    config_keys = ["dim", "rank"]  # noqa: RUF012
    config_file_name = "projection.json"

    def __init__(self, dim: int, rank: int) -> None:
        super().__init__()
        self.dim = dim
        self.rank = rank
        self.down = nn.Parameter(torch.randn(rank, dim) * dim**-0.5)
        self.up = nn.Parameter(torch.zeros(dim, rank))

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Both factors, at a rate of their own."""
        return {"projection_learning_rate": [self.down, self.up]}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Replace ``sentence_embedding`` (batch, dim) by its projection."""
        vectors = features["sentence_embedding"]
        features["sentence_embedding"] = vectors + vectors @ self.down.t() @ self.up.t()
        return features


class Center(Head):
    """Subtracts a catalogue's mean vector from a text's vector.

    All titles of one domain have something in common ("toy", say). It tells no item from another, yet it is a large
    part of every cosine between them; without it the language model's similarity ranks better before any training, and
    what one domain teaches carries over to the next (measured in lab/log). The mean is computed once, from titles alone
    (:meth:`xcrossrec.models.dual.DualKind.centered`), and never trained.
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


class PromptedCenter(Center):
    """A center for a model that reads a history's items with another prompt than those that are scored: each has its
    own mean, since a prompt moves all vectors alike.
    """

    config_file_name = "prompted_center.json"
    history_mean: Float[Tensor, " dim"]

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.register_buffer("history_mean", torch.zeros(dim))

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Subtract from ``sentence_embedding`` (batch, dim) the mean of those that are read alike."""
        mean = torch.where(features[OF_HISTORY][:, None], self.history_mean, self.mean)
        features["sentence_embedding"] = features["sentence_embedding"] - mean
        return features
