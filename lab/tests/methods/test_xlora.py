"""PEFT's X-LoRA over the sources: what trains, what stays, and that it loads what it saves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.scorer import trained
from xcrossrec_lab.methods.xlora import XLoraEncoder, xlora
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]
STILL = {"projection_learning_rate": 1e-12, "head_learning_rate": 1e-12}


def test_scaling_copies_of_a_source_is_that_source(make_task: MakeTask) -> None:
    task = make_task(training={**STILL, "epochs": 1}, settings={"learning_rate": 1e-12})
    one = task.sources[0]
    found = xlora(replace(task, sources=(one, replace(one, name="copy")))).scorer.score(HISTORIES)
    expected = trained(one.adapter, task.target.titles, center=True).score(HISTORIES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_only_classifier_and_head_train(make_task: MakeTask) -> None:
    task = make_task(training={"holdout_share": 0.0}, settings={"learning_rate": 1e-2})
    fitted = xlora(task)
    assert fitted.model is not None
    encoder = fitted.model[0]
    assert isinstance(encoder, XLoraEncoder)
    classifier = sum(p.numel() for p in encoder.classifier.parameters())
    assert classifier == 32 * 2 + 2
    assert fitted.trained_parameters == classifier + fitted.head_parameters
    assert fitted.uses_sources
    base = load_base(task.base)
    state = {key.replace(".base_layer", ""): value for key, value in encoder.backbone.state_dict().items()}
    lora = {key: value for key, value in state.items() if ".lora_A." in key}
    for number, source in enumerate(task.sources):
        for module, factors in read_adapter(source.adapter, base).factors.items():
            (own,) = (v for k, v in lora.items() if k.endswith(f"{module}.lora_A.{number}.weight"))
            assert torch.equal(own, factors.down)
    for name, value in base.backbone.state_dict().items():
        (own,) = {id(v): v for k, v in state.items() if k.endswith(f"model.{name}")}.values()
        assert torch.equal(own, value)


def test_the_classifier_moves_and_repeats_itself(make_task: MakeTask) -> None:
    changes = {"training": {"holdout_share": 0.0}, "settings": {"learning_rate": 1e-2}}
    first, again = xlora(make_task(**changes)), xlora(make_task(**changes, work=make_task().work / "again"))
    still = xlora(
        make_task(training={"holdout_share": 0.0}, settings={"learning_rate": 1e-12}, work=make_task().work / "still")
    )
    np.testing.assert_array_equal(first.scorer.score(HISTORIES), again.scorer.score(HISTORIES))
    assert first.model is not None
    assert still.model is not None
    moved = first.model[0].classifier.state_dict()["layers.0.weight"]
    assert not torch.allclose(moved, still.model[0].classifier.state_dict()["layers.0.weight"], atol=1e-4)


def test_the_best_epoch_is_restored_layer_by_layer(make_task: MakeTask) -> None:
    task = make_task(settings={"learning_rate": 1e-2, "layerwise": True}, training={"epochs": 3})
    fitted = xlora(task)
    report = fitted.report
    assert report["best_loss"] == min(report["initial_loss"], *report["losses"])
    assert fitted.trained_parameters - fitted.head_parameters == (32 + 1) * 2 * 4  # sources x LoRA layers


def test_pair_models_train_too(make_task: MakeTask) -> None:
    fitted = xlora(make_task(scoring="pair", training={"epochs": 1}))
    assert fitted.scorer.score(HISTORIES, np.array([[1, 2], [3, 4]])).shape == (2, 2)
