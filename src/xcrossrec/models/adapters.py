"""PEFT LoRA adapters over one base: read and checked."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import torch
from jaxtyping import Float
from peft import LoraConfig, TaskType
from peft.utils.other import get_pattern_key
from pydantic import Field, StringConstraints
from torch import Tensor, nn

from xcrossrec.exceptions import BaseMismatchError, BundleError, ModelError
from xcrossrec.models.base import DEFAULT_BASE, Base, load_base
from xcrossrec.models.files import Digest, Rank, RelativePath, Settings, file_digest, load_tensors, read_settings
from xcrossrec.models.identity import AnyBase, find_base
from xcrossrec.types import PairAttention, Scoring

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MANIFEST = "xcrossrec.json"
"""Written beside every adapter and in every bundle: base digest, data fingerprint, training, metrics."""

_PEFT_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# Others (PiSSA, OLoRA, LoftQ, CorDA, LoRA-GA) change the base; their factors mean nothing over its original weights.
_STARTS_OVER_THE_BASE = ("gaussian", "eva", "orthogonal")
_HEADS = frozenset({"classifier", "head", "pooler", "pre_classifier", "score"})
"""Modules of Hugging Face's classifiers behind the encoder: xcrossrec has a head of its own."""
_LONGEST_PREFIX = 3
"""Most path components between PEFT's prefix and a layer's own path."""

_log = logging.getLogger(__name__)

_ONE = r"(?:[\w.-]|\\[.d])"
_Pattern: TypeAlias = Annotated[
    str, StringConstraints(max_length=200, pattern=rf"^\^?(?:{_ONE}+[*+]){{0,2}}{_ONE}*\$?$")
]
"""A regular expression of plain characters and at most two repetitions, which cannot take long on a layer's path."""

_Scale: TypeAlias = Annotated[float, Field(ge=-1e6, le=1e6)]


class PeftSettings(Settings):
    """What all of PEFT's settings have."""

    peft_type: str


class LoraSettings(PeftSettings):
    """What is read of PEFT's settings of an adapter."""

    r: Rank
    lora_alpha: _Scale
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    use_rslora: bool = False
    init_lora_weights: bool | str | None = True
    target_modules: list[str] | str | None = None
    rank_pattern: Annotated[dict[_Pattern, Rank], Field(max_length=100)] = Field(default_factory=dict)
    alpha_pattern: Annotated[dict[_Pattern, _Scale], Field(max_length=100)] = Field(default_factory=dict)
    base_model_name_or_path: str | None = None
    bias: str = "none"
    task_type: TaskType | None = None


_WITHOUT_EFFECT = {
    *("auto_mapping", "inference_mode", "peft_version", "revision"),
    *("exclude_modules", "layers_pattern", "layers_to_transform", "modules_to_save"),
}
"""Settings that only say which tensors exist, or have no effect: the tensors themselves are checked."""


class BaseRecord(Settings):
    """The base that something was trained on."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    digest: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}(\.[0-9a-f]{64}){0,2}$")]


class DomainRecord(Settings):
    """The data that something was trained on."""

    name: str = ""
    fingerprint: str = ""


class SourceRecord(Settings):
    """A source of a bundle."""

    name: str
    domain: DomainRecord | None = None


class Manifest(Settings):
    """What this project's sidecar may hold; a bundle's must hold more (:mod:`xcrossrec.models.bundle`)."""

    base: BaseRecord = Field(default=None)  # type: ignore[assignment]
    files: Annotated[dict[RelativePath, Digest], Field(min_length=1, max_length=10_000)] = Field(default_factory=dict)
    domain: DomainRecord | None = None
    training: dict[str, Any] | None = None
    metrics: dict[str, Any] | None = None
    parameters: dict[str, Any] | None = None
    sources: list[SourceRecord] = Field(default_factory=list)
    scoring: Scoring = "dual"
    pair_attention: PairAttention = "joint"
    text: str | None = None
    created: str | None = None
    forgotten: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class LoraFactors:
    """One module's low-rank update ``up @ down`` with the scaling already in ``up``."""

    down: Float[Tensor, "rank inside"]
    up: Float[Tensor, "outside rank"]

    def of_rank(self, rank: int) -> LoraFactors:
        """The same update with zeros up to a rank that is not less than its own."""
        more = rank - len(self.down)
        return LoraFactors(nn.functional.pad(self.down, (0, 0, 0, more)), nn.functional.pad(self.up, (0, more)))


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of one domain, read from a PEFT folder.

    Attributes:
        name: the folder's name, or what the caller calls it; unique within one encoder.
        factors: per module of the backbone its low-rank update.
        manifest: this project's sidecar; empty for an adapter made elsewhere.
    """

    name: str
    path: Path
    config: LoraConfig
    factors: Mapping[str, LoraFactors]
    manifest: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """Number of LoRA parameters, heads left out."""
        return sum(f.down.numel() + f.up.numel() for f in self.factors.values())


def mean_update(adapters: Sequence[Adapter]) -> dict[str, LoraFactors]:
    """Per module the exact mean of several adapters' updates: their factors side by side, ``up`` over their number.

    An adapter without an update of a module counts as zero there. The ranks add up, in the adapters' order.
    """
    total = side_by_side([adapter.factors for adapter in adapters])
    return {module: LoraFactors(factors.down, factors.up / len(adapters)) for module, factors in total.items()}


def side_by_side(updates: Sequence[Mapping[str, LoraFactors]]) -> dict[str, LoraFactors]:
    """Per module the exact sum of updates: their factors side by side, so that the ranks add up."""
    modules = sorted({module for update in updates for module in update})
    parts = {module: [update[module] for update in updates if module in update] for module in modules}
    return {
        module: LoraFactors(torch.cat([each.down for each in found]), torch.cat([each.up for each in found], dim=1))
        for module, found in parts.items()
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read this project's sidecar of a folder; empty if there is none (BundleError: it is damaged or foreign)."""
    path = folder / MANIFEST
    return read_settings(path, Manifest) if path.exists() else {}


def read_adapter(
    folder: Path | str, base: Base, *, name: str | None = None, strict: bool = False, of_model: bool = False
) -> Adapter:
    """Read a PEFT LoRA folder and check that it belongs to a base.

    Its base is identified by the digest in its sidecar. An adapter made elsewhere has no sidecar: if it names another
    base but its shapes fit this one, it is accepted with a warning that names both.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``; a head in it is left out.
        name: what to call it; the folder's name if None.
        strict: refuse an adapter that fits by its shapes alone.
        of_model: it is part of a saved model, whose digest identifies the base: skip the check of the base's name.

    Raises:
        BundleError: incomplete, corrupt or pickled content.
        BaseMismatchError: trained on another base; names both.
        ModelError: a kind of adapter that cannot be stacked (DoRA, trained biases, ...).
    """
    folder = Path(folder)
    config = _read_config(folder)
    manifest = read_manifest(folder)
    if trained_on := manifest.get("base"):
        base.check(f"adapter {folder}", trained_on)
    for file in (folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS):
        if file.is_file() and manifest.get("files", {}).get(file.name, "") not in ("", file_digest(file)):
            raise BundleError(f"{file} is not the file that was written (its digest differs): copy or train it again")
    tensors = load_tensors(folder / ADAPTER_WEIGHTS)
    modules = {key: module for key, module in base.backbone.named_modules() if isinstance(module, nn.Linear)}
    factors: dict[str, LoraFactors] = {}
    paths: dict[str, str] = {}
    left_out: list[str] = []
    for key in sorted(tensors):
        path = key.removesuffix(_DOWN).removesuffix(_UP)
        module = _module_path(path, modules) if key.endswith((_DOWN, _UP)) else None
        if module is None:
            left_out.append(key)
        elif paths.setdefault(module, path) != path:
            raise BundleError(f"adapter {folder} has {module} twice, as {paths[module]} and {path}: remove one")
        elif module not in factors:
            factors[module] = _factors(folder, path, module, modules[module], tensors, config)
    _check_all_used(folder, base, factors, left_out, config)
    if not (trained_on or of_model):
        _check_name(folder, config.base_model_name_or_path, base, strict)
    return Adapter(name or folder.resolve().name, folder, config, factors, manifest)


def base_of(folders: Sequence[Path], given: AnyBase | None = None) -> Base:
    """Load the base that adapters share; see :func:`xcrossrec.models.identity.find_base` for how, and for its errors.

    The first folder that records a digest decides, else the first. BundleError: no adapter, or a damaged one.
    """
    records = [(folder, read_manifest(folder).get("base")) for folder in folders]
    folder, record = next((each for each in records if each[1]), records[0])
    if record is None:
        record = {"name": str(read_lora_settings(folder).get("base_model_name_or_path") or DEFAULT_BASE)}
    return find_base(f"adapter {folder}", record, [folder, *folders], given)


def read_lora_settings(folder: Path) -> dict[str, Any]:
    """Read the settings of a LoRA adapter (BundleError: missing, damaged or foreign; ModelError: of another kind)."""
    path = folder / ADAPTER_CONFIG
    if not path.exists():
        raise BundleError(
            f"{folder} is no adapter: it has no {ADAPTER_CONFIG}; train one with `xcrossrec train source`"
        )
    if (kind := read_settings(path, PeftSettings)["peft_type"]) != "LORA":
        raise ModelError(
            f"adapter {folder} is of type {kind!r}: only LORA can be stacked, train it with PEFT's LoraConfig"
        )
    settings: dict[str, Any] = read_settings(path, LoraSettings)
    return settings


def _read_config(folder: Path) -> LoraConfig:
    """Build PEFT's configuration from the supported settings; any other setting with an effect is refused."""
    found = read_lora_settings(folder)
    known = {name: found.pop(name) for name in LoraSettings.model_fields if name in found}
    usual = LoraConfig().to_dict()
    start = known.get("init_lora_weights")
    refused = [
        name[:60] for name in sorted(set(found) - _WITHOUT_EFFECT) if found[name] and found[name] != usual.get(name)
    ]
    if known.get("bias", "none") != "none":
        refused.append("bias")
    if isinstance(start, str) and start.lower() not in _STARTS_OVER_THE_BASE:
        refused.append(f"init_lora_weights={start!r}")
    if refused:
        raise ModelError(f"adapter {folder} uses {', '.join(refused)}, which cannot be stacked: train plain LoRA")
    return LoraConfig(**known)


def _check_name(folder: Path, named: str | None, base: Base, strict: bool) -> None:
    """Warn, or refuse if ``strict``, where an adapter names another base and only its shapes fit this one."""
    if not named or Path(named) == Path(base.name):
        return
    try:
        known = load_base(named).digest if named == DEFAULT_BASE or Path(named).is_dir() else None
    except ModelError:
        known = None
    if known == base.digest:
        return
    why = "records no digest" if known is None else "records no digest, and that base is here with another one"
    said = f"adapter {folder} was trained on base {named!r}, not on {base.name!r}, and {why}"
    if strict:
        raise BaseMismatchError(f"{said}: pass the base it was trained on, train it again, or leave out --strict")
    _log.warning("%s: it is used because its shapes fit; if the weights differ, its results are meaningless", said)


def _module_path(path: str, modules: Mapping[str, nn.Linear]) -> str | None:
    """Find the backbone's module for a saved path, which may start with PEFT's and the model's own prefixes."""
    parts = path.removeprefix(_PEFT_PREFIX).split(".")
    for start in range(min(len(parts), _LONGEST_PREFIX + 1)):
        if (candidate := ".".join(parts[start:])) in modules:
            return candidate
    return None


def _factors(
    folder: Path, path: str, module: str, linear: nn.Linear, tensors: Mapping[str, Tensor], config: LoraConfig
) -> LoraFactors:
    if lost := [key for key in (path + _DOWN, path + _UP) if key not in tensors]:
        raise BundleError(f"adapter {folder} has no {lost[0]}: copy or train it again")
    down, up = tensors[path + _DOWN], tensors[path + _UP]
    if not (down.is_floating_point() and up.is_floating_point()):
        raise BundleError(f"adapter {folder} has factors of type {down.dtype} and {up.dtype} for {module}: save floats")
    down, up = down.float(), up.float()
    expected = (linear.in_features, linear.out_features)
    if (down.ndim, up.ndim) != (2, 2) or (down.shape[1], up.shape[0]) != expected or down.shape[0] != up.shape[1]:
        raise BaseMismatchError(
            f"adapter {folder} has factors {tuple(down.shape)} and {tuple(up.shape)} for {module}, but the base's "
            f"layer maps {expected[0]} to {expected[1]}: it was trained on another base"
        )
    # PEFT matches the path in the model it trained, which a head makes longer than ours
    seen, rank = path.removeprefix(_PEFT_PREFIX), down.shape[0]
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern.keys(), seen), config.lora_alpha)
    stated = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), seen), config.r)
    if rank != stated:
        raise BundleError(f"adapter {folder} has rank {rank} for {module}, its settings say {stated}: copy it again")
    scaling = alpha / (rank**0.5 if config.use_rslora else rank)
    return LoraFactors(down, up * scaling)


def _check_all_used(
    folder: Path, base: Base, factors: Mapping[str, LoraFactors], left_out: Sequence[str], config: LoraConfig
) -> None:
    """Refuse an adapter with tensors that are not used; a classifier's head is left out with a log entry."""
    if not factors:
        named = config.target_modules
        targets = reprlib.repr(named if isinstance(named, str) else sorted(named or ()))
        other = f", a tensor: {left_out[0]}" if left_out else ""
        raise BaseMismatchError(
            f"adapter {folder} has no LoRA factor for any layer of base {base.name!r} (its target modules: {targets}"
            f"{other}): it was trained on another architecture, or not saved by PEFT"
        )
    unused = [key for key in left_out if not _HEADS & {*key.removeprefix(_PEFT_PREFIX).split(".")[:2]}]
    if lost := [key for key in unused if key.endswith((_DOWN, _UP))]:
        raise BaseMismatchError(
            f"adapter {folder} has {lost[0]}, a layer that base {base.name!r} does not have: "
            "it was trained on another base"
        )
    if unused:
        raise ModelError(
            f"adapter {folder} has {unused[0]}, which is no LoRA factor of a linear layer: train plain LoRA"
        )
    if left_out:
        _log.info("adapter %s: its head (%s, %d tensors) is left out", folder, left_out[0], len(left_out))
