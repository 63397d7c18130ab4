"""How a model's head starts from those of the sources it is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xcrossrec.models.adapters import read_manifest
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.models.pair_head import PairHead
from xcrossrec.types import PairStart


def inherit_head(model: Model, folders: Sequence[Path]) -> None:
    """Start a model's head from the mean of its sources' heads, in place.

    The matcher takes the mean over the sources' matchers. A pair head takes the mean where all that
    the sources have are of its form and were trained from one seed: heads that began apart have no meaningful mean. A
    source without a head has no say.
    """
    own = matcher_of(model)
    matchers = [HistoryMatcher.load(str(path.parent), subfolder=path.name) for path in _heads(folders, HistoryMatcher)]
    if matchers:
        own.load_state_dict(_mean([matcher.state_dict() for matcher in matchers]))
    head = model[-1]
    if not isinstance(head, PairHead):
        return
    found = _pair_heads(folders)
    forms = {tuple(each.get_config_dict().items()) for each in (head, *(other for other, _ in found))}
    seeds = {seed for _, seed in found}
    if found and len(forms) == 1 and len(seeds) == 1 and None not in seeds:
        head.load_state_dict(_mean([other.state_dict() for other, _ in found]))


def pair_start_of(folders: Sequence[Path]) -> PairStart:
    """How the sources' pair heads started, if they agree; else from the ``similarity``."""
    starts = {head.starts for head, _ in _pair_heads(folders)}
    return starts.pop() if len(starts) == 1 else "similarity"


def _pair_heads(folders: Sequence[Path]) -> list[tuple[PairHead, Any]]:
    """The sources' pair heads, each with the seed of its training."""
    paths = _heads(folders, PairHead)
    heads = [PairHead.load(str(path.parent), subfolder=path.name) for path in paths]
    seeds = [(read_manifest(path.parent).get("training") or {}).get("seed") for path in paths]
    return list(zip(heads, seeds, strict=True))


def _heads(folders: Sequence[Path], kind: type) -> list[Path]:
    return [path for folder in folders for path in sorted(folder.glob(f"*_{kind.__name__}"))]


def _mean(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([state[key] for state in states]).mean(0) for key in states[0]}
