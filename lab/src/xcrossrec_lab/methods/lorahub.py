"""LoraHub's idea: one scalar per source adapter, found without gradients on the target's users."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from xcrossrec import ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import Adapter, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.fast.native import processor_has_bfloat16
from xcrossrec.models.model import Model, encoder_of, matcher_of
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.prompts import item_texts
from xcrossrec.training.batches import DualBatches, PairBatches
from xcrossrec.training.losses import NextItemLoss, PairLoss
from xcrossrec_lab.methods.held_loss import on_device
from xcrossrec_lab.methods.merging import merged_adapter
from xcrossrec_lab.task import Fitted, Task, check_settings

_USERS = 256
_BATCH = 32
_BOUND = 1.5
"""Largest weight, and the factor of the penalty, as LoraHub has them."""
_PENALTY = 0.05
_FIRST_STEP = 0.3


@dataclass
class Search:
    """A (1+1) evolution strategy that looks at the obvious weights first.

    Args:
        objective: what is minimised.
        evaluations: how often it may be computed.
        seed: of the steps.

    Attributes:
        tried: every point and its value, in order.
    """

    objective: Callable[[Float[np.ndarray, " source"]], float]
    evaluations: int
    seed: int
    tried: list[tuple[Float[np.ndarray, " source"], float]] = field(default_factory=list)

    def run(self, starts: Sequence[Float[np.ndarray, " source"]]) -> Float[np.ndarray, " source"]:
        """Try the starting points, then step from the best; the step's size follows the rule of one success in five.

        Args:
            starts: at least one.
        """
        for start in starts[: self.evaluations]:
            self._try(start)
        rng = np.random.default_rng(self.seed)
        best, value = min(self.tried, key=lambda pair: pair[1])
        step = _FIRST_STEP
        while len(self.tried) < self.evaluations:
            point = np.clip(best + step * rng.standard_normal(len(best)), -_BOUND, _BOUND)
            found = self._try(point)
            if found < value:
                best, value, step = point, found, step * 1.5
            else:
                step *= 1.5**-0.25
        return best

    def _try(self, point: Float[np.ndarray, " source"]) -> float:
        value = self.objective(point)
        self.tried.append((point, value))
        return value


class Composition:
    """A model whose LoRA factors are weighted sums of the sources' factors: ``(sum w_i B_i) (sum w_i A_i)``.

    Args:
        model: over one PEFT adapter with the sources' rank and modules, whose factors are replaced.
        adapters: the sources'.
    """

    def __init__(self, model: Model, adapters: Sequence[Adapter]) -> None:
        self.model = model
        self.adapters = adapters
        self._inside: Any = encoder_of(model).backbone.base_model.model
        self._modules = sorted({module for adapter in adapters for module in adapter.factors})

    @torch.no_grad()
    def set(self, weights: Float[np.ndarray, " source"]) -> None:
        """Put in weights, one a source."""
        for module in self._modules:
            layer = self._inside.get_submodule(module)
            parts = [(w, a.factors[module]) for w, a in zip(weights, self.adapters, strict=True) if module in a.factors]
            down = torch.stack([float(w) * factors.down for w, factors in parts]).sum(0)
            up = torch.stack([float(w) * factors.up for w, factors in parts]).sum(0)
            (name,) = layer.active_adapters
            layer.lora_A[name].weight.copy_(down)
            layer.lora_B[name].weight.copy_(up / layer.scaling[name])


def lorahub(task: Task) -> Fitted:
    """Weights of the sources' adapters by a search without gradients; ``evaluations`` bounds it.

    The objective is the next-item loss of at most 256 of the budget's users, plus 0.05 times the mean size of
    the weights. The head is the mean of the sources'.

    Raises:
        ConfigError: fewer than one evaluation.
    """
    check_settings(task, {"evaluations"})
    evaluations = task.setting("evaluations", 20)
    if evaluations < 1:
        raise ConfigError(f"evaluations is {evaluations!r}: give at least 1")
    model = task.centered(bundle.load(merged_adapter(task, "linear", Path(tempfile.mkdtemp(dir=task.work)) / "start")))
    base = load_base(task.base)
    composition = Composition(model, [read_adapter(source.adapter, base) for source in task.sources])
    loss = FixedUsersLoss(model, task)

    def objective(weights: Float[np.ndarray, " source"]) -> float:
        composition.set(weights)
        return loss() + _PENALTY * float(np.abs(weights).mean())

    encoder_of(model).precision = "bf16" if _multiplies_bfloat16(task) else "fp32"
    search = Search(objective, evaluations, task.seed)
    best = search.run(_starts(len(task.sources)))
    composition.set(best)
    model = task.centered(model)  # as the chosen weights encode the catalogue
    return Fitted(
        ModelScorer(model, task.target.texts, name="lorahub", precision=task.encoding),
        trained_parameters=len(best),
        uses_sources=True,
        report={
            "weights": {source.name: float(w) for source, w in zip(task.sources, best, strict=True)},
            "losses": [round(value, 6) for _, value in search.tried],
            "users": loss.users,
        },
        model=model,
    )


def _starts(n: int) -> list[Float[np.ndarray, " source"]]:
    """The base, the mean of the factors, each source alone."""
    return [np.zeros(n), np.full(n, 1 / n), *np.eye(n)]


def _multiplies_bfloat16(task: Task) -> bool:
    wanted = task.training.precision
    return wanted == "bf16" or (wanted == "auto" and processor_has_bfloat16())


class FixedUsersLoss:
    """The next-item loss of a model over the same batches of users, whenever it is called.

    Args:
        model: `dual` or `pair`.
        task: its budget's users are used, at most 256 of them.
    """

    def __init__(self, model: Model, task: Task) -> None:
        self.model = model.eval()
        users = task.users.take(min(_USERS, len(task.users)), task.seed)
        config, texts, encode = task.training, item_texts(task.target.texts), encoder_of(model).preprocess
        rows = [{"user": user} for user in range(len(users))]
        chunks = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
        self.users = len(users)
        self.weights = [len(chunk) / len(rows) for chunk in chunks]
        if isinstance(model, CrossEncoder):
            pairs = PairBatches(users.rows, texts, encode, config.seed, negatives=config.pair_negatives)
            self.batches = [on_device(pairs(chunk), model.device) for chunk in chunks]
            self.loss: nn.Module = PairLoss(model, config.pair_negatives + 1)
        else:
            items = DualBatches(
                users.rows,
                texts,
                encode,
                config.seed,
                sampled_negatives=config.sampled_negatives,
                length_groups=1,
            )
            self.batches = [on_device(items(chunk), model.device) for chunk in chunks]
            self.loss = NextItemLoss(model, matcher_of(model))

    @torch.inference_mode()
    def __call__(self) -> float:
        """Mean over the users."""
        found = [weight * float(self._one(batch)) for weight, batch in zip(self.weights, self.batches, strict=True)]
        return sum(found)

    def _one(self, batch: dict[str, Any]) -> Tensor:
        if isinstance(self.model, CrossEncoder):
            value: Tensor = self.loss([batch["pairs"]], batch["label"])
            return value
        parts: dict[str, dict[str, Tensor]] = {}
        for key, tensor in batch.items():
            if key != "label":
                prefix, _, name = key.partition("_")
                parts.setdefault(prefix, {})[name] = tensor
        value = self.loss(list(parts.values()), batch["label"])
        return value
