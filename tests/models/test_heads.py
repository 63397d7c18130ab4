"""The soft maximum, the history matcher, the projection and the center against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xcrossrec.exceptions import BundleError
from xcrossrec.models.heads import RECENCY_SLOTS, Center, HistoryMatcher, Projection, soft_maximum

COSINES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6)


def loop_soft_maximum(similarity: list[float], weight: list[float], sharpness: float) -> float:
    total = sum(w * math.exp(sharpness * s) for s, w in zip(similarity, weight, strict=True))
    return math.log(total / sum(weight)) / sharpness


def unit(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_matcher() -> HistoryMatcher:
    matcher = HistoryMatcher(sharpness=4.0)
    with torch.no_grad():
        matcher.log_recency.copy_(torch.linspace(0.5, -1.0, RECENCY_SLOTS))
    return matcher


# ---- soft maximum


@given(similarity=COSINES, sharpness=st.floats(0.1, 50), data=st.data())
def test_soft_maximum_equals_the_loop(similarity: list[float], sharpness: float, data: st.DataObject) -> None:
    positive = st.floats(0.01, 5)
    weight = data.draw(st.lists(positive, min_size=len(similarity), max_size=len(similarity)))
    got = soft_maximum(torch.tensor(similarity), torch.tensor(weight), torch.tensor(sharpness))
    assert float(got) == pytest.approx(loop_soft_maximum(similarity, weight, sharpness), abs=1e-4)


@given(similarity=COSINES)
def test_soft_maximum_lies_between_mean_and_maximum_and_reaches_both(similarity: list[float]) -> None:
    values, weight = torch.tensor(similarity), torch.ones(len(similarity))
    soft = [float(soft_maximum(values, weight, torch.tensor(a))) for a in (1e-2, 1.0, 30.0, 1e4)]
    assert soft == sorted(soft) or max(soft) - min(soft) < 1e-4
    assert soft[0] == pytest.approx(float(values.mean()), abs=1e-2)
    assert soft[-1] == pytest.approx(float(values.max()), abs=1e-3)


def test_a_slot_of_weight_zero_is_left_out() -> None:
    similarity = torch.tensor([0.9, 0.1, 0.3])
    got = soft_maximum(similarity, torch.tensor([0.0, 1.0, 2.0]), torch.tensor(5.0))
    torch.testing.assert_close(got, soft_maximum(similarity[1:], torch.tensor([1.0, 2.0]), torch.tensor(5.0)))


def test_high_sharpness_does_not_overflow() -> None:
    similarity = torch.tensor([1.0, -1.0], requires_grad=True)
    got = soft_maximum(similarity, torch.ones(2), torch.tensor(1e6))
    got.backward()
    assert got.item() == pytest.approx(1.0, abs=1e-4)
    assert similarity.grad is not None
    assert similarity.grad.isfinite().all()


# ---- history matcher


def test_matching_equals_the_loop_over_users_items_and_slots() -> None:
    matcher = random_matcher()
    history, items = unit(3, 4, 5), unit(6, 5, seed=1)
    lengths = [4, 1, 3]
    present = torch.arange(4)[None] < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        scores = matcher.match(history, present, items)
    for user, length in enumerate(lengths):
        weight = [matcher.log_recency[length - 1 - slot].exp().item() for slot in range(length)]
        for item in range(6):
            cosines = [float(history[user, slot] @ items[item]) for slot in range(length)]
            assert float(scores[user, item]) == pytest.approx(loop_soft_maximum(cosines, weight, 4.0), abs=1e-5)


def test_what_stands_in_empty_slots_does_not_matter() -> None:
    matcher = random_matcher()
    history, items = unit(2, 3, 5), unit(4, 5, seed=1)
    present = torch.tensor([[True, True, False], [True, False, False]])
    other = torch.where(present[..., None], history, torch.full_like(history, 7.0))
    assert torch.equal(matcher.match(history, present, items), matcher.match(other, present, items))


def test_recency_weights_go_by_age_and_the_last_one_is_shared() -> None:
    matcher = random_matcher()
    weight = matcher.recency_weight(torch.tensor([-1, 0, 1, RECENCY_SLOTS - 1, RECENCY_SLOTS, 500]))
    expected = matcher.log_recency.exp()[[0, 0, 1, RECENCY_SLOTS - 1, RECENCY_SLOTS - 1, RECENCY_SLOTS - 1]]
    assert torch.equal(weight, expected)


def test_scale_is_bounded_and_starts_at_the_temperature() -> None:
    assert HistoryMatcher(temperature=0.25).scale.item() == pytest.approx(4.0)
    assert HistoryMatcher(temperature=1e-4).scale.item() == pytest.approx(100.0)
    assert HistoryMatcher(sharpness=7.0).sharpness.item() == pytest.approx(7.0)


def test_a_matcher_in_a_pipeline_passes_on() -> None:
    features = {"sentence_embedding": torch.zeros(1, 2)}
    assert HistoryMatcher()(features) is features


# ---- on disk


def test_a_matcher_comes_back_as_it_was(tmp_path: Path) -> None:
    matcher = random_matcher()
    matcher.save(str(tmp_path))
    loaded = HistoryMatcher.load(str(tmp_path.parent), subfolder=tmp_path.name)
    assert loaded.state_dict().keys() == matcher.state_dict().keys()
    for key, value in matcher.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_head_of_another_size_without_settings_or_without_tensors(tmp_path: Path) -> None:
    Projection(6, 2).save(str(tmp_path))
    path = tmp_path / "projection.json"
    path.write_text(path.read_text(encoding="utf-8").replace("6", "7"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"head\.safetensors does not fit its settings"):
        Projection.load(str(tmp_path))
    (tmp_path / "head.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights .*head\.safetensors are missing: copy it again"):
        Projection.load(str(tmp_path))
    path.unlink()
    with pytest.raises(BundleError, match=r"has no projection\.json: .*was not written to its end"):
        Projection.load(str(tmp_path))


# ---- projection


def test_a_new_projection_changes_nothing() -> None:
    vectors = unit(4, 6)
    torch.testing.assert_close(Projection(6, 2)({"sentence_embedding": vectors})["sentence_embedding"], vectors)


def test_projection_is_the_low_rank_map_of_its_docstring() -> None:
    projection, vectors = Projection(6, 2), unit(4, 6)
    nn.init.normal_(projection.up)
    matrix = torch.eye(6) + projection.up @ projection.down
    expected = torch.stack([matrix @ vector for vector in vectors])
    torch.testing.assert_close(projection({"sentence_embedding": vectors})["sentence_embedding"], expected)
    assert sum(p.numel() for p in projection.parameters()) == 2 * 6 * 2


def test_projection_round_trip(tmp_path: Path) -> None:
    projection = Projection(6, 2)
    nn.init.normal_(projection.up)
    projection.save(str(tmp_path))
    again = Projection.load(str(tmp_path))
    assert torch.equal(again.up, projection.up)
    assert torch.equal(again.down, projection.down)


# ---- center


def test_a_center_is_taken_off_each_vector_saved_and_never_trained(tmp_path: Path) -> None:
    center, vectors = Center(6), unit(4, 6)
    assert torch.equal(center({"sentence_embedding": vectors})["sentence_embedding"], vectors)
    center.mean.copy_(vectors[0])
    expected = torch.stack([vector - vectors[0] for vector in vectors])
    assert torch.equal(center({"sentence_embedding": vectors})["sentence_embedding"], expected)
    center.save(str(tmp_path))
    assert torch.equal(Center.load(str(tmp_path)).mean, center.mean)
    assert not list(center.parameters())
