"""Full fine-tuning: everything trains, and what is kept is the best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from xcrossrec import ConfigError
from xcrossrec.models.base import load_base
from xcrossrec.models.scorer import untrained
from xcrossrec_lab.methods.finetuning import full_fine_tuning
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]


def test_every_weight_of_the_base_moves(make_task: MakeTask) -> None:
    task = make_task(training={"holdout_share": 0.0}, settings={"learning_rate": 1e-3})
    fitted = full_fine_tuning(task)
    start = load_base(task.base).backbone
    assert fitted.model is not None
    now = dict(fitted.model[0].backbone.named_parameters())
    # a key's bias adds the same to all scores of a query, rows of unseen words get no gradient
    still = {name for name, value in start.named_parameters() if torch.equal(now[name], value)}
    assert all(name.endswith("key.bias") for name in still)
    assert fitted.trained_parameters == sum(p.numel() for p in start.parameters()) + fitted.head_parameters
    assert not fitted.uses_sources


def test_the_best_epoch_is_restored(make_task: MakeTask) -> None:
    fitted = full_fine_tuning(make_task(settings={"learning_rate": 3e-3}, training={"epochs": 3}))
    report = fitted.report
    assert report["best_loss"] == min(report["initial_loss"], *report["losses"])
    again = full_fine_tuning(make_task(settings={"learning_rate": 3e-3}, training={"epochs": 3}))
    np.testing.assert_array_equal(fitted.scorer.score(HISTORIES), again.scorer.score(HISTORIES))


def test_a_rate_of_almost_nothing_leaves_the_base(make_task: MakeTask) -> None:
    rates = {"projection_learning_rate": 1e-12, "head_learning_rate": 1e-12}
    task = make_task(settings={"learning_rate": 1e-12}, training=rates)
    expected = untrained(task.base, task.target.titles, center=True).score(HISTORIES)
    np.testing.assert_allclose(full_fine_tuning(task).scorer.score(HISTORIES), expected, atol=1e-5)


def test_pair_models_train_too(make_task: MakeTask) -> None:
    fitted = full_fine_tuning(make_task(scoring="pair", training={"epochs": 1}))
    assert fitted.scorer.score(HISTORIES, np.array([[1, 2], [3, 4]])).shape == (2, 2)


def test_settings_are_checked(make_task: MakeTask) -> None:
    with pytest.raises(ConfigError, match="'rank'"):
        full_fine_tuning(replace(make_task(), settings={"rank": 8}))
