from __future__ import annotations

import math
import sys

import numpy as np
import pytest
from tests.contracts.scorer import TITLES, ScorerContract

from xcrossrec.baselines.rivals import TfidfMean
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError, MissingExtraError


class TestTfidfMean(ScorerContract):
    @pytest.fixture
    def scorer(self, domain: Domain) -> TfidfMean:
        return TfidfMean(domain.texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["不锈钢浇水壶", "塑料浇水壶", "无线耳机"],
        ["บัวรดน้ำสแตนเลส", "บัวรดน้ำไม้", "หูฟังไร้สาย"],
        ["ステンレスじょうろ", "木製じょうろ", "ヘッドホン"],
        ["स्टील का गमला", "लकड़ी का गमला", "कैंची"],
    ],
)
def test_words_are_found_in_any_script(texts: list[str]) -> None:
    alike, same, other = TfidfMean(texts).score([[0]])[0][[1, 0, 2]]
    assert same > alike > other == 0


def _vector(title: str) -> dict[str, float]:
    """Slow reference: unit vector of count * (ln((1 + n) / (1 + df)) + 1) over words of 2+ letters."""
    words = [[word for word in text.lower().split() if len(word) > 1] for text in TITLES]
    own = [word for word in title.lower().split() if len(word) > 1]
    weights = {
        word: own.count(word) * (math.log((1 + len(TITLES)) / (1 + sum(word in text for text in words))) + 1)
        for word in own
    }
    norm = math.sqrt(sum(weight**2 for weight in weights.values())) or 1.0
    return {word: weight / norm for word, weight in weights.items()}


def _reference(history: tuple[int, ...]) -> list[float]:
    mean: dict[str, float] = {}
    for row in history:
        for word, weight in _vector(TITLES[row]).items():
            mean[word] = mean.get(word, 0.0) + weight / len(history)
    norm = math.sqrt(sum(weight**2 for weight in mean.values())) or 1.0
    return [sum(w * mean.get(word, 0.0) for word, w in _vector(title).items()) / norm for title in TITLES]


@pytest.mark.parametrize("history", [(0,), (0, 2, 3), (1, 1, 7), (7,)])
def test_tfidf_equals_the_loop_reference(history: tuple[int, ...]) -> None:
    scores = TfidfMean(TITLES).score([history])[0]
    np.testing.assert_allclose(scores, _reference(history), atol=1e-6)


def test_tfidf_of_an_empty_history_is_zero() -> None:
    assert not TfidfMean(TITLES).score([()]).any()


def test_tfidf_ranks_the_same_title_first() -> None:
    assert TfidfMean(TITLES).score([(3,)])[0].argmax() == 3


def test_tfidf_without_words_is_refused() -> None:
    with pytest.raises(DataError, match="no word in 2 texts"):
        TfidfMean(["", ""])


def test_tfidf_without_sklearn_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'xcrossrec\[baselines\]'"):
        TfidfMean(["hammer"])
