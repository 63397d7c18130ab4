"""AdapterFusion: its equation, its start, what trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import encoder_layers, load_base
from xcrossrec_lab.methods.fusion import FusionEncoder, FusionIntegrator, adapter_fusion
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]
RANK = 3


def randomised(sources: int, dim: int) -> FusionIntegrator:
    torch.manual_seed(3)
    integrator = FusionIntegrator(sources, dim, RANK)
    with torch.no_grad():
        for parameter in integrator.parameters():
            parameter.normal_()
    return integrator


def loop_over_tokens(integrator: FusionIntegrator, hidden: list[torch.Tensor]) -> torch.Tensor:
    """The equation, token by token and source by source."""
    out = torch.zeros_like(hidden[0])
    for token in range(len(out)):
        states = [stream[token] for stream in hidden]
        query = integrator.query @ (sum(states) / len(states))
        logits = [float(query @ (integrator.key @ state)) / RANK**0.5 for state in states]
        total = sum(np.exp(x) for x in logits)
        fused = sum(np.exp(x) / total * state for x, state in zip(logits, states, strict=True))
        out[token] = fused + integrator.value_up @ (integrator.value_down @ fused)
    return out


@torch.no_grad()
def test_fusion_is_its_equation_and_one_stream() -> None:
    integrator = randomised(3, 8)
    hidden = [torch.randn(5, 8) for _ in range(3)]
    found = integrator.mix(hidden)
    torch.testing.assert_close(found[0], loop_over_tokens(integrator, hidden), atol=1e-4, rtol=1e-4)
    assert all(stream is found[0] for stream in found)


@torch.no_grad()
def test_coefficients_are_the_shares() -> None:
    integrator = randomised(3, 8)
    hidden = [torch.randn(5, 8) for _ in range(3)]
    share = integrator.attention(hidden)
    torch.testing.assert_close(share.sum(0), torch.ones(5))
    for row in integrator.coefficients(hidden):
        torch.testing.assert_close(row, share)
    mixed = integrator.mix(hidden, without=1)
    assert not torch.equal(mixed[0], mixed[1])


def encoder_for(task: Task) -> FusionEncoder:
    base = load_base(task.base)
    return FusionEncoder(base, [read_adapter(s.adapter, base, name=s.name) for s in task.sources], rank=RANK).eval()


@torch.no_grad()
def test_at_first_each_layers_mean_goes_on(make_task: MakeTask) -> None:
    """Against the layers of Hugging Face with one adapter's updates added to copies of the weights."""
    task = make_task()
    encoder = encoder_for(task)
    features = encoder.preprocess(["w1 b2 k1", "w3 b0"])
    found = encoder(dict(features))["token_embeddings"]
    mask = features["attention_mask"]
    models = []
    for source in task.sources:
        base = load_base(task.base)
        for module, factors in read_adapter(source.adapter, base).factors.items():
            base.backbone.get_submodule(module).weight += factors.up @ factors.down
        models.append(base.backbone)
    hidden = models[0].embeddings(input_ids=features["input_ids"])
    added = torch.zeros(mask.shape).masked_fill(mask == 0, -torch.inf)[:, None, None, :]
    for layers in zip(*(encoder_layers(model) for model in models), strict=True):
        outputs = [layer(hidden, attention_mask=added) for layer in layers]
        outputs = [out[0] if isinstance(out, tuple) else out for out in outputs]
        hidden = sum(outputs) / len(outputs)
    torch.testing.assert_close(found[mask.bool()], hidden[mask.bool()], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_what_is_saved_is_loaded(make_task: MakeTask, tmp_path: Path) -> None:
    encoder = encoder_for(make_task())
    for integrator in encoder.integrators:
        for parameter in integrator.parameters():
            parameter.normal_(0, 0.1)
    (tmp_path / "model").mkdir()
    encoder.save(str(tmp_path / "model"))
    loaded = FusionEncoder.load(str(tmp_path / "model"))
    features = encoder.preprocess(["w1 b2 k1"])
    first, second = (e(dict(features))["token_embeddings"] for e in (encoder, loaded))
    torch.testing.assert_close(first, second)
    assert loaded.rank == RANK


def test_only_fusion_and_head_train(make_task: MakeTask) -> None:
    task = make_task(training={"holdout_share": 0.0}, settings={"rank": RANK, "learning_rate": 1e-2})
    fitted = adapter_fusion(task)
    assert fitted.model is not None
    encoder = fitted.model[0]
    fusion = sum(p.numel() for integrator in encoder.integrators for p in integrator.parameters())
    assert fusion == 2 * 4 * RANK * 32  # layers x matrices x rank x dim
    assert fitted.trained_parameters == fusion + fitted.head_parameters
    assert all(bool(integrator.query.abs().sum() > 0) for integrator in encoder.integrators)
    assert fitted.uses_sources
    again = adapter_fusion(make_task(training={"holdout_share": 0.0}, settings=task.settings))
    np.testing.assert_array_equal(fitted.scorer.score(HISTORIES), again.scorer.score(HISTORIES))


def test_the_best_epoch_is_restored(make_task: MakeTask) -> None:
    report = adapter_fusion(make_task(settings={"learning_rate": 1e-2}, training={"epochs": 3})).report
    assert report["best_loss"] == min(report["initial_loss"], *report["losses"])


def test_pair_models_train_too(make_task: MakeTask) -> None:
    fitted = adapter_fusion(make_task(scoring="pair", training={"epochs": 1}))
    assert fitted.scorer.score(HISTORIES, np.array([[1, 2], [3, 4]])).shape == (2, 2)
