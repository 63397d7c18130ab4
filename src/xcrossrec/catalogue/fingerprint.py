"""What vectors depend on, as one hash: the model without its history matcher and purchases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from xcrossrec.exceptions import BundleError
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST
from xcrossrec.models.base import weight_digest
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.files import load_tensors
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import Model
from xcrossrec.models.purchases import Purchases
from xcrossrec.replacing import scratch_folder

_ELSEWHERE = ("base_model_name_or_path", "name", "peft_version", "inference_mode", "auto_mapping", "pair_attention")
"""Settings that no title's vector depends on; the base counts by its weights' digest, not by its name."""


def fingerprint_of(model: Model) -> str:
    """Hash everything that decides a title's vector (sha256, hex); "pair" for a `pair` model, which has no vectors.

    Modules are hashed as they save themselves: tensors by value, settings as JSON, whatever the file's format, the
    release that wrote it or the base's path. The history matcher and the purchases are left
    out: no item's vector depends on them.
    """
    if not kind_of(model).dim(model):
        return "pair"
    digest = hashlib.sha256()
    with scratch_folder() as place:
        for number, module in enumerate(model):
            if isinstance(module, (HistoryMatcher, Purchases, DayOne)):
                continue
            folder = place / str(number)
            folder.mkdir()
            module.save(str(folder))
            digest.update(f"{number}|{type(module).__name__}|{_content(folder)}|".encode())
    return digest.hexdigest()


def _content(folder: Path) -> str:
    """Describe a saved module: one line a file that holds weights or settings."""
    lines = []
    for path in sorted(folder.rglob("*")):
        if path.suffix == ".safetensors":
            lines.append(f"{path.relative_to(folder).as_posix()} {weight_digest(load_tensors(path))}")
        elif path.suffix == ".json" and path.name != MANIFEST and "token" not in path.name:
            settings = _settled(json.loads(path.read_text(encoding="utf-8")), path.name == ADAPTER_CONFIG)
            lines.append(f"{path.relative_to(folder).as_posix()} {json.dumps(settings, sort_keys=True)}")
    return "\n".join(lines)


def _settled(value: Any, lists_are_sets: bool) -> Any:
    """Drop what does not matter; PEFT writes its sets as lists in any order, so its lists are sorted."""
    if isinstance(value, dict):
        return {key: _settled(each, lists_are_sets) for key, each in value.items() if key not in _ELSEWHERE}
    if isinstance(value, list):
        settled = [_settled(each, lists_are_sets) for each in value]
        return sorted(settled, key=str) if lists_are_sets else settled
    return value


def check_fingerprint(catalogue: str, found: str, wanted: str) -> None:
    """Refuse (BundleError) a catalogue of another model's vectors; names the command that encodes the items again."""
    if found != wanted:
        raise BundleError(
            f"the catalogue {catalogue} holds another model's vectors (fingerprint {found[:12]}, this model's is "
            f"{wanted[:12]}): encode its items again with  xcrossrec catalog embed MODEL {catalogue}"
        )
