"""Attention of pairs that share histories against loops and masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from xcrossrec.models.fast.shared import Blocks, SharedLayout, shared_attention

CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.mark.parametrize("window", [None, 2])
def test_attention_in_parts_equals_a_loop_over_tokens(window: int | None) -> None:
    history = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0, 1, 1, 0])
    candidate = torch.tensor([-1, -1, -1, -1, -1, -1, -1, 0, 1, 1, 2])
    position = torch.tensor([0, 1, 2, 0, 1, 2, 3, 3, 4, 5, 3])
    query, key, value = torch.randn(3, 2, 4, 11, 5, generator=torch.Generator().manual_seed(0))
    layout = SharedLayout(history, candidate, position)
    got = shared_attention(query, key, value, layout, scale=0.7, window=window)
    for row in range(2):
        for token in range(11):
            seen = [
                other
                for other in range(11)
                if history[other] == history[token]
                and candidate[other] in (-1, candidate[token])
                and (window is None or abs(int(position[other] - position[token])) <= window)
            ]
            for head in range(4):
                weights = torch.softmax(0.7 * key[row, head, seen] @ query[row, head, token], 0)
                torch.testing.assert_close(got[row, token, head], weights @ value[row, head, seen], **CLOSE)
    needing = shared_attention(query.requires_grad_(), key, value, layout, scale=0.7, window=window)
    torch.testing.assert_close(needing, got, **CLOSE)


def test_dropout_scales_what_it_keeps() -> None:
    layout = SharedLayout(torch.zeros(6, dtype=torch.long), torch.tensor([-1, -1, -1, 0, 0, 1]), torch.arange(6))
    ones = torch.ones(1, 2, 6, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.stack([shared_attention(ones, ones, ones, layout, scale=1.0, dropout=0.4) for _ in range(400)])
    assert drawn.std() > 0.1
    assert drawn.mean().item() == pytest.approx(1.0, abs=0.02)


def test_a_block_without_tokens_is_empty() -> None:
    blocks = Blocks.of(torch.zeros(0, dtype=torch.long), 3, [torch.zeros(0, dtype=torch.long)])
    assert [block.index.shape for block in blocks.parts] == [(0, 0)]


def many_pairs(generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Twelve histories of 1 to 12 tokens, three candidates each, as (history, candidate, position) of the tokens."""
    lengths = [1 + 5 * number % 12 for number in range(12)]
    own = torch.randint(1, 5, (12, 3), generator=generator).tolist()
    past = [(number, -1, place) for number, length in enumerate(lengths) for place in range(length)]
    candidates = [
        (number, 3 * number + which, lengths[number] + place)
        for number, sizes in enumerate(own)
        for which, size in enumerate(sizes)
        for place in range(size)
    ]
    history, candidate, position = torch.tensor(past + candidates).unbind(1)
    return history, candidate, position


def test_many_histories_are_padded_in_several_matrices_and_their_gradients_are_those_of_one_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    history, candidate, position = many_pairs(generator)
    layout = SharedLayout(history, candidate, position)
    assert [len(layout.history.parts), len(layout.own.parts)] == [3, 4]
    assert sum(block.index.numel() for block in layout.history.parts) < 12 * 12
    states = torch.randn(3, 1, 2, len(history), 5, generator=generator).requires_grad_()
    seen = (history[:, None] == history) & ((candidate == -1) | (candidate[:, None] == candidate))
    query, key, value = states
    scores = (0.7 * query @ key.transpose(-1, -2)).masked_fill(~seen, -torch.inf)
    expected = (scores.softmax(-1) @ value).transpose(1, 2)
    got = shared_attention(query, key, value, layout, scale=0.7)
    torch.testing.assert_close(got, expected, **CLOSE)
    weights = torch.randn(got.shape, generator=generator)
    wanted = torch.autograd.grad((expected * weights).sum(), states)[0]
    torch.testing.assert_close(torch.autograd.grad((got * weights).sum(), states)[0], wanted, **CLOSE)
