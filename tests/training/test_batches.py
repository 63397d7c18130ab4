"""Collators: who is whose negative, and the same draws in every run."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from xcrossrec.exceptions import DataError
from xcrossrec.prompts import split_prompt
from xcrossrec.training.batches import HISTORY_LIMIT, DualBatches, EpochOfBatches, PairBatches

TITLES = [f"title {'x' * (row % 4)} {row}" for row in range(30)]
SEQUENCES = st.lists(st.lists(st.integers(0, 29), min_size=2, max_size=9), min_size=1, max_size=6)


def number(text: str) -> int:
    return int(text.split()[-1])


PAD, FILL, BREAK = -1, -2, -3


def spell(inputs: Sequence[Any]) -> dict[str, Tensor]:
    """A stand-in for tokenization that can be read back: item numbers, an x as a filler, pairs with a break."""

    def tokens(text: str) -> list[int]:
        return [t for title in split_prompt(text) for t in (number(title), *[FILL] * title.count("x"))]

    rows = [
        [*tokens(entry[0]), BREAK, *tokens(entry[1])] if isinstance(entry, tuple) else tokens(entry) for entry in inputs
    ]
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[PAD] * (longest - len(row))] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


def read(row: list[int]) -> list[int]:
    return [token for token in row if token not in (PAD, FILL)]


def dual(sequences: Sequence[Sequence[int]], **changes: Any) -> DualBatches:
    settings = {"sampled_negatives": 5, "seed": 3, **changes}
    return DualBatches(sequences, TITLES, spell, **settings)


def pair(sequences: Sequence[Sequence[int]], **changes: Any) -> PairBatches:
    settings = {"negatives": 4, "seed": 3, **changes}
    return PairBatches(sequences, TITLES, spell, **settings)


def rows_of(sequences: Sequence[Any]) -> list[dict[str, int]]:
    return [{"user": user} for user in range(len(sequences))]


def encoded_items(batch: dict[str, Any]) -> list[int]:
    groups = [batch[f"items{n}_input_ids"] for n in range(50) if f"items{n}_input_ids" in batch]
    return [int(row) for part in groups for row in part[:, 0]]


@given(sequences=SEQUENCES)
def test_a_dual_batch_holds_every_item_once_and_points_at_it(sequences: list[list[int]]) -> None:
    batch = dual(sequences)(rows_of(sequences))
    items = encoded_items(batch)
    assert len(set(items)) == len(items)
    for user, sequence in enumerate(sequences):
        places = [place for place in batch["label"]["sequences"][user].tolist() if place >= 0]
        assert [items[place] for place in places] == sequence


@given(sequences=SEQUENCES)
def test_membership_marks_the_whole_sequence_and_nothing_else(sequences: list[list[int]]) -> None:
    batch = dual(sequences, sampled_negatives=12)(rows_of(sequences))
    items = encoded_items(batch)
    for user, sequence in enumerate(sequences):
        marked = {item for item, own in zip(items, batch["label"]["member"][user].tolist(), strict=True) if own}
        assert marked == set(items) & set(sequence)


def test_a_long_history_counts_from_its_newest_items() -> None:
    long = list(range(30))
    batch = dual([long], sampled_negatives=0)([{"user": 0}])
    items = encoded_items(batch)
    assert [items[place] for place in batch["label"]["sequences"][0].tolist()] == long[-(HISTORY_LIMIT + 1) :]


def test_the_length_groups_come_in_order_so_that_padding_is_small() -> None:
    batch = dual([list(range(20))], sampled_negatives=0)([{"user": 0}])
    lengths = [TITLES[item].count("x") for item in encoded_items(batch)]
    assert lengths == sorted(lengths)
    masks = [batch[key] for key in batch if key.startswith("items") and key.endswith("attention_mask")]
    assert len(masks) > 1
    assert sum(mask.numel() - int(mask.sum()) for mask in masks) < 15


@given(sequences=SEQUENCES, seed=st.integers(0, 20), epoch=st.integers(0, 3))
def test_pair_negatives_are_never_the_users_own(sequences: list[list[int]], seed: int, epoch: int) -> None:
    batches = pair(sequences, seed=seed)
    batches.epoch = epoch
    texts = batches(rows_of(sequences))["pairs"]["input_ids"].tolist()
    assert len(texts) == 5 * len(sequences)
    for user, sequence in enumerate(sequences):
        own = [read(text) for text in texts[5 * user : 5 * user + 5]]
        histories, candidates = [text[:-2] for text in own], [text[-1] for text in own]
        length = len(histories[0])
        assert all(history == sequence[:length] for history in histories)
        assert candidates[0] == sequence[length]
        assert not set(candidates[1:]) & set(sequence)
        assert len(set(candidates)) == 5


def test_half_of_the_pair_negatives_follow_popularity() -> None:
    sequences = [[0, 1], *[[2, 3]] * 40]
    batches = pair(sequences, negatives=2)
    drawn = []
    for epoch in range(20):
        batches.epoch = epoch
        drawn += [read(text)[-1] for text in batches([{"user": 0}])["pairs"]["input_ids"].tolist()[1:]]
    assert sum(item in (2, 3) for item in drawn) >= 20


def test_pair_negatives_come_from_the_catalogue_where_nobody_bought_anything_else() -> None:
    texts = pair([[0, 1], [1, 0]])([{"user": 0}])["pairs"]["input_ids"].tolist()
    assert len({read(text)[-1] for text in texts}) == 5


def test_a_catalogue_too_small_for_the_negatives() -> None:
    batches = PairBatches([[0, 1, 2]], TITLES[:5], spell, 0, negatives=4)
    with pytest.raises(DataError, match="4 negatives a user are wanted, but only 2 items are not the user's"):
        batches([{"user": 0}])


@pytest.mark.parametrize("kind", [dual, pair])
def test_draws_depend_on_seed_epoch_and_users_alone(kind: Any) -> None:
    sequences = [[0, 1, 2, 3], [4, 5, 6], [7, 8]]

    def draw(seed: int, epoch: int, users: tuple[int, ...] = (0, 2), warm_up: int = 0) -> str:
        batches = kind(sequences, seed=seed)
        batches.epoch = epoch
        for _ in range(warm_up):
            batches([{"user": 1}])
        return repr(
            {
                k: v.tolist() if isinstance(v, Tensor) else v
                for k, v in batches([{"user": user} for user in users]).items()
            }
        )

    assert draw(1, 0) == draw(1, 0) == draw(1, 0, warm_up=3)
    assert len({draw(1, 0), draw(1, 1), draw(2, 0), draw(1, 0, (0, 1))}) == 4


def test_the_callback_hands_on_the_epoch() -> None:
    batches = dual([[0, 1]])
    EpochOfBatches(batches).on_epoch_begin(None, types.SimpleNamespace(epoch=2.0), None)
    assert batches.epoch == 2


def test_the_dataset_has_one_row_a_user() -> None:
    assert dual([[0, 1], [2, 3]]).dataset()["user"][:] == [0, 1]
