"""States kept in training against training that keeps nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_reference import (
    CLOSE,
    LENGTHS,
    PACKED,
    Folders,
    SourcesOf,
    integrated,
    keeping_nothing,
    states,
    states_and_gradients,
)
from model_families import FAMILIES, random_batch
from xcrossrec.models.fast import passes, texts
from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.xcross.encoder import XCrossEncoder


def kept(encoder: XCrossEncoder) -> passes.KeptStates:
    assert encoder.fast._pass is not None
    return encoder.fast._pass.kept


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize("top_layers", [None, 2, 1])
@pytest.mark.parametrize("name", PACKED)
def test_kept_states_change_neither_states_nor_gradients(
    name: str,
    top_layers: int | None,
    few: int,
    base_of: Folders,
    sources_of: SourcesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = integrated(base_of(name), sources_of(name, 3), top_layers).train()
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    monkeypatch.setattr(passes, "_TOKENS_AT_ONCE", 40)
    with keeping_nothing():
        expected = states_and_gradients(encoder, ids, mask)
    assert not kept(encoder).states
    orders = (torch.arange(5), torch.tensor([4, 1, 0, 3, 1]))  # anew, and again in another order and twice
    for order in (*orders, *orders):
        with keeping_nothing():
            expected = states_and_gradients(encoder, ids[order], mask[order])
        for one, other in zip(states_and_gradients(encoder, ids[order], mask[order]), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(1 + other.detach().abs().max()))
        assert len(kept(encoder).states) == 5


def test_a_text_that_was_kept_takes_no_lower_layer(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    run: list[Layer] = []
    embedded: list[Any] = []
    own = Layer.run

    def recorded(self: Layer, *args: Any) -> Tensor:
        run.append(self)
        return own(self, *args)

    encoder.backbone.embeddings.register_forward_hook(lambda *call: embedded.append(call))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layer, "run", recorded)
        counts = []
        for _ in range(2):
            run.clear()
            states(encoder, ids, mask)
            counts.append(len({id(layer) for layer in run}))
    assert counts == [3, 1]
    assert len(embedded) == 1
    with torch.no_grad():
        states(encoder, ids, mask)
    assert len(embedded) == 2  # kept states serve training alone


@pytest.mark.parametrize("what", ["adapter", "embeddings"])
def test_kept_states_go_when_a_weight_changes(what: str, base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    before = states(encoder, ids, mask)
    with torch.no_grad():
        if what == "adapter":
            encoder.backbone.encoder.layer[0].attention.self.query.down[0].mul_(2.0)
        else:
            encoder.backbone.embeddings.word_embeddings.weight.mul_(1.5)
    with keeping_nothing():
        expected = states(encoder, ids, mask)
    after = states(encoder, ids, mask)
    torch.testing.assert_close(after, expected, **CLOSE)
    assert (after - before).abs().max() > 1e-3
    assert len(kept(encoder).states) == 5


def test_kept_states_stay_within_their_bytes(
    base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    a_token = 2 * encoder.dim * 4
    monkeypatch.setattr(passes, "_KEPT_BYTES", 11 * a_token)  # of 1, 5, 5, 9 and 12 tokens the first three
    with keeping_nothing():
        expected = states(encoder, ids, mask)
    for _ in range(2):
        torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)
        assert [found.shape[1] for found in kept(encoder).states.values()] == [1, 5, 5]
        assert kept(encoder).bytes == 11 * a_token
    encoder.fast.forget()
    assert (kept(encoder).states, kept(encoder).bytes) == ({}, 0)


def test_kept_states_are_in_no_copy(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    expected = states(encoder, ids, mask)
    copied = deepcopy(encoder)
    assert not kept(copied).states
    assert len(kept(encoder).states) == 5
    torch.testing.assert_close(states(copied, ids, mask), expected, **CLOSE)
    with torch.no_grad():
        copied.backbone.embeddings.word_embeddings.weight.mul_(1.5)
    torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)


def test_nothing_is_kept_of_pairs_nor_where_the_backbone_trains(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    encoder(encoder.preprocess([("w1;w2", "w3"), ("w4", "w5")]))
    assert not kept(encoder).states
    encoder.backbone.train()  # dropout
    states(encoder, *random_batch(FAMILIES["bert"], LENGTHS))
    assert not kept(encoder).states


def test_mixed_precision_keeps_states_of_its_own(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2), 2).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    exact = states(encoder, ids, mask)
    with torch.autocast("cpu", torch.bfloat16), keeping_nothing():
        expected = states(encoder, ids, mask)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(states(encoder, ids, mask), expected, rtol=2e-2, atol=2e-2)
    assert len(kept(encoder).states) == 2 * 5
    assert not torch.equal(exact, expected)
    torch.testing.assert_close(states(encoder, ids, mask), exact, **CLOSE)
