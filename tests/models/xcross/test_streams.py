"""Stage 1 against PEFT's own forward: each stream is that source's model."""

from __future__ import annotations

import pytest
import torch

from encoders import CLOSE, Folders, SourcesOf, real, xcross_over
from model_families import DIM, FAMILIES, Family, fresh_base, random_batch
from xcrossrec.exceptions import ModelError
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.xcross.streams import StackedLoraLinear, one_stream, stack_adapters


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_each_stream_is_pefts_own_forward(family: Family, count: int, base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of(family.name, count)
    ids, mask = random_batch(family)
    streams = xcross_over(base_of(family.name), sources).encode_streams(ids, mask)
    for stream, source in zip(streams, sources, strict=True):
        torch.testing.assert_close(real(stream, mask), real(source.states(ids, mask), mask), **CLOSE)
    assert (real(streams[0], mask) - real(streams[1], mask)).abs().max() > 0.1


@torch.no_grad()
def test_head_bearing_adapters_give_their_encoder(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of(family.name, 2, head=True)
    ids, mask = random_batch(family)
    encoder = xcross_over(base_of(family.name), sources)
    for stream, source in zip(encoder.encode_streams(ids, mask), sources, strict=True):
        torch.testing.assert_close(real(stream, mask), real(source.states(ids, mask), mask), **CLOSE)


def stacked_layer(base_of: Folders, sources_of: SourcesOf) -> StackedLoraLinear:
    """A layer that the second source alone adapts."""
    found = fresh_base(base_of("bert"))
    stack_adapters(found.backbone, [read_adapter(source.folder, found).factors for source in sources_of("bert", 2)])
    layer = found.backbone.encoder.layer[0].intermediate.dense
    assert isinstance(layer, StackedLoraLinear)
    return layer


@torch.no_grad()
def test_a_stream_without_an_update_is_the_base_also_alone(base_of: Folders, sources_of: SourcesOf) -> None:
    layer = stacked_layer(base_of, sources_of)
    x = torch.randn(4, 3, DIM, generator=torch.Generator().manual_seed(0))
    plain = layer.linear(x)
    both = layer(x)
    torch.testing.assert_close(both[:2], plain[:2], **CLOSE)
    assert (both[2:] - plain[2:]).abs().max() > 0.1
    with one_stream([layer], 1):
        torch.testing.assert_close(layer(x)[2:], both[2:], **CLOSE)
        assert (layer(x)[:2] - plain[:2]).abs().max() > 0.1
    assert torch.equal(layer(x), both)


def test_stacking_twice_is_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    found = fresh_base(base_of("bert"))
    updates = [read_adapter(source.folder, found).factors for source in sources_of("bert", 2)]
    stack_adapters(found.backbone, updates)
    with pytest.raises(ModelError, match=r"is a StackedLoraLinear: adapters are already stacked"):
        stack_adapters(found.backbone, updates)


def test_the_streams_of_the_last_layers_alone_still_differ_from_the_first(
    base_of: Folders, sources_of: SourcesOf
) -> None:
    """``top_layers`` says where streams are integrated, not where they part."""
    encoder = xcross_over(base_of("bert"), sources_of("bert", 2), top_layers=1)
    ids, mask = random_batch(FAMILIES["bert"])
    with torch.no_grad():
        streams = encoder.encode_streams(ids, mask)
    for stream, source in zip(streams, sources_of("bert", 2), strict=True):
        torch.testing.assert_close(real(stream, mask), real(source.states(ids, mask), mask), **CLOSE)
