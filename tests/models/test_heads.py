"""The soft maximum, the history matcher and the pair head against plain loops."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models.heads import RECENCY_SLOTS, HistoryMatcher, Projection, soft_maximum
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.tokens import CANDIDATE_SEGMENT

COSINES = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=6)


def loop_soft_maximum(similarity: list[float], weight: list[float], sharpness: float) -> float:
    total = sum(w * math.exp(sharpness * s) for s, w in zip(similarity, weight, strict=True))
    return math.log(total / sum(weight)) / sharpness


def unit(*shape: int, seed: int = 0) -> Tensor:
    return nn.functional.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def random_matcher(pooling: str = "late") -> HistoryMatcher:
    matcher = HistoryMatcher(pooling, sharpness=4.0)  # type: ignore[arg-type]
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


def test_late_matching_equals_the_loop_over_users_items_and_slots() -> None:
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


def test_prompt_matching_is_the_cosine() -> None:
    matcher = HistoryMatcher("prompt")
    history, items = unit(3, 1, 5), unit(4, 5, seed=1)
    scores = matcher.match(history, torch.ones(3, 1, dtype=torch.bool), items)
    torch.testing.assert_close(scores, history[:, 0] @ items.t())


def test_recency_weights_go_by_age_and_the_last_one_is_shared() -> None:
    matcher = random_matcher()
    weight = matcher.recency_weight(torch.tensor([-1, 0, 1, RECENCY_SLOTS - 1, RECENCY_SLOTS, 500]))
    expected = matcher.log_recency.exp()[[0, 0, 1, RECENCY_SLOTS - 1, RECENCY_SLOTS - 1, RECENCY_SLOTS - 1]]
    assert torch.equal(weight, expected)


def test_scale_is_bounded_and_starts_at_the_temperature() -> None:
    assert HistoryMatcher(temperature=0.25).scale.item() == pytest.approx(4.0)
    assert HistoryMatcher(temperature=1e-4).scale.item() == pytest.approx(100.0)
    assert HistoryMatcher(sharpness=7.0).sharpness.item() == pytest.approx(7.0)


def test_unknown_pooling() -> None:
    with pytest.raises(ConfigError, match="unknown history pooling 'max': choose one of prompt, late"):
        HistoryMatcher("max")  # type: ignore[arg-type]


def test_a_matcher_in_a_pipeline_passes_on() -> None:
    features = {"sentence_embedding": torch.zeros(1, 2)}
    assert HistoryMatcher()(features) is features


# ---- pair head

SEGMENTS = torch.tensor(
    [[0, 1, 1, 0, 2, 0, CANDIDATE_SEGMENT, CANDIDATE_SEGMENT, 0], [0, 1, 0, CANDIDATE_SEGMENT, 0, 0, 0, 0, 0]]
)


def pair_features(seed: int = 0) -> dict[str, Tensor]:
    states = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(seed))
    return {"token_embeddings": states, "segments": SEGMENTS}


def loop_similarity(head: PairHead, states: Tensor, segments: Tensor) -> float:
    def mean(members: list[int]) -> Tensor:
        return nn.functional.normalize(torch.stack([states[t] for t in members]).mean(0), dim=0)

    where = segments.tolist()
    candidate = mean([t for t, s in enumerate(where) if s == CANDIDATE_SEGMENT])
    if head.pooling == "prompt":
        return float(mean([t for t, s in enumerate(where) if s > 0]) @ candidate)
    items = range(1, max(where) + 1)
    cosines = [float(mean([t for t, s in enumerate(where) if s == item]) @ candidate) for item in items]
    weight = [head.matcher.log_recency[len(cosines) - item].exp().item() for item in items]
    return loop_soft_maximum(cosines, weight, head.matcher.sharpness.item())


@pytest.mark.parametrize("pooling", ["prompt", "late"])
def test_an_untrained_pair_head_is_the_scaled_similarity(pooling: str) -> None:
    head = PairHead(6, pooling, sharpness=3.0)  # type: ignore[arg-type]
    with torch.no_grad():
        head.matcher.log_recency.copy_(torch.linspace(0.5, -1.0, RECENCY_SLOTS))
        features = pair_features()
        scores = head(dict(features))["scores"]
    assert scores.shape == (2, 1)
    for number in range(2):
        expected = loop_similarity(head, features["token_embeddings"][number], SEGMENTS[number])
        assert float(scores[number]) == pytest.approx(head.matcher.scale.item() * expected, abs=1e-5)


def test_a_trained_pair_head_adds_the_papers_score_of_the_first_token() -> None:
    head = PairHead(6)
    nn.init.normal_(head.value.weight)
    nn.init.normal_(head.value.bias)
    features = pair_features()
    with torch.no_grad():
        scores = head(dict(features))["scores"][:, 0]
        for number in range(2):
            first = features["token_embeddings"][number, 0]
            hidden = nn.functional.gelu(head.project.weight @ first + head.project.bias)
            learned = float(head.value.weight[0] @ hidden + head.value.bias[0])
            similarity = loop_similarity(head, features["token_embeddings"][number], SEGMENTS[number])
            expected = head.matcher.scale.item() * similarity + learned
            assert float(scores[number]) == pytest.approx(expected, abs=1e-5)


def test_a_fresh_pair_head_is_the_papers_alone() -> None:
    head = PairHead(6, starts="fresh")
    features = pair_features()
    assert head(dict(features))["scores"].tolist() == [[0.0], [0.0]]
    nn.init.normal_(head.value.weight)
    hidden = nn.functional.gelu(features["token_embeddings"][:, 0] @ head.project.weight.t() + head.project.bias)
    torch.testing.assert_close(head(dict(features))["scores"], hidden @ head.value.weight.t())
    assert not any(parameter.requires_grad for parameter in head.matcher.parameters()), "nothing reads them"
    with pytest.raises(ConfigError, match="unknown start 'random' of a pair head: choose one of similarity, fresh"):
        PairHead(6, starts="random")  # type: ignore[arg-type]


@pytest.mark.parametrize("pooling", ["prompt", "late"])
def test_an_all_cut_history_gives_a_finite_score(pooling: str) -> None:
    head = PairHead(6, pooling)  # type: ignore[arg-type]
    segments = torch.tensor([[0, 0, CANDIDATE_SEGMENT, CANDIDATE_SEGMENT, 0, 0, 0, 0, 0]])
    states = pair_features()["token_embeddings"][:1]
    assert head({"token_embeddings": states, "segments": segments})["scores"].tolist() == [[0.0]]


# ---- on disk


@pytest.mark.parametrize(
    "head", [random_matcher(), PairHead(6, "prompt"), PairHead(6, starts="fresh")], ids=["matcher", "pair", "fresh"]
)
def test_heads_come_back_as_they_were(head: HistoryMatcher | PairHead, tmp_path: Path) -> None:
    head.save(str(tmp_path))
    loaded = type(head).load(str(tmp_path.parent), subfolder=tmp_path.name)
    assert loaded.pooling == head.pooling
    assert getattr(loaded, "starts", None) == getattr(head, "starts", None)
    for key, value in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_head_of_another_size(tmp_path: Path) -> None:
    PairHead(6).save(str(tmp_path))
    path = tmp_path / "pair_head.json"
    path.write_text(path.read_text(encoding="utf-8").replace("6", "7"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"head\.safetensors does not fit its settings"):
        PairHead.load(str(tmp_path))


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


def test_projection_of_rank_0_is_refused() -> None:
    with pytest.raises(ConfigError, match="rank is 0"):
        Projection(6, 0)
