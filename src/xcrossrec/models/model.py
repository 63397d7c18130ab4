"""A model as sentence-transformers holds it: an encoder first, a head last."""

from __future__ import annotations

from typing import TypeAlias

import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from xcrossrec.exceptions import BundleError
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.heads import HistoryMatcher
from xcrossrec.models.pair_head import PairHead

Model: TypeAlias = SentenceTransformer | CrossEncoder


def usual_device() -> str | None:
    """Where a new model is put: on the processor of a Mac, whose GPU (mps) has no float64 and was never tried here;
    None leaves it to sentence-transformers (the first GPU, or the processor)."""
    return "cpu" if torch.backends.mps.is_available() else None


def encoder_of(model: Model) -> TitleEncoder:
    """The encoder of a model (BundleError: it starts with another module)."""
    encoder = model[0]
    if not isinstance(encoder, TitleEncoder):
        raise BundleError(f"the model starts with a {type(encoder).__name__}, expected an xcrossrec encoder")
    return encoder


def matcher_of(model: Model) -> HistoryMatcher:
    """The part of the head that holds sharpness, recency weights and temperature (BundleError: there is none)."""
    for head in reversed(list(model)):
        if isinstance(head, PairHead):
            return head.matcher
        if isinstance(head, HistoryMatcher):
            return head
    raise BundleError(f"the model ends with a {type(model[-1]).__name__}, expected an xcrossrec head")
