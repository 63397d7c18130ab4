"""PEFT's X-LoRA: one stream whose frozen adapters a trained classifier scales at each token."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from peft import TaskType, XLoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from xcrossrec.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, read_adapter
from xcrossrec.models.base import Base, load_base
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.fast.linear import FrozenLinear
from xcrossrec.models.files import load_tensors
from xcrossrec.types import PairAttention
from xcrossrec_lab.methods.finetuning import fit_encoder
from xcrossrec_lab.task import Fitted, Task, check_settings

XLORA_RATE = 1e-3
"""AdamW's rate for the classifier."""

_CLASSIFIER = "classifier.safetensors"


class XLoraEncoder(TitleEncoder):
    """A base with frozen adapters and X-LoRA's classifier, which reads a first pass without adapters.

    Args:
        base: the base; taken over.
        adapters: folders from :func:`rewrite_adapter`.
        layerwise: whether each LoRA layer has scalings of its own; PEFT's default is no.
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
    """

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Path],
        *,
        layerwise: bool = False,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        self.folders = tuple(adapters)
        self.layerwise = layerwise
        base.backbone.config.use_cache = False
        _use_plain_products(base.backbone)
        config = XLoraConfig(
            task_type=TaskType.FEATURE_EXTRACTION,
            hidden_size=self.dim,
            adapters={str(number): str(folder) for number, folder in enumerate(adapters)},
            layerwise_scalings=layerwise,
        )
        self.backbone: Any = get_peft_model(_WithModel(base.backbone), config)
        self.backbone.eval()

    @property
    def classifier(self) -> nn.Module:
        """What is trained."""
        found: nn.Module = self.backbone.base_model.internal_xlora_classifier
        return found

    def train(self, mode: bool = True) -> Self:
        """Switch modes; the frozen backbone stays in evaluation mode, so its dropout never runs."""
        super().train(mode)
        self.backbone.eval()
        return self

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write the classifier, and where the adapters are."""
        state = {key: value.detach().cpu().contiguous() for key, value in self.classifier.state_dict().items()}
        save_file(state, Path(output_path) / _CLASSIFIER)
        super().save(output_path)

    def settings(self) -> dict[str, Any]:
        """With the adapters' folders and the form of their scalings."""
        return {**super().settings(), "adapters": list(map(str, self.folders)), "layerwise": self.layerwise}

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The classifier."""
        return {"learning_rate": list(self.classifier.parameters())}

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        model = cls(
            base,
            [Path(path) for path in settings["adapters"]],
            layerwise=settings["layerwise"],
            max_tokens=settings["max_tokens"],
            pair_attention=settings["pair_attention"],
        )
        model.classifier.load_state_dict(load_tensors(folder / _CLASSIFIER))
        return model


def _use_plain_products(backbone: nn.Module) -> None:
    """Turn frozen products into PyTorch's own: X-LoRA adds to a layer's output in place."""
    for module in backbone.modules():
        if type(module) is FrozenLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]


class _WithModel(nn.Module):
    """The form in which X-LoRA looks for a model: it stands in ``model``, and ``config`` beside it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.config = model.config

    def forward(self, **inputs: Any) -> Any:
        return self.model(**inputs)


def rewrite_adapter(folder: Path, out: Path) -> Path:
    """Write an adapter as one that was trained on the form which X-LoRA takes (PEFT 0.21 loads no other).

    Args:
        folder: a PEFT LoRA folder.
        out: the folder to make.

    Returns:
        ``out``.
    """
    out.mkdir(parents=True)
    prefix = "base_model.model."
    tensors = load_file(folder / ADAPTER_WEIGHTS)
    renamed = {key.replace(prefix, f"{prefix}model.", 1): value for key, value in tensors.items()}
    save_file(renamed, out / ADAPTER_WEIGHTS)
    settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    (out / ADAPTER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    return out


def xlora(task: Task) -> Fitted:
    """Train X-LoRA's classifier over the sources' frozen adapters; ``layerwise`` gives each layer its own scalings."""
    check_settings(task, {"layerwise"})
    folders = [source.adapter for source in task.sources]
    base = load_base(task.base)
    for folder in folders:
        read_adapter(folder, base)  # checks weights and base with our own messages
    beside = Path(tempfile.mkdtemp(dir=task.work))
    rewritten = [rewrite_adapter(folder, beside / str(number)) for number, folder in enumerate(folders)]
    with torch.random.fork_rng():
        torch.manual_seed(task.seed)
        encoder = XLoraEncoder(
            base,
            rewritten,
            layerwise=task.setting("layerwise", False),
            pair_attention=task.attention,
        )
    fitted = fit_encoder(task, encoder, task.setting("learning_rate", XLORA_RATE), sources=folders)
    return replace(fitted, report={**fitted.report, "layerwise": encoder.layerwise})
