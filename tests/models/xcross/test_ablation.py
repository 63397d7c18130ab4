"""Parts of an X-Cross encoder switched off for a block, against the same done by hand."""

from __future__ import annotations

from contextlib import AbstractContextManager

import pytest
import torch

from encoders import CLOSE, Folders, SourcesOf, output, real, xcross_over
from model_families import FAMILIES, random_batch, randomise
from xcrossrec.models.xcross.encoder import XCrossEncoder

IDS, MASK = random_batch(FAMILIES["bert"])


@pytest.fixture
def encoder(base_of: Folders, sources_of: SourcesOf) -> XCrossEncoder:
    """Two BERT sources with random integrators and unequal stream weights."""
    encoder = xcross_over(base_of("bert"), sources_of("bert", 2))
    randomise(encoder, "concat_weight", 0.1)
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.tensor([0.8, -0.3]))
    return encoder


def states(encoder: XCrossEncoder) -> torch.Tensor:
    return real(output(encoder, IDS, MASK), MASK)


@torch.no_grad()
def drop_what_a_source_gives(encoder: XCrossEncoder, layer: int, source: int) -> None:
    """Set the giver's transfer and contrast rows of W_concat to zero."""
    integrator = encoder.integrators[layer]
    for row, (_, giver) in enumerate(integrator.pairs):
        if giver == source:
            integrator.concat_weight[row] = 0
            integrator.concat_weight[row + len(integrator.pairs)] = 0


@pytest.mark.parametrize(("layer", "source"), [(0, 0), (0, 1), (2, 1)])
def test_ablated_equals_dropping_the_terms_by_hand(encoder: XCrossEncoder, layer: int, source: int) -> None:
    whole = states(encoder)
    with encoder.silenced(source, layer):
        ablated = states(encoder)
    drop_what_a_source_gives(encoder, layer, source)
    torch.testing.assert_close(ablated, states(encoder), **CLOSE)
    assert not torch.allclose(ablated, whole, atol=1e-3)


@pytest.mark.parametrize("source", [0, 1])
def test_silenced_equals_dropping_the_terms_of_all_layers(encoder: XCrossEncoder, source: int) -> None:
    with encoder.silenced(source):
        silenced = states(encoder)
    for layer in range(3):
        drop_what_a_source_gives(encoder, layer, source)
    torch.testing.assert_close(silenced, states(encoder), **CLOSE)


@pytest.mark.parametrize("source", [0, 1])
def test_left_out_equals_a_weight_of_zero_in_the_final_sum(encoder: XCrossEncoder, source: int) -> None:
    with encoder.left_out(source):
        without = states(encoder)
    with torch.no_grad():
        encoder.stream_weight[source] = 0.0
    assert torch.equal(without, states(encoder))


def test_integration_off_equals_zero_integrators(encoder: XCrossEncoder) -> None:
    mixed = states(encoder)
    with encoder.integration_off():
        off = states(encoder)
    randomise(encoder, "concat_weight", 0.0)
    torch.testing.assert_close(off, states(encoder), **CLOSE)
    assert not torch.allclose(off, mixed, atol=1e-3)


@pytest.mark.parametrize("part", ["ablated", "silenced", "left_out", "integration_off", "observing"])
def test_after_a_block_that_fails_the_model_is_as_before_bit_for_bit(encoder: XCrossEncoder, part: str) -> None:
    blocks: dict[str, AbstractContextManager[object]] = {
        "ablated": encoder.silenced(0, 1),
        "silenced": encoder.silenced(0),
        "left_out": encoder.left_out(0),
        "integration_off": encoder.integration_off(),
        "observing": encoder.observing(),
    }
    before = states(encoder)
    with pytest.raises(KeyboardInterrupt), blocks[part]:
        raise KeyboardInterrupt
    assert torch.equal(states(encoder), before)
    assert all(layer.observed is None for layer in encoder.integrated_layers)


def test_observing_gives_the_coefficients_of_each_layer(encoder: XCrossEncoder) -> None:
    with encoder.observing() as records:
        mixed = states(encoder)
    assert [record.shape for record in records] == [(2, 2, *IDS.shape)] * 3
    torch.testing.assert_close(states(encoder), mixed, **CLOSE)
    assert len(records) == 3


def test_observed_coefficients_of_zero_integrators_are_the_identity(encoder: XCrossEncoder) -> None:
    randomise(encoder, "concat_weight", 0.0)
    with encoder.observing() as records:
        states(encoder)
    identity = torch.eye(2)[:, :, None, None].expand(2, 2, *IDS.shape)
    for coefficients in records:
        assert torch.equal(coefficients, identity)
