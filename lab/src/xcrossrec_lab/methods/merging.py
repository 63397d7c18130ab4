"""The sources' adapters merged into one by PEFT, as it is or as the start of a LoRA on the target."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from peft import PeftModel

from xcrossrec import ConfigError, ModelError
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.scorer import trained
from xcrossrec.models.source import SourceEncoder
from xcrossrec.training.source import source_users, write
from xcrossrec.training.target import inherit_head
from xcrossrec_lab.methods.lora import trained_lora
from xcrossrec_lab.task import Fitted, Task, check_settings

Merge: TypeAlias = Literal["linear", "cat", "ties", "dare_linear"]
MERGES: tuple[Merge, ...] = get_args(Merge)
_WITH_DENSITY: tuple[Merge, ...] = ("ties", "dare_linear")
"""Those that keep a share of the factors' entries."""

_WEIGHT_POWERS: Mapping[Merge, float] = {"linear": -2.0, "cat": -1.0, "ties": 0.0, "dare_linear": -2.0}
"""Of the number of sources, for the weight of each."""

_MERGED = "default"
"""PEFT writes an adapter of this name into the folder itself, not into one below it."""


def merged_linear(task: Task) -> Fitted:
    """The mean of the sources' LoRA factors."""
    return _merged(task, "linear")


def merged_cat(task: Task) -> Fitted:
    """The mean of the sources' updates, exactly: the factors side by side, of the sum of their ranks."""
    return _merged(task, "cat")


def merged_ties(task: Task) -> Fitted:
    """TIES: of each source's factors the larger half, of their signs the one that weighs more, then the mean."""
    return _merged(task, "ties")


def merged_dare(task: Task) -> Fitted:
    """DARE: of each source's factors a random half, doubled, then the mean."""
    return _merged(task, "dare_linear")


def lora_from_merged(task: Task) -> Fitted:
    """LoRA on the target, warm-started from the linear merge."""
    check_settings(task, set())
    merged = merged_adapter(task, "linear", Path(tempfile.mkdtemp(dir=task.work)) / "merged")
    fitted = trained_lora(task, init=merged)
    report = {**fitted.report, "init": [source.name for source in task.sources]}
    return replace(fitted, uses_sources=True, report=report)


def _merged(task: Task, kind: Merge) -> Fitted:
    known = {"density"} if kind in _WITH_DENSITY else set()
    check_settings(task, known)
    density = task.setting("density", 0.5)
    out = merged_adapter(task, kind, Path(tempfile.mkdtemp(dir=task.work)) / kind, density=density)
    report = {"merge": kind, **({"density": density} if known else {})}
    scorer = trained(out, task.target.texts, name=kind, center=task.training.center, precision=task.encoding)
    return Fitted(scorer, uses_sources=True, report=report)


def merged_adapter(
    task: Task, kind: Merge, out: Path, density: float = 0.5, shares: Sequence[float] | None = None
) -> Path:
    """Merge the sources' adapters and write the result as a source's folder.

    PEFT merges the factors A and B apart, or puts them side by side (``cat``, with which the update is the mean of
    the updates). The weights are those with which adapters that are all the same merge into themselves: 1/n for
    ``cat``; it would multiply their update by n (linear, DARE) or divide it by n (TIES, which takes a mean by itself).

    Args:
        task: gives the sources, the base and the seed of DARE's draws.
        kind: PEFT's ``linear``, ``cat``, ``ties`` or ``dare_linear``.
        out: the folder to make.
        density: share of the factors' entries that TIES and DARE keep.
        shares: of the sources in ``cat``; None takes equal ones.

    Returns:
        ``out``.

    Raises:
        ConfigError: an unknown kind, or a density outside (0, 1].
        ModelError: fewer than two sources, or adapters that PEFT cannot merge.
    """
    if kind not in MERGES:
        raise ConfigError(f"unknown merge {kind!r}: choose one of {', '.join(MERGES)}")
    if not 0 < density <= 1:
        raise ConfigError(f"the density is {density!r}: give a share above 0 and at most 1")
    folders = [source.adapter for source in task.sources]
    if len(folders) < 2:
        raise ModelError(f"a merge needs at least 2 sources, got {len(folders)}: name another one")
    encoder = _merged_encoder(folders, task.base, kind, density, task.seed, shares)
    model = build_model(encoder, scoring=task.scoring, pair_start=task.pair_start)
    inherit_head(model, folders)
    names = [source.name for source in task.sources]
    manifest = {"kind": "adapter", "domain": {"name": "+".join(names)}, "merge": {"kind": kind, "density": density}}
    seen = frozenset().union(*(source_users(folder) for folder in folders))
    write(model, out, manifest, seen, overwrite=False)
    return out


def _merged_encoder(
    folders: Sequence[Path], base: str, kind: Merge, density: float, seed: int, shares: Sequence[float] | None
) -> SourceEncoder:
    found = load_base(base)
    settings = SourceEncoder.read_settings(folders[0])
    encoder = SourceEncoder(
        found, max_tokens=settings["max_tokens"], pair_attention=settings.get("pair_attention", "joint")
    )
    for folder in folders:
        read_adapter(folder, found)  # checks weights and base with our own messages
    encoder.backbone = side_by_side(found.backbone, folders)
    names = list(encoder.backbone.peft_config)
    weights = list(shares) if shares is not None else [len(names) ** _WEIGHT_POWERS[kind]] * len(names)
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The density", UserWarning)  # PEFT's word for a density of 1
        torch.manual_seed(seed)  # of DARE's draws
        try:
            encoder.backbone.add_weighted_adapter(names, weights, _MERGED, combination_type=kind, density=density)
        except ValueError as error:
            raise ModelError(f"PEFT cannot merge {', '.join(map(str, folders))} ({error})") from error
    encoder.backbone.set_adapter(_MERGED)
    for name in names:
        encoder.backbone.delete_adapter(name)
    return encoder


def side_by_side(backbone: Any, folders: Sequence[Path]) -> Any:
    """Load several adapters into one PEFT model, named by their numbers; the first is active.

    Args:
        backbone: the base's; taken over.
        folders: PEFT LoRA folders.
    """
    first, *others = folders
    model = PeftModel.from_pretrained(backbone, str(first), adapter_name="0", use_safetensors=True)
    for number, folder in enumerate(others, 1):
        model.load_adapter(str(folder), adapter_name=str(number), use_safetensors=True)
    return model
