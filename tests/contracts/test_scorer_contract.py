"""The contract itself must catch broken scorers."""

from __future__ import annotations

import numpy as np
import pytest
from tests.contracts.scorer import ScorerContract, contract_domain

from xcrossrec.baselines.rivals import Popularity


class _Shifted(Popularity):
    """Candidate columns off by one item: the fault that a contract exists for."""

    def score(self, histories, candidates=None):  # type: ignore[no-untyped-def]
        scores = super().score(histories, candidates)
        return scores if candidates is None else np.roll(scores, 1, axis=1)


class _Double(Popularity):
    def score(self, histories, candidates=None):  # type: ignore[no-untyped-def]
        return super().score(histories, candidates).astype(np.float64)


def test_contract_catches_shifted_candidates() -> None:
    scorer, contract = _Shifted(contract_domain().train_counts()), ScorerContract()
    full = scorer.score(contract.histories)
    with pytest.raises(AssertionError):
        contract.test_candidate_columns_agree_with_the_full_scores(scorer, full, contract_domain())


def test_contract_catches_another_type() -> None:
    full = _Double(contract_domain().train_counts()).score(ScorerContract.histories)
    with pytest.raises(AssertionError):
        ScorerContract().test_no_candidates_scores_every_row_of_the_catalogue(full, contract_domain())
