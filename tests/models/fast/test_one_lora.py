"""One LoRA that trains in the fast pass against the layers themselves."""

from __future__ import annotations

from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import RobertaConfig

from fast_reference import (
    CLOSE,
    LENGTHS,
    PACKED,
    Folders,
    adapted,
    assert_equal_to_the_layers,
    by_the_layers,
    states,
    states_and_gradients,
    without_dropout,
)
from model_families import FAMILIES, Family, fresh_base, random_batch, randomise, write_base
from xcrossrec.models.fast import texts
from xcrossrec.models.source import SourceEncoder, default_lora

TARGETS = {
    "bert": [["query", "value"], ["key"], ["query", "key", "value", "dense"], ["intermediate.dense"]],
    "mpnet": [["q", "v"], ["k"], ["q", "k", "v", "o", "intermediate.dense", "output.dense"]],
}
TRAINED = [(name, targets) for name, several in TARGETS.items() for targets in several]


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize("start", [0.0, 0.2], ids=["zero B", "any B"])
@pytest.mark.parametrize(("name", "targets"), TRAINED)
def test_one_lora_trains_as_by_the_layers(
    name: str, targets: list[str], start: float, few: int, base_of: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    patterns = {"rank_pattern": {targets[0]: 5}, "alpha_pattern": {targets[0]: 9}, "use_rslora": start > 0}
    encoder = adapted(base_of(name), start=start, target_modules=targets, **patterns)
    without_dropout(encoder)
    assert_equal_to_the_layers(encoder, *random_batch(FAMILIES[name], LENGTHS))


def test_roberta_trains_as_by_the_layers(tmp_path: Path) -> None:
    shape = {key: value for key, value in FAMILIES["bert"].config.to_diff_dict().items() if key != "model_type"}
    config = RobertaConfig(**{**shape, "max_position_embeddings": 66, "pad_token_id": 1})
    family = Family("roberta", config, ["query", "value"], ["query", "key", "value", "dense"])
    encoder = adapted(write_base(tmp_path / "base", family), target_modules=family.query_value)
    without_dropout(encoder)
    assert_equal_to_the_layers(encoder, *random_batch(family, LENGTHS))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("attention", ["joint", "shared"])
def test_pairs_train_as_by_the_layers(name: str, attention: str, base_of: Folders) -> None:
    base = fresh_base(base_of(name))
    encoder = SourceEncoder(base, default_lora(4), pair_attention=attention).train()  # type: ignore[arg-type]
    randomise(encoder, "lora_B", 0.2)
    without_dropout(encoder)
    features = encoder.preprocess([("w1 w2 ; w3", "w4 w5"), ("w1 w2 ; w3", "w6"), ("w7", "w8 w9 w1")])

    def gradients() -> list[Tensor]:
        found = encoder(dict(features))["token_embeddings"]
        found = found[features["attention_mask"].bool()] if "candidate" not in features else found
        trained = [p for p in encoder.parameters() if p.requires_grad]
        return [found, *torch.autograd.grad(found.square().sum(), trained)]

    fast = gradients()
    with by_the_layers():
        slow = gradients()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.detach().abs().max())))


@pytest.mark.parametrize("name", PACKED)
@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
def test_the_dropout_of_the_base_stays(name: str, few: int, base_of: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    encoder = adapted(base_of(name), target_modules=FAMILIES[name].query_value)
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    parts = [m for n, m in encoder.named_modules() if isinstance(m, nn.Dropout) and "lora" not in n]
    calls, drawn = 10, 200
    at_once = ids.repeat(drawn // calls, 1), mask.repeat(drawn // calls, 1)

    def moments() -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(1)
            many = torch.cat([states(encoder, *at_once).detach() for _ in range(calls)]).unflatten(0, (drawn, -1))
        return many.mean(0), many.std(0)

    for chosen in ("embeddings", "attn", "self", ".dropout"):  # each kind alone, then all
        for module_name, module in encoder.named_modules():
            if module in parts:
                module.p = 0.3 if chosen in f"{module_name}" else 0.0
        if not any(module.p for module in parts):
            continue
        fast = moments()
        with by_the_layers():
            slow = moments()
        spread = slow[1].mean()
        assert (fast[1].mean() / spread - 1).abs() < 0.05
        assert (fast[0] - slow[0]).abs().mean() < 3 * spread / drawn**0.5


def test_dropout_follows_the_seed_and_stops_in_evaluation(base_of: Folders) -> None:
    encoder = adapted(base_of("bert"), target_modules=["query", "value"])
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)

    def seeded(seed: int) -> Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return states(encoder, ids, mask)

    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    encoder.eval()
    assert torch.equal(seeded(1), seeded(2))


def test_mixed_precision_stays_near_in_states_and_gradients(base_of: Folders) -> None:
    encoder = adapted(base_of("bert"), target_modules=["query", "value"])
    without_dropout(encoder)
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    exact = states_and_gradients(encoder, ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = states_and_gradients(encoder, ids, mask)
    assert all(one.dtype == torch.float32 for one in mixed)
    assert not torch.equal(mixed[0], exact[0])
    for one, other in zip(mixed, exact, strict=True):
        assert nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.99


@pytest.mark.parametrize(
    "lora",
    [{"lora_dropout": 0.1}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}],
    ids=["dropout", "DoRA", "bias of B", "trained biases"],
)
def test_other_kinds_of_lora_go_through_the_layers(lora: dict[str, Any], base_of: Folders) -> None:
    encoder = adapted(base_of("bert"), target_modules=["query", "value"], **lora)
    assert not encoder.fast.leaves_padding_out_in_training
    encoder.eval()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    with torch.no_grad():
        found = states(encoder, ids, mask)
        with by_the_layers():
            torch.testing.assert_close(found, states(encoder, ids, mask), **CLOSE)


def test_full_training_two_adapters_and_recomputation_go_through_the_layers(base_of: Folders) -> None:
    whole = SourceEncoder(fresh_base(base_of("bert"))).train()
    whole.backbone.requires_grad_(True)
    assert not whole.fast.leaves_padding_out_in_training
    encoder = adapted(base_of("bert"), target_modules=["query", "value"])
    for module in (inside := [each for each in encoder.backbone.modules() if hasattr(each, "gradient_checkpointing")]):
        module.gradient_checkpointing = True  # as transformers does, whose own question has had two names
    assert not encoder.fast.leaves_padding_out_in_training
    for module in inside:
        module.gradient_checkpointing = False
    assert encoder.fast.leaves_padding_out_in_training
    with encoder.backbone.disable_adapter():
        assert encoder.fast.leaves_padding_out_in_training  # PEFT freezes it meanwhile
    encoder.backbone.add_adapter("other", LoraConfig(r=2, target_modules=["query"]))
    encoder.backbone.base_model.set_adapter(["default", "other"])
    assert not encoder.fast.leaves_padding_out_in_training


def test_it_steps_aside_where_dropout_is_wanted_without_gradients(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), default_lora(4)).eval()
    features = encoder.preprocess(["w1 w2"])
    assert encoder.fast.states(features, itemgetter(0)) is not None
    with torch.no_grad():
        assert encoder.fast.states(features, itemgetter(0)) is not None
        encoder.train()
        assert encoder.fast.states(features, itemgetter(0)) is None
