"""The files of a model's folder: JSON and tensors, read with errors that say what to do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xcrossrec.exceptions import BundleError


def read_json(path: Path) -> dict[str, Any]:
    """Read an object from a JSON file.

    Raises:
        BundleError: missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent} has no {path.name}: it is no xcrossrec model, or was not written to its end"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path} is not valid JSON ({error}): copy or train the model again") from error
    if not isinstance(found, dict):
        raise BundleError(f"{path} holds a {type(found).__name__}, expected an object: copy or train the model again")
    return found


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        BundleError: missing, or corrupt or foreign content (a pickle, say), which is never executed.
    """
    if not path.exists():
        pickles = sorted(p.name for p in path.parent.glob("*.bin")) + sorted(p.name for p in path.parent.glob("*.pt"))
        why = f"; {', '.join(pickles)} is a pickle and is never read: convert it" if pickles else ": copy it again"
        raise BundleError(f"weights {path} are missing{why}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path} is not a readable safetensors file ({error}): copy or train it again") from error


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


@torch.no_grad()
def take_over(own: Mapping[str, Tensor], path: Path) -> None:
    """Copy the tensors of a file over a module's own.

    Raises:
        BundleError: a tensor is missing, surplus or of another shape.
    """
    saved = load_tensors(path)
    wrong = sorted(set(own) ^ set(saved)) or [key for key in own if own[key].shape != saved[key].shape]
    if wrong:
        raise BundleError(f"{path} does not fit its settings ({wrong[0]}): it belongs to another configuration")
    for key, tensor in own.items():
        tensor.copy_(saved[key])
