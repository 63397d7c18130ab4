"""The contract of every Scorer: inherit `ScorerContract`, give a `scorer` fixture, add your own tests.

class TestMyScorer(ScorerContract):
    @pytest.fixture
    def scorer(self, domain: Domain) -> Scorer:
        return MyScorer.fit(domain)
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.scoring import Scorer

TITLES = (
    "Claw hammer with wooden handle",
    "Ball peen hammer",
    "Cordless drill 18V",
    "Drill bit set steel",
    "Wood screws 100 pieces",
    "Steel tape measure",
    "Work gloves leather",
    "",
)
TRAIN = {"u1": (0, 1, 4), "u2": (2, 3), "u3": (0, 1, 6, 2), "u4": (0, 5), "u5": (2, 3, 4)}
VALIDATION = {"v1": (1, 4, 0), "v2": (3, 2), "v3": (6, 5, 1)}


def interactions(sequences: dict[str, tuple[int, ...]]) -> pl.DataFrame:
    """Turn item rows per user into an interactions frame, where item row 3 has the id `i3`."""
    rows = [(user, f"i{row}", place) for user, items in sequences.items() for place, row in enumerate(items)]
    schema = {"user_id": pl.String, "item_id": pl.String, "position": pl.Int64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def contract_domain(**changes: object) -> Domain:
    """Eight tools, five train and three validation users; `changes` replaces fields of Domain."""
    items = pl.DataFrame({"item_id": [f"i{row}" for row in range(len(TITLES))], "title": list(TITLES)})
    fields: dict[str, object] = {
        "name": "tiny",
        "items": items,
        "interactions": {"train": interactions(TRAIN), "validation": interactions(VALIDATION)},
        "manifest": {},
    }
    return Domain(**(fields | changes))  # type: ignore[arg-type]


class ScorerContract:
    """What evaluation, recommender and service expect of a scorer, whatever is inside."""

    empty_history = "scores"
    """What an empty history does: "scores" (a documented fallback) or "error" (a DataError)."""
    tolerance = 1e-5
    """How far scores may differ between batch sizes or ways to ask."""
    histories: tuple[tuple[int, ...], ...] = ((0, 1), (2,), (3, 2, 5, 4), (7,), (6, 6))

    @pytest.fixture
    def domain(self) -> Domain:
        return contract_domain()

    @pytest.fixture
    def scorer(self, domain: Domain) -> Scorer:
        raise NotImplementedError("give the contract a scorer bound to the domain fixture")

    @pytest.fixture
    def full(self, scorer: Scorer) -> np.ndarray:
        return scorer.score(self.histories)

    def test_scorer_is_a_scorer_with_a_name(self, scorer: Scorer) -> None:
        assert isinstance(scorer, Scorer)
        assert scorer.name

    def test_no_candidates_scores_every_row_of_the_catalogue(self, full: np.ndarray, domain: Domain) -> None:
        assert full.shape == (len(self.histories), domain.items.height)
        assert full.dtype == np.float32
        assert np.isfinite(full).all()

    def test_candidate_columns_agree_with_the_full_scores(
        self, scorer: Scorer, full: np.ndarray, domain: Domain
    ) -> None:
        rng = np.random.default_rng(3)
        rows = np.stack([rng.permutation(domain.items.height)[:4] for _ in self.histories])
        rows[0, :2] = rows[0, 0]  # an item asked twice is scored twice
        scores = scorer.score(self.histories, rows)
        assert scores.shape == rows.shape
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, np.take_along_axis(full, rows, axis=1), atol=self.tolerance)

    def test_scores_are_the_same_when_asked_again(self, scorer: Scorer, full: np.ndarray) -> None:
        np.testing.assert_array_equal(scorer.score(self.histories), full)

    def test_batch_of_one_equals_batch_of_many(self, scorer: Scorer, full: np.ndarray) -> None:
        alone = np.concatenate([scorer.score([history]) for history in self.histories])
        np.testing.assert_allclose(alone, full, atol=self.tolerance)

    def test_batch_order_does_not_matter(self, scorer: Scorer, full: np.ndarray) -> None:
        np.testing.assert_allclose(scorer.score(self.histories[::-1]), full[::-1], atol=self.tolerance)

    def test_no_history_at_all_gives_no_rows(self, scorer: Scorer, domain: Domain) -> None:
        assert scorer.score([]).shape == (0, domain.items.height)

    def test_empty_history_scores_or_is_refused(self, scorer: Scorer, full: np.ndarray) -> None:
        if self.empty_history == "error":
            with pytest.raises(DataError, match="empty history"):
                scorer.score([()])
            return
        scores = scorer.score([(), self.histories[0]])
        assert np.isfinite(scores).all()
        np.testing.assert_allclose(scores[1], full[0], atol=self.tolerance)

    @pytest.mark.parametrize("row", [-1, len(TITLES)])
    def test_unknown_row_in_a_history_is_refused(self, scorer: Scorer, row: int) -> None:
        with pytest.raises(DataError, match=f"unknown item row {row} .*{len(TITLES)} items"):
            scorer.score([(0, 1), (2, row)])

    @pytest.mark.parametrize("row", [-1, len(TITLES)])
    def test_unknown_row_among_candidates_is_refused(self, scorer: Scorer, row: int) -> None:
        with pytest.raises(DataError, match=f"unknown item row {row} .*{len(TITLES)} items"):
            scorer.score([(0, 1)], np.array([[2, row]]))

    def test_candidates_for_other_users_are_refused(self, scorer: Scorer) -> None:
        with pytest.raises(DataError, match="candidates are for 1 users, expected 2"):
            scorer.score([(0, 1), (2,)], np.array([[2, 3]]))

    def test_inputs_are_left_as_they_were(self, scorer: Scorer) -> None:
        history, rows = [0, 1], np.array([[2, 3]])
        scorer.score([history], rows)
        assert history == [0, 1]
        assert rows.tolist() == [[2, 3]]
