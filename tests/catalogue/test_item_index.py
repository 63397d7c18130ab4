"""Search against scoring every item in a loop, over integers and over the vectors themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.catalogue import ItemIndex, history_pool
from xcrossrec.catalogue.codes import processor_multiplies_integers, quantise
from xcrossrec.exceptions import ConfigError, DataError
from xcrossrec.models.heads import HistoryMatcher

DIM = 16


def unit(count: int, seed: int, dim: int = DIM) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def crowd(count: int, seed: int) -> torch.Tensor:
    """Vectors so close together that integers alone cannot order them."""
    return torch.nn.functional.normalize(unit(1, seed) + 0.003 * unit(count, seed + 1), dim=-1)


def indexes(vectors: torch.Tensor) -> list[ItemIndex]:
    """The same vectors, searched directly and through integers."""
    return [ItemIndex(vectors), ItemIndex(vectors, quantise(vectors))]


def matcher(seed: int = 0, sharpness: float = 12.0) -> HistoryMatcher:
    made = HistoryMatcher("late", sharpness=sharpness)
    with torch.no_grad():
        made.log_recency.copy_(torch.randn(8, generator=torch.Generator().manual_seed(seed)))
    return made


def by_hand(vectors: torch.Tensor, slots: torch.Tensor, head: HistoryMatcher) -> np.ndarray:
    """The soft maximum, item by item and slot by slot, in float64."""
    a, scores = float(head.sharpness.detach()), []
    weights = [float(head.recency_weight(torch.tensor(len(slots) - 1 - k)).detach()) for k in range(len(slots))]
    for item in vectors.double():
        terms = [w * np.exp(a * float(item @ slot)) for w, slot in zip(weights, slots.double(), strict=True)]
        scores.append(np.log(sum(terms) / sum(weights)) / a)
    return np.array(scores)


@pytest.mark.parametrize("make", [unit, crowd])
@pytest.mark.parametrize("number", [0, 1])
def test_a_history_finds_what_a_loop_over_all_items_finds(number: int, make: object) -> None:
    vectors = make(300, 3)  # type: ignore[operator]
    slots, head = vectors[[5, 80, 150]], matcher()
    found = indexes(vectors)[number].search(slots, 20, pool=history_pool(head, 3))
    expected = by_hand(vectors, slots, head)
    np.testing.assert_allclose(found.scores, np.sort(expected)[::-1][:20], atol=2e-6)
    np.testing.assert_allclose(expected[found.rows], found.scores, atol=2e-6)


@given(
    st.integers(1, 300), st.integers(1, 50), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([0.5, 12.0, 90])
)
def test_integers_never_lose_one_of_the_best(items: int, k: int, slots: int, seed: int, sharpness: float) -> None:
    vectors = (unit if seed % 2 else crowd)(items, seed)
    queries, head = unit(slots, seed + 7), matcher(seed, sharpness)
    plain, coded = (index.search(queries, k, pool=history_pool(head, slots)) for index in indexes(vectors))
    assert len(plain.rows) == min(k, items)
    np.testing.assert_array_equal(plain.rows, coded.rows)
    np.testing.assert_allclose(plain.scores, coded.scores, atol=1e-7)


@given(st.integers(1, 60), st.integers(2, 40), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_the_error_of_integers_is_bounded(items: int, dim: int, seed: int, size: float) -> None:
    vectors, queries = size * unit(items, seed, dim), unit(3, seed + 1, dim)
    codes, asked = quantise(vectors), quantise(queries)
    found = codes.products(asked.values, asked.scale, 0, items)
    off = (found.double() - queries.double() @ vectors.double().t()).abs().max()
    assert float(off) <= codes.error_of(queries, asked) + 1e-5 * size


def test_integers_make_a_short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(5000, 0, 384)
    coded = ItemIndex(vectors, quantise(vectors))
    assert 10 <= len(coded.shortlist(vectors[:1], 10)) < 500
    monkeypatch.setattr("xcrossrec.catalogue.item_index._BLOCK", 700)
    np.testing.assert_array_equal(coded.search(vectors[:1], 50).rows, ItemIndex(vectors).search(vectors[:1], 50).rows)


@pytest.mark.parametrize("number", [0, 1])
def test_only_allowed_items_are_found(number: int) -> None:
    vectors = unit(100, 1)
    allowed = np.zeros(100, dtype=np.bool_)
    allowed[[3, 50, 77]] = True
    index = indexes(vectors)[number]
    assert set(index.search(vectors[:1], 2, allowed=allowed).rows) < {3, 50, 77}
    assert set(index.search(vectors[:1], 3, allowed=allowed).rows) == {3, 50, 77}
    assert set(index.search(vectors[:1], 1000, allowed=allowed).rows) == {3, 50, 77}
    assert len(index.search(vectors[:1], 5, allowed=np.zeros(100, dtype=np.bool_)).rows) == 0


@pytest.mark.parametrize("number", [0, 1])
def test_equal_vectors_keep_the_catalogues_order(number: int) -> None:
    vectors = unit(1, 0).repeat(50, 1)
    index = indexes(vectors)[number]
    assert index.search(unit(1, 9), 7).rows.tolist() == list(range(7))
    assert index.search(torch.zeros(1, DIM), 3).rows.tolist() == [0, 1, 2]


def test_the_pool_is_the_matchers_score() -> None:
    vectors, slots = unit(200, 2), unit(11, 3)
    for head in (matcher(4), matcher(5, 60.0), HistoryMatcher("prompt")):
        own = slots if head.pooling == "late" else slots[:1]
        with torch.no_grad():
            expected = head.match(own[None], torch.ones(1, len(own), dtype=torch.bool), vectors)[0]
        found = history_pool(head, len(own))(own @ vectors.t())
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_small_catalogues_have_no_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ItemIndex.build(unit(100, 0)).codes is None
    monkeypatch.setattr("xcrossrec.catalogue.item_index.QUANTISE_FROM", 100)
    assert (ItemIndex.build(unit(100, 0)).codes is not None) == processor_multiplies_integers()


def test_a_processor_without_quick_integers_reads_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_multiplies_integers.cache_clear()
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("xcrossrec.catalogue.item_index.QUANTISE_FROM", 1)
    try:
        assert ItemIndex.build(unit(100, 0)).codes is None
    finally:
        processor_multiplies_integers.cache_clear()


def test_wrong_integer_products_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def overflowing(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        return (left.int() @ right.int()).clamp(-(2**15), 2**15 - 1)

    def failing(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("not implemented")

    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX512")
    for broken in (overflowing, failing, None):
        if broken is None:
            monkeypatch.delattr("torch._int_mm")
        else:
            monkeypatch.setattr("torch._int_mm", broken)
        processor_multiplies_integers.cache_clear()
        try:
            assert not processor_multiplies_integers()
        finally:
            processor_multiplies_integers.cache_clear()


def test_mistakes_are_refused_by_name() -> None:
    index = ItemIndex.build(unit(10, 0))
    with pytest.raises(ConfigError, match="k is 0"):
        index.search(unit(1, 0), 0)
    with pytest.raises(DataError, match="query has 8 dimensions, the index 16"):
        index.search(unit(1, 0, 8), 1)
    with pytest.raises(DataError, match="got 2 query vectors and no pool"):
        index.search(unit(2, 0), 1)
    with pytest.raises(DataError, match="got none"):
        ItemIndex.build(torch.empty(0, DIM))
    for value in (float("nan"), float("inf")):
        broken = unit(10, 0)
        broken[7, 2] = value
        with pytest.raises(DataError, match="row 7 is not finite"):
            ItemIndex.build(broken)
