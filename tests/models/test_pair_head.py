"""The pair head against plain loops over pairs, slots and tokens."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.models.heads import RECENCY_SLOTS
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.tokens import CANDIDATE_SEGMENT

SEGMENTS = torch.tensor(
    [[0, 1, 1, 0, 2, 0, CANDIDATE_SEGMENT, CANDIDATE_SEGMENT, 0], [0, 1, 0, CANDIDATE_SEGMENT, 0, 0, 0, 0, 0]]
)


def pair_features(seed: int = 0) -> dict[str, Tensor]:
    states = torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(seed))
    return {"token_embeddings": states, "segments": SEGMENTS}


def loop_soft_maximum(similarity: list[float], weight: list[float], sharpness: float) -> float:
    total = sum(w * math.exp(sharpness * s) for s, w in zip(similarity, weight, strict=True))
    return math.log(total / sum(weight)) / sharpness


def loop_similarity(head: PairHead, states: Tensor, segments: Tensor) -> float:
    def mean(members: list[int]) -> Tensor:
        return nn.functional.normalize(torch.stack([states[t] for t in members]).mean(0), dim=0)

    where = segments.tolist()
    candidate = mean([t for t, s in enumerate(where) if s == CANDIDATE_SEGMENT])
    items = range(1, max(where) + 1)
    cosines = [float(mean([t for t, s in enumerate(where) if s == item]) @ candidate) for item in items]
    weight = [head.matcher.log_recency[len(cosines) - item].exp().item() for item in items]
    return loop_soft_maximum(cosines, weight, head.matcher.sharpness.item())


def test_an_untrained_one_is_the_scaled_similarity() -> None:
    head = PairHead(6)
    with torch.no_grad():
        head.matcher.log_sharpness.fill_(1.1)
        head.matcher.log_recency.copy_(torch.linspace(0.5, -1.0, RECENCY_SLOTS))
        features = pair_features()
        scores = head(dict(features))["scores"]
    assert scores.shape == (2, 1)
    for number in range(2):
        expected = loop_similarity(head, features["token_embeddings"][number], SEGMENTS[number])
        assert float(scores[number]) == pytest.approx(head.matcher.scale.item() * expected, abs=1e-5)


def test_a_trained_one_adds_the_papers_score_of_the_first_token() -> None:
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


def test_a_fresh_one_is_the_papers_alone() -> None:
    head = PairHead(6, starts="fresh")
    features = pair_features()
    assert head(dict(features))["scores"].tolist() == [[0.0], [0.0]]
    nn.init.normal_(head.value.weight)
    hidden = nn.functional.gelu(features["token_embeddings"][:, 0] @ head.project.weight.t() + head.project.bias)
    torch.testing.assert_close(head(dict(features))["scores"], hidden @ head.value.weight.t())
    assert not any(parameter.requires_grad for parameter in head.matcher.parameters()), "nothing reads them"
    with pytest.raises(ConfigError, match="unknown start 'random' of a pair head: choose one of similarity, fresh"):
        PairHead(6, starts="random")  # type: ignore[arg-type]


def test_an_all_cut_history_gives_a_finite_score() -> None:
    head = PairHead(6)
    segments = torch.tensor([[0, 0, CANDIDATE_SEGMENT, CANDIDATE_SEGMENT, 0, 0, 0, 0, 0]])
    states = pair_features()["token_embeddings"][:1]
    assert head({"token_embeddings": states, "segments": segments})["scores"].tolist() == [[0.0]]


def test_one_that_reads_the_candidate_learns_from_the_mean_of_its_title() -> None:
    head = PairHead(6, reads="candidate", starts="fresh")
    nn.init.normal_(head.value.weight)
    features = pair_features()
    with torch.no_grad():
        scores = head(dict(features))["scores"][:, 0]
        for number in range(2):
            own = [t for t, s in enumerate(SEGMENTS[number].tolist()) if s == CANDIDATE_SEGMENT]
            read = torch.stack([features["token_embeddings"][number, t] for t in own]).mean(0)
            hidden = nn.functional.gelu(head.project.weight @ read + head.project.bias)
            assert float(scores[number]) == pytest.approx(float(head.value.weight[0] @ hidden), abs=1e-5)


def test_pairs_in_one_row_score_as_in_rows_of_their_own() -> None:
    """Two candidates of one history, and one of another, without padding."""
    head = PairHead(6, reads="candidate")
    nn.init.normal_(head.value.weight)
    mark = CANDIDATE_SEGMENT
    row = torch.randn(12, 6, generator=torch.Generator().manual_seed(5))
    segments = torch.tensor([0, 1, 2, 0, mark, mark, 0, mark, 0, 1, 1, mark])
    history = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    candidate = torch.tensor([-1, -1, -1, -1, 0, 0, 1, 1, -1, -1, -1, 2])
    features = {"token_embeddings": row, "segments": segments, "history": history, "candidate": candidate}
    with torch.no_grad():
        together = head({name: value[None] for name, value in features.items()})["scores"]
        for pair, owner in enumerate((0, 0, 1)):
            own = (candidate == pair) | ((history == owner) & (candidate < 0))
            alone = head({"token_embeddings": row[own][None], "segments": segments[own][None]})["scores"]
            torch.testing.assert_close(together[pair], alone[0])


# ---- on disk


@pytest.mark.parametrize("starts", ["similarity", "fresh"])
@pytest.mark.parametrize("reads", ["first", "candidate"])
def test_a_head_comes_back_as_it_was(reads: str, starts: str, tmp_path: Path) -> None:
    head = PairHead(6, reads=reads, starts=starts)  # type: ignore[arg-type]
    for parameter in head.parameters():
        nn.init.normal_(parameter)
    head.save(str(tmp_path))
    loaded = PairHead.load(str(tmp_path.parent), subfolder=tmp_path.name)
    assert (loaded.reads, loaded.starts) == (reads, starts)
    assert {p.requires_grad for p in loaded.matcher.parameters()} == {starts == "similarity"}
    for key, value in head.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value)


def test_a_head_of_another_size(tmp_path: Path) -> None:
    PairHead(6).save(str(tmp_path))
    path = tmp_path / "pair_head.json"
    path.write_text(path.read_text(encoding="utf-8").replace("6", "7"), encoding="utf-8")
    with pytest.raises(BundleError, match=r"head\.safetensors does not fit its settings"):
        PairHead.load(str(tmp_path))
