from __future__ import annotations

import numpy as np
import pytest
from tests.contracts.scorer import ScorerContract, contract_domain, interactions

from xcrossrec.baselines.rivals import Popularity
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError


class TestPopularity(ScorerContract):
    @pytest.fixture
    def scorer(self, domain: Domain) -> Popularity:
        return Popularity(domain.train_counts())


def test_popularity_is_the_train_count() -> None:
    scores = Popularity(contract_domain().train_counts()).score([(), (3,)])
    assert scores.tolist() == [[3, 2, 3, 2, 2, 1, 1, 0]] * 2


def test_popularity_needs_a_train_split() -> None:
    domain = contract_domain(interactions={"validation": interactions({"v": (0, 1)})})
    with pytest.raises(DataError, match="has no 'train' split"):
        Popularity(domain.train_counts())


def test_popularity_scores_asked_candidates_in_their_order() -> None:
    scores = Popularity(contract_domain().train_counts()).score([()], np.array([[7, 0, 1]]))
    assert scores.tolist() == [[0, 3, 2]]
