"""EASE against its definition: the closed form by plain inversion, no item for itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from contracts.scorer import ScorerContract  # ../tests, see pythonpath in pyproject.toml
from xcrossrec import ConfigError, Domain, Scorer
from xcrossrec_lab.methods.ease import Ease, ease, ease_weights
from xcrossrec_lab.task import Task

BASKETS = [[0, 3, 5], [3, 5], [5, 0, 3, 3], [0, 6]]


class TestEase(ScorerContract):
    @pytest.fixture
    def scorer(self, domain: Domain) -> Scorer:
        return Ease(domain.sequences("train", minimum=1).rows, domain.items.height, 2.0)


def test_the_weights_are_the_closed_form_over_what_was_bought() -> None:
    users = np.zeros((4, 7))
    for user, basket in enumerate(BASKETS):
        users[user, basket] = 1.0
    bought, weights = ease_weights(BASKETS, 2.0)
    assert bought.tolist() == [0, 3, 5, 6]
    inverse = np.linalg.inv(users[:, bought].T @ users[:, bought] + 2.0 * np.eye(4))
    expected = np.eye(4) - inverse / np.diag(inverse)[None, :]
    np.testing.assert_allclose(weights, expected, atol=1e-6)
    assert not weights.diagonal().any()


def test_a_history_adds_up_its_items_once_and_unbought_items_score_nothing() -> None:
    bought, weights = ease_weights(BASKETS, 2.0)
    (found,) = Ease(BASKETS, 8, 2.0).score([[6, 3, 6, 7]])
    expected = np.zeros(8)
    expected[bought] = weights[[1, 3]].sum(0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_suite_gives_its_l2_and_nothing_else(make_task: Callable[..., Task]) -> None:
    fitted = ease(make_task(settings={"l2": 5.0}))
    assert fitted.scorer.score([[1, 2]]).shape == (1, 24)
    assert fitted.trained_parameters == 0
    with pytest.raises(ConfigError, match="unknown setting 'rank'"):
        ease(make_task(settings={"rank": 5}))
