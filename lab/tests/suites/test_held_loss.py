"""The loss that sources are chosen by is the trainer's own loss on users set aside."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from xcrossrec import TrainingConfig, read_domain, train_source
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder
from xcrossrec_lab.methods.held_loss import next_item_loss, on_device
from xcrossrec_lab.methods.lora import best_source
from xcrossrec_lab.suites.cell_process import cut_to_budget, make_task
from xcrossrec_lab.suites.cells import ALL, Cell
from xcrossrec_lab.suites.suite import Suite
from xcrossrec_lab.task import Task

pytestmark = pytest.mark.integration


def task_of(suite: Suite, tmp_path: Path) -> Task:
    domain = read_domain(suite.data / "garden")
    return make_task(suite, Cell("garden", ("kitchen", "camping"), "lora-from-source", ALL, 0), domain, tmp_path)


def test_it_equals_the_trainers_initial_loss(suite_file, tmp_path: Path) -> None:
    task = task_of(Suite.read(suite_file()), tmp_path)
    rates = {"learning_rate": 1e-9, "head_learning_rate": 1e-9}
    # without drawn negatives the order of the users, which the trainer shuffles, has no part in it
    config = TrainingConfig(epochs=1, batch_users=32, precision="fp32", sampled_negatives=0, **rates)
    out = tmp_path / "model"
    report = train_source(task.target, out, config=config, base=task.base, show_progress=False)
    _, held = task.users.split_off(report.holdout_users, config.seed)
    found = next_item_loss(bundle.load(out), replace(task, training=config), held)
    assert found == pytest.approx(report.initial_loss, abs=1e-5)


def test_a_fresh_pair_head_is_at_chance(suite_file, tmp_path: Path) -> None:
    task = replace(task_of(Suite.read(suite_file()), tmp_path), scoring="pair")
    model = build_model(SourceEncoder(load_base(task.base)), scoring="pair", pair_start="fresh")
    assert next_item_loss(model, task, task.users) == pytest.approx(math.log(task.training.pair_negatives + 1))


def test_the_source_with_the_lower_loss_is_chosen(suite_file, tmp_path: Path) -> None:
    suite = Suite.read(suite_file())
    task = task_of(suite, tmp_path)
    best, losses = best_source(task)
    assert set(losses) == {"kitchen", "camping"}
    assert losses[best.name] == min(losses.values())
    assert cut_to_budget(task.target, 16, 0).sequences("train").user_ids != task.users.user_ids


def test_a_batch_moves_with_all_that_is_in_it() -> None:
    batch = {"items0_input_ids": torch.zeros(2, 3), "label": {"sequences": torch.zeros(2, 2), "member": torch.ones(1)}}
    moved = on_device(batch, torch.device("meta"))
    assert moved["items0_input_ids"].device.type == "meta"
    assert {tensor.device.type for tensor in moved["label"].values()} == {"meta"}
    assert moved["label"]["sequences"].shape == (2, 2)
    assert batch["label"]["member"].device.type == "cpu", "the batch itself stays"
