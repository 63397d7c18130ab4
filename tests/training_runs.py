"""What the tests of training share: interrupting a run and comparing folders."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from xcrossrec.training.batches import EpochOfBatches


def digest(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def stop_at_epoch(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Pull the plug when an epoch begins."""
    begin = EpochOfBatches.on_epoch_begin

    def stop(self: EpochOfBatches, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if round(state.epoch) == epoch:
            raise KeyboardInterrupt
        begin(self, args, state, control, **kwargs)

    monkeypatch.setattr(EpochOfBatches, "on_epoch_begin", stop)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors |= {f"{path.relative_to(folder)}:{key}": value for key, value in load_file(path).items()}
    return tensors


def assert_same_weights(first: Path, second: Path) -> None:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    assert a
    for key in a:
        assert torch.equal(a[key], b[key]), key
