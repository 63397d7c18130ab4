"""Search against scoring every item in a loop, over integers and over the vectors themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from catalogue_parts import only_slot
from xcrossrec.catalogue import Catalogue, Pool, Search, StoredItem, history_pool
from xcrossrec.catalogue.scan import Codes, processor_multiplies_integers, quantise, shortlist
from xcrossrec.catalogue.segment import Segment, table_of_rows
from xcrossrec.models.heads import HistoryMatcher

DIM = 16


def unit(count: int, seed: int, dim: int = DIM) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)), dim=-1)


def crowd(count: int, seed: int) -> torch.Tensor:
    """Vectors so close together that integers alone cannot order them."""
    return torch.nn.functional.normalize(unit(1, seed) + 0.003 * unit(count, seed + 1), dim=-1)


def segment(vectors: torch.Tensor, codes: Codes | None = None) -> Segment:
    return Segment(table_of_rows([]), vectors, codes)


def built(vectors: torch.Tensor) -> Segment:
    return Segment.build(table_of_rows([]), vectors)


def both(vectors: torch.Tensor) -> list[Segment]:
    """The same vectors, searched directly and through integers."""
    return [segment(vectors), segment(vectors, quantise(vectors))]


def search(
    searched: Segment, slots: torch.Tensor, k: int, pool: Pool = only_slot, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    every = np.ones(len(searched.vectors), dtype=np.bool_)
    return searched.search(slots, k, pool=pool, allowed=every if allowed is None else allowed)


def matcher(seed: int = 0, sharpness: float = 12.0) -> HistoryMatcher:
    made = HistoryMatcher(sharpness=sharpness)
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
    rows, scores = search(both(vectors)[number], slots, 20, history_pool(head, 3))
    expected = by_hand(vectors, slots, head)
    np.testing.assert_allclose(scores, np.sort(expected)[::-1][:20], atol=2e-6)
    np.testing.assert_allclose(expected[rows], scores, atol=2e-6)


@given(
    st.integers(1, 300), st.integers(1, 50), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([0.5, 12.0, 90])
)
def test_integers_never_lose_one_of_the_best(items: int, k: int, slots: int, seed: int, sharpness: float) -> None:
    vectors = (unit if seed % 2 else crowd)(items, seed)
    queries, head = unit(slots, seed + 7), matcher(seed, sharpness)
    plain, coded = (search(each, queries, k, history_pool(head, slots)) for each in both(vectors))
    assert len(plain[0]) == min(k, items)
    np.testing.assert_array_equal(plain[0], coded[0])
    np.testing.assert_allclose(plain[1], coded[1], atol=1e-7)


@given(st.integers(1, 60), st.integers(2, 40), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_the_error_of_integers_is_bounded(items: int, dim: int, seed: int, size: float) -> None:
    vectors, queries = size * unit(items, seed, dim), unit(3, seed + 1, dim)
    codes, asked = quantise(vectors), quantise(queries)
    found = codes.products(asked, 0, items)
    off = (found.double() - queries.double() @ vectors.double().t()).abs().max()
    assert float(off) <= codes.error_of(asked) + 1e-5 * size


def test_integers_make_a_short_list(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = unit(5000, 0, 384)
    plain, coded = both(vectors)
    every = np.ones(5000, dtype=np.bool_)
    assert 10 <= len(shortlist(vectors, coded.codes, vectors[:1], 10, pool=only_slot, allowed=every)) < 500
    monkeypatch.setattr("xcrossrec.catalogue.scan._BLOCK", 700)
    np.testing.assert_array_equal(search(coded, vectors[:1], 50)[0], search(plain, vectors[:1], 50)[0])


def test_products_of_many_searches_give_what_each_search_gives() -> None:
    vectors, slots = unit(100, 1), unit(3, 2)
    plain, coded = both(vectors)
    products, every = plain.products(slots), np.ones(100, dtype=np.bool_)
    assert products is not None
    assert coded.products(slots) is None
    for number in range(3):
        own = slots[number : number + 1]
        known = plain.search(own, 9, pool=only_slot, allowed=every, products=products[number : number + 1])
        np.testing.assert_array_equal(known, search(plain, own, 9))
        plain.search(own, 9, pool=only_slot, allowed=~every, products=products[number : number + 1])
    np.testing.assert_array_equal(products, plain.products(slots))  # which others read, too


@pytest.mark.parametrize("number", [0, 1])
def test_only_allowed_items_are_found(number: int) -> None:
    vectors = unit(100, 1)
    allowed = np.zeros(100, dtype=np.bool_)
    allowed[[3, 50, 77]] = True
    searched = both(vectors)[number]
    assert set(search(searched, vectors[:1], 2, allowed=allowed)[0]) < {3, 50, 77}
    assert set(search(searched, vectors[:1], 3, allowed=allowed)[0]) == {3, 50, 77}
    assert set(search(searched, vectors[:1], 1000, allowed=allowed)[0]) == {3, 50, 77}
    assert len(search(searched, vectors[:1], 5, allowed=np.zeros(100, dtype=np.bool_))[0]) == 0


@pytest.mark.parametrize("number", [0, 1])
def test_equal_vectors_keep_the_catalogues_order(number: int) -> None:
    vectors = unit(1, 0).repeat(50, 1)
    searched = both(vectors)[number]
    assert search(searched, unit(1, 9), 7)[0].tolist() == list(range(7))
    assert search(searched, torch.zeros(1, DIM), 3)[0].tolist() == [0, 1, 2]


def test_the_pool_is_the_matchers_score() -> None:
    vectors, slots = unit(200, 2), unit(11, 3)
    for head in (matcher(4), matcher(5, 60.0)):
        with torch.no_grad():
            expected = head.match(slots[None], torch.ones(1, len(slots), dtype=torch.bool), vectors)[0]
        found = history_pool(head, len(slots))(slots @ vectors.t())
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)


def test_small_catalogues_have_no_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert built(unit(100, 0)).codes is None
    monkeypatch.setattr("xcrossrec.catalogue.scan.QUANTISE_FROM", 100)
    assert (built(unit(100, 0)).codes is not None) == processor_multiplies_integers()


def test_a_processor_without_quick_integers_reads_the_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    processor_multiplies_integers.cache_clear()
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr("xcrossrec.catalogue.scan.QUANTISE_FROM", 1)
    try:
        assert built(unit(100, 0)).codes is None
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


@settings(max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 9),
    size=st.sampled_from([0.0, 0.02, 0.3, 2.0, 1000.0]),
    of_all=st.booleans(),
    integers=st.booleans(),
)
def test_a_search_with_bonuses_finds_what_a_loop_over_all_items_finds(
    seed: int, k: int, size: float, of_all: bool, integers: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((300, 8)).astype(np.float32)
    vectors[100:200] = vectors[:100]  # ties
    items = [StoredItem(f"i{n}", f"Item {n}") for n in range(300)]
    left_out = {f"i{n}" for n in rng.integers(0, 300, 20)}
    given_to = rng.permutation(300)[: rng.integers(0, 290)]
    bonus = {f"i{n}": float(more) for n, more in zip(given_to, size * rng.integers(1, 9, 300), strict=False)}
    query = rng.standard_normal((1, 8)).astype(np.float32)
    with Catalogue.in_memory(items[:250], vectors[:250], "a" * 64) as catalogue:
        catalogue.upsert(items[250:], vectors[250:])  # in a part of their own
        asked = Search(torch.from_numpy(query), only_slot, exclude=left_out, bonus={**bonus, "nobody": 9.0})
        general = {f"i{n}": size * float(more) for n, more in enumerate(rng.random(300) * of_all)}
        everywhere: Any = lambda ids, *_: np.array([general[item_id] for item_id in ids])  # noqa: E731
        asked = replace(asked, everywhere=everywhere) if of_all else asked
        snapshot: Any = catalogue.snapshot()
        for part in snapshot.parts if integers else ():
            part.segment.codes = quantise(part.segment.vectors)
        found = snapshot.search(asked, k)
    texts = np.array([float((row.astype(np.float64) * query[0]).sum()) for row in vectors]).astype(np.float32)
    totals = {
        item.item_id: np.float32(float(text) + (general[item.item_id] + bonus.get(item.item_id, 0.0)))
        for item, text in zip(items, texts, strict=True)
    }
    wanted = sorted((n for n in range(300) if f"i{n}" not in left_out), key=lambda n: (-totals[f"i{n}"], n))[:k]
    assert [item.item_id for item, _ in found] == [f"i{n}" for n in wanted]
    assert [score for _, score in found] == pytest.approx([float(totals[f"i{n}"]) for n in wanted], abs=1e-6)
