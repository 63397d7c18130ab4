"""The merged form against slow references: PEFT's own updates, averaged in a loop, and PEFT's own forward."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load, save_file
from torch import Tensor

from encoders import CLOSE, SETTINGS, Folders, SourcesOf, edit, merged_over, output, real, save_to
from fast_reference import by_the_layers
from model_families import FAMILIES, Family, Source, fresh_base, random_batch, randomise
from xcrossrec.config import Integration
from xcrossrec.exceptions import BundleError, ConfigError, ModelError
from xcrossrec.models.merged import MergedEncoder

TARGET = "target/adapter_model.safetensors"


@torch.no_grad()
def pefts_updates(source: Source) -> dict[str, Tensor]:
    """What an adapter adds to each layer's weight, read off PEFT's own forward of each unit vector."""
    updates = {}
    for path, layer in source.encoder.named_modules():
        if hasattr(layer, "get_base_layer") and "pooler" not in path:  # which no base of ours has
            units = torch.eye(layer.in_features)
            updates[path] = (layer(units) - layer.get_base_layer()(units)).t()
    return updates


@torch.no_grad()
def loop_reference(base: Path, sources: Sequence[Source], shares: Sequence[float]) -> Any:
    """The base with shares of PEFT's updates added to its weights, layer by layer and source by source."""
    backbone = fresh_base(base).backbone
    for source, share in zip(sources, shares, strict=True):
        for path, update in pefts_updates(source).items():
            backbone.get_submodule(path).weight += share * update
    return backbone


@torch.no_grad()
def states(backbone: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return real(backbone(input_ids=ids, attention_mask=mask).last_hidden_state, mask)


def trained_over(base: Path, sources: Sequence[Source], **settings: Any) -> MergedEncoder:
    """As after training: a LoRA of the target's own that has an effect, and a scale that is not one."""
    encoder = merged_over(base, sources, **settings)
    randomise(encoder, "lora_B", 0.2)
    with torch.no_grad():
        encoder.scale.fill_(1.3)
    return encoder


@pytest.fixture
def bert_encoder(base_of: Folders, sources_of: SourcesOf) -> MergedEncoder:
    return trained_over(base_of("bert"), sources_of("bert", 2))


# ---- what it computes


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_the_base_with_the_mean_of_pefts_updates(
    family: Family, count: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, count)
    encoder = merged_over(base_of(family.name), sources)
    ids, mask = random_batch(family)
    expected = states(loop_reference(base_of(family.name), sources, [1 / count] * count), ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), expected, **CLOSE)
    for source in sources:
        assert (expected - real(source.states(ids, mask), mask)).abs().max() > 0.1
    with by_the_layers():
        torch.testing.assert_close(real(output(encoder, ids, mask), mask), expected, **CLOSE)


def test_with_the_targets_lora_it_is_pefts_own_model_times_the_scale(
    family: Family, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    sources = sources_of(family.name, 2)
    encoder = trained_over(base_of(family.name), sources, rank=3)
    folder = save_to(encoder, tmp_path / "model")
    mean = loop_reference(base_of(family.name), sources, [0.5, 0.5])
    ids, mask = random_batch(family)
    without = states(mean, ids, mask)
    peft = PeftModel.from_pretrained(mean, str(folder / "target")).eval()
    expected = 1.3 * states(peft, ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), expected, **CLOSE)
    assert (expected - 1.3 * without).abs().max() > 0.1


def test_the_targets_lora_stands_where_a_source_adapts_and_starts_without_an_effect(
    family: Family, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, 2)
    encoder = merged_over(base_of(family.name), sources, rank=2)
    own = {name: p for name, p in encoder.backbone.named_parameters() if "lora_" in name}
    paths = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in own}
    assert paths == {path for source in sources for path in pefts_updates(source)}
    assert {2} == {p.shape[0] if "lora_A" in name else p.shape[1] for name, p in own.items()}
    assert all(bool(p.any()) == ("lora_A" in name) for name, p in own.items())
    assert encoder.backbone.peft_config["default"].lora_alpha == 2 * 2, "scaled by two, as the sources are by default"
    assert {id(p) for p in encoder.lora_state().values()} == {id(p) for p in own.values()}


def test_the_start_comes_from_the_seed_alone(base_of: Folders, sources_of: SourcesOf) -> None:
    def start(seed: int) -> list[Tensor]:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return list(merged_over(base_of("bert"), sources_of("bert", 2)).lora_state().values())

    first, same, other = start(0), start(0), start(1)
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_the_lora_and_the_scale_train_and_the_backbones_dropout_never_runs(bert_encoder: MergedEncoder) -> None:
    trained = {id(p) for p in bert_encoder.parameters() if p.requires_grad}
    assert trained == {id(p) for p in [*bert_encoder.lora_state().values(), bert_encoder.scale]}
    bert_encoder.train()
    assert bert_encoder.training
    assert not any(module.training for module in bert_encoder.backbone.modules())


# ---- what it refuses


@pytest.mark.parametrize("rank", [0, -1, 1.5, True])
def test_a_rank_that_is_none(rank: int, base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ConfigError, match=rf"rank is {rank}: expected a whole number from 1 to 1,024"):
        merged_over(base_of("bert"), sources_of("bert", 2), rank=rank)


def test_one_adapter_or_two_of_one_name(base_of: Folders, sources_of: SourcesOf) -> None:
    first = sources_of("bert", 2)[:1]
    with pytest.raises(ModelError, match="at least 2 sources, got 1"):
        merged_over(base_of("bert"), first)
    with pytest.raises(ModelError, match=r"names must differ, got \['source0', 'source0'\]"):
        merged_over(base_of("bert"), first * 2)


# ---- a source left out


@pytest.mark.parametrize(("count", "source"), [(2, 0), (2, 1), (3, 1)])
def test_left_out_equals_leaving_it_out_by_hand(
    family: Family, count: int, source: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, count)
    encoder = merged_over(base_of(family.name), sources)
    ids, mask = random_batch(family)
    shares = [0 if number == source else 1 / count for number in range(count)]
    with encoder.left_out(source):
        found = real(output(encoder, ids, mask), mask)
    torch.testing.assert_close(found, states(loop_reference(base_of(family.name), sources, shares), ids, mask), **CLOSE)


def test_after_left_out_all_is_as_before_bit_for_bit(bert_encoder: MergedEncoder) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    before, weights = output(bert_encoder, ids, mask), dict(bert_encoder.named_parameters())
    for source in (0, 1):
        with bert_encoder.left_out(source):
            without = output(bert_encoder, ids, mask)
            assert not any(p.requires_grad for name, p in bert_encoder.named_parameters() if "base_layer" in name)
        assert (without - before).abs().max() > 0.01
        after = dict(bert_encoder.named_parameters())
        assert all(after[name] is weights[name] for name in weights)
        assert torch.equal(output(bert_encoder, ids, mask), before)
    with pytest.raises(KeyboardInterrupt), bert_encoder.left_out(0):
        raise KeyboardInterrupt
    assert torch.equal(output(bert_encoder, ids, mask), before)


def test_left_out_does_not_disturb_a_copy_that_shares_the_weights(bert_encoder: MergedEncoder) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    copy = deepcopy(bert_encoder, {id(p): p for p in bert_encoder.parameters()})
    assert all(a is b for a, b in zip(copy.parameters(), bert_encoder.parameters(), strict=True))
    before = output(copy, ids, mask)
    with bert_encoder.left_out(0):
        assert torch.equal(output(copy, ids, mask), before)
        assert not torch.equal(output(bert_encoder, ids, mask), before)
    assert torch.equal(output(bert_encoder, ids, mask), before)


# ---- on disk


@pytest.mark.parametrize("trainable", [False, True])
def test_a_saved_one_gives_the_same_bits(
    family: Family, trainable: bool, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = trained_over(base_of(family.name), sources_of(family.name, 2), rank=3)
    folder = save_to(encoder, tmp_path / "model")
    loaded = MergedEncoder.load(str(folder), trainable=trainable)
    ids, mask = random_batch(family)
    if not trainable:  # a LoRA that trains is not folded into the weights
        assert torch.equal(output(loaded, ids, mask), output(encoder.requires_grad_(False), ids, mask))
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), encoder.parameters(), strict=True))
    assert {p.requires_grad for p in loaded.lora_state().values()} == {trainable}
    torch.testing.assert_close(real(output(loaded, ids, mask), mask), real(output(encoder, ids, mask), mask), **CLOSE)
    loaded.save(str(folder))  # over itself: the adapters stay
    again = MergedEncoder.load(str(folder))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), encoder.parameters(), strict=True))


def test_the_integrations_settings_are_saved_as_they_are(
    base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = merged_over(base_of("bert"), sources_of("bert", 2), rank=3, max_tokens=20)
    assert encoder.settings()["integration"] == asdict(Integration("merged", rank=3))
    folder = save_to(encoder, tmp_path / "model")
    loaded = MergedEncoder.load(str(folder))
    assert Integration(**MergedEncoder.read_settings(folder)["integration"]) == loaded.integration
    assert (loaded.settings(), loaded.sources) == (encoder.settings(), ("source0", "source1"))


def test_a_damaged_target_folder_is_named(bert_encoder: MergedEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    path = folder / TARGET
    whole = load(path.read_bytes())
    name = next(iter(sorted(whole)))
    for tensors in (
        {key: value for key, value in whole.items() if key != name},
        {**whole, name: whole[name][:1].clone()},
        {**whole, "foreign": torch.zeros(1)},
    ):
        save_file(tensors, path)
        wrong = "foreign" if "foreign" in tensors else name.replace(".", r"\.")
        with pytest.raises(BundleError, match=rf"{TARGET} does not fit its settings \({wrong}\)"):
            MergedEncoder.load(str(folder))
    path.write_bytes(b"broken")
    with pytest.raises(BundleError, match=rf"{TARGET} is not a readable safetensors file"):
        MergedEncoder.load(str(folder))
    path.unlink()
    with pytest.raises(BundleError, match=rf"weights .*{TARGET} are missing: copy it again"):
        MergedEncoder.load(str(folder))
    torch.save(whole, path.with_suffix(".bin"))
    with pytest.raises(BundleError, match=r"adapter_model\.bin is a pickle and is never read"):
        MergedEncoder.load(str(folder))


def test_another_rank_in_the_settings_than_in_the_target_folder(bert_encoder: MergedEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    edit(folder / SETTINGS, '"rank": 2', '"rank": 5')
    with pytest.raises(BundleError, match=rf"{TARGET} does not fit its settings .*another configuration"):
        MergedEncoder.load(str(folder))


@pytest.mark.parametrize(("name", "size"), [("factor", ()), ("scale", (2,))])
def test_a_foreign_scale(name: str, size: tuple[int, ...], bert_encoder: MergedEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    save_file({name: torch.ones(size)}, folder / "scale.safetensors")
    with pytest.raises(BundleError, match=rf"scale\.safetensors does not fit its settings \({name}\)"):
        MergedEncoder.load(str(folder))
