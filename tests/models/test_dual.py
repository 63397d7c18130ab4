"""`dual` models against loops: one user and one item at a time, the mean of a catalogue, an idle projection."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from xcrossrec.models import bundle
from xcrossrec.models.dual import DualKind, DualScorer, encode_titles, runs_within
from xcrossrec.models.heads import Center, HistoryMatcher, Projection
from xcrossrec.models.model import Model, matcher_of
from xcrossrec.prompts import item_texts

DUAL = DualKind()
TITLES = ["red train", "blue train", "train track", "cordless drill", "drill bits", "tape measure"]
HISTORIES = [[0, 1], [3], [5, 4, 0, 2]]
CANDIDATES = np.array([[2, 3], [4, 0], [1, 3]])
WORDS = ["w1 w2 w3", "w4 w3", "w5 w6", "w7 w5 w6 w8 w9", "w10", "w1 w10 w11"]


@pytest.fixture(params=["late", "merged"])
def model(request: pytest.FixtureRequest, tiny_models: Any) -> Model:
    return bundle.load(getattr(tiny_models, request.param))


def vectors(model: Any) -> np.ndarray:
    encoded: np.ndarray = model.encode(WORDS, show_progress_bar=False)
    return encoded


# ---- scores


@torch.no_grad()
def loop_score(model: Any, history: list[int], item: int) -> float:
    """One user and one item at a time."""
    slots = torch.stack([torch.from_numpy(model.encode(TITLES[row], show_progress_bar=False)) for row in history])
    target = torch.from_numpy(model.encode(TITLES[item], show_progress_bar=False))
    present = torch.ones(1, len(history), dtype=torch.bool)
    return float(matcher_of(model).match(slots[None], present, target[None]))


def test_scores_equal_one_by_one_scoring(model: Model) -> None:
    scorer = DUAL.scorer(model, TITLES)
    scores = scorer.score(HISTORIES, CANDIDATES)
    assert scores.dtype == np.float32
    for user, history in enumerate(HISTORIES):
        for place in range(2):
            expected = loop_score(model, history, int(CANDIDATES[user, place]))
            assert scores[user, place] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("similarities", [1, 6 * 3, 10**6])
def test_how_many_users_share_a_product_changes_no_score(
    tiny_models: Any, monkeypatch: pytest.MonkeyPatch, similarities: int
) -> None:
    monkeypatch.setattr("xcrossrec.models.dual._SIMILARITIES", similarities)
    model = bundle.load(tiny_models.late)
    everything = DUAL.scorer(model, TITLES).score(HISTORIES)
    expected = [[loop_score(model, history, item) for item in range(len(TITLES))] for history in HISTORIES]
    np.testing.assert_allclose(everything, expected, atol=1e-4)


def test_what_a_slot_counts_is_computed_once_and_not_by_item(tiny_models: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of what ranking a catalogue of 100,000 items took was to weigh each slot for each item; no bit changes."""
    scorer, weighed = DualScorer(bundle.load(tiny_models.late), TITLES), list[int]()
    drawn = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(scorer.matcher.log_recency, generator=drawn)
    scorer.vectors = scorer.slots = torch.nn.functional.normalize(torch.randn(700, 32, generator=drawn), dim=-1)
    histories = [list(range(length)) for length in (1, 4, 5, 8, 13, 40, 130)]
    by_item = [(scorer.slots[rows] @ scorer.vectors.t()).t()[None] for rows in histories]
    expected = [scorer.matcher.pool(each, torch.ones_like(each, dtype=torch.bool))[0] for each in by_item]
    weight = scorer.matcher.recency_weight
    monkeypatch.setattr(scorer.matcher, "recency_weight", lambda age: weighed.append(age.numel()) or weight(age))
    found = [scorer.score([rows])[0] for rows in histories]
    assert weighed == [len(rows) for rows in histories]
    np.testing.assert_array_equal(np.stack(found), torch.stack(expected).detach().numpy())


def test_known_vectors_are_not_computed_again(tiny_models: Any) -> None:
    model = bundle.load(tiny_models.late)
    first = DualScorer(model, TITLES)
    second = DualScorer(model, TITLES, vectors=first.vectors)
    assert second.vectors is first.vectors
    np.testing.assert_array_equal(second.score(HISTORIES), first.score(HISTORIES))


@given(lengths=st.lists(st.integers(1, 9), max_size=12), most=st.integers(1, 20))
def test_runs_cover_all_users_in_order_and_hold_no_more_than_asked(lengths: list[int], most: int) -> None:
    runs = list(runs_within(lengths, most))
    assert [user for run in runs for user in run] == list(range(len(lengths)))
    used = [sum(lengths[user] for user in run) for run in runs]
    assert all(total <= most or len(run) == 1 for run, total in zip(runs, used, strict=True))
    assert all(total + lengths[run.stop] > most for run, total in zip(runs[:-1], used[:-1], strict=True))


# ---- vectors


def test_equal_titles_have_equal_vectors_and_no_title_none(tiny_models: Any) -> None:
    model = bundle.load(tiny_models.late)
    found = encode_titles(model, ["red train", "a much longer title", "red train"])
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(3))
    assert encode_titles(model, []).shape == (0, 32)
    items = DUAL.encode_items(model, ["red train", ""])
    assert items.shape == (2, DUAL.dim(model)) == (2, 32)
    np.testing.assert_allclose(items[0], found[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1.0, rtol=1e-5)


# ---- the projection


def test_a_projection_changes_nothing_yet_and_comes_once(make_model: Callable[..., Model], tmp_path: Path) -> None:
    plain = make_model()
    before = vectors(plain)
    model = DUAL.with_projection(plain, 3, seed=1)
    assert [type(module) for module in model][2:] == [Projection, *[type(module) for module in plain][2:]]
    np.testing.assert_allclose(vectors(model), before, atol=1e-6)
    assert DUAL.with_projection(model, 3, seed=1) is model
    assert DUAL.with_projection(plain, 0, seed=1) is plain
    bundle.save(model, tmp_path / "projected", {"kind": "x-cross"})
    np.testing.assert_array_equal(vectors(bundle.load(tmp_path / "projected")), vectors(model))


def test_a_projection_starts_from_its_seed_and_leaves_the_random_state_alone(make_model: Callable[..., Model]) -> None:
    first, same, other = (DUAL.with_projection(make_model(), 3, seed=seed)[2].down for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    model = make_model()
    before = torch.random.get_rng_state()
    DUAL.with_projection(model, 3, seed=4)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- the center


def pooled(model: SentenceTransformer, title: str) -> torch.Tensor:
    """The mean state of one title's tokens, encoded alone."""
    features = model[0].preprocess(item_texts([title]))
    with torch.no_grad():
        return model[0](features)["token_embeddings"][0].mean(0)


def test_the_center_is_the_mean_over_the_titles_and_is_taken_off_each(make_model: Callable[..., Model]) -> None:
    model = make_model()
    plain = torch.stack([pooled(model, title) for title in WORDS])
    centered = DUAL.centered(model, WORDS)
    expected = torch.nn.functional.normalize(plain - plain.mean(0), dim=-1)
    torch.testing.assert_close(encode_titles(centered, item_texts(WORDS)), expected, atol=1e-4, rtol=0)


def test_it_comes_before_the_projection_and_once(make_model: Callable[..., Model]) -> None:
    model = DUAL.centered(DUAL.with_projection(make_model(), 2, seed=0), WORDS)
    assert [type(module) for module in model][2:4] == [Center, Projection]
    assert isinstance(model[-1], HistoryMatcher)
    first = model[2].mean.clone()
    again = DUAL.centered(model, ["w20 w21", "w22"])
    assert again is model
    assert float((model[2].mean - first).abs().max()) > 1e-3
    other_order = DUAL.with_projection(DUAL.centered(make_model(), WORDS), 2, seed=0)
    assert [type(module) for module in other_order][2:4] == [Center, Projection]


def test_it_is_saved_and_never_trained(make_model: Callable[..., Model], tmp_path: Path) -> None:
    model = DUAL.centered(make_model(), WORDS)
    assert not any("mean" in name for name, _ in model.named_parameters())
    bundle.save(model, tmp_path / "centered", {"kind": "x-cross"})
    loaded = bundle.load(tmp_path / "centered")
    np.testing.assert_array_equal(loaded[2].mean.numpy(), model[2].mean.numpy())
    np.testing.assert_array_equal(vectors(loaded), vectors(model))


def test_mode_and_precision_of_the_model_are_left_as_they_were(make_model: Callable[..., Model]) -> None:
    model = make_model()
    for mode in (True, False):
        model.train(mode)
        model = DUAL.centered(model, WORDS, precision="bf16")
        assert model.training is mode
        assert model[0].precision == "fp32"
    near = model[2].mean.clone()
    exact = DUAL.centered(model, WORDS)[2].mean
    assert not torch.equal(near, exact)
    torch.testing.assert_close(near, exact, atol=0.05, rtol=0)


def test_a_large_catalogue_is_read_in_part(make_model: Callable[..., Model], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xcrossrec.models.dual._CENTERED_TITLES", 3)
    model = make_model()
    expected = torch.stack([pooled(model, title) for title in WORDS[::2]]).mean(0)
    torch.testing.assert_close(DUAL.centered(model, WORDS)[2].mean, expected, atol=1e-4, rtol=0)
