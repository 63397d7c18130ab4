"""How texts lie without padding."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fast_reference import (
    LENGTHS,
    Folders,
    by_the_layers,
    states,
)
from model_families import FAMILIES, fresh_base, random_batch
from xcrossrec.models.fast.texts import PackedTexts
from xcrossrec.models.source import SourceEncoder


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_parts_keep_all_tokens_within_the_limit(lengths: list[int], limit: int) -> None:
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    packed = PackedTexts.of(mask)
    assert packed is not None
    assert sorted(length for count, length in packed.groups for _ in range(count)) == sorted(lengths)
    assert sorted(packed.place.tolist()) == mask.flatten().nonzero()[:, 0].tolist()
    parts = packed.parts(limit)
    assert torch.equal(torch.cat([part.place for part in parts]), packed.place)
    for part in parts:
        size = sum(count * length for count, length in part.groups)
        assert size == len(part.place)
        assert size <= limit or len(part.groups) == part.groups[0][0] == 1


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[1, 1, 1], [0, 0, 0]]])
def test_texts_that_are_not_padded_at_the_right_are_not_packed(mask: list[list[int]]) -> None:
    assert PackedTexts.of(torch.tensor(mask)) is None


@torch.no_grad()
def test_a_batch_padded_at_the_left_goes_through_the_layers(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    with by_the_layers():
        expected = states(encoder, ids.flip(1), mask.flip(1))
    assert torch.equal(states(encoder, ids.flip(1), mask.flip(1)), expected)
