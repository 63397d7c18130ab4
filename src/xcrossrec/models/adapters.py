"""PEFT LoRA adapters over one base: read and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from torch import Tensor, nn

from xcrossrec.exceptions import BaseMismatchError, BundleError, ModelError
from xcrossrec.models.base import DEFAULT_BASE, Base
from xcrossrec.models.files import load_tensors, read_json

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
MANIFEST = "xcrossrec.json"
"""Written beside every adapter and in every bundle: base digest, data fingerprint, training, metrics."""

_PEFT_PREFIX = "base_model.model."
_DOWN, _UP = ".lora_A.weight", ".lora_B.weight"
# These start LoRA from a changed base; the saved factors mean nothing over the original weights.
_BASE_CHANGING_STARTS = ("pissa", "olora", "loftq", "corda")


@dataclass(frozen=True)
class LoraFactors:
    """One module's low-rank update ``up @ down`` with the scaling already in ``up``."""

    down: Float[Tensor, "rank inside"]
    up: Float[Tensor, "outside rank"]


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter of one domain, read from a PEFT folder.

    Attributes:
        name: the folder's name, or what the caller calls it; unique within one encoder.
        path: where it was read from.
        config: PEFT's own settings.
        factors: per module of the backbone its low-rank update.
        manifest: this project's sidecar; empty for an adapter made elsewhere.
        head_keys: tensors of the folder that belong to a head and are left out.
    """

    name: str
    path: Path
    config: LoraConfig
    factors: Mapping[str, LoraFactors]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    head_keys: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of LoRA parameters, heads left out."""
        return sum(f.down.numel() + f.up.numel() for f in self.factors.values())


def mean_update(adapters: Sequence[Adapter]) -> dict[str, LoraFactors]:
    """Per module the mean of several adapters' updates, exactly: factors side by side, each ``up`` over their number.

    Args:
        adapters: of one base; one that leaves a module as it is counts with a zero update.

    Returns:
        factors of the sum of the ranks. An adapter's part of a module's rank follows those before it.
    """
    modules = sorted({module for adapter in adapters for module in adapter.factors})
    parts = {module: [a.factors[module] for a in adapters if module in a.factors] for module in modules}
    return {
        module: LoraFactors(
            torch.cat([factors.down for factors in found]),
            torch.cat([factors.up for factors in found], dim=1) / len(adapters),
        )
        for module, found in parts.items()
    }


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read this project's sidecar of a folder; empty if there is none.

    Raises:
        BundleError: it is not valid JSON.
    """
    path = folder / MANIFEST
    manifest = read_json(path) if path.exists() else {}
    base = manifest.get("base")
    named = isinstance(base, dict) and all(isinstance(base.get(key), str) for key in ("name", "digest"))
    if "base" in manifest and not named:
        raise BundleError(f"{path} names its base as {base!r}, expected a name and a digest: train or copy it again")
    return manifest


def read_adapter(folder: Path | str, base: Base, *, name: str | None = None) -> Adapter:
    """Read a PEFT LoRA folder and check that it belongs to a base.

    Args:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``; a head in it is left out.
        base: the base it must have been trained on.
        name: what to call it; the folder's name if None.

    Raises:
        BundleError: incomplete, corrupt or pickled content.
        BaseMismatchError: trained on another base; names both.
        ModelError: a kind of adapter that cannot be stacked (DoRA, trained biases, ...).
    """
    folder = Path(folder)
    config = _read_config(folder)
    manifest = read_manifest(folder)
    _check_base(folder, config, manifest, base)
    tensors = load_tensors(folder / ADAPTER_WEIGHTS)
    modules = {key: module for key, module in base.backbone.named_modules() if isinstance(module, nn.Linear)}
    factors: dict[str, LoraFactors] = {}
    head_keys = []
    for key in sorted(tensors):
        if not key.endswith((_DOWN, _UP)):
            head_keys.append(key)
            continue
        path = key.removesuffix(_DOWN).removesuffix(_UP)
        module = _module_path(path, modules)
        if module is None:
            head_keys.append(key)
        elif module not in factors:
            factors[module] = _factors(folder, path, module, modules[module], tensors, config)
    _check_complete(folder, base, factors, head_keys, config)
    return Adapter(name or folder.resolve().name, folder, config, factors, manifest, tuple(head_keys))


def named_base(folder: Path) -> str:
    """The name of the base that an adapter was trained on, as its own sidecar or PEFT's settings have it.

    Raises:
        BundleError: no adapter, or damaged.
    """
    if named := read_manifest(folder).get("base"):
        return str(named["name"])
    return str(_read_settings(folder).get("base_model_name_or_path") or DEFAULT_BASE)


def _read_settings(folder: Path) -> dict[str, Any]:
    if not (folder / ADAPTER_CONFIG).exists():
        raise BundleError(
            f"{folder} is no adapter: it has no {ADAPTER_CONFIG}; train one with `xcrossrec train source`"
        )
    return read_json(folder / ADAPTER_CONFIG)


def _read_config(folder: Path) -> LoraConfig:
    if (kind := _read_settings(folder).get("peft_type")) != "LORA":
        raise ModelError(
            f"adapter {folder} is of type {kind!r}: only LORA can be stacked, train it with PEFT's LoraConfig"
        )
    config = LoraConfig.from_pretrained(str(folder))
    start = config.init_lora_weights
    refused = {
        "use_dora": config.use_dora,
        "bias": config.bias != "none",
        "lora_bias": config.lora_bias,
        "fan_in_fan_out": config.fan_in_fan_out,
        f"init_lora_weights={start!r}": isinstance(start, str) and start.lower().startswith(_BASE_CHANGING_STARTS),
    }
    if names := [name for name, on in refused.items() if on]:
        raise ModelError(f"adapter {folder} uses {', '.join(names)}, which cannot be stacked: train plain LoRA")
    return config


def _check_base(folder: Path, config: LoraConfig, manifest: Mapping[str, Any], base: Base) -> None:
    trained_on = manifest.get("base")
    if trained_on:
        if trained_on["digest"] != base.digest:
            raise BaseMismatchError(
                f"adapter {folder} was trained on base {trained_on['name']!r} (weights {trained_on['digest'][:12]}), "
                f"not on {base.name!r} (weights {base.digest[:12]}): use adapters of one base, or train it again"
            )
    elif config.base_model_name_or_path not in (None, "", base.name):
        raise BaseMismatchError(
            f"adapter {folder} was trained on base {config.base_model_name_or_path!r}, not on {base.name!r}: "
            "pass the base it was trained on, or train it again"
        )


def _module_path(path: str, modules: Mapping[str, nn.Linear]) -> str | None:
    """Find the backbone's module for a saved path, which may start with PEFT's and the model's own prefixes."""
    parts = path.split(".")
    for start in range(len(parts)):
        if (candidate := ".".join(parts[start:])) in modules:
            return candidate
    return None


def _factors(
    folder: Path, path: str, module: str, linear: nn.Linear, tensors: Mapping[str, Tensor], config: LoraConfig
) -> LoraFactors:
    if lost := [key for key in (path + _DOWN, path + _UP) if key not in tensors]:
        raise BundleError(f"adapter {folder} has no {lost[0]}: copy or train it again")
    down, up = tensors[path + _DOWN].float(), tensors[path + _UP].float()
    expected = (linear.in_features, linear.out_features)
    if (down.shape[1], up.shape[0]) != expected or down.shape[0] != up.shape[1]:
        raise BaseMismatchError(
            f"adapter {folder} has factors {tuple(down.shape)} and {tuple(up.shape)} for {module}, but the base's "
            f"layer maps {expected[0]} to {expected[1]}: it was trained on another base"
        )
    # PEFT matches the path in the model it trained, which a head makes longer than ours
    alpha_key = get_pattern_key(config.alpha_pattern.keys(), path.removeprefix(_PEFT_PREFIX))
    alpha = config.alpha_pattern.get(alpha_key, config.lora_alpha)
    rank = down.shape[0]
    scaling = alpha / (rank**0.5 if config.use_rslora else rank)
    return LoraFactors(down, up * scaling)


def _check_complete(
    folder: Path, base: Base, factors: Mapping[str, LoraFactors], head_keys: Sequence[str], config: LoraConfig
) -> None:
    if not factors:
        raise BaseMismatchError(
            f"adapter {folder} has no LoRA factor for any layer of base {base.name!r} "
            f"(its target modules: {sorted(config.target_modules or [])}): it was trained on another architecture"
        )
    inside = [key for key in head_keys if ".layer." in key or ".layers." in key]
    if lost := [key for key in inside if key.endswith((_DOWN, _UP))]:
        raise BaseMismatchError(
            f"adapter {folder} has {lost[0]}, a layer that base {base.name!r} does not have: "
            "it was trained on another base"
        )
    if refused := inside + [key for key in head_keys if "lora_embedding" in key]:
        raise ModelError(
            f"adapter {folder} has {refused[0]}, which is no LoRA factor of a linear layer: train plain LoRA"
        )
