"""Batches of users for the trainers: which items are encoded, and who is whose negative.

Every draw depends on (seed, epoch, users of the batch) alone, so a resumed run sees what an uninterrupted
one would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

from xcrossrec.exceptions import DataError
from xcrossrec.prompts import history_prompt
from xcrossrec.training.processes import Processes

LENGTH_GROUPS = 6
"""Items are encoded in groups of like length: with one group 2 of 3 tokens are padding, with six 1 of 6."""

HISTORY_LIMIT = 20
"""Newest history items that training uses."""

_POPULAR_TRIES = 200

Preprocess = Callable[[Sequence[Any]], dict[str, Tensor]]


@dataclass
class UserBatches:
    """What both collators share.

    Args:
        sequences: per user item rows, oldest first; at least two.
        processes: that share a batch; this one's part of it is tokenized.
    """

    sequences: Sequence[Sequence[int]]
    titles: Sequence[str]
    preprocess: Preprocess
    seed: int
    epoch: int = 0
    processes: Processes = field(default_factory=Processes.here)
    valid_label_columns: list[str] = field(default_factory=list)
    """Read by sentence-transformers' batch sampler; no column of ours is a label."""

    def dataset(self) -> Dataset:
        """One row a user; the collator does the rest."""
        return Dataset.from_dict({"user": list(range(len(self.sequences)))})

    def __call__(self, rows: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Make the trainer's inputs from dataset rows."""
        users = [row["user"] for row in rows]
        return self._batch(users, np.random.default_rng([self.seed, self.epoch, len(users), *users]))

    def _batch(self, users: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        raise NotImplementedError

    def _newest(self, user: int) -> list[int]:
        return list(self.sequences[user])[-(HISTORY_LIMIT + 1) :]


@dataclass
class DualBatches(UserBatches):
    """Collates users for :class:`xcrossrec.training.losses.NextItemLoss`.

    All items of the batch's users, and some drawn from the catalogue, are encoded once each; every position of a
    sequence but the first is a target.

    Args:
        sampled_negatives: items drawn uniformly from the catalogue per batch.
        length_groups: number of groups of like length; 1 for an encoder that leaves padding out by itself.
        history: tokenizes items as a history has them, where that differs; then each is encoded both ways.
    """

    sampled_negatives: int = 0
    length_groups: int = LENGTH_GROUPS
    lengths: Int64[np.ndarray, " item"] | None = None
    """Tokens of each title; counted where they are not given."""
    history: Preprocess | None = None

    def __post_init__(self) -> None:
        if self.lengths is not None:
            return
        mask = [self.preprocess(self.titles[start : start + 512]) for start in range(0, len(self.titles), 512)]
        self.lengths = np.concatenate([part["attention_mask"].sum(1).numpy() for part in mask])

    def _batch(self, users: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        sequences = [self._newest(user) for user in users]
        drawn = rng.integers(len(self.titles), size=self.sampled_negatives)
        assert self.lengths is not None
        encoded = np.unique(np.concatenate([*sequences, drawn]))
        items = encoded[np.argsort(self.lengths[encoded], kind="stable")].tolist()  # of like length together
        place = {row: number for number, row in enumerate(items)}
        places = [torch.tensor([place[row] for row in sequence]) for sequence in sequences]
        structure = {  # a member is an item that a user has anywhere: never that user's negative
            "sequences": pad_sequence(places, batch_first=True, padding_value=-1),
            "member": torch.from_numpy(np.stack([np.isin(items, np.asarray(self.sequences[user])) for user in users])),
        }
        batch: dict[str, Any] = {}
        own = self.processes.share(items)
        for name, preprocess in (("items", self.preprocess), ("slots", self.history)):
            for number, chunk in enumerate(np.array_split(np.asarray(own), self.length_groups)):
                if chunk.size and preprocess is not None:
                    features = preprocess([self.titles[row] for row in chunk])
                    batch |= {f"{name}{number}_{key}": value for key, value in features.items()}
        batch["label"] = structure
        return batch


@dataclass
class PairBatches(UserBatches):
    """Collates users for :class:`xcrossrec.training.losses.PairLoss`: the positive first, then negatives, half drawn by
    popularity in the training sequences and half uniformly; none is from the user's own sequence."""

    negatives: int = 7

    def __post_init__(self) -> None:
        self._bought = np.concatenate([np.asarray(sequence) for sequence in self.sequences])

    def _batch(self, users: Sequence[int], rng: np.random.Generator) -> dict[str, Any]:
        pairs = []
        for user in users:
            sequence = self._newest(user)
            target = int(rng.integers(1, len(sequence)))
            prompt = history_prompt([self.titles[row] for row in sequence[:target]])
            candidates = [sequence[target], *self._draw(user, rng)]
            pairs.append([(prompt, self.titles[row]) for row in candidates])
        features = self.preprocess([pair for user in self.processes.share(pairs) for pair in user])
        return {"pairs": features, "label": torch.zeros(len(users), dtype=torch.long)}

    def _draw(self, user: int, rng: np.random.Generator) -> list[int]:
        own = set(self.sequences[user])
        if (others := len(self.titles) - len(own)) < self.negatives:
            raise DataError(f"{self.negatives} negatives a user are wanted, but only {others} items are not the user's")
        drawn: list[int] = []
        tries = 0
        while len(drawn) < self.negatives:
            tries += 1
            # if hardly anything else was bought, draw from the catalogue
            popular = len(drawn) % 2 == 0 and tries < _POPULAR_TRIES
            row = int(self._bought[rng.integers(len(self._bought))] if popular else rng.integers(len(self.titles)))
            if row not in own and row not in drawn:
                drawn.append(row)
        return drawn


class EpochOfBatches(TrainerCallback):
    """Tells the collator which epoch it is, so that draws differ between epochs and survive a resume."""

    def __init__(self, batches: UserBatches) -> None:
        self.batches = batches

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the trainer's epoch."""
        self.batches.epoch = round(state.epoch)
