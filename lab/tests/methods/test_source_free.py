"""Merging by the target's items alone: the two losses by hand, the grid, what is chosen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.base import load_base
from xcrossrec_lab.methods.merging import merged_adapter
from xcrossrec_lab.methods.source_free import (
    divergence,
    entropy,
    merged_entropy,
    merged_pseudo_users,
    shares_of,
)
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]


def logs(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows).log()


def test_entropy_and_divergence_are_their_sums() -> None:
    own = logs([[0.0, 0.5, 0.5], [0.25, 0.0, 0.75]])
    teacher = logs([[0.0, 0.9, 0.1], [0.25, 0.0, 0.75]])
    by_hand = -(0.5 * np.log(0.5) * 2 + 0.25 * np.log(0.25) + 0.75 * np.log(0.75)) / 2
    assert entropy(own) == pytest.approx(by_hand, abs=1e-6)
    one = (0.9 * np.log(0.9 / 0.5) + 0.1 * np.log(0.1 / 0.5)) / 2
    assert divergence(own, [teacher]) == pytest.approx(one, abs=1e-6)
    assert divergence(own, [teacher, own]) == pytest.approx(one / 2, abs=1e-6)


def test_shares_add_up_to_one() -> None:
    assert list(shares_of(2)) == [(0.0, 1.0), (0.25, 0.75), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0)]
    assert len(list(shares_of(3))) == 15


def test_a_merge_by_shares_is_the_sum_of_the_updates(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    base = load_base(task.base)
    merged = read_adapter(merged_adapter(task, "cat", tmp_path / "merged", shares=(0.25, 0.75)), base)
    first, second = (read_adapter(source.adapter, base) for source in task.sources)
    for module, factors in merged.factors.items():
        one, other = first.factors[module], second.factors[module]
        expected = 0.25 * one.up @ one.down + 0.75 * other.up @ other.down
        torch.testing.assert_close(factors.up @ factors.down, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", [merged_entropy, merged_pseudo_users])
def test_the_shares_with_the_lowest_loss_are_taken(make_task: MakeTask, method: Callable[[Task], object]) -> None:
    fitted = method(make_task())
    losses = fitted.report["losses"]  # type: ignore[attr-defined]
    assert len(losses) == 5
    assert losses[str(fitted.report["shares"])] == min(losses.values())  # type: ignore[attr-defined]
    assert fitted.scorer.score([[1, 2]]).shape == (1, 24)  # type: ignore[attr-defined]
