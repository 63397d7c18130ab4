"""Merged adapters: what is merged, how it is weighted, and LoRA that starts there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xcrossrec import ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import Adapter, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.model import matcher_of
from xcrossrec.models.source import SourceEncoder
from xcrossrec.training.source import source_users
from xcrossrec_lab.methods import merging
from xcrossrec_lab.methods.merging import MERGES, inherit_head, merged_adapter
from xcrossrec_lab.task import Source, Task

MakeTask = Callable[..., Task]
HISTORIES = [[0, 3], [5, 7, 2]]


def updates(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {module: f.up @ f.down for module, f in adapter.factors.items()}


@pytest.mark.parametrize("kind", MERGES)
def test_an_adapter_merged_with_itself_is_that_adapter(make_task: MakeTask, tmp_path: Path, kind: Any) -> None:
    task = make_task()
    one = task.sources[0]
    twice = replace(task, sources=(one, one, one))
    out = merged_adapter(twice, kind, tmp_path / "merged", density=1.0)
    base = load_base(task.base)
    merged, own = updates(read_adapter(out, base)), updates(read_adapter(one.adapter, base))
    assert merged.keys() == own.keys()
    for module in own:
        torch.testing.assert_close(merged[module], own[module], atol=1e-5, rtol=1e-4)


def test_the_linear_merge_is_the_mean_of_the_factors(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    base = load_base(task.base)
    merged = read_adapter(merged_adapter(task, "linear", tmp_path / "merged"), base)
    first, second = (read_adapter(source.adapter, base) for source in task.sources)
    for module, factors in merged.factors.items():
        down = (first.factors[module].down + second.factors[module].down) / 2
        up = (first.factors[module].up + second.factors[module].up) / 2
        torch.testing.assert_close(factors.up @ factors.down, up @ down, atol=1e-5, rtol=1e-4)


def test_cat_merges_into_the_mean_of_the_updates(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    base = load_base(task.base)
    merged = updates(read_adapter(merged_adapter(task, "cat", tmp_path / "merged"), base))
    first, second = (updates(read_adapter(source.adapter, base)) for source in task.sources)
    for module, update in merged.items():
        torch.testing.assert_close(update, (first[module] + second[module]) / 2, atol=1e-5, rtol=1e-4)


def test_ties_keeps_the_larger_half(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    merged = read_adapter(merged_adapter(task, "ties", tmp_path / "merged", density=0.5), load_base(task.base))
    factors = next(iter(merged.factors.values()))
    assert 0.2 < float((factors.down == 0).float().mean()) < 0.6


def test_dare_draws_by_the_seed_alone(make_task: MakeTask, tmp_path: Path) -> None:
    base = load_base(make_task().base)
    found = [
        updates(read_adapter(merged_adapter(make_task(seed=seed), "dare_linear", tmp_path / name), base))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]
    module = next(iter(found[0]))
    assert torch.equal(found[0][module], found[1][module])
    assert not torch.equal(found[0][module], found[2][module])


def test_a_merge_is_a_folder_like_a_sources(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    out = merged_adapter(task, "linear", tmp_path / "merged")
    model = bundle.load(out, trainable=True)
    encoder = model[0]
    assert isinstance(encoder, SourceEncoder)
    assert list(encoder.backbone.peft_config) == ["default"]
    assert any(p.requires_grad for p in encoder.parameters())
    assert bundle.read_bundle_manifest(out)["domain"]["name"] == "kitchen+camping"
    assert source_users(out) == source_users(task.sources[0].adapter) | source_users(task.sources[1].adapter)


def test_the_head_is_the_mean_of_the_sources(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    folders = []
    for number, source in enumerate(task.sources):
        model = bundle.load(source.adapter)
        with torch.no_grad():
            matcher_of(model).log_sharpness.fill_(float(number))
        folder = tmp_path / source.name
        bundle.save(model, folder, {"kind": "adapter"})
        folders.append(folder)
    model = bundle.load(task.sources[0].adapter)
    inherit_head(model, folders)
    assert matcher_of(model).log_sharpness.item() == pytest.approx(0.5)
    inherit_head(model, [])
    assert matcher_of(model).log_sharpness.item() == pytest.approx(0.5)


def test_the_merges_score_without_training(make_task: MakeTask) -> None:
    task = make_task()
    scores = []
    for method in (merging.merged_linear, merging.merged_cat, merging.merged_ties, merging.merged_dare):
        fitted = method(task)
        assert fitted.trained_parameters == 0
        assert fitted.uses_sources
        scores.append(fitted.scorer.score(HISTORIES))
    assert all(np.isfinite(s).all() for s in scores)
    assert not np.allclose(scores[0], scores[1])


def test_lora_starts_from_the_merge(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(training={"epochs": 1}, settings={"learning_rate": 1e-9})
    fitted = merging.lora_from_merged(task)
    merged = merged_adapter(task, "linear", tmp_path / "merged")
    assert fitted.report["init"] == ["kitchen", "camping"]
    assert fitted.trained_parameters > fitted.head_parameters > 0
    assert fitted.model is not None
    trained_lora = fitted.model[0].backbone.state_dict()
    start = bundle.load(merged)[0].backbone.state_dict()
    for key, value in start.items():
        torch.testing.assert_close(trained_lora[key], value, atol=1e-5, rtol=1e-5)


def test_training_moves_the_lora(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task(training={"holdout_share": 0.0}, settings={"learning_rate": 1e-2})
    fitted = merging.lora_from_merged(task)
    assert fitted.model is not None
    start = bundle.load(merged_adapter(task, "linear", tmp_path / "merged"))[0].backbone.state_dict()
    now = fitted.model[0].backbone.state_dict()
    moved = {key for key, value in start.items() if not torch.equal(now[key], value)}
    assert moved
    assert all("lora_" in key for key in moved)


def test_bad_requests_are_refused(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    with pytest.raises(ConfigError, match="'svd'"):
        merged_adapter(task, "svd", tmp_path / "a")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"1\.5"):
        merged_adapter(task, "ties", tmp_path / "a", density=1.5)
    with pytest.raises(ModelError, match="got 1"):
        merged_adapter(replace(task, sources=task.sources[:1]), "linear", tmp_path / "a")
    with pytest.raises(ConfigError, match="'densty'"):
        merging.merged_ties(replace(task, settings={"densty": 0.2}))


def test_adapters_of_other_ranks_are_refused(make_task: MakeTask, tmp_path: Path) -> None:
    task = make_task()
    wide = tmp_path / "wide"
    shutil.copytree(task.sources[0].adapter, wide)
    from safetensors.torch import load, save_file

    tensors = load((wide / "adapter_model.safetensors").read_bytes())
    padded = {
        key: torch.cat([value, torch.zeros_like(value)], dim=0 if "lora_A" in key else 1)
        for key, value in tensors.items()
    }
    save_file(padded, wide / "adapter_model.safetensors")
    config = (wide / "adapter_config.json").read_text().replace('"r": 2', '"r": 4')
    (wide / "adapter_config.json").write_text(config)
    manifest = json.loads((wide / "xcrossrec.json").read_text())
    del manifest["files"]  # it lists the narrow ones
    (wide / "xcrossrec.json").write_text(json.dumps(manifest))
    other = replace(task, sources=(task.sources[1], Source("wide", wide, wide)))
    with pytest.raises(ModelError, match="cannot merge"):
        merged_adapter(other, "linear", tmp_path / "merged")


@pytest.mark.parametrize("start", ["similarity", "fresh"])
def test_pair_models_merge_too(make_task: MakeTask, start: str) -> None:
    fitted = merging.merged_linear(make_task(scoring="pair", pair_start=start))
    assert fitted.scorer.score(HISTORIES, np.array([[1, 2], [3, 4]])).shape == (2, 2)
