"""The fast pass against the layers themselves: states, gradients, precision, and weights that change."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import BertConfig

from fast_reference import (
    CLOSE,
    LENGTHS,
    PACKED,
    Folders,
    SourcesOf,
    adapted,
    by_the_layers,
    integrated,
    states,
)
from model_families import FAMILIES, Family, fresh_base, random_batch, randomise, write_base, write_sources
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.fast import passes, texts
from xcrossrec.models.source import SourceEncoder, default_lora


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_every_family_gives_the_states_of_plain_layers(
    family: Family, count: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = integrated(base_of(family.name), sources_of(family.name, count))
    assert encoder.fast.leaves_padding_out_in_training == (family.name in PACKED)
    ids, mask = random_batch(family, LENGTHS)
    fast = states(encoder, ids, mask)
    with by_the_layers():
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@torch.no_grad()
def test_one_adapter_gives_the_states_of_plain_layers(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    source = sources_of(family.name, 2)[1]
    encoder = SourceEncoder(fresh_base(base_of(family.name)))
    ids, mask = random_batch(family, LENGTHS)
    plain = states(encoder, ids, mask)
    with by_the_layers():
        torch.testing.assert_close(plain, states(encoder, ids, mask), **CLOSE)
    encoder.backbone = source.peft
    torch.testing.assert_close(states(encoder, ids, mask), source.states(ids, mask)[mask.bool()], **CLOSE)


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
def test_gradients_equal_those_of_plain_layers(
    family: Family,
    few: int,
    base_of: Folders,
    sources_of: SourcesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = integrated(base_of(family.name), sources_of(family.name, 2)).train()
    ids, mask = random_batch(family, LENGTHS)

    monkeypatch.setattr(texts, "_FEW_SLOTS", few)

    def gradients() -> list[Tensor]:
        trained = [p for p in encoder.parameters() if p.requires_grad]
        return list(torch.autograd.grad(states(encoder, ids, mask).square().sum(), trained))

    assert encoder.fast.leaves_padding_out_in_training == (family.name in PACKED)
    fast = gradients()
    with by_the_layers():
        slow = gradients()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))


@pytest.mark.parametrize("top_layers", [1, 2, 3])
@torch.no_grad()
def test_top_layers_give_the_states_of_plain_layers(
    family: Family, top_layers: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = integrated(base_of(family.name), sources_of(family.name, 2), top_layers)
    ids, mask = random_batch(family, LENGTHS)
    fast = states(encoder, ids, mask)
    with by_the_layers():
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@pytest.mark.parametrize("short", [0, 128], ids=["PyTorch's attention", "plain products"])
@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_both_kinds_of_attention_and_small_parts_change_nothing(
    name: str, short: int, base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = integrated(base_of(name), sources_of(name, 2))
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    with by_the_layers():
        expected = states(encoder, ids, mask)
    monkeypatch.setattr(texts, "_SHORT", short)
    monkeypatch.setattr(passes, "_TOKENS_AT_ONCE", 20)
    for few in (0, 10_000):  # one call a length, or one padded matrix
        monkeypatch.setattr(texts, "_FEW_SLOTS", few)
        torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)


@pytest.mark.parametrize("activation", ["relu", "gelu_new"])
@torch.no_grad()
def test_other_activations_stay_what_they_are(activation: str, tmp_path: Path) -> None:
    shape = {**FAMILIES["bert"].config.to_diff_dict(), "hidden_act": activation}
    family = Family("bert", BertConfig(**shape), ["query", "value"], ["query", "key", "value", "dense"])
    base = write_base(tmp_path / "base", family)
    encoder = integrated(base, write_sources(tmp_path / "adapters", base, family, 2))
    ids, mask = random_batch(family, LENGTHS)
    fast = states(encoder, ids, mask)
    with by_the_layers():
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@torch.no_grad()
def test_ablations_reach_the_fast_pass(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    whole = states(encoder, ids, mask)
    for ablation in (encoder.silenced(0, 1), encoder.integration_off()):
        with ablation:
            fast = states(encoder, ids, mask)
            with by_the_layers():
                torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)
        assert not torch.allclose(fast, whole, atol=1e-3)


@pytest.mark.parametrize("name", PACKED)
@torch.no_grad()
def test_bfloat16_stays_near(name: str, base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of(name), sources_of(name, 2))
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    exact = states(encoder, ids, mask)
    encoder.precision = "bf16"
    near = states(encoder, ids, mask)
    assert near.dtype == torch.float32
    assert not torch.equal(near, exact)
    assert nn.functional.cosine_similarity(near, exact, dim=-1).min() > 0.999
    encoder.precision = "fp32"
    assert torch.equal(states(encoder, ids, mask), exact)


def test_an_unknown_precision_is_refused(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    with pytest.raises(ConfigError, match="unknown encoding precision 'int4': choose one of fp32, bf16"):
        encoder.precision = "int4"  # type: ignore[assignment]


def test_autocast_decides_in_training(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2)).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    exact = states(encoder, ids, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = states(encoder, ids, mask)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, exact, rtol=0.1, atol=0.1)
    assert not torch.equal(mixed, exact)


@torch.no_grad()
def test_a_changed_adapter_is_folded_again(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = integrated(base_of("bert"), sources_of("bert", 2))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    before = states(encoder, ids, mask)
    next(iter(m for m in encoder.modules() if hasattr(m, "up"))).up.mul_(3)
    after = states(encoder, ids, mask)
    assert not torch.allclose(after, before, atol=1e-3)
    with by_the_layers():
        torch.testing.assert_close(after, states(encoder, ids, mask), **CLOSE)


def test_a_training_adapter_is_never_stale(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), default_lora(4)).eval()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    trained = [p for p in encoder.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.1, fused=True)  # changes weights without a new version
    for _ in range(2):
        states(encoder, ids, mask).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            fast = states(encoder, ids, mask)
            with by_the_layers():
                torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@torch.no_grad()
def test_adapters_that_are_turned_off_switched_or_scaled_are_seen(base_of: Folders) -> None:
    encoder = adapted(base_of("bert"), target_modules=["query", "value"]).eval()
    encoder.backbone.add_adapter("other", LoraConfig(r=2, target_modules=["query"]))
    randomise(encoder, "lora_B", 0.2)
    encoder.backbone.requires_grad_(False)
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)

    def checked() -> Tensor:
        fast = states(encoder, ids, mask)
        with by_the_layers():
            torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)
        return fast

    found = [checked()]
    with encoder.backbone.disable_adapter():
        found.append(checked())
    encoder.backbone.base_model.set_adapter("other", inference_mode=True)
    found.append(checked())
    for module in encoder.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("other", 3.0)
    found.append(checked())
    encoder.backbone.base_model.set_adapter("default", inference_mode=True)
    assert torch.equal(checked(), found[0])
    for one, other in combinations(found, 2):
        assert not torch.allclose(one, other, atol=1e-3)
