"""What the tests of encoders share: making them over tiny sources, their states, and their folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model_families import Source, fresh_base
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
SETTINGS = "xcrossrec_encoder.json"


def xcross_over(base: Path, sources: Sequence[Source], **settings: Any) -> XCrossEncoder:
    found = fresh_base(base)
    return XCrossEncoder(found, [read_adapter(source.folder, found) for source in sources], **settings).eval()


def merged_over(base: Path, sources: Sequence[Source], **settings: Any) -> MergedEncoder:
    found = fresh_base(base)
    return MergedEncoder(found, [read_adapter(source.folder, found) for source in sources], **settings).eval()


@torch.no_grad()
def output(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    """The states of all tokens (batch, token, dim)."""
    states: Tensor = encoder({"input_ids": ids, "attention_mask": mask})["token_embeddings"]
    return states


def real(states: Tensor, mask: Tensor) -> Tensor:
    """The states of tokens that are no padding."""
    return states[..., mask.bool(), :]


def save_to(encoder: TitleEncoder, folder: Path) -> Path:
    folder.mkdir()
    encoder.save(str(folder))
    return folder


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")
