"""Encoders for the tests of the fast pass, and its reference: the layers themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn

from model_families import Source, fresh_base, randomise
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.fast import SWITCH
from xcrossrec.models.fast.passes import PackedPass
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PACKED = ["bert", "mpnet"]
LENGTHS = (12, 5, 9, 5, 1)


def integrated(base: Path, sources: list[Source], top_layers: int | None = None) -> XCrossEncoder:
    found = fresh_base(base)
    adapters = [read_adapter(source.folder, found) for source in sources]
    encoder = XCrossEncoder(found, adapters, top_layers=top_layers).eval()
    randomise(encoder, "concat_weight", 0.02)
    randomise(encoder, "stream_weight", 0.5)
    return encoder


def adapted(base: Path, *, start: float = 0.2, **lora: Any) -> SourceEncoder:
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "bias": "none", **lora})
    encoder = SourceEncoder(fresh_base(base), config).train()
    randomise(encoder, "lora_B", start)
    return encoder


def states(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    return encoder(features)["token_embeddings"][mask.bool()]


def states_and_gradients(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> list[Tensor]:
    trained = [p for p in encoder.parameters() if p.requires_grad]
    found = states(encoder, ids, mask)
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    return [found, *torch.autograd.grad((found * towards).sum(), trained)]


@contextmanager
def by_the_layers() -> Iterator[None]:
    """Within the block every encoder runs the layers of transformers with PyTorch's own products."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SWITCH, "0")
        yield


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """Within the block training computes all layers each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedPass, "_can_keep", lambda self: False)
        yield


def without_dropout(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def assert_equal_to_the_layers(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> None:
    assert encoder.fast.leaves_padding_out_in_training
    fast = states_and_gradients(encoder, ids, mask)
    with by_the_layers():
        slow = states_and_gradients(encoder, ids, mask)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.detach().abs().max())))
