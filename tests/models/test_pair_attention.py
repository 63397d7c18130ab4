"""Histories encoded once: the shared pass against one row a pair, and the mask against its meaning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model_families import FAMILIES, Source, fresh_base, randomise
from xcrossrec.exceptions import ConfigError, ModelError
from xcrossrec.models import bundle, pair_attention
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.fast import streams
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.fast.shared import SharedLayout
from xcrossrec.models.kinds import build_model
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.pair import PairScorer, score_pairs
from xcrossrec.models.pair_attention import choose_pair_attention, pair_mask
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.training.losses import PairLoss
from xcrossrec.types import Form

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]
Encoder = SourceEncoder | MergedEncoder | XCrossEncoder
SHARING = ("bert", "modernbert")
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LONG = " ".join(f"w{number}" for number in range(10, 24))
PAIRS = [
    ("w1 w2\nw3 w4 w5", "w7"),
    ("w1", "w8 w9 w10 w11 w12 w13 w14"),
    (f"{LONG}\nw3 w4", "w9 w9"),
    ("w1 w2\nw3 w4 w5", "w9 w9"),
    ("w1", "w3"),
    ("w1 w2\nw3 w4 w5", LONG),
]


def source_encoder(base: Path, **settings: Any) -> SourceEncoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = SourceEncoder(fresh_base(base), default_lora(4), pair_attention="shared", **settings)
    randomise(encoder, "lora_B", 0.2)
    return encoder.eval()


def integrated_encoder(base: Path, sources: list[Source], form: Form, **settings: Any) -> Encoder:
    found = fresh_base(base)
    adapters = [read_adapter(source.folder, found) for source in sources]
    if form == "merged":
        merged = MergedEncoder(found, adapters, pair_attention="shared", **settings)
        randomise(merged, "lora_B", 0.2)
        return merged.eval()
    encoder = XCrossEncoder(found, adapters, pair_attention="shared", **settings)
    randomise(encoder, "integrator", 0.01)
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.linspace(0.8, -0.3, len(sources)))
    return encoder.eval()


@pytest.fixture(params=["one adapter", "2 merged", "2 xcross", "3 xcross"])
def encoder_of(request: pytest.FixtureRequest, base_of: Folders, sources_of: SourcesOf) -> Callable[[str], Encoder]:
    """An encoder of each form over a family's base."""
    count, form = request.param.split()

    def make(name: str, **settings: Any) -> Encoder:
        if form == "adapter":
            return source_encoder(base_of(name), **settings)
        return integrated_encoder(base_of(name), sources_of(name, int(count)), form, **settings)

    return make


def titles(pairs: list[tuple[str, str]]) -> tuple[list[list[str]], list[str]]:
    return [history.split("\n") for history, _ in pairs], [candidate for _, candidate in pairs]


def in_rows(encoder: Encoder, pairs: list[tuple[str, str]]) -> dict[str, Tensor]:
    """The reference's features: one row a pair."""
    return encoder.prompts.encode_pairs(*titles(pairs))


def states(encoder: Encoder, features: dict[str, Tensor]) -> Tensor:
    found: Tensor = encoder(dict(features))["token_embeddings"]
    return found


def tokens_of(features: dict[str, Tensor], pair: int) -> Tensor:
    """Places of a pair's tokens in the common row, in the order of its own text."""
    candidate, history = features["candidate"][0], features["history"][0]
    own = (candidate == pair).nonzero()[:, 0]
    seen = ((history == history[own[0]]) & (candidate < 0)).nonzero()[:, 0]
    return torch.cat([seen, own])


def pair_model(encoder: Encoder) -> CrossEncoder:
    """A model whose head has random weights everywhere."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = build_model(encoder, scoring="pair")
    for part in ("log_recency", "value", "project.bias"):
        randomise(model[-1], part, 0.3)
    assert isinstance(model, CrossEncoder)
    model.eval()
    return model


@pytest.fixture
def bert_model(base_of: Folders, sources_of: SourcesOf) -> CrossEncoder:
    return pair_model(integrated_encoder(base_of("bert"), sources_of("bert", 2), "xcross"))


# ---- the shared pass is the reference


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("run", ["fast layers", "fast layers with spare rows", "Hugging Face's layers"])
@torch.no_grad()
def test_the_shared_pass_equals_one_row_a_pair(
    name: str, run: str, encoder_of: Callable[[str], Encoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = encoder_of(name)
    if run == "Hugging Face's layers":
        encoder.fast = FastPass()
    if run == "fast layers with spare rows":
        monkeypatch.setattr(streams, "_SIZES", 1)
    assert encoder.shares_history
    shared, rows = encoder.preprocess(PAIRS), in_rows(encoder, PAIRS)
    assert shared["input_ids"].numel() < rows["attention_mask"].sum()
    got, expected = states(encoder, shared)[0], states(encoder, rows)
    for pair in range(len(PAIRS)):
        places, length = tokens_of(shared, pair), int(rows["attention_mask"][pair].sum())
        assert torch.equal(shared["input_ids"][0, places], rows["input_ids"][pair, :length])
        torch.testing.assert_close(got[places], expected[pair, :length], **CLOSE)


@pytest.mark.parametrize("name", SHARING)
@torch.no_grad()
def test_scores_equal_those_of_one_row_a_pair(name: str, base_of: Folders) -> None:
    encoder = source_encoder(base_of(name))
    model = pair_model(encoder)
    expected = model(in_rows(encoder, PAIRS))["scores"][:, 0]
    np.testing.assert_allclose(score_pairs(model, PAIRS), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.predict(PAIRS, show_progress_bar=False), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(model.predict(PAIRS, batch_size=2, show_progress_bar=False), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("name", ["bert", "mpnet", "deberta-v3", "modernbert"])
@torch.no_grad()
def test_the_reference_keeps_the_history_apart(name: str, encoder_of: Callable[[str], Encoder]) -> None:
    """What the mask means, without any mask: a history's states are those of the history alone."""
    encoder = encoder_of(name)
    together = states(encoder, in_rows(encoder, PAIRS))
    alone = encoder.prompts.encode(titles(PAIRS)[0])
    for pair, (states_alone, mask) in enumerate(zip(states(encoder, alone), alone["attention_mask"], strict=True)):
        length = int(mask.sum())
        torch.testing.assert_close(together[pair, :length], states_alone[:length], **CLOSE)
    first, second = in_rows(encoder, [("w1 w2", "w3 w4")]), in_rows(encoder, [("w1 w5", "w3 w4")])
    assert (states(encoder, first)[0, 4:] - states(encoder, second)[0, 4:]).abs().max() > 1e-3


def test_the_pair_mask_equals_a_loop() -> None:
    segments = torch.tensor([[0, 1, 0, -1, -1, -2, 0], [0, 1, 1, 0, -1, -2, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1, 0]])
    got = pair_mask(segments, mask)
    for text in range(2):
        for sees in range(7):
            for seen in range(7):
                candidate = [int(segments[text, place]) < 0 for place in (sees, seen)]
                expected = bool(mask[text, seen]) and (candidate[0] or not candidate[1])
                assert bool(got[text, sees, seen]) == expected


@pytest.mark.parametrize("gradient", [False, True])
def test_under_autocast_every_part_is_in_its_type(gradient: bool) -> None:
    query, key, value = torch.randn(3, 2, 4, 6, 5, generator=torch.Generator().manual_seed(0))
    layout = SharedLayout(torch.zeros(6, dtype=torch.long), torch.tensor([-1, -1, -1, 0, 0, 1]), torch.arange(6))
    attend = ALL_ATTENTION_FUNCTIONS["xcrossrec_shared_history"]

    def states(*projected: Tensor) -> Tensor:
        found: Tensor = attend(nn.Module(), *projected, None, shared_layout=layout)[0]
        return found

    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = states(query.requires_grad_(gradient), key.bfloat16(), value)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), states(query, key, value), rtol=2e-2, atol=2e-2)


# ---- a score belongs to its pair alone


def test_a_score_does_not_depend_on_what_stands_beside_it(bert_model: CrossEncoder) -> None:
    together = score_pairs(bert_model, PAIRS)
    for number, pair in enumerate(PAIRS):
        assert float(score_pairs(bert_model, [pair])[0]) == pytest.approx(float(together[number]), abs=1e-5)
    order = [4, 2, 0, 5, 1, 3]
    shuffled = score_pairs(bert_model, [PAIRS[number] for number in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    assert len(np.unique(together.round(4))) == len(PAIRS)


@torch.no_grad()
def test_history_states_do_not_depend_on_the_candidates(bert_model: CrossEncoder) -> None:
    history = PAIRS[0][0]
    few = bert_model[0].preprocess([(history, "w7")])
    many = bert_model[0].preprocess([(history, "w9 w9"), (history, LONG), (history, "w30")])
    length = int((few["candidate"] < 0).sum())
    first, second = (states(bert_model[0], features)[0, :length] for features in (few, many))
    torch.testing.assert_close(first, second, **CLOSE)


def test_the_learned_part_ranks_candidates_of_one_history(bert_model: CrossEncoder) -> None:
    with torch.no_grad():
        bert_model[-1].matcher.log_scale.fill_(-30.0)
    scores = score_pairs(bert_model, [PAIRS[0], PAIRS[3], PAIRS[5]])
    assert np.ptp(scores) > 1e-3


def test_a_history_that_is_cut_for_one_candidate_is_that_pairs_own(base_of: Folders) -> None:
    encoder = source_encoder(base_of("bert"), max_tokens=24)
    pairs = [(f"w1 w2 w3\n{LONG}", "w4"), (f"w1 w2 w3\n{LONG}", "w4 w5 w6 w7"), (f"w1 w2 w3\n{LONG}", "w9")]
    shared, rows = encoder.preprocess(pairs), in_rows(encoder, pairs)
    assert shared["history"].max() == 1
    for pair in range(3):
        length = int(rows["attention_mask"][pair].sum())
        assert torch.equal(shared["input_ids"][0, tokens_of(shared, pair)], rows["input_ids"][pair, :length])
        assert torch.equal(shared["position_ids"][0, tokens_of(shared, pair)], torch.arange(length))


@pytest.mark.parametrize(("characters", "candidates"), [(1, 1), (30, 2), (200, 3), (10_000, 256)])
def test_batches_do_not_change_a_scorers_scores(
    characters: int, candidates: int, bert_model: CrossEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = ["w1 w2", "w3 w4 w5", LONG, "w9 w9", "w7", "w8 w9 w10"]
    histories, rows = [[0, 1], [2], [4, 3, 0]], np.array([[4, 3, 2, 5], [0, 1, 5, 3], [2, 1, 5, 2]])
    pairs = [("\n".join(catalog[i] for i in h), catalog[c]) for h, r in zip(histories, rows, strict=True) for c in r]
    with torch.no_grad():
        expected = bert_model(in_rows(bert_model[0], pairs))["scores"].view(3, 4)
    monkeypatch.setattr("xcrossrec.models.pair._SHARED_CHARACTERS", characters)
    monkeypatch.setattr("xcrossrec.models.pair._SHARED_CANDIDATES", candidates)
    np.testing.assert_allclose(PairScorer(bert_model, catalog).score(histories, rows), expected.numpy(), atol=1e-5)


# ---- training


@pytest.mark.parametrize("name", SHARING)
def test_loss_and_gradients_equal_those_of_one_row_a_pair(name: str, encoder_of: Callable[[str], Encoder]) -> None:
    encoder = encoder_of(name)
    model = pair_model(encoder)
    pairs = [(history, c) for history in ("w1 w2\nw3 w4 w5", LONG) for c in ("w7", "w9 w9 w8", LONG)]
    results = []
    for features in (encoder.preprocess(pairs), in_rows(encoder, pairs)):
        model.zero_grad()
        loss = PairLoss(model, 3)([features], torch.zeros(2, dtype=torch.long))
        loss.backward()
        results.append((loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    (first, shared), (second, rows) = results
    torch.testing.assert_close(first, second, **CLOSE)
    assert shared.keys() == rows.keys()
    assert any("lora" in key or "integrator" in key for key in shared)
    for key in shared:
        largest = float(rows[key].abs().max())
        torch.testing.assert_close(shared[key], rows[key], rtol=1e-4, atol=1e-5 * max(1.0, largest))


# ---- which bases, and what is said


@pytest.mark.parametrize("name", ["mpnet", "deberta-v3"])
def test_a_base_that_cannot_share_says_so_once(
    name: str, base_of: Folders, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_attention, "_WARNED", set())
    with caplog.at_level(logging.WARNING, "xcrossrec"):
        encoder = source_encoder(base_of(name))
        source_encoder(base_of(name))
    assert not encoder.shares_history
    assert encoder.pair_attention == "shared"
    assert [r.getMessage().split(" bases")[0] for r in caplog.records] == [FAMILIES[name].config.model_type]
    assert "cannot share a history's encoding" in caplog.text
    assert set(encoder.preprocess(PAIRS)) == {"input_ids", "attention_mask", "segments"}


def test_a_convolution_is_refused(base_of: Folders) -> None:
    with pytest.raises(ModelError, match=r"deberta-v2 base mixes neighbouring tokens.*--pair-attention joint"):
        source_encoder(base_of("deberta-conv"))


def test_a_joint_model_is_left_alone(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert"))).eval()
    assert (encoder.pair_attention, encoder.shares_history) == ("joint", False)
    assert encoder.backbone.config._attn_implementation == "sdpa"
    with torch.no_grad():
        together = states(encoder, encoder.preprocess(PAIRS[:1]))
        alone = states(encoder, encoder.preprocess([PAIRS[0][0]]))
    assert (together[0, :6] - alone[0, :6]).abs().max() > 1e-3


def test_the_choice_of_attention(base_of: Folders) -> None:
    assert choose_pair_attention(None, "dual") == "joint"
    assert choose_pair_attention(None, "pair") == "joint"
    assert choose_pair_attention("shared", "pair") == "shared"
    with pytest.raises(ConfigError, match="pair attention 'shared' belongs to pair scoring, got dual"):
        choose_pair_attention("shared", "dual")
    with pytest.raises(ConfigError, match="unknown pair attention 'causal': choose one of joint, shared"):
        SourceEncoder(fresh_base(base_of("bert")), pair_attention="causal")  # type: ignore[arg-type]


# ---- on disk


@pytest.mark.parametrize("form", ["adapter", "merged", "xcross"])
def test_the_attention_is_kept_with_the_model(
    form: Any, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder: Encoder = source_encoder(base_of("bert"))
    if form != "adapter":
        encoder = integrated_encoder(base_of("bert"), sources_of("bert", 2), form)
    model = pair_model(encoder)
    expected = score_pairs(model, PAIRS)
    bundle.save(model, tmp_path / "model", {})
    again = bundle.load(tmp_path / "model")
    assert isinstance(again, CrossEncoder)
    assert again[0].shares_history
    assert again[-1].reads == "candidate"
    assert bundle.read_bundle_manifest(tmp_path / "model")["pair_attention"] == "shared"
    np.testing.assert_allclose(score_pairs(again, PAIRS), expected, atol=1e-5)
