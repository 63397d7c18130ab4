"""BSARec: self-attention beside a frequency filter on sequences of item ids; without the filter it is SASRec.

Legend: ``user`` = one history, ``slot`` = a place of it, the newest last, ``dim`` = size of an item's vector.

Source:
    Shin, Choi, Wi and Park, "An attentive inductive bias for sequential recommendation beyond the self-attention"
    (AAAI 2024, arXiv 2312.10325), written anew from its equations.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn
from torch.nn import functional

from xcrossrec import ConfigError
from xcrossrec.scoring import check_rows
from xcrossrec_lab.task import Fitted, Task, check_settings

DEFAULTS = {
    "dim": 64,
    "blocks": 2,
    "heads": 1,
    "dropout": 0.5,
    "alpha": 0.7,
    "frequencies": 3,
    "slots": 20,
    "batch_histories": 256,
    "epochs": 60,
    "patience": 5,
    "learning_rate": 1e-3,
}
"""The paper's for Beauty, but for histories of 20 items instead of 50."""

_FEWEST_HELD_OUT = 8
_FEWEST_RANKED = 1000
_ROWS = 256


class FrequencyFilter(nn.Module):
    """Scales what is fast in a sequence: ``low + beta^2 (x - low)``, ``low`` of the lowest frequencies alone.

    Args:
        dim: each has a scale of its own.
        frequencies: how many of the lowest are ``low``.
    """

    def __init__(self, dim: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.root_of_scale = nn.Parameter(torch.randn(dim))

    def forward(self, states: Float[Tensor, "user slot dim"]) -> Float[Tensor, "user slot dim"]:
        """Filter along the slots."""
        spectrum = torch.fft.rfft(states.float(), dim=1, norm="ortho")
        spectrum[:, self.frequencies :] = 0
        low = torch.fft.irfft(spectrum, n=states.shape[1], dim=1, norm="ortho")
        out: Tensor = low + self.root_of_scale.square() * (states - low)
        return out


class Block(nn.Module):
    """One layer: the filter and causal self-attention, mixed by ``alpha``, then a position-wise network."""

    def __init__(self, dim: int, heads: int, dropout: float, alpha: float, frequencies: int) -> None:
        super().__init__()
        self.alpha = alpha
        self.filter = FrequencyFilter(dim, frequencies)
        self.attention = nn.MultiheadAttention(dim, heads, dropout, batch_first=True)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.norms = nn.ModuleList(nn.LayerNorm(dim, eps=1e-12) for _ in range(3))
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, states: Float[Tensor, "user slot dim"], mask: Float[Tensor, "user_head slot slot"]
    ) -> Float[Tensor, "user slot dim"]:
        """Apply the layer; ``mask`` is added to the attention's logits."""
        mixed = torch.zeros_like(states)
        if self.alpha > 0:
            mixed = self.alpha * self.norms[0](states + self.dropout(self.filter(states)))
        if self.alpha < 1:
            attended, _ = self.attention(states, states, states, attn_mask=mask, need_weights=False)
            mixed = mixed + (1 - self.alpha) * self.norms[1](states + self.dropout(attended))
        out: Tensor = self.norms[2](mixed + self.dropout(self.feed_forward(mixed)))
        return out


class BSARec(nn.Module):
    """The state of a history's last slot, to be multiplied with the items' vectors.

    Args:
        n_items: of the catalogue; row ``n_items`` of the table stands for an empty slot.
        slots: newest items of a history that are read.
        dim: size of an item's vector.
        blocks: layers.
        heads: of the attention.
        dropout: share.
        alpha: the filter's share of a layer, 0 to 1; 0 is SASRec.
        frequencies: see :class:`FrequencyFilter`.
    """

    def __init__(
        self,
        n_items: int,
        *,
        slots: int,
        dim: int,
        blocks: int,
        heads: int,
        dropout: float,
        alpha: float,
        frequencies: int,
    ) -> None:
        super().__init__()
        self.n_items, self.slots, self.heads = n_items, slots, heads
        self.items = nn.Embedding(n_items + 1, dim, padding_idx=n_items)
        self.places = nn.Embedding(slots, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, alpha, frequencies) for _ in range(blocks))
        for table in (self.items, self.places):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, histories: Int[Tensor, "user slot"]) -> Float[Tensor, "user dim"]:
        """Read histories, the empty slots at the left."""
        states = self.dropout(self.norm(self.items(histories) + self.places.weight))
        mask = self._mask(histories)
        for block in self.blocks:
            states = block(states, mask)
        last: Tensor = states[:, -1]
        return last

    def scores(self, histories: Int[Tensor, "user slot"]) -> Float[Tensor, "user item"]:
        """Score all items."""
        scores: Tensor = self(histories) @ self.items.weight[: self.n_items].t()
        return scores

    def _mask(self, histories: Int[Tensor, "user slot"]) -> Float[Tensor, "user_head slot slot"]:
        """Nobody sees what comes later or an empty slot; an empty slot sees itself, so that no row is empty."""
        width = histories.shape[1]
        seen = torch.ones(width, width, dtype=torch.bool).tril() & (histories != self.n_items)[:, None, :]
        seen = seen | torch.eye(width, dtype=torch.bool)
        return torch.zeros(seen.shape).masked_fill(~seen, -1e9).repeat_interleave(self.heads, dim=0)


class BSARecScorer:
    """A trained model on its catalogue; an empty history scores every item 0, items of no training user rank last."""

    name = "bsarec"

    def __init__(self, network: BSARec, known: np.ndarray) -> None:
        self._network = network.eval()
        self._unknown = torch.from_numpy(~known)

    @torch.inference_mode()
    def score(
        self,
        histories: Sequence[Sequence[int]],
        candidates: Int[np.ndarray, "user candidate"] | None = None,
    ) -> Float[np.ndarray, "user candidate"]:
        """Score candidates; see :class:`xcrossrec.scoring.Scorer`.

        Raises:
            DataError: an item row outside the catalogue.
        """
        network = self._network
        check_rows(histories, candidates, network.n_items)
        parts = [np.zeros((0, network.n_items), dtype=np.float32)]
        for start in range(0, len(histories), _ROWS):
            some = histories[start : start + _ROWS]
            scores = network.scores(padded(some, network.slots, network.n_items))
            scores[:, self._unknown] = scores.min(1, keepdim=True).values - 1.0
            scores[torch.tensor([not len(history) for history in some])] = 0.0
            parts.append(scores.numpy())
        found: Float[np.ndarray, "user candidate"] = np.concatenate(parts)
        return found if candidates is None else np.take_along_axis(found, candidates, axis=1)


def padded(histories: Sequence[Sequence[int]], slots: int, empty: int) -> Int64[Tensor, "user slot"]:
    """The newest items of histories, the empty slots at the left."""
    rows = np.full((len(histories), slots), empty, dtype=np.int64)
    for row, history in zip(rows, histories, strict=True):
        if newest := list(history)[-slots:]:
            row[-len(newest) :] = newest
    return torch.from_numpy(rows)


@dataclass(frozen=True)
class _Examples:
    """Every history that the users' sequences begin with, and what was bought next."""

    histories: Int64[Tensor, "user slot"]
    targets: Int64[Tensor, " user"]

    @classmethod
    def of(cls, parts: Sequence[tuple[Sequence[int], int]], slots: int, empty: int) -> _Examples:
        return cls(padded([h for h, _ in parts], slots, empty), torch.tensor([t for _, t in parts], dtype=torch.long))

    def batches(self, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            yield self.histories[rows], self.targets[rows]


def _examples(sequences: Sequence[Sequence[int]], share: float, seed: int, slots: int, empty: int) -> list[_Examples]:
    """To learn from, and to stop by: the last items of some users, of those items that others bought."""
    held = set(np.random.default_rng(seed).permutation(len(sequences))[: round(share * len(sequences))].tolist())
    parts: list[list[tuple[Sequence[int], int]]] = [[], []]
    for user, items in enumerate(sequences):
        for end in range(1, len(items)):
            parts[user in held and end == len(items) - 1].append((items[max(0, end - slots) : end], items[end]))
    known = {target for _, target in parts[0]}
    parts[1] = [(history, target) for history, target in parts[1] if target in known]
    return [_Examples.of(part, slots, empty) for part in parts]


def bsarec(task: Task) -> Fitted:
    """Train BSARec on the budget's users by the softmax over all items; ``alpha = 0`` makes it SASRec.

    Raises:
        ConfigError: an ``alpha`` outside [0, 1].
    """
    check_settings(task, set(DEFAULTS))
    settings = {**DEFAULTS, **task.settings}
    if not 0 <= settings["alpha"] <= 1:
        raise ConfigError(f"BSARec's alpha is {settings['alpha']!r}: give a share from 0 to 1")
    n_items, slots = task.target.items.height, int(settings["slots"])
    shape = {key: settings[key] for key in ("dim", "blocks", "heads", "dropout", "alpha", "frequencies")}
    sequences = task.users.rows
    learn, stop = _examples(sequences, task.training.holdout_share, task.seed, slots, n_items)
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        network = BSARec(n_items, slots=slots, **shape)
        losses = _train(network, learn, stop, settings)
    known = np.zeros(n_items, dtype=bool)
    known[np.unique([row for rows in sequences for row in rows])] = True
    trained = sum(parameter.numel() for parameter in network.parameters())
    return Fitted(BSARecScorer(network, known), trained_parameters=trained, report={**settings, "losses": losses})


def _train(network: BSARec, learn: _Examples, stop: _Examples, settings: dict[str, float]) -> list[float]:
    """Train until held-out users are not ranked better for some passes; keep the best pass.

    Returns what is smallest at the best pass: minus the held-out mean reciprocal rank in the whole catalogue, or, where
    too few users are held out to rank, the loss.
    """
    optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    size, stops = int(settings["batch_histories"]), len(stop.targets) >= _FEWEST_HELD_OUT
    judge = _minus_reciprocal_rank if len(stop.targets) >= _FEWEST_RANKED else _held_out_loss
    best, losses = copy.deepcopy(network.state_dict()), []
    for _ in range(int(settings["epochs"])):
        network.train()
        for histories, targets in learn.batches(torch.randperm(len(learn.targets)), size):
            loss = _loss(network, histories, targets)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        losses.append(judge(network, stop if stops else learn, size))
        if losses[-1] == min(losses):
            best = copy.deepcopy(network.state_dict())
        elif len(losses) - 1 - losses.index(min(losses)) >= settings["patience"]:
            break
    network.load_state_dict(best)
    return losses


def _loss(network: BSARec, histories: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        scores = network.scores(histories)
    return functional.cross_entropy(scores.float(), targets)


@torch.no_grad()
def _held_out_loss(network: BSARec, examples: _Examples, size: int) -> float:
    network.eval()
    total = 0.0
    for histories, targets in examples.batches(torch.arange(len(examples.targets)), size):
        total += float(_loss(network, histories, targets)) * len(targets)
    return total / max(1, len(examples.targets))


@torch.no_grad()
def _minus_reciprocal_rank(network: BSARec, examples: _Examples, size: int) -> float:
    network.eval()
    total = 0.0
    for histories, targets in examples.batches(torch.arange(len(examples.targets)), size):
        scores = network.scores(histories)
        total -= float((1 / (scores >= scores.gather(1, targets[:, None])).sum(1)).sum())
    return total / max(1, len(examples.targets))
