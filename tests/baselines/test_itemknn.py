from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contracts.scorer import ScorerContract

from xcrossrec.baselines.rivals import ItemKNN
from xcrossrec.data.domain import Domain

N_ITEMS = 6
_basket = st.lists(st.integers(0, N_ITEMS - 1), max_size=5)


class TestItemKNN(ScorerContract):
    @pytest.fixture
    def scorer(self, domain: Domain) -> ItemKNN:
        return ItemKNN(domain.sequences("train", minimum=1).rows, domain.items.height)


def _reference(baskets: list[list[int]], history: list[int]) -> list[float]:
    """Slow reference: count users of each pair by looking at every basket."""

    def users(*items: int) -> int:
        return sum(all(item in basket for item in items) for basket in baskets)

    scores = []
    for item in range(N_ITEMS):
        total = 0.0
        for bought in history:
            if bought != item and users(bought, item):
                total += users(bought, item) / math.sqrt(users(bought) * users(item))
        scores.append(total)
    return scores


@settings(deadline=None, derandomize=True)
@given(baskets=st.lists(_basket, max_size=6), history=_basket)
def test_itemknn_equals_the_loop_reference(baskets: list[list[int]], history: list[int]) -> None:
    scores = ItemKNN(baskets, N_ITEMS).score([history])[0]
    np.testing.assert_allclose(scores, _reference(baskets, history), atol=1e-5)


def test_a_dealer_who_bought_everything_takes_no_memory_for_all_pairs() -> None:
    """A robot with 20,000 items once took 400 million pairs, and the process was killed."""
    dealer, others = list(range(4000)), [[row, row + 1] for row in range(0, 100, 2)]
    tracemalloc.start()
    scores = ItemKNN([dealer, *others], 4000).score([(0,)])[0]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 4000 * 4000
    assert scores[0] == 0.0
    assert scores[1:3] == pytest.approx([2 / 2, 1 / 2])


def test_itemknn_of_an_empty_history_is_zero() -> None:
    assert not ItemKNN([[0, 1]], N_ITEMS).score([()]).any()


def test_itemknn_without_train_users_is_zero() -> None:
    assert not ItemKNN([], 3).score([(0, 1)]).any()
