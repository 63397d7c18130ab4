"""Stage 4 and the whole encoder, against a loop over layers and sources that runs PEFT's own models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from encoders import CLOSE, SETTINGS, Folders, SourcesOf, edit, output, real, save_to, xcross_over
from model_families import DIM, FAMILIES, Family, Source, fresh_base, random_batch, randomise
from xcrossrec.config import Integration
from xcrossrec.exceptions import BundleError, ConfigError, ModelError
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.base import encoder_layers
from xcrossrec.models.files import save_tensors, take_over
from xcrossrec.models.xcross.encoder import XCrossEncoder


@pytest.fixture
def bert_encoder(base_of: Folders, sources_of: SourcesOf) -> XCrossEncoder:
    """Two BERT sources with random integrators and unequal stream weights."""
    encoder = xcross_over(base_of("bert"), sources_of("bert", 2))
    randomise(encoder, "concat_weight", 0.1)
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.tensor([0.8, -0.3]))
    return encoder


# ---- against a loop over layers, sources and tokens


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


def refine(weight: Tensor, hidden: Sequence[Tensor]) -> list[Tensor]:
    """Stages 2 and 3 with plain loops over sources; tokens side by side."""
    n = len(hidden)
    z = torch.cat(list(hidden), dim=-1) @ weight.t()
    refined, pair = [], 0
    for m in range(n):
        new = hidden[m].clone()
        for j in range(n):
            if j != m:
                new += z[..., pair, None] * hidden[j]
                new += z[..., n * (n - 1) + pair, None] * (hidden[m] - hidden[j])
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
            for replay, states in zip(replays, refine(integrator.concat_weight, hidden), strict=True):
                replay.refined.append(states)
        last = [source.states(ids, mask) for source in sources]
    return sum(weight * states for weight, states in zip(encoder.stream_weight, last, strict=True))  # type: ignore[return-value]


@pytest.mark.parametrize(("count", "top_layers"), [(2, None), (3, None), (2, 1), (2, 2), (3, 3)])
def test_it_equals_the_layer_by_layer_loop(
    family: Family, count: int, top_layers: int | None, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, count)
    encoder = xcross_over(base_of(family.name), sources, top_layers=top_layers)
    assert len(encoder.integrators) == (top_layers or 3)
    assert encoder.layer_numbers == [1, 2, 3][-(top_layers or 3) :]
    randomise(encoder, "concat_weight", 0.05)
    randomise(encoder, "stream_weight", 1.0)
    ids, mask = random_batch(family)
    expected = loop_reference(encoder, sources, ids, mask)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(expected, mask), rtol=1e-4, atol=1e-4)


# ---- special cases


def test_zero_integrators_give_the_weighted_mean_of_the_sources(
    family: Family, base_of: Folders, sources_of: SourcesOf
) -> None:
    sources = sources_of(family.name, 3)
    encoder = xcross_over(base_of(family.name), sources)
    ids, mask = random_batch(family)
    states = [real(source.states(ids, mask), mask) for source in sources]
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), torch.stack(states).mean(0), **CLOSE)
    weights = (0.75, 0.5, -0.25)
    with torch.no_grad():
        encoder.stream_weight.copy_(torch.tensor(weights))
    expected = sum(weight * state for weight, state in zip(weights, states, strict=True))
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), expected, **CLOSE)


def test_batch_of_one_equals_batch_of_many_and_padding_changes_nothing(
    family: Family, base_of: Folders, sources_of: SourcesOf
) -> None:
    encoder = xcross_over(base_of(family.name), sources_of(family.name, 2))
    randomise(encoder, "concat_weight", 0.02)
    lengths = (12, 5, 9)
    ids, mask = random_batch(family, lengths)
    together = output(encoder, ids, mask)
    for row, length in enumerate(lengths):
        alone = output(encoder, ids[row : row + 1, :length], mask[row : row + 1, :length])
        torch.testing.assert_close(together[row, :length], alone[0], **CLOSE)


# ---- what trains, and what is refused


def test_only_integrators_and_stream_weights_train(bert_encoder: XCrossEncoder) -> None:
    trained = {name for name, p in bert_encoder.named_parameters() if p.requires_grad}
    assert all("integrator" in name or name == "stream_weight" for name in trained)
    assert len(trained) == 4
    bert_encoder.train()
    assert bert_encoder.training
    assert not bert_encoder.backbone.training


def test_top_layers_have_parameters_of_their_own_only(base_of: Folders, sources_of: SourcesOf) -> None:
    encoder = xcross_over(base_of("bert"), sources_of("bert", 3), top_layers=2)
    trained = sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    assert trained == 2 * (2 * 3 * 2 * 3 * DIM) + 3
    assert set(encoder.integration_state()) == {"layers.0.concat_weight", "layers.1.concat_weight", "stream_weight"}


@pytest.mark.parametrize(
    ("top_layers", "expected"), [(4, "from 1 to 3"), (0, "above 0"), (True, "above 0"), (1.5, "above 0")]
)
def test_top_layers_that_the_base_lacks_are_refused(
    top_layers: int, expected: str, base_of: Folders, sources_of: SourcesOf
) -> None:
    with pytest.raises(ConfigError, match=rf"top_layers is {top_layers}: expected a whole number {expected}"):
        xcross_over(base_of("bert"), sources_of("bert", 2), top_layers=top_layers)


def test_one_adapter_is_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ModelError, match=r"at least 2 sources, got 1"):
        xcross_over(base_of("bert"), sources_of("bert", 2)[:1])


def test_two_adapters_of_one_name_are_refused(base_of: Folders, sources_of: SourcesOf) -> None:
    with pytest.raises(ModelError, match=r"names must differ, got \['source0', 'source0'\]"):
        xcross_over(base_of("bert"), sources_of("bert", 2)[:1] * 2)


# ---- on disk


def test_a_saved_encoder_gives_the_same_bits(bert_encoder: XCrossEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    ids, mask = random_batch(FAMILIES["bert"])
    loaded = XCrossEncoder.load(str(folder))
    assert torch.equal(output(loaded, ids, mask), output(bert_encoder, ids, mask))
    assert loaded.sources == bert_encoder.sources == ("source0", "source1")
    again = save_to(loaded, tmp_path / "again")
    assert (again / "adapters" / "source0" / "adapter_config.json").exists()
    loaded.save(str(folder))  # over itself: the adapters stay
    assert torch.equal(output(XCrossEncoder.load(str(folder)), ids, mask), output(loaded, ids, mask))


@pytest.mark.parametrize("top_layers", [None, 2])
def test_the_integrations_settings_are_saved_as_they_are(
    top_layers: int | None, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    encoder = xcross_over(base_of("bert"), sources_of("bert", 2), top_layers=top_layers)
    randomise(encoder, "concat_weight", 0.1)
    assert encoder.settings()["integration"] == asdict(Integration("xcross", top_layers=top_layers))
    folder = save_to(encoder, tmp_path / "model")
    ids, mask = random_batch(FAMILIES["bert"])
    loaded = XCrossEncoder.load(str(folder))
    assert Integration(**XCrossEncoder.read_settings(folder)["integration"]) == loaded.integration
    assert loaded.integration == encoder.integration
    assert torch.equal(output(loaded, ids, mask), output(encoder, ids, mask))


def test_saved_top_layers_that_the_base_lacks_are_refused(
    base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    folder = save_to(xcross_over(base_of("bert"), sources_of("bert", 2), top_layers=2), tmp_path / "model")
    edit(folder / SETTINGS, '"top_layers": 2', '"top_layers": 7')
    with pytest.raises(ConfigError, match="top_layers is 7: expected a whole number from 1 to 3"):
        XCrossEncoder.load(str(folder))


def test_integrators_of_another_configuration_are_refused(
    bert_encoder: XCrossEncoder, base_of: Folders, sources_of: SourcesOf, tmp_path: Path
) -> None:
    other = xcross_over(base_of("bert"), sources_of("bert", 3))
    save_tensors(other.integration_state(), tmp_path / "here")
    with pytest.raises(BundleError, match=r"here does not fit its settings \(layers\.0\.concat_weight\)"):
        take_over(bert_encoder.integration_state(), tmp_path / "here")
    state = bert_encoder.integration_state()
    del state["stream_weight"]
    save_tensors(state, tmp_path / "here")
    with pytest.raises(BundleError, match=r"\(stream_weight\)"):
        take_over(bert_encoder.integration_state(), tmp_path / "here")


def test_adapters_made_elsewhere_have_no_manifest(bert_encoder: XCrossEncoder, tmp_path: Path) -> None:
    folder = save_to(bert_encoder, tmp_path / "model")
    assert not (folder / "adapters" / "source0" / MANIFEST).exists()
    assert XCrossEncoder.load(str(folder), base=fresh_base(Path(bert_encoder.base_name))).adapters[0].manifest == {}
