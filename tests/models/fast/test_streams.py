"""Spare rows, by which products come in few sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fast_reference import CLOSE, PACKED, Folders, SourcesOf, by_the_layers, integrated, states
from model_families import FAMILIES, fresh_base, random_batch
from xcrossrec.models.fast import linear, streams, texts
from xcrossrec.models.source import SourceEncoder

UNEVEN = (12, 5, 9, 5, 1, 5)


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of each product by oneDNN."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch was built without oneDNN, as on a Mac")
    found: list[int] = []
    multiply = linear.onednn_linear

    def counted(x: Tensor, *args: Tensor) -> Tensor:
        found.append(len(x))
        return multiply(x, *args)

    monkeypatch.setattr(linear, "onednn_linear", counted)
    return found


def encode(encoder: SourceEncoder, tokens: int) -> Tensor:
    """States of one-token texts."""
    return states(encoder, torch.full((tokens, 1), 7), torch.ones(tokens, 1, dtype=torch.long))


@torch.no_grad()
def test_products_come_in_few_sizes_and_these_are_little_larger(base_of: Folders, rows: list[int]) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    sizes = set()
    for tokens in range(1, 520):
        rows.clear()
        assert len(encode(encoder, tokens)) == tokens
        (size,) = set(rows)
        assert tokens <= size <= tokens * 17 / 16
        sizes.add(size)
    assert len(sizes) == 32 + 4 * 16 + 1


def test_no_rows_are_added_where_gradients_are_kept(base_of: Folders, rows: list[int]) -> None:
    encode(SourceEncoder(fresh_base(base_of("bert"))), 100)
    assert set(rows) == {100}


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_spare_rows_change_nothing(
    name: str, count: int, few: int, base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = integrated(base_of(name), sources_of(name, 2)) if count > 1 else SourceEncoder(fresh_base(base_of(name)))
    ids, mask = random_batch(FAMILIES[name], UNEVEN)
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    monkeypatch.setattr(streams, "_SIZES", 1)
    fast = states(encoder, ids, mask)
    with by_the_layers():
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)
