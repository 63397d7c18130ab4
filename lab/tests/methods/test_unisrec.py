"""UniSRec's idea: its loss, what trains when, and what is kept on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xcrossrec import ConfigError, DataError
from xcrossrec_lab.methods import unisrec as module
from xcrossrec_lab.methods.unisrec import Adaptor, UniSRec, next_item_loss, unisrec
from xcrossrec_lab.task import Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2], []]
QUICK = {"all_source_users": True, "pretraining_epochs": 2, "epochs": 3}


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_DIM", 16)
    monkeypatch.setattr(module, "_EXPERTS", 2)


@torch.no_grad()
def test_the_adaptor_is_a_gated_sum_of_whitenings() -> None:
    adaptor = Adaptor(6, 4, 3).eval()
    adaptor.shift.normal_()
    x = torch.randn(5, 6)
    for number, found in enumerate(adaptor(x)):
        share = (adaptor.gate.weight @ x[number]).softmax(0)
        expected = sum(share[e] * (x[number] - adaptor.shift[e]) @ adaptor.weight[e] for e in range(3))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_the_loss_is_the_one_of_a_loop() -> None:
    model = UniSRec(6, 5, dim=8, experts=2).eval()
    vectors = torch.randn(9, 6)
    sequences, drawn = [[0, 3, 4], [1, 2]], [7, 3]
    items = torch.nn.functional.normalize(model.adaptor(vectors), dim=-1)
    losses = []
    for sequence in sequences:
        for step in range(1, len(sequence)):
            state = model.read(model.adaptor(vectors[sequence[:step]])[None])[0, -1]
            others = {0, 1, 2, 3, 4, 7} - set(sequence)
            rows = [sequence[step], *sorted(others)]
            losses.append(-(model.scale * items[rows] @ state).log_softmax(0)[0])
    found = next_item_loss(model, vectors, sequences, drawn)
    torch.testing.assert_close(found, torch.stack(losses).mean(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_step_does_not_see_what_comes_later() -> None:
    model = UniSRec(6, 5, dim=8, experts=2).eval()
    items = torch.randn(1, 4, 8)
    changed = items.clone()
    changed[0, 3] += 1.0
    torch.testing.assert_close(model.read(items)[:, :3], model.read(changed)[:, :3])


def test_on_the_target_the_transformer_is_frozen(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    fit = module.fit_sequences

    def record(model: UniSRec, *rest: object) -> object:
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        report = fit(model, *rest)  # type: ignore[arg-type]
        runs.append({name for name, p in model.named_parameters() if not torch.equal(p, before[name])})
        return report

    monkeypatch.setattr(module, "fit_sequences", record)
    fitted = unisrec(make_task(settings=QUICK, training={"holdout_share": 0.0}))
    pretraining, target = runs
    assert any(name.startswith("transformer") for name in pretraining)
    assert target
    assert all(name.startswith("adaptor") or name == "log_scale" for name in target)
    adaptor = 2 * 32 + 2 * 32 * 16 + 32 * 2
    assert fitted.trained_parameters == adaptor + 1
    assert fitted.head_parameters == 1


def test_pretraining_happens_once_and_seeds_repeat(make_task: MakeTask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = unisrec(make_task(settings=QUICK))
    cache = make_task().work.parent.with_name("unisrec")
    kept = sorted(path.name for path in cache.iterdir())
    assert len([name for name in kept if name.startswith("pretrained")]) == 1
    assert not [name for name in kept if name.startswith(".")]
    monkeypatch.setattr(module, "encode_titles", None)  # nothing is encoded again
    again = unisrec(make_task(settings=QUICK))
    np.testing.assert_array_equal(first.scorer.score(HISTORIES), again.scorer.score(HISTORIES))
    assert sorted(path.name for path in cache.iterdir()) == kept
    other = unisrec(make_task(settings=QUICK, seed=1))
    assert not np.allclose(first.scorer.score(HISTORIES), other.scorer.score(HISTORIES))


def test_the_best_epoch_is_kept(make_task: MakeTask) -> None:
    report = unisrec(make_task(settings={**QUICK, "learning_rate": 1e-2})).report
    assert report["best_loss"] == min(report["initial_loss"], *report["losses"])
    assert report["pretraining"]["best_loss"] < report["pretraining"]["initial_loss"]


def test_scores_of_candidates_are_those_of_the_catalogue(make_task: MakeTask) -> None:
    scorer = unisrec(make_task(settings=QUICK)).scorer
    full = scorer.score(HISTORIES)
    candidates = np.array([[1, 5], [7, 0], [2, 2]])
    np.testing.assert_allclose(scorer.score(HISTORIES, candidates), np.take_along_axis(full, candidates, 1), atol=1e-6)
    assert full.shape == (3, 24)
    assert not full[2].any()
    with pytest.raises(DataError):
        scorer.score([[24]])


def test_users_are_those_of_the_adapters(make_task: MakeTask, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'kitchen'"):
        unisrec(make_task(settings={"epochs": 1}))
    with pytest.raises(ConfigError, match="'dim'"):
        unisrec(make_task(settings={"dim": 1}))
