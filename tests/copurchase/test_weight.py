from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from weakref import ReferenceType, ref

import numpy as np
import polars as pl
import pytest

from xcrossrec.copurchase import CoPurchases, weight
from xcrossrec.copurchase.weight import GRID, Choice, TextScores, choose_weights

CATALOGUE = [f"i{n}" for n in range(400)]


class Text:
    """A text score: what ``of`` says of each pair of items, with noise that is the same whenever it is asked."""

    def __init__(self, of: Any) -> None:
        self.of = of
        self.read: Sequence[str] = ()

    def __call__(self, items: Sequence[str]) -> TextScores:
        assert not self.read
        self.read = items
        rows = np.array([int(item[1:]) for item in items])

        def scores(histories: Sequence[Sequence[int]], candidates: np.ndarray) -> np.ndarray:
            found = [self.of(rows[history[-1]], rows[own]) for history, own in zip(histories, candidates, strict=True)]
            return np.array(found, dtype=np.float32)

        return scores


def noise(seed: int) -> Any:
    table = np.random.default_rng(seed).normal(0, 0.1, (len(CATALOGUE), len(CATALOGUE)))
    return lambda last, rows: table[last, rows]


def walks(customers: int, length: int = 5) -> list[list[str]]:
    """Customers who go on from an item to the next in a fixed order of the catalogue."""
    rng = np.random.default_rng(1)
    starts = rng.integers(0, 60, customers)
    return [[CATALOGUE[(start + step) % 60] for step in range(length)] for start in starts]


def chance(customers: int) -> list[list[str]]:
    rng = np.random.default_rng(2)
    return [[CATALOGUE[n] for n in rng.choice(400, 5, replace=False)] for _ in range(customers)]


def chosen(sequences: list[list[str]], of: Any, **changes: Any) -> Choice:
    return choose_weights(sequences, CATALOGUE, Text(of), **{"most_texts": 400, "seed": 0, **changes})


def test_what_tells_more_than_the_text_counts() -> None:
    choice = chosen(walks(120), noise(0))
    assert choice.weights["one"] >= weight.EXPECTED
    assert choice.weights["several"] >= weight.EXPECTED
    assert choice.gains["several"][choice.weights["several"]] > 0.5
    assert (choice.customers, choice.counted) == (120, 120)
    assert str(choice).startswith("co-purchases of 120 customers; their weight beside the text, chosen on 120 of them")


def test_chance_has_no_weight() -> None:
    """Here the text knows what is bought next."""
    table = np.random.default_rng(0).normal(0, 0.1, (len(CATALOGUE), len(CATALOGUE)))
    for sequence in chance(150):
        for item, following in pairwise(sequence):
            table[int(item[1:]), int(following[1:])] += 0.4
    choice = chosen(chance(150), lambda last, rows: table[last, rows])
    assert choice.weights == {"one": 0.0, "several": 0.0}
    assert "0 (+0%) with one purchase known, 0 (+0%) with several" in str(choice)


@pytest.mark.parametrize("sequences", [[], [["i1"]], [["i1", "i2"]], [["i1"], ["i2", "i2"], ["i3", "i4"]]])
def test_too_few_customers_give_no_weight(sequences: list[list[str]]) -> None:
    assert chosen(sequences, noise(0)).weights == {"one": 0.0, "several": 0.0}


def test_no_more_texts_are_read_than_may_be() -> None:
    text = Text(noise(0))
    choice = choose_weights(chance(150), CATALOGUE, text, most_texts=100, seed=0)
    assert len(text.read) == len({*text.read}) <= 100
    assert 0 < choice.customers < 150
    again = choose_weights(chance(150), CATALOGUE, Text(noise(0)), most_texts=100, seed=0)
    assert again == choice


def test_of_one_part_at_a_time_the_counts_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the memory; and they are those of the purchases as a table."""
    held: list[ReferenceType[CoPurchases]] = []
    count = weight._counted

    def counted(once: Sequence[Sequence[str]], customers: Sequence[int]) -> CoPurchases:
        assert [each for each in held if each() is not None] == []
        found = count(once, customers)
        rows = [(str(customer), item) for customer in customers for item in once[customer]]
        same = CoPurchases.count(pl.DataFrame(rows, schema=["user_id", "item_id"], orient="row"), hashed=True)
        assert found.table().equals(same.table())
        assert all(found.scores([item]) == same.scores([item]) for item in CATALOGUE[:60])
        held.append(ref(found))
        return found

    monkeypatch.setattr(weight, "_counted", counted)
    chosen(walks(40), noise(0))
    assert len(held) == 5


def rank(scores: np.ndarray, target: int, near: np.ndarray, others: np.ndarray, rest: int) -> float:
    (found,) = weight._ranks(scores[[target]], scores[near][None], scores[others][None], rest)
    return float(found)


def test_ranks_are_exact_where_all_is_read() -> None:
    scores = np.random.default_rng(0).normal(size=300)
    everything = np.arange(1, 300)
    found = rank(scores, 0, everything[:20], everything[20:], 279)
    assert found == pytest.approx(1 + (scores[1:] > scores[0]).sum())
    assert rank(scores, 0, everything, everything[:0], 0) == found


@pytest.mark.parametrize("true", [5, 50, 500, 5000])
def test_ranks_are_estimated_from_a_sample(true: int) -> None:
    rng = np.random.default_rng(true)
    found = []
    for _ in range(200):
        scores = np.sort(rng.normal(size=20_000))[::-1]
        others = rng.choice(np.delete(np.arange(20_000), true - 1), 1000, replace=False)
        found.append(rank(scores, true - 1, others[:0], others, 19_999))
    assert np.mean(np.log(found)) == pytest.approx(np.log(true), abs=0.5)


def test_the_expected_weight_is_taken_unless_another_is_better_beyond_noise() -> None:
    rng = np.random.default_rng(0)
    place = GRID.index(weight.EXPECTED)
    for best in range(len(GRID)):
        sure = -0.001 * np.abs(np.arange(len(GRID)) - best) * np.ones((200, 1))
        assert weight._nearest(sure) == GRID[best]
        unsure = weight._nearest(sure + rng.normal(0, 0.1, sure.shape))
        assert abs(GRID.index(unsure) - place) <= 2
    assert weight._nearest(np.zeros((200, len(GRID)))) == weight.EXPECTED
    assert weight._nearest(np.zeros((1, len(GRID)))) == 0.0
