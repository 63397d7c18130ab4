"""BSARec: the filter by its sum, who sees whom, learning, stopping."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from xcrossrec import ConfigError
from xcrossrec_lab.methods.bsarec import BSARec, FrequencyFilter, _Examples, _minus_reciprocal_rank, bsarec, padded
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
QUICK = {"dim": 16, "slots": 6, "epochs": 12, "batch_histories": 32, "dropout": 0.1, "learning_rate": 1e-2}


def network(alpha: float) -> BSARec:
    torch.manual_seed(1)
    return BSARec(9, slots=5, dim=8, blocks=2, heads=2, dropout=0.0, alpha=alpha, frequencies=2).eval()


@torch.no_grad()
def test_the_filter_is_its_fourier_sum() -> None:
    """Each slot's slow part is written out as a sum of cosines and sines."""
    torch.manual_seed(2)
    module, width = FrequencyFilter(3, 2), 6
    states = torch.randn(1, width, 3)
    time = np.arange(width)
    x = states[0].numpy().astype(np.float64)
    low = np.tile(x.mean(0), (width, 1))
    for wave in (np.cos(2 * np.pi * time / width), np.sin(2 * np.pi * time / width)):
        low += 2 / width * wave[:, None] * (wave @ x)[None, :]
    expected = low + module.root_of_scale.numpy() ** 2 * (x - low)
    np.testing.assert_allclose(module(states)[0].numpy(), expected, atol=1e-5)


@torch.no_grad()
def test_without_the_filter_a_slot_sees_what_came_before_alone() -> None:
    sasrec = network(alpha=0.0)
    first, second = torch.tensor([[9, 1, 2, 3, 4]]), torch.tensor([[9, 1, 2, 3, 5]])
    mask = sasrec._mask(first)
    states = [sasrec.items(rows) for rows in (first, second)]
    one, two = (sasrec.blocks[0](state, mask)[0] for state in states)
    torch.testing.assert_close(one[:4], two[:4])
    assert not torch.allclose(one[4], two[4])


@torch.no_grad()
def test_an_empty_slot_is_seen_by_none_but_itself() -> None:
    mask = network(alpha=0.5)._mask(torch.tensor([[9, 9, 2, 3, 4]]))
    assert mask.shape == (2, 5, 5)
    assert (mask[0] == 0).int().tolist() == [
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 1, 1, 1],
    ]


def test_the_newest_items_stand_at_the_right() -> None:
    assert padded([[1, 2, 3, 4], [5], []], 3, 9).tolist() == [[2, 3, 4], [9, 9, 5], [9, 9, 9]]


@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_it_learns_and_keeps_the_best_pass(make_task: MakeTask, alpha: float) -> None:
    task = make_task(users=96, settings={**QUICK, "alpha": alpha})
    fitted = bsarec(task)
    losses = fitted.report["losses"]
    assert min(losses) < losses[0]
    histories, targets = task.users.histories_and_targets()
    scores = fitted.scorer.score(histories)
    above = (scores >= scores[np.arange(len(targets)), targets][:, None]).sum(1)
    assert above.mean() < 8  # of 24 items
    empty, alike = fitted.scorer.score([[], [1, 2]]), fitted.scorer.score([[1, 2]])
    assert not empty[0].any()
    np.testing.assert_allclose(empty[1], alike[0], atol=1e-5)
    np.testing.assert_allclose(fitted.scorer.score([[1, 2]], np.array([[4, 0]])), alike[:, [4, 0]], atol=1e-6)


def test_items_of_no_training_user_rank_last(make_task: MakeTask) -> None:
    task = make_task(users=4, settings={**QUICK, "epochs": 1})
    known = {row for rows in task.users.rows for row in rows}
    (scores,) = bsarec(task).scorer.score([[1, 2]])
    unknown = [row for row in range(24) if row not in known]
    assert unknown
    assert scores[unknown].max() < scores[sorted(known)].min()


def test_a_share_outside_its_bounds_is_refused(make_task: MakeTask) -> None:
    with pytest.raises(ConfigError, match=r"alpha is 1\.5"):
        bsarec(make_task(settings={"alpha": 1.5}))


@torch.no_grad()
def test_held_out_users_are_judged_by_the_ranks_of_what_they_bought() -> None:
    module, histories, bought = network(alpha=0.5), [[1, 2], [3], [4, 5, 6]], [3, 7, 0]
    scores = module.scores(padded(histories, 5, 9)).numpy()
    ranks = [1 + int((row > row[item]).sum()) for row, item in zip(scores, bought, strict=True)]
    examples = _Examples.of(list(zip(histories, bought, strict=True)), 5, 9)
    assert len(set(ranks)) > 1
    assert _minus_reciprocal_rank(module, examples, 2) == pytest.approx(-np.mean([1 / rank for rank in ranks]))
