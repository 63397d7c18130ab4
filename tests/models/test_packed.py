"""The fast pass against the layers themselves: states, gradients, precision, and when it steps aside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig
from torch import Tensor, nn
from transformers import BertConfig, RobertaConfig

from model_families import FAMILIES, Family, Source, fresh_base, random_batch, randomise, write_base, write_sources
from xcrossrec.exceptions import ConfigError
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.encoder import IntegratedEncoder, SourceEncoder, TitleEncoder, default_lora
from xcrossrec.models.fast import kept as kept_states
from xcrossrec.models.fast import passes, texts
from xcrossrec.models.fast.layers import Layer
from xcrossrec.models.fast.linear import FrozenLinear
from xcrossrec.models.fast.passes import PackedEncoder
from xcrossrec.models.fast.texts import PackedTexts
from xcrossrec.models.integrator import FORMS

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
PACKED = ["bert", "mpnet"]
LENGTHS = (12, 5, 9, 5, 1)


def integrated(base: Path, sources: list[Source], integrator: str = "paper") -> IntegratedEncoder:
    found = fresh_base(base)
    encoder = IntegratedEncoder(found, [read_adapter(s.folder, found) for s in sources], integrator=integrator).eval()
    randomise(encoder, "concat_weight", 0.02)
    randomise(encoder, "direction", 0.2)
    randomise(encoder, "stream_weight", 0.5)
    return encoder


def states(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    features: dict[str, Any] = {"input_ids": ids, "attention_mask": mask}
    return encoder(features)["token_embeddings"][mask.bool()]


@contextmanager
def by_the_layers() -> Iterator[None]:
    """Within the block every encoder runs Hugging Face's layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedEncoder, "ready", lambda self: False)
        yield


@contextmanager
def plain_products(encoder: nn.Module) -> Iterator[None]:
    """Within the block an encoder multiplies by PyTorch's own linear layers."""
    layers = [module for module in encoder.modules() if type(module) is FrozenLinear]
    assert layers
    try:
        for layer in layers:
            layer.__class__ = nn.Linear
        yield
    finally:
        for layer in layers:
            layer.__class__ = FrozenLinear


# ---- equal to the slow reference


@pytest.mark.parametrize("integrator", FORMS)
@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_every_family_gives_the_states_of_plain_layers(
    family: Family, count: int, integrator: str, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = integrated(base_of(family.name), sources_of(family.name, count), integrator)
    assert (encoder._packed is not None) == (family.name in PACKED)
    ids, mask = random_batch(family, LENGTHS)
    fast = states(encoder, ids, mask)
    with by_the_layers(), plain_products(encoder):
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@torch.no_grad()
def test_one_adapter_gives_the_states_of_plain_layers(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    source = sources_of(family.name, 2)[1]
    encoder = SourceEncoder(fresh_base(base_of(family.name)))
    ids, mask = random_batch(family, LENGTHS)
    plain = states(encoder, ids, mask)
    with by_the_layers(), plain_products(encoder):
        torch.testing.assert_close(plain, states(encoder, ids, mask), **CLOSE)
    encoder.backbone = source.peft
    torch.testing.assert_close(states(encoder, ids, mask), source.states(ids, mask)[mask.bool()], **CLOSE)


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize("integrator", FORMS)
def test_gradients_equal_those_of_plain_layers(
    family: Family,
    integrator: str,
    few: int,
    base_of: Folders,
    sources_of: SourcesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = integrated(base_of(family.name), sources_of(family.name, 2), integrator).train()
    ids, mask = random_batch(family, LENGTHS)

    monkeypatch.setattr(texts, "_FEW_SLOTS", few)

    def gradients() -> list[Tensor]:
        trained = [p for p in encoder.parameters() if p.requires_grad]
        return list(torch.autograd.grad(states(encoder, ids, mask).square().sum(), trained))

    assert encoder.packs_in_training == (family.name in PACKED)
    fast = gradients()
    with by_the_layers(), plain_products(encoder):
        slow = gradients()
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))


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
    for ablation in (encoder.ablated(1, 0), encoder.integration_off()):
        with ablation:
            fast = states(encoder, ids, mask)
            with by_the_layers():
                torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)
        assert not torch.allclose(fast, whole, atol=1e-3)


# ---- precision


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


# ---- folded weights follow the weights


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


# ---- one LoRA in training


TARGETS = {
    "bert": [["query", "value"], ["key"], ["query", "key", "value", "dense"], ["intermediate.dense"]],
    "mpnet": [["q", "v"], ["k"], ["q", "k", "v", "o", "intermediate.dense", "output.dense"]],
}
TRAINED = [(name, targets) for name, several in TARGETS.items() for targets in several]


def adapted(base: Path, *, start: float = 0.2, **lora: Any) -> SourceEncoder:
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "bias": "none", **lora})
    encoder = SourceEncoder(fresh_base(base), config).train()
    randomise(encoder, "lora_B", start)
    return encoder


def without_dropout(encoder: nn.Module) -> None:
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0


def states_and_gradients(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> list[Tensor]:
    trained = [p for p in encoder.parameters() if p.requires_grad]
    found = states(encoder, ids, mask)
    towards = torch.randn(found.shape, generator=torch.Generator().manual_seed(3))
    return [found, *torch.autograd.grad((found * towards).sum(), trained)]


def assert_equal_to_the_layers(encoder: TitleEncoder, ids: Tensor, mask: Tensor) -> None:
    assert encoder.packs_in_training
    fast = states_and_gradients(encoder, ids, mask)
    with by_the_layers(), plain_products(encoder):
        slow = states_and_gradients(encoder, ids, mask)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.detach().abs().max())))


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
    with by_the_layers(), plain_products(encoder):
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
    assert not encoder.packs_in_training
    encoder.eval()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    with torch.no_grad():
        found = states(encoder, ids, mask)
        with by_the_layers():
            torch.testing.assert_close(found, states(encoder, ids, mask), **CLOSE)


def test_full_training_two_adapters_and_recomputation_go_through_the_layers(base_of: Folders) -> None:
    whole = SourceEncoder(fresh_base(base_of("bert"))).train()
    whole.backbone.requires_grad_(True)
    assert not whole.packs_in_training
    encoder = adapted(base_of("bert"), target_modules=["query", "value"])
    encoder.backbone.activation_checkpointing_enable()
    assert not encoder.packs_in_training
    encoder.backbone.activation_checkpointing_disable()
    assert encoder.packs_in_training
    with encoder.backbone.disable_adapter():
        assert encoder.packs_in_training  # PEFT freezes it meanwhile
    encoder.backbone.add_adapter("other", LoraConfig(r=2, target_modules=["query"]))
    encoder.backbone.base_model.set_adapter(["default", "other"])
    assert not encoder.packs_in_training


def test_it_steps_aside_where_dropout_is_wanted_without_gradients(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), default_lora(4)).eval()
    one = encoder._packed_encoder()
    assert one is not None
    assert one.ready()
    with torch.no_grad():
        assert one.ready()
        encoder.train()
        assert not one.ready()


# ---- the layout


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.integers(1, 30))
def test_parts_keep_all_tokens_within_the_limit(lengths: list[int], limit: int) -> None:
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    packed = PackedTexts.of(mask)
    assert packed is not None
    assert sorted(length for count, length in packed.groups for _ in range(count)) == sorted(lengths)
    assert sorted(packed.place.tolist()) == mask.flatten().nonzero()[:, 0].tolist()
    parts = packed.parts(limit)
    assert torch.equal(torch.cat([part.place for part in parts]), packed.place)
    for part in parts:
        size = sum(count * length for count, length in part.groups)
        assert size == len(part.place)
        assert size <= limit or len(part.groups) == part.groups[0][0] == 1


@pytest.mark.parametrize("mask", [[[0, 1, 1]], [[1, 0, 1]], [[1, 1, 1], [0, 0, 0]]])
def test_texts_that_are_not_padded_at_the_right_are_not_packed(mask: list[list[int]]) -> None:
    assert PackedTexts.of(torch.tensor(mask)) is None


@torch.no_grad()
def test_a_batch_padded_at_the_left_goes_through_the_layers(base_of: Folders) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")))
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    with by_the_layers():
        expected = states(encoder, ids.flip(1), mask.flip(1))
    assert torch.equal(states(encoder, ids.flip(1), mask.flip(1)), expected)


# ---- integration after the last layers only, and what training keeps


def top_encoder(base: Path, sources: list[Source], top_layers: int | None, integrator: str) -> IntegratedEncoder:
    found = fresh_base(base)
    adapters = [read_adapter(s.folder, found) for s in sources]
    encoder = IntegratedEncoder(found, adapters, integrator=integrator, top_layers=top_layers).eval()
    randomise(encoder, "concat_weight", 0.02)
    randomise(encoder, "direction", 0.2)
    randomise(encoder, "stream_weight", 0.5)
    return encoder


def kept(encoder: IntegratedEncoder) -> kept_states.KeptStates:
    assert encoder._packed is not None
    return encoder._packed._kept


@contextmanager
def keeping_nothing() -> Iterator[None]:
    """Within the block training computes all layers each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PackedEncoder, "_can_keep", lambda self: False)
        yield


@pytest.mark.parametrize("integrator", ["paper", "pairwise"])
@pytest.mark.parametrize("top_layers", [1, 2, 3])
@torch.no_grad()
def test_top_layers_give_the_states_of_plain_layers(
    family: Family, top_layers: int, integrator: str, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = top_encoder(base_of(family.name), sources_of(family.name, 2), top_layers, integrator)
    ids, mask = random_batch(family, LENGTHS)
    fast = states(encoder, ids, mask)
    with by_the_layers(), plain_products(encoder):
        torch.testing.assert_close(fast, states(encoder, ids, mask), **CLOSE)


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize("top_layers", [None, 2, 1])
@pytest.mark.parametrize("name", PACKED)
def test_kept_states_change_neither_states_nor_gradients(
    name: str,
    top_layers: int | None,
    few: int,
    base_of: Folders,
    sources_of: SourcesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = top_encoder(base_of(name), sources_of(name, 3), top_layers, "pairwise").train()
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    monkeypatch.setattr(passes, "_TOKENS_AT_ONCE", 40)
    with keeping_nothing():
        expected = states_and_gradients(encoder, ids, mask)
    assert not kept(encoder).states
    orders = (torch.arange(5), torch.tensor([4, 1, 0, 3, 1]))  # anew, and again in another order and twice
    for order in (*orders, *orders):
        with keeping_nothing():
            expected = states_and_gradients(encoder, ids[order], mask[order])
        for one, other in zip(states_and_gradients(encoder, ids[order], mask[order]), expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(1 + other.detach().abs().max()))
        assert len(kept(encoder).states) == 5


def test_a_text_that_was_kept_takes_no_lower_layer(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "pairwise").train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    run: list[Layer] = []
    embedded: list[Any] = []
    own = Layer.run

    def recorded(self: Layer, *args: Any) -> Tensor:
        run.append(self)
        return own(self, *args)

    encoder.backbone.embeddings.register_forward_hook(lambda *call: embedded.append(call))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Layer, "run", recorded)
        counts = []
        for _ in range(2):
            run.clear()
            states(encoder, ids, mask)
            counts.append(len({id(layer) for layer in run}))
    assert counts == [3, 1]
    assert len(embedded) == 1
    with torch.no_grad():
        states(encoder, ids, mask)
    assert len(embedded) == 2  # kept states serve training alone


def test_mixed_precision_keeps_states_of_its_own(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "paper").train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    exact = states(encoder, ids, mask)
    with torch.autocast("cpu", torch.bfloat16), keeping_nothing():
        expected = states(encoder, ids, mask)
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(states(encoder, ids, mask), expected, rtol=2e-2, atol=2e-2)
    assert len(kept(encoder).states) == 2 * 5
    assert not torch.equal(exact, expected)
    torch.testing.assert_close(states(encoder, ids, mask), exact, **CLOSE)


@pytest.mark.parametrize("what", ["adapter", "embeddings"])
def test_kept_states_go_when_a_weight_changes(what: str, base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "paper").train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    before = states(encoder, ids, mask)
    with torch.no_grad():
        if what == "adapter":
            encoder.backbone.encoder.layer[0].attention.self.query.down[0].mul_(2.0)
        else:
            encoder.backbone.embeddings.word_embeddings.weight.mul_(1.5)
    with keeping_nothing():
        expected = states(encoder, ids, mask)
    after = states(encoder, ids, mask)
    torch.testing.assert_close(after, expected, **CLOSE)
    assert (after - before).abs().max() > 1e-3
    assert len(kept(encoder).states) == 5


def test_kept_states_stay_within_their_bytes(
    base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "paper").train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    a_token = 2 * encoder.dim * 4
    monkeypatch.setattr(kept_states, "_KEPT_BYTES", 11 * a_token)  # of 1, 5, 5, 9 and 12 tokens the first three
    with keeping_nothing():
        expected = states(encoder, ids, mask)
    for _ in range(2):
        torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)
        assert [found.shape[1] for found in kept(encoder).states.values()] == [1, 5, 5]
        assert kept(encoder).bytes == 11 * a_token
    encoder.forget_cached_states()
    assert (kept(encoder).states, kept(encoder).bytes) == ({}, 0)


def test_kept_states_are_in_no_copy(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "paper").train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    expected = states(encoder, ids, mask)
    copied = deepcopy(encoder)
    assert not kept(copied).states
    assert len(kept(encoder).states) == 5
    torch.testing.assert_close(states(copied, ids, mask), expected, **CLOSE)
    with torch.no_grad():
        copied.backbone.embeddings.word_embeddings.weight.mul_(1.5)
    torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)


def test_nothing_is_kept_of_pairs_nor_where_the_backbone_trains(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = top_encoder(base_of("bert"), sources_of("bert", 2), 2, "paper").train()
    encoder(encoder.preprocess([("w1;w2", "w3"), ("w4", "w5")]))
    assert not kept(encoder).states
    encoder.backbone.train()  # dropout
    states(encoder, *random_batch(FAMILIES["bert"], LENGTHS))
    assert not kept(encoder).states


# ---- a LoRA of the target's own


def with_target_lora(base: Path, sources: list[Source], target_layers: int | None = None) -> IntegratedEncoder:
    found = fresh_base(base)
    adapters = [read_adapter(s.folder, found) for s in sources]
    encoder = IntegratedEncoder(found, adapters, top_layers=2, target_rank=2, target_layers=target_layers).eval()
    for part in ("concat_weight", "stream_weight", "target.up"):
        randomise(encoder, part, 0.05)
    return encoder


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
def test_the_targets_own_lora_gives_the_states_and_gradients_of_plain_layers(
    family: Family, few: int, base_of: Folders, sources_of: SourcesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = with_target_lora(base_of(family.name), sources_of(family.name, 2)).train()
    ids, mask = random_batch(family, LENGTHS)
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    assert encoder.packs_in_training == (family.name in PACKED)
    fast = states_and_gradients(encoder, ids, mask)
    with torch.no_grad():
        torch.testing.assert_close(states(encoder, ids, mask), fast[0].detach(), **CLOSE)
    with by_the_layers(), plain_products(encoder):
        slow = states_and_gradients(encoder, ids, mask)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.detach().abs().max()))
    if family.name in PACKED:
        assert not kept(encoder).states, "below the integrators it trains too"


@pytest.mark.parametrize("few", [0, 10_000], ids=["a call a length", "one padded call"])
@pytest.mark.parametrize(("target_layers", "anew"), [(1, 1), (2, 2)])
@pytest.mark.parametrize("name", PACKED)
def test_below_a_lora_of_the_last_layers_states_are_kept(
    name: str,
    target_layers: int,
    anew: int,
    few: int,
    base_of: Folders,
    sources_of: SourcesOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoder = with_target_lora(base_of(name), sources_of(name, 2), target_layers).train()
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    monkeypatch.setattr(texts, "_FEW_SLOTS", few)
    run: list[Layer] = []
    own = Layer.run

    def recorded(self: Layer, *args: Any) -> Tensor:
        run.append(self)
        return own(self, *args)

    for step in range(3):
        for lora in encoder.target_loras.values():
            lora.up.data.mul_(-1)  # as a fused optimizer does: without a new version
        with keeping_nothing():
            expected = states_and_gradients(encoder, ids, mask)
        run.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Layer, "run", recorded)
            found = states_and_gradients(encoder, ids, mask)
        assert len({id(layer) for layer in run}) == (3 if step == 0 else anew)
        assert len(kept(encoder).states) == 5
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5 * float(1 + other.detach().abs().max()))


def test_states_kept_go_when_a_lower_layer_trains_and_when_it_rests_again(
    base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = with_target_lora(base_of("bert"), sources_of("bert", 2)).train()
    ids, mask = random_batch(FAMILIES["bert"], LENGTHS)
    states(encoder, ids, mask)
    assert not kept(encoder).states, "every layer trains"
    first = [lora for path, lora in encoder.target_loras.items() if ".layer.0." in path]
    for trains in (False, True, False):
        for lora in first:
            lora.requires_grad_(trains)
            lora.up.data.mul_(-1)
        with keeping_nothing():
            expected = states(encoder, ids, mask)
        torch.testing.assert_close(states(encoder, ids, mask), expected, **CLOSE)
        assert encoder._packed is not None
        assert encoder._packed._last_kept() == (-1 if trains else 0)


@pytest.mark.parametrize("name", PACKED)
def test_a_step_of_the_targets_own_lora_is_seen(name: str, base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = with_target_lora(base_of(name), sources_of(name, 2)).train()
    ids, mask = random_batch(FAMILIES[name], LENGTHS)
    with torch.no_grad():
        before = states(encoder, ids, mask)
        for lora in encoder.target_loras.values():
            lora.up.data.mul_(-1)  # as a fused optimizer does: without a new version
        after = states(encoder, ids, mask)
        with by_the_layers():
            torch.testing.assert_close(after, states(encoder, ids, mask), **CLOSE)
    assert not torch.allclose(before, after, atol=1e-3)
