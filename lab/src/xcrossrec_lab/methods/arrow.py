"""PEFT's Arrow: each token takes the adapters whose main direction it points along; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from peft import ArrowConfig, create_arrow_model

from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import Base, load_base
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.kinds import build_model
from xcrossrec.models.scorer import ModelScorer
from xcrossrec.training.target import inherit_head
from xcrossrec.types import PairAttention
from xcrossrec_lab.task import Fitted, Task, check_settings

_MOST_ADAPTERS = 3
"""A token takes as many adapters as PEFT's default has, if there are so many."""


class ArrowEncoder(TitleEncoder):
    """One stream whose LoRA layers are routed token by token.

    Args:
        base: the base; taken over.
        folders: the sources' adapters, of one rank and the same modules.
        seed: of the power iteration that finds an adapter's main direction.
        temperature: of the softmax over a token's adapters.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
    """

    def __init__(
        self,
        base: Base,
        folders: Sequence[Path],
        *,
        seed: int = 0,
        temperature: float = 1.0,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, None, pair_attention)
        for folder in folders:
            read_adapter(folder, base)  # checks weights and base with our own messages
        config = ArrowConfig(top_k=min(_MOST_ADAPTERS, len(folders)), router_temperature=temperature, rng_seed=seed)
        with torch.random.fork_rng():
            self.backbone = create_arrow_model(base.backbone, [str(folder) for folder in folders], config)
        self.backbone.requires_grad_(False).eval()

    def save(self, output_path: str, *args: object, safe_serialization: bool = True, **kwargs: object) -> None:
        """Nothing is trained, so there is nothing to keep."""
        raise NotImplementedError("an Arrow model is made of its sources, not saved")


def arrow(task: Task) -> Fitted:
    """Route each token among the sources' adapters by PEFT's Arrow; ``temperature`` is its softmax's (1)."""
    check_settings(task, {"temperature"})
    folders = [source.adapter for source in task.sources]
    base = load_base(task.base)
    encoder = ArrowEncoder(
        base,
        folders,
        seed=task.seed,
        temperature=task.setting("temperature", 1.0),
        pair_attention=task.attention,
    )
    model = build_model(encoder, scoring=task.scoring, pair_start=task.pair_start)
    inherit_head(model, folders)
    model = task.centered(model)
    model.eval()
    return Fitted(ModelScorer(model, task.target.texts, name="arrow", precision=task.encoding), uses_sources=True)
