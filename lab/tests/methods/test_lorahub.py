"""LoraHub: what a weight does, the search, and what it looks at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from xcrossrec import ConfigError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.scorer import ModelScorer, trained
from xcrossrec_lab.methods.held_loss import next_item_loss
from xcrossrec_lab.methods.lorahub import Composition, FixedUsersLoss, Search, lorahub
from xcrossrec_lab.methods.merging import inherit_head, merged_adapter
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]


def composition(task: Task, out: Path) -> Composition:
    model = bundle.load(merged_adapter(task, "linear", out))
    base = load_base(task.base)
    return Composition(model, [read_adapter(source.adapter, base) for source in task.sources])


@pytest.mark.parametrize("number", [0, 1])
def test_one_weight_alone_is_that_source(make_task: MakeTask, tmp_path: Path, number: int) -> None:
    task = make_task()
    composed = composition(task, tmp_path / "start")
    composed.set(np.eye(2)[number])
    inherit_head(composed.model, [task.sources[number].adapter])
    found = ModelScorer(composed.model, task.target.titles, name="x").score(HISTORIES)
    expected = trained(task.sources[number].adapter, task.target.titles).score(HISTORIES)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_weights_multiply_both_factors(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    composed = composition(task, tmp_path / "start")
    composed.set(np.array([0.5, -1.0]))
    first, second = composed.adapters
    module = "encoder.layer.0.attention.self.query"
    down = 0.5 * first.factors[module].down - second.factors[module].down
    up = 0.5 * first.factors[module].up - second.factors[module].up
    layer = composed._inside.get_submodule(module)
    np.testing.assert_allclose(layer.get_delta_weight("default").detach(), (up @ down).numpy(), atol=1e-5)


def test_the_search_finds_a_minimum_and_repeats_itself() -> None:
    goal = np.array([0.7, -0.4])

    def objective(x: np.ndarray) -> float:
        return float(((x - goal) ** 2).sum())

    first, again = Search(objective, 200, 3), Search(objective, 200, 3)
    best = first.run([np.zeros(2)])
    np.testing.assert_allclose(best, goal, atol=0.05)
    np.testing.assert_array_equal(best, again.run([np.zeros(2)]))
    assert len(first.tried) == 200
    assert max(np.abs(point).max() for point, _ in first.tried) <= 1.5


def test_no_more_evaluations_than_allowed_and_the_best_is_kept(make_task: MakeTask) -> None:
    fitted = lorahub(make_task(settings={"evaluations": 7}))
    losses = fitted.report["losses"]
    assert len(losses) == 7
    assert fitted.trained_parameters == 2
    assert fitted.head_parameters == 0
    assert fitted.uses_sources
    assert set(fitted.report["weights"]) == {"kitchen", "camping"}
    again = lorahub(make_task(settings={"evaluations": 7}))
    assert again.report["weights"] == fitted.report["weights"]
    np.testing.assert_array_equal(again.scorer.score(HISTORIES), fitted.scorer.score(HISTORIES))


def test_the_loss_is_the_one_of_training(make_task: MakeTask) -> None:
    task = make_task()
    model = bundle.load(task.sources[0].adapter)
    assert FixedUsersLoss(model, task)() == pytest.approx(next_item_loss(model, task, task.users.take(48, 0)), rel=1e-5)


def test_pair_models_are_searched_too(make_task: MakeTask) -> None:
    fitted = lorahub(make_task(scoring="pair", settings={"evaluations": 5}))
    assert np.isfinite(fitted.report["losses"]).all()


def test_no_evaluation_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(ConfigError, match="evaluations is 0"):
        lorahub(make_task(settings={"evaluations": 0}))
