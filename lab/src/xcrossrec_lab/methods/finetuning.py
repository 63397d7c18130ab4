"""Full fine-tuning of the base; and how this folder's methods train an encoder of their own."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import save_file

from xcrossrec.models.base import Base, load_base
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.files import load_tensors
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder
from xcrossrec.training.checkpoints import forget_checkpoints
from xcrossrec.training.loop import fit
from xcrossrec.training.source import with_head
from xcrossrec.training.target import inherit_head
from xcrossrec.types import PairAttention
from xcrossrec_lab.methods.lora import fitted_model
from xcrossrec_lab.task import Fitted, Task, check_settings

FULL_RATE = 3e-5
"""AdamW's rate for all weights of the base."""

_WEIGHTS = "backbone.safetensors"


class FullyTunedEncoder(SourceEncoder):
    """The base, every weight of which trains.

    Args:
        base: the base; taken over.
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
    """

    def __init__(self, base: Base, *, max_tokens: int | None = None, pair_attention: PairAttention = "joint") -> None:
        super().__init__(base, max_tokens=max_tokens, pair_attention=pair_attention)
        self.backbone.requires_grad_(True)

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the settings and all weights."""
        super().save(output_path)
        state = {key: value.detach().cpu().contiguous() for key, value in self.backbone.state_dict().items()}
        save_file(state, Path(output_path) / _WEIGHTS)

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        model = cls(base, max_tokens=settings["max_tokens"], pair_attention=settings["pair_attention"])
        model.backbone.load_state_dict(load_tensors(folder / _WEIGHTS))
        return model


def full_fine_tuning(task: Task) -> Fitted:
    """Train every weight of the base on the budget's users, by the same loop and with the same head as LoRA."""
    check_settings(task, set())
    base = load_base(task.base)
    encoder = FullyTunedEncoder(base, pair_attention=task.attention)
    return fit_encoder(task, encoder, task.setting("learning_rate", FULL_RATE))


def fit_encoder(task: Task, encoder: TitleEncoder, learning_rate: float, *, sources: Sequence[Path] = ()) -> Fitted:
    """Put the head that every method has on an encoder, and train what of it requires a gradient.

    Args:
        task: the cell's.
        encoder: taken over; it must load from what it saves.
        learning_rate: of the encoder's own parameters.
        sources: adapters from whose heads' mean the head starts, where they have its form; none starts it afresh.
    """
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)  # of the pair head's projection
        model = build_model(encoder, scoring=task.scoring, pair_start=task.pair_start)
    inherit_head(model, sources)
    model = with_head(model, task.target, task.training)
    report = fit(
        model,
        task.target,
        task.users,
        replace(task.training, learning_rate=learning_rate),
        work := Path(tempfile.mkdtemp(dir=task.work)),
        show_progress=False,
    )
    forget_checkpoints(work)
    fitted = fitted_model(model, task, asdict(report))
    return replace(fitted, uses_sources=bool(sources))
