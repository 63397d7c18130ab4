"""Stacked adapters against PEFT's own forward, and the integrated encoder against a layer-by-layer loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from model_families import DIM, FAMILIES, Family, Source, fresh_base, random_batch, randomise, write_base
from xcrossrec.exceptions import BaseMismatchError, BundleError, ConfigError, ModelError
from xcrossrec.models.adapters import MANIFEST, Adapter, read_adapter
from xcrossrec.models.base import Base, encoder_layers
from xcrossrec.models.encoder import load_matching_base
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.models.xcross.streams import StackedLoraLinear, stack_adapters

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def encoder_over(base: Path, sources: Sequence[Source], **settings: Any) -> XCrossEncoder:
    found = fresh_base(base)
    adapters = [read_adapter(source.folder, found) for source in sources]
    return XCrossEncoder(found, adapters, **settings).eval()


@pytest.fixture
def bert_encoder(base_of: Folders, sources_of: SourcesOf) -> XCrossEncoder:
    """Two BERT sources with random integrators and unequal stream weights."""
    encoder = encoder_over(base_of("bert"), sources_of("bert", 2), beta=0.6, gamma=1.4)
    randomise(encoder, "concat_weight", 0.1)
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.tensor([0.8, -0.3]))
    return encoder


@torch.no_grad()
def output(encoder: XCrossEncoder, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = encoder({"input_ids": ids, "attention_mask": mask})["token_embeddings"]
    return states


def real(states: Tensor, mask: Tensor) -> Tensor:
    """The states of tokens that are no padding."""
    return states[..., mask.bool(), :]


# ---- one stream is PEFT's own model


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_each_stream_is_pefts_own_forward(family: Family, count: int, base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of(family.name, count)
    ids, mask = random_batch(family)
    streams = encoder_over(base_of(family.name), sources).encode_streams(ids, mask)
    for stream, source in zip(streams, sources, strict=True):
        torch.testing.assert_close(real(stream, mask), real(source.states(ids, mask), mask), **CLOSE)
    assert (real(streams[0], mask) - real(streams[1], mask)).abs().max() > 0.1


@torch.no_grad()
def test_head_bearing_adapters_give_their_encoder(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of(family.name, 2, head=True)
    ids, mask = random_batch(family)
    encoder = encoder_over(base_of(family.name), sources)
    for stream, source in zip(encoder.encode_streams(ids, mask), sources, strict=True):
        torch.testing.assert_close(real(stream, mask), real(source.states(ids, mask), mask), **CLOSE)
    assert all(adapter.head_keys for adapter in encoder.adapters)


# ---- the whole encoder against a loop over layers, sources and tokens


class Replay:
    """Runs one PEFT model with the outputs of its first layers replaced by refined ones."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        self.layers = layers
        self.refined: list[Tensor] = []
        self.seen: list[Tensor] = []

    def hook(self, number: int) -> Callable[..., Any]:
        def replace(module: nn.Module, inputs: Any, result: Any) -> Any:
            own = result[0] if isinstance(result, tuple) else result
            self.seen[number:] = [own]
            new = self.refined[number] if number < len(self.refined) else own
            return (new, *result[1:]) if isinstance(result, tuple) else new

        return replace

    def __enter__(self) -> Replay:
        self._handles = [layer.register_forward_hook(self.hook(n)) for n, layer in enumerate(self.layers)]
        return self

    def __exit__(self, *error: object) -> None:
        for handle in self._handles:
            handle.remove()


def outputs_of_layers(backbone: nn.Module) -> list[nn.Module]:
    layers: list[nn.Module] = list(encoder_layers(backbone))
    conv = getattr(getattr(backbone, "encoder", None), "conv", None)
    return layers if conv is None else [conv, *layers[1:]]


def refine(weight: Tensor, hidden: Sequence[Tensor], beta: float, gamma: float) -> list[Tensor]:
    """Stages 2 and 3 with plain loops over sources; tokens side by side."""
    n = len(hidden)
    z = torch.cat(list(hidden), dim=-1) @ weight.t()
    refined, pair = [], 0
    for m in range(n):
        new = hidden[m].clone()
        for j in range(n):
            if j != m:
                new += beta * z[..., pair, None] * hidden[j]
                new += gamma * z[..., n * (n - 1) + pair, None] * (hidden[m] - hidden[j])
                pair += 1
        refined.append(new)
    return refined


@torch.no_grad()
def loop_reference(encoder: XCrossEncoder, sources: Sequence[Source], ids: Tensor, mask: Tensor) -> Tensor:
    """Layer by layer: each source's own PEFT layer, then the refinement; at the end the weighted sum."""
    with ExitStack() as stack:
        replays = [stack.enter_context(Replay(outputs_of_layers(source.encoder))) for source in sources]
        below = len(replays[0].layers) - len(encoder.integrators)
        for number, integrator in enumerate(encoder.integrators, start=below):
            for source in sources:
                source.states(ids, mask)
            for replay in replays if number == below else ():
                replay.refined = replay.seen[:below]
            hidden = [replay.seen[number] for replay in replays]
            new = refine(integrator.concat_weight, hidden, encoder.beta, encoder.gamma)
            for replay, states in zip(replays, new, strict=True):
                replay.refined.append(states)
        last = [source.states(ids, mask) for source in sources]
    return sum(weight * states for weight, states in zip(encoder.stream_weight, last, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize("count", [2, 3])
def test_integrated_encoder_equals_the_layer_by_layer_loop(
    family: Family, count: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, count)
    encoder = encoder_over(base_of(family.name), sources, beta=0.5, gamma=1.5)
    randomise(encoder, "concat_weight", 0.05)
    randomise(encoder, "stream_weight", 1.0)
    ids, mask = random_batch(family)
    expected = loop_reference(encoder, sources, ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(expected, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_layers", [1, 2, 3])
def test_top_layers_equal_the_layer_by_layer_loop(
    family: Family, top_layers: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, 2)
    encoder = encoder_over(base_of(family.name), sources, beta=0.5, gamma=1.5, top_layers=top_layers)
    assert len(encoder.integrators) == top_layers
    assert encoder.layer_numbers == [1, 2, 3][-top_layers:]
    randomise(encoder, "concat_weight", 0.05)
    randomise(encoder, "stream_weight", 1.0)
    ids, mask = random_batch(family)
    expected = loop_reference(encoder, sources, ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(expected, mask), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("top_layers", [0, 4, True, 1.5])
def test_top_layers_that_the_base_lacks_are_refused(top_layers: int, base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ConfigError, match=rf"top_layers is {top_layers}: expected a whole number from 1 to 3"):
        encoder_over(base_of("bert"), sources_of("bert", 2), top_layers=top_layers)


def test_top_layers_have_parameters_of_their_own_only(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = encoder_over(base_of("bert"), sources_of("bert", 3), integrator="pairwise", top_layers=2)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trained == 2 * 3 * 2 * (DIM + 1) + 3
    assert {key.split(".")[1] for key in encoder.integration_state() if key != "stream_weight"} == {"0", "1"}


# ---- a LoRA of the target's own


@torch.no_grad()
def test_the_targets_own_lora_starts_without_an_effect(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of(family.name, 2)
    ids, mask = random_batch(family)
    plain = output(encoder_over(base_of(family.name), sources), ids, mask)
    own = output(encoder_over(base_of(family.name), sources, target_rank=2), ids, mask)
    torch.testing.assert_close(real(own, mask), real(plain, mask), **CLOSE)


@torch.no_grad()
def test_the_targets_own_lora_is_added_to_every_stream(base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of("bert", 2)
    encoder = encoder_over(base_of("bert"), sources, target_rank=3)
    randomise(encoder, "target.up", 0.1)
    ids, mask = random_batch(FAMILIES["bert"])
    streams = encoder.encode_streams(ids, mask)
    for number, adapter in enumerate(encoder.adapters):
        alone = fresh_base(base_of("bert")).backbone.eval()
        for path, linear in [(p, m) for p, m in alone.named_modules() if isinstance(m, nn.Linear)]:
            if path in adapter.factors:
                linear.weight += adapter.factors[path].up @ adapter.factors[path].down
            if path in encoder.target_loras:
                lora = encoder.target_loras[path]
                linear.weight += 2.0 * lora.up @ lora.down
        expected = alone(input_ids=ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(real(streams[number], mask), real(expected, mask), rtol=1e-4, atol=1e-4)


def test_the_targets_own_lora_trains_and_nothing_else_of_the_backbone(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = encoder_over(base_of("bert"), sources_of("bert", 2), top_layers=1, target_rank=2)
    trained = {name for name, p in encoder.named_parameters() if p.requires_grad}
    assert {name for name in trained if ".target." not in name} == {
        "stream_weight",
        next(name for name in trained if name.endswith("concat_weight")),
    }
    assert set(encoder.target_loras) == {path for adapter in encoder.adapters for path in adapter.factors}
    own = sum(p.numel() for lora in encoder.target_loras.values() for p in lora.parameters())
    factors = {path: f for adapter in encoder.adapters for path, f in adapter.factors.items()}
    assert own == sum(2 * (f.down.shape[1] + f.up.shape[0]) for f in factors.values())


def test_the_targets_own_lora_in_the_last_layers_only(
    family: Family, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    sources = sources_of(family.name, 2)
    everywhere = encoder_over(base_of(family.name), sources, target_rank=2)
    encoder = encoder_over(base_of(family.name), sources, target_rank=2, target_layers=1)
    last = len(everywhere.layer_numbers) - 1
    wanted = {path for path in everywhere.target_loras if f".{last}." in path}
    assert wanted
    assert set(encoder.target_loras) == wanted < set(everywhere.target_loras)
    randomise(encoder, "target.up", 0.1)
    ids, mask = random_batch(family)
    encoder.save(str(tmp_path))
    loaded = XCrossEncoder.load(str(tmp_path), base=fresh_base(base_of(family.name)))
    assert loaded.target_layers == 1
    torch.testing.assert_close(real(output(loaded, ids, mask), mask), real(output(encoder, ids, mask), mask), **CLOSE)


@pytest.mark.parametrize("layers", [0, 4, 1.5, True])
def test_target_layers_that_the_base_does_not_have_are_refused(
    layers: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    with pytest.raises(ConfigError, match=rf"target_layers is {layers}: expected a whole number from 1 to 3"):
        encoder_over(base_of("bert"), sources_of("bert", 2), target_rank=1, target_layers=layers)


def test_target_layers_without_a_rank_are_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ConfigError, match="target_layers is 1, but target_rank is 0: give that LoRA a rank"):
        encoder_over(base_of("bert"), sources_of("bert", 2), target_layers=1)


@pytest.mark.parametrize("rank", [-1, 1.5, True])
def test_a_target_rank_that_is_none_is_refused(rank: int, base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ConfigError, match=rf"target_rank is {rank}: expected a whole number"):
        encoder_over(base_of("bert"), sources_of("bert", 2), target_rank=rank)


@pytest.mark.parametrize("trainable", [False, True])
@torch.no_grad()
def test_the_targets_own_lora_is_saved(
    family: Family, trainable: bool, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = encoder_over(base_of(family.name), sources_of(family.name, 2), top_layers=2, target_rank=2)
    randomise(encoder, "target.up", 0.1)
    ids, mask = random_batch(family)
    expected = output(encoder, ids, mask)
    encoder.save(str(tmp_path))
    loaded = XCrossEncoder.load(str(tmp_path), base=fresh_base(base_of(family.name)), trainable=trainable)
    torch.testing.assert_close(real(output(loaded, ids, mask), mask), real(expected, mask), **CLOSE)
    found = {p.requires_grad for lora in loaded.target_loras.values() for p in lora.parameters()}
    assert found == {trainable}


# ---- special cases


@torch.no_grad()
def test_zero_integrators_give_the_weighted_mean_of_the_sources(
    family: Family, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, 3)
    encoder = encoder_over(base_of(family.name), sources)
    ids, mask = random_batch(family)
    mean = sum(source.states(ids, mask) for source in sources) / 3
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(mean, mask), **CLOSE)


@pytest.mark.parametrize("chosen", [0, 1])
@torch.no_grad()
def test_one_hot_stream_weights_are_that_source(
    family: Family, chosen: int, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, 2)
    encoder = encoder_over(base_of(family.name), sources)
    encoder.stream_weight.copy_(torch.eye(2)[chosen])
    ids, mask = random_batch(family)
    expected = sources[chosen].states(ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(expected, mask), **CLOSE)


@pytest.mark.parametrize("integrator", ["paper", "pairwise"])
def test_batch_of_one_equals_batch_of_many_and_padding_changes_nothing(
    family: Family, integrator: str, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = encoder_over(base_of(family.name), sources_of(family.name, 2), integrator=integrator)
    randomise(encoder, "concat_weight", 0.02)
    randomise(encoder, "direction", 0.2)
    lengths = (12, 5, 9)
    ids, mask = random_batch(family, lengths)
    together = output(encoder, ids, mask)
    for row, length in enumerate(lengths):
        alone = output(encoder, ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], **CLOSE)


def test_without_integrators_it_is_the_weighted_mean_of_the_sources(
    family: Family, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    sources = sources_of(family.name, 2)
    encoder = encoder_over(base_of(family.name), sources, integrator="none")
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.tensor([0.75, 0.25]))
        ids, mask = random_batch(family)
        first, second = (source.states(ids, mask) for source in sources)
        found = output(encoder, ids, mask)
        torch.testing.assert_close(real(found, mask), real(0.75 * first + 0.25 * second, mask), **CLOSE)
        encoder.save(str(tmp_path))
        loaded = XCrossEncoder.load(str(tmp_path), base=fresh_base(base_of(family.name)))
        torch.testing.assert_close(real(output(loaded, ids, mask), mask), real(found, mask), **CLOSE)


def with_weights_changed(base: Base, adapters: Sequence[Adapter], shares: Sequence[float]) -> nn.Module:
    """The base's own layers, with shares of the adapters' updates added to their weights."""
    with torch.no_grad():
        for adapter, share in zip(adapters, shares, strict=True):
            for path, factors in adapter.factors.items():
                base.backbone.get_submodule(path).weight += share * factors.up @ factors.down
    return base.backbone


@pytest.mark.parametrize("count", [2, 3])
@torch.no_grad()
def test_merged_sources_are_one_model_with_the_mean_of_their_updates(
    family: Family, count: int, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = encoder_over(base_of(family.name), sources_of(family.name, count), integrator="merged")
    assert (encoder.streams, encoder.integrated_layers, len(encoder.sources)) == (1, [], count)
    ids, mask = random_batch(family)

    def expected(shares: Sequence[float]) -> Tensor:
        changed = with_weights_changed(fresh_base(base_of(family.name)), encoder.adapters, shares)
        return real(changed(input_ids=ids, attention_mask=mask).last_hidden_state, mask)

    found = real(output(encoder, ids, mask), mask)
    torch.testing.assert_close(found, expected([1 / count] * count), **CLOSE)
    with encoder.left_out(1):
        torch.testing.assert_close(
            real(output(encoder, ids, mask), mask), expected([(k != 1) / count for k in range(count)]), **CLOSE
        )
    assert torch.equal(real(output(encoder, ids, mask), mask), found)
    encoder.save(str(tmp_path))
    loaded = XCrossEncoder.load(str(tmp_path), base=fresh_base(base_of(family.name)))
    torch.testing.assert_close(real(output(loaded, ids, mask), mask), found, **CLOSE)


@torch.no_grad()
def test_merged_sources_can_be_chosen_anew_and_the_targets_lora_stays(base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of("bert", 3)
    encoder = encoder_over(base_of("bert"), sources, integrator="merged", target_rank=2)
    for lora in encoder.target_loras.values():
        nn.init.normal_(lora.up)
    two = encoder.reselect(fresh_base(base_of("bert")), encoder.adapters[:2])
    direct = encoder_over(base_of("bert"), sources[:2], integrator="merged", target_rank=2)
    for path, lora in direct.target_loras.items():
        lora.load_state_dict(encoder.target_loras[path].state_dict())
    ids, mask = random_batch(FAMILIES["bert"])
    torch.testing.assert_close(output(two, ids, mask), output(direct, ids, mask), **CLOSE)
    assert not torch.allclose(output(two, ids, mask), output(encoder, ids, mask), atol=1e-3)


@torch.no_grad()
def test_a_source_left_out_has_no_part_in_the_final_sum(bert_encoder: XCrossEncoder) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    before = bert_encoder.stream_weight.detach().clone()
    with bert_encoder.left_out(0):
        assert bert_encoder.stream_weight.tolist() == [0.0, *before.tolist()[1:]]
        without = output(bert_encoder, ids, mask)
    assert torch.equal(bert_encoder.stream_weight, before)
    assert not torch.allclose(without, output(bert_encoder, ids, mask), atol=1e-3)


def test_integration_off_equals_zero_integrators(bert_encoder: XCrossEncoder) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    mixed = output(bert_encoder, ids, mask)
    with bert_encoder.integration_off():
        off = output(bert_encoder, ids, mask)
    assert torch.equal(output(bert_encoder, ids, mask), mixed)
    randomise(bert_encoder, "concat_weight", 0.0)
    torch.testing.assert_close(off, output(bert_encoder, ids, mask), **CLOSE)
    assert not torch.allclose(off, mixed, atol=1e-3)


@pytest.mark.parametrize(("layer", "source"), [(0, 0), (0, 1), (2, 1)])
def test_ablated_equals_dropping_the_terms_by_hand(bert_encoder: XCrossEncoder, layer: int, source: int) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    with bert_encoder.ablated(layer, source):
        ablated = output(bert_encoder, ids, mask)
    integrator = bert_encoder.integrators[layer]
    rows = [row for row, (_, giver) in enumerate(integrator.pairs) if giver == source]
    with torch.no_grad():
        for row in rows:  # the giver's transfer and contrast rows of W_concat
            integrator.concat_weight[row] = 0
            integrator.concat_weight[row + len(integrator.pairs)] = 0
    torch.testing.assert_close(ablated, output(bert_encoder, ids, mask), **CLOSE)


def test_observing_gives_the_coefficients_of_each_layer(bert_encoder: XCrossEncoder) -> None:
    ids, mask = random_batch(FAMILIES["bert"])
    with bert_encoder.observing() as records:
        mixed = output(bert_encoder, ids, mask)
    assert [len(record) for record in records] == [1, 1, 1]
    assert records[0][0].shape == (2, 2, *ids.shape)
    torch.testing.assert_close(real(output(bert_encoder, ids, mask), mask), real(mixed, mask), **CLOSE)
    assert all(len(record) == 1 for record in records)


def test_only_integrators_and_stream_weights_train(bert_encoder: XCrossEncoder) -> None:
    trained = {name for name, p in bert_encoder.named_parameters() if p.requires_grad}
    assert all("integrator" in name or name == "stream_weight" for name in trained)
    assert len(trained) == 4
    bert_encoder.train()
    assert bert_encoder.training
    assert not bert_encoder.backbone.training


# ---- changing the sources


def test_reselect_drops_and_adds_sources(base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of("bert", 3)
    old = encoder_over(base_of("bert"), sources[:2], integrator="pairwise", beta=0.5)
    randomise(old, "integrator.", 0.3)
    found = fresh_base(base_of("bert"))
    new = old.reselect(found, [read_adapter(s.folder, found) for s in (sources[0], sources[2], sources[1])]).eval()
    ids, mask = random_batch(FAMILIES["bert"])
    torch.testing.assert_close(output(new, ids, mask), output(old, ids, mask), **CLOSE)
    assert new.stream_weight.tolist() == [0.5, 0.0, 0.5]
    assert new.beta == 0.5


def test_reselect_keeps_the_top_layers_and_the_targets_own_lora(base_of: Folders, sources_of: SourcesOf) -> None:
    sources = sources_of("bert", 3)
    own = {"target_rank": 2, "target_layers": 2}
    old = encoder_over(base_of("bert"), sources[:2], integrator="pairwise", top_layers=1, **own)
    randomise(old, "integrator.", 0.3)
    randomise(old, "target.up", 0.1)
    found = fresh_base(base_of("bert"))
    new = old.reselect(found, [read_adapter(s.folder, found) for s in sources]).eval()
    assert (new.top_layers, new.layer_numbers, new.target_layers) == (1, [3], 2)
    ids, mask = random_batch(FAMILIES["bert"])
    torch.testing.assert_close(output(new, ids, mask), output(old, ids, mask), **CLOSE)


def test_papers_encoder_refuses_to_reselect(bert_encoder: XCrossEncoder, base_of: Folders) -> None:
    with pytest.raises(ModelError, match="cannot change its 2 sources"):
        bert_encoder.reselect(fresh_base(base_of("bert")), bert_encoder.adapters)


def test_one_adapter_is_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ModelError, match=r"at least 2 sources, got 1"):
        encoder_over(base_of("bert"), sources_of("bert", 2)[:1])


def test_two_adapters_of_one_name_are_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ModelError, match=r"names must differ, got \['source0', 'source0'\]"):
        encoder_over(base_of("bert"), sources_of("bert", 2)[:1] * 2)


def test_stacking_twice_is_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    found = fresh_base(base_of("bert"))
    updates = [read_adapter(source.folder, found).factors for source in sources_of("bert", 2)]
    stack_adapters(found.backbone, updates)
    with pytest.raises(ModelError, match="stacked already"):
        stack_adapters(found.backbone, updates)


def test_a_stacked_layer_has_the_sizes_of_its_linear_layer(base_of: Folders, sources_of: SourcesOf) -> None:
    found = fresh_base(base_of("bert"))
    stack_adapters(found.backbone, [read_adapter(source.folder, found).factors for source in sources_of("bert", 2)])
    layer = found.backbone.encoder.layer[0].intermediate.dense
    assert isinstance(layer, StackedLoraLinear)
    assert (layer.in_features, layer.out_features) == (DIM, 48)


# ---- saving and loading


def save_to(encoder: Any, folder: Path) -> Path:
    folder.mkdir()
    encoder.save(str(folder))
    return folder


def test_saved_encoder_gives_the_same_bits(bert_encoder: XCrossEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    ids, mask = random_batch(FAMILIES["bert"])
    loaded = XCrossEncoder.load(str(folder))
    assert torch.equal(output(loaded, ids, mask), output(bert_encoder, ids, mask))
    assert (loaded.sources, loaded.beta, loaded.gamma) == (bert_encoder.sources, 0.6, 1.4)
    again = save_to(loaded, tmp_path / "again")
    assert (again / "adapters" / "source0" / "adapter_config.json").exists()
    loaded.save(str(folder))  # over itself: the adapters stay
    assert torch.equal(output(XCrossEncoder.load(str(folder)), ids, mask), output(loaded, ids, mask))


@pytest.mark.parametrize("top_layers", [None, 2])
def test_a_saved_encoder_keeps_its_top_layers(
    top_layers: int | None, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = encoder_over(base_of("bert"), sources_of("bert", 2), top_layers=top_layers)
    randomise(encoder, "concat_weight", 0.1)
    folder = save_to(encoder, tmp_path / "model")
    ids, mask = random_batch(FAMILIES["bert"])
    loaded = XCrossEncoder.load(str(folder))
    assert loaded.top_layers == top_layers
    assert torch.equal(output(loaded, ids, mask), output(encoder, ids, mask))
    if top_layers is None:  # as bundles before this setting are
        edit(folder / "xcrossrec_encoder.json", ',\n  "top_layers": null', "")
        assert XCrossEncoder.load(str(folder)).top_layers is None
    else:
        edit(folder / "xcrossrec_encoder.json", '"top_layers": 2', '"top_layers": 7')
        with pytest.raises(ConfigError, match="top_layers is 7: expected a whole number from 1 to 3"):
            XCrossEncoder.load(str(folder))


def test_a_source_encoder_is_pefts_model_and_saves_a_peft_folder(
    family: Family, base_of: Folders, tmp_path: Path
) -> None:
    encoder = SourceEncoder(fresh_base(base_of(family.name)), default_lora(3))
    randomise(encoder, "lora_B", 0.3)
    ids, mask = random_batch(family)
    folder = save_to(encoder.eval(), tmp_path / "adapter")
    loaded = SourceEncoder.load(str(folder))
    assert loaded.has_adapter
    assert not [name for name, p in loaded.named_parameters() if p.requires_grad]
    with torch.no_grad():
        features = {"input_ids": ids, "attention_mask": mask}
        assert torch.equal(loaded(dict(features))["token_embeddings"], encoder(dict(features))["token_embeddings"])
    found = fresh_base(base_of(family.name))
    adapter = read_adapter(folder, found)
    assert adapter.parameters == sum(p.numel() for name, p in encoder.named_parameters() if "lora_" in name)
    layers = family.config.num_hidden_layers
    assert len(adapter.factors) == layers * len(family.query_value)


def test_a_source_encoder_without_adapter_is_the_base(base_of: Folders, tmp_path: Path) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), max_tokens=16).eval()
    folder = save_to(encoder, tmp_path / "plain")
    loaded = SourceEncoder.load(str(folder))
    assert not loaded.has_adapter
    assert loaded.max_seq_length == 16
    assert loaded.get_embedding_dimension() == DIM


def test_lora_without_known_layers_asks_for_their_names(base_of: Folders) -> None:
    found = fresh_base(base_of("bert"))
    found.backbone.config.model_type = "newbert"
    with pytest.raises(ModelError, match=r"no default LoRA layers are known for 'newbert'.*target_modules"):
        SourceEncoder(found, default_lora(2))


def test_a_trainable_source_keeps_its_gradients(base_of: Folders, tmp_path: Path) -> None:
    folder = save_to(SourceEncoder(fresh_base(base_of("bert")), default_lora(2)), tmp_path / "adapter")
    loaded = SourceEncoder.load(str(folder), trainable=True)
    assert {"lora_A", "lora_B"} == {n.split(".")[-3] for n, p in loaded.named_parameters() if p.requires_grad}


def test_other_base_weights_are_refused_on_load(bert_encoder: XCrossEncoder, base_of: Folders, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    other = fresh_base(write_base(tmp_path / "other", FAMILIES["bert"], seed=9))
    with pytest.raises(BaseMismatchError, match=rf"weights {bert_encoder.base_digest[:12]}.*{other.digest[:12]}"):
        XCrossEncoder.load(str(folder), base=other)
    with pytest.raises(BaseMismatchError, match="restore the original base"):
        load_matching_base({"base": {"name": "x", "digest": "0" * 64}}, folder, other)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("hostile", ["../source0", "..", "a/b", ""])
def test_a_source_name_that_leaves_the_folder_is_refused(
    bert_encoder: XCrossEncoder, tmp_path: Path, hostile: str
) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    edit(folder / "xcrossrec_encoder.json", '"source0"', f'"{hostile}"')
    with pytest.raises(BundleError, match=f"source '{hostile}', which is no plain folder name"):
        XCrossEncoder.load(str(folder))


def test_another_prompt_version_is_refused(bert_encoder: XCrossEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    edit(folder / "xcrossrec_encoder.json", '"prompt_version": 1', '"prompt_version": 7')
    with pytest.raises(BundleError, match="prompt version 7, this release writes 1"):
        XCrossEncoder.load(str(folder))


def test_missing_or_broken_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no xcrossrec_encoder\.json"):
        XCrossEncoder.load(str(tmp_path))
    (tmp_path / "xcrossrec_encoder.json").write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match="is not valid JSON"):
        XCrossEncoder.load(str(tmp_path))


def test_integrators_of_another_configuration_are_refused(
    bert_encoder: XCrossEncoder, base_of: Folders, sources_of: SourcesOf
) -> None:
    other = encoder_over(base_of("bert"), sources_of("bert", 3))
    with pytest.raises(BundleError, match=r"here does not fit this encoder \(layers\.0\.concat_weight\)"):
        bert_encoder.load_integration_state(other.integration_state(), "here")
    state = bert_encoder.integration_state()
    del state["stream_weight"]
    with pytest.raises(BundleError, match=r"\(stream_weight\)"):
        bert_encoder.load_integration_state(state, "here")


def test_saved_adapters_carry_their_manifest(base_of: Folders, sources_of: SourcesOf, tmp_path: Path) -> None:
    encoder = encoder_over(base_of("bert"), sources_of("bert", 2))
    folder = save_to(encoder, tmp_path / "model")
    assert not (folder / "adapters" / "source0" / MANIFEST).exists()
    loaded = XCrossEncoder.load(str(folder))
    assert loaded.adapters[0].manifest == {}
