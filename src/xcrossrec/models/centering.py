"""Center a `dual` model's vectors on a catalogue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sentence_transformers import CrossEncoder
from sentence_transformers.sentence_transformer.modules import Pooling

from xcrossrec.models.bundle import Model, encoder_of, with_center
from xcrossrec.models.heads import Center
from xcrossrec.prompts import item_texts
from xcrossrec.types import EncodingPrecision

_TITLES = 1024
"""Titles that the mean is taken over, spread over the catalogue; its error is 3% of the vectors' spread."""

_BATCH = 256


def center_on(model: Model, titles: Sequence[str], *, precision: EncodingPrecision = "fp32") -> Model:
    """Let a `dual` model subtract the mean vector of a catalogue, as it encodes the catalogue now.

    Only titles are read, no interactions. A model that was centered on another catalogue is moved to this one. A `pair`
    model is given back as it is.

    Args:
        model: taken over.
        titles: the catalogue's; at most 1,024 of them, evenly spread, are encoded.
        precision: of their encoding.

    Source:
        removing the common mean from text vectors: "All-but-the-Top" (Mu and Viswanath, ICLR 2018, arXiv 1702.01417);
        for recommendation, whitening in WhitenRec (arXiv 2401.05753), of which this is the part that helped here.
    """
    if isinstance(model, CrossEncoder):
        return model
    centered = with_center(model)
    (center,) = (module for module in centered if isinstance(module, Center))
    encoder = encoder_of(centered)
    former, encoder.precision = encoder.precision, precision
    center.mean.copy_(_mean_vector(centered, titles))
    encoder.precision = former
    return centered


@torch.no_grad()
def _mean_vector(model: Model, titles: Sequence[str]) -> torch.Tensor:
    encoder = encoder_of(model)
    (pooling,) = (module for module in model if isinstance(module, Pooling))
    step = -(-len(titles) // _TITLES)
    texts = sorted(item_texts(titles[::step]), key=lambda text: (len(text), text))
    former = model.training
    model.eval()
    total = torch.zeros(encoder.dim, dtype=torch.float64)
    for start in range(0, len(texts), _BATCH):
        features = encoder.preprocess(texts[start : start + _BATCH])
        states = encoder({key: value.to(model.device) for key, value in features.items()})
        total += pooling(states)["sentence_embedding"].double().sum(0).cpu()
    model.train(former)
    return (total / len(texts)).float()
