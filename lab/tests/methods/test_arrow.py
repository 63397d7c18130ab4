"""PEFT's Arrow over the sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.scorer import trained
from xcrossrec_lab.methods.arrow import ArrowEncoder, arrow
from xcrossrec_lab.task import Source, Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]


def test_routing_among_copies_of_a_source_is_that_source(make_task: MakeTask) -> None:
    task = make_task()
    one = task.sources[0]
    found = arrow(replace(task, sources=(one, Source("copy", one.adapter, one.data)))).scorer.score(HISTORIES)
    expected = trained(one.adapter, task.target.titles, center=True).score(HISTORIES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_scores_differ_from_each_source_and_repeat(make_task: MakeTask) -> None:
    task = make_task()
    fitted = arrow(task)
    scores = fitted.scorer.score(HISTORIES)
    assert fitted.trained_parameters == 0
    assert fitted.uses_sources
    for source in task.sources:
        alone = trained(source.adapter, task.target.titles, center=True).score(HISTORIES)
        assert not np.allclose(scores, alone, atol=1e-4)
    np.testing.assert_array_equal(scores, arrow(task).scorer.score(HISTORIES))


@torch.no_grad()
def test_a_tokens_shares_follow_the_main_directions(make_task: MakeTask) -> None:
    """One layer against Arrow's rule: softmax of the projections on the updates' first right singular vectors."""
    task = make_task()
    base = load_base(task.base)
    adapters = [read_adapter(source.adapter, base) for source in task.sources]
    module = "encoder.layer.0.attention.self.query"
    linear = base.backbone.get_submodule(module)
    x = torch.randn(1, 5, linear.in_features)
    plain = linear(x)
    updates = [a.factors[module].up @ a.factors[module].down for a in adapters]
    directions = torch.stack([torch.linalg.svd(update).Vh[0] for update in updates])
    share = (x @ directions.t()).abs().softmax(-1)
    expected = plain + sum(share[..., n, None] * (x @ update.t()) for n, update in enumerate(updates))
    encoder = ArrowEncoder(base, [source.adapter for source in task.sources])
    layer = encoder.backbone.base_model.model.get_submodule(module)
    torch.testing.assert_close(layer(x), expected, atol=0.05, rtol=0.05)


def test_pair_models_are_routed_too(make_task: MakeTask) -> None:
    fitted = arrow(make_task(scoring="pair"))
    assert fitted.scorer.score(HISTORIES, np.array([[1, 2], [3, 4]])).shape == (2, 2)


def test_an_arrow_model_is_not_saved(make_task: MakeTask) -> None:
    fitted = arrow(make_task())
    assert fitted.model is None
    encoder = ArrowEncoder(load_base(make_task().base), [source.adapter for source in make_task().sources])
    with pytest.raises(NotImplementedError, match="made of its sources"):
        encoder.save("nowhere")
