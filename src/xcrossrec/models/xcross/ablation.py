"""Parts of an X-Cross encoder switched off for the length of a block, to say what each gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from xcrossrec.models.xcross.integrator import IntegratedLayer


@contextmanager
def giving_nothing(layers: Sequence[IntegratedLayer], source: int) -> Iterator[None]:
    """A source gives nothing to the others at some layers."""
    for layer in layers:
        layer.without = source
    try:
        yield
    finally:
        for layer in layers:
            layer.without = None


@contextmanager
def without_weight(stream_weight: nn.Parameter, source: int) -> Iterator[None]:
    """A source has no part in the final sum."""
    before = stream_weight.detach()[source].clone()
    with torch.no_grad():
        stream_weight[source] = 0.0
    try:
        yield
    finally:
        with torch.no_grad():
            stream_weight[source] = before


@contextmanager
def not_mixing(layers: Sequence[IntegratedLayer]) -> Iterator[None]:
    """No layer mixes."""
    for layer in layers:
        layer.enabled = False
    try:
        yield
    finally:
        for layer in layers:
            layer.enabled = True


@contextmanager
def observing(layers: Sequence[IntegratedLayer]) -> Iterator[list[list[Tensor]]]:
    """Collect, per layer, the mixing coefficients (source, source, batch, token) of every forward pass."""
    records: list[list[Tensor]] = [[] for _ in layers]
    for layer, record in zip(layers, records, strict=True):
        layer.observed = record
    try:
        yield records
    finally:
        for layer in layers:
            layer.observed = None
