"""LoRA on one domain: what is written, what stays as it was, and runs that were cut short."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from training_runs import assert_same_weights, digest, stop_at_epoch, weights
from xcrossrec.config import TrainingConfig
from xcrossrec.copurchase import user_hash
from xcrossrec.data import Domain
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import MANIFEST, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.model import encoder_of
from xcrossrec.models.source import SourceEncoder
from xcrossrec.training.places import work_folder
from xcrossrec.training.source import (
    TRAINING_USERS,
    seen_users,
    source_users,
    train_source,
    user_hashes,
)

Settings = Callable[..., TrainingConfig]


# ---- a finished run


def test_an_adapter_is_a_peft_folder_with_a_complete_manifest(
    two_sources: list[Path], tiny_base: str, domain_named: Callable[..., Domain], settings: Settings
) -> None:
    folder = two_sources[0]
    manifest = bundle.read_bundle_manifest(folder)
    domain = domain_named("first", seed=0)
    base = load_base(tiny_base)
    assert manifest["kind"] == "adapter"
    assert manifest["base"] == {"name": tiny_base, "digest": base.digest}
    assert manifest["domain"] == {
        "name": "first",
        "fingerprint": domain.fingerprint,
        "simulated": False,
        "items": domain.items.height,
    }
    assert manifest["training"] == {**asdict(settings()), "budget": None}
    assert (manifest["scoring"], manifest["prompt_version"]) == ("dual", 1)
    written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == written - {MANIFEST}
    assert {"adapter_config.json", "adapter_model.safetensors", TRAINING_USERS} <= written
    adapter = read_adapter(folder, base)
    assert manifest["parameters"] == {"lora": adapter.parameters}


def test_metrics_record_the_loss_on_users_set_aside(two_sources: list[Path]) -> None:
    metrics = bundle.read_bundle_manifest(two_sources[0])["metrics"]
    assert (metrics["users"], metrics["holdout_users"]) == (38, 10)
    assert metrics["epochs"] == 2
    assert metrics["initial_loss"] > 0
    assert metrics["best_loss"] == min(metrics["losses"][-2:])
    assert metrics["trained_parameters"] > 0
    assert metrics["wall_s"] > 0


def test_training_moves_the_adapter_and_leaves_the_base(two_sources: list[Path], tiny_base: str) -> None:
    before = load_base(tiny_base)
    model = bundle.load(two_sources[0])
    encoder = encoder_of(model)
    assert isinstance(encoder, SourceEncoder)
    inside = {
        name.replace(".base_layer", ""): value for name, value in encoder.backbone.base_model.model.state_dict().items()
    }
    for name, value in before.backbone.state_dict().items():
        assert torch.equal(inside[name], value), name
    assert any(value.abs().max() > 0 for name, value in inside.items() if "lora_B" in name)


def test_checkpoints_are_removed_and_the_log_stays(two_sources: list[Path]) -> None:
    work = work_folder(two_sources[0])
    assert work.name == "first.training"
    assert list(work.glob("checkpoint-*")) == []
    assert list(work.rglob("events.out.tfevents*"))


def test_users_are_recorded_as_hashes(two_sources: list[Path], domain_named: Callable[..., Domain]) -> None:
    domain = domain_named("first", seed=0)
    users = domain.sequences("train").user_ids
    assert source_users(two_sources[0]) == user_hashes(users)
    assert not source_users(two_sources[0]) & set(users)
    assert len(user_hash("someone")) == 16
    assert seen_users(two_sources[0], domain, "train") == set(users)
    assert seen_users(two_sources[0], domain_named("second", seed=1), "train") == frozenset()
    assert source_users(two_sources[0] / "absent") == frozenset()


# ---- options


def test_budget_limits_the_users(tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path) -> None:
    report = train_source(
        target_domain, tmp_path / "a", config=settings(epochs=1), base=tiny_base, budget=12, rank=2, show_progress=False
    )
    assert (report.users, report.holdout_users) == (12, 0)
    assert report.best_loss is None
    assert report.initial_loss is None
    manifest = bundle.read_bundle_manifest(tmp_path / "a")
    assert manifest["training"]["budget"] == 12
    expected = target_domain.sequences("train").take(12, settings().seed).user_ids
    assert source_users(tmp_path / "a") == user_hashes(expected)


def test_a_budget_above_the_users(tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"100.*48|48.*100"):
        train_source(target_domain, tmp_path / "a", config=settings(), base=tiny_base, budget=100)


def test_one_user_is_too_few(tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="training needs at least 2 users, got 1: raise the budget"):
        train_source(target_domain, tmp_path / "a", config=settings(), base=tiny_base, budget=1)
    assert not (tmp_path / "a").exists()


def test_a_domain_without_training_users(
    tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    empty = Domain("empty", target_domain.items, {"test": target_domain.interactions["train"]}, {})
    with pytest.raises(DataError, match="train"):
        train_source(empty, tmp_path / "a", config=settings(), base=tiny_base)


def test_an_existing_result_is_refused_before_the_work(
    two_sources: list[Path], tiny_base: str, target_domain: Domain, settings: Settings
) -> None:
    before = digest(two_sources[0])
    with pytest.raises(BundleError, match="first exists: choose another place, or allow to overwrite it"):
        train_source(target_domain, two_sources[0], config=settings(), base=tiny_base)
    assert digest(two_sources[0]) == before


@pytest.mark.parametrize("attention", ["joint", "shared"])
def test_pairs_train_too(
    attention: Any, tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    report = train_source(
        target_domain,
        tmp_path / "a",
        config=settings(),
        base=tiny_base,
        scoring="pair",
        pair_attention=attention,
        show_progress=False,
    )
    assert report.best_loss is not None
    assert report.best_loss > 0
    model = bundle.load(tmp_path / "a")
    assert kind_of(model).name == "pair"
    assert encoder_of(model).pair_attention == attention
    factors = [value for key, value in weights(tmp_path / "a").items() if "lora_B" in key]
    assert any(value.abs().max() > 0 for value in factors)


def test_a_warm_start_goes_on_from_the_adapter(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    before = digest(two_sources[0])
    tiny_steps = settings(epochs=1, learning_rate=1e-12, head_learning_rate=1e-12)
    train_source(target_domain, tmp_path / "warm", config=tiny_steps, init=two_sources[0], show_progress=False)
    start, end = weights(two_sources[0]), weights(tmp_path / "warm")
    assert start.keys() == end.keys()
    moved = {key for key in start if key.endswith("mean")}  # the center is the new catalogue's
    assert len(moved) == 1
    for key in start.keys() - moved:
        torch.testing.assert_close(start[key], end[key], rtol=0, atol=1e-6)
    assert digest(two_sources[0]) == before
    assert bundle.read_bundle_manifest(tmp_path / "warm")["init"] == str(two_sources[0])


def test_a_warm_start_needs_a_single_adapter(
    tiny_models: Any, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="late is no single LoRA adapter"):
        train_source(target_domain, tmp_path / "a", config=settings(), init=tiny_models.late)


# ---- seeds, interruptions


def test_the_same_seed_gives_the_same_bits(
    two_sources: list[Path], tiny_base: str, domain_named: Callable[..., Domain], settings: Settings, tmp_path: Path
) -> None:
    torch.manual_seed(99)  # the global state has no say
    train_source(domain_named("first", seed=0), tmp_path / "b", config=settings(), base=tiny_base, show_progress=False)
    assert_same_weights(two_sources[0], tmp_path / "b")


def test_a_resumed_run_reaches_the_same_bits(
    two_sources: list[Path],
    tiny_base: str,
    domain_named: Callable[..., Domain],
    settings: Settings,
    tmp_path: Path,
) -> None:
    domain = domain_named("first", seed=0)
    out = tmp_path / "first"
    options: dict[str, Any] = {"config": settings(), "base": tiny_base, "show_progress": False}
    with pytest.MonkeyPatch.context() as patch:
        stop_at_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_source(domain, out, **options)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"first\.training holds an unfinished run: continue it with --resume"):
        train_source(domain, out, **options)
    with pytest.raises(ConfigError, match="holds a run with other settings, data or sources"):
        train_source(domain, out, **{**options, "config": settings(learning_rate=0.5)}, resume=True)
    with pytest.raises(ConfigError, match="holds a run with other settings, data or sources"):
        train_source(domain_named("first", seed=5), out, **options, resume=True)
    train_source(domain, out, **options, resume=True)
    assert_same_weights(two_sources[0], out)
    manifest, straight = json.loads((out / MANIFEST).read_text()), json.loads((two_sources[0] / MANIFEST).read_text())
    assert manifest["metrics"]["best_loss"] == straight["metrics"]["best_loss"]
    assert manifest["metrics"]["epochs"] == straight["metrics"]["epochs"]


def test_a_run_goes_on_when_its_base_has_moved(
    two_sources: list[Path], tiny_base: str, domain_named: Callable[..., Domain], settings: Settings, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_base, tmp_path / "bases" / "first")
    options: dict[str, Any] = {"config": settings(), "show_progress": False}
    with pytest.MonkeyPatch.context() as patch:
        stop_at_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_source(domain_named("first", seed=0), tmp_path / "first", base=base, **options)
    moved = base.rename(tmp_path / "moved")
    train_source(domain_named("first", seed=0), tmp_path / "first", base=moved, resume=True, **options)
    assert_same_weights(two_sources[0], tmp_path / "first")


def test_early_stopping_counts_on_after_a_resume(
    tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    config = settings(epochs=8, learning_rate=0.3, head_learning_rate=1.0, patience=2)  # soon overshoots
    options: dict[str, Any] = {"config": config, "base": tiny_base, "show_progress": False}
    straight = train_source(target_domain, tmp_path / "straight", **options)
    stopped = round(straight.epochs)
    assert 2 <= stopped < 8, "this test needs a run that stops early"
    with pytest.MonkeyPatch.context() as patch:
        stop_at_epoch(patch, stopped - 1)
        with pytest.raises(KeyboardInterrupt):
            train_source(target_domain, tmp_path / "cut", **options)
    resumed = train_source(target_domain, tmp_path / "cut", **options, resume=True)
    assert resumed.epochs == straight.epochs
    assert_same_weights(tmp_path / "straight", tmp_path / "cut")


def test_nothing_to_resume(tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to resume in .*a\.training: run without --resume"):
        train_source(target_domain, tmp_path / "a", config=settings(), base=tiny_base, resume=True)


def test_a_training_leaves_the_generators_of_its_process_as_they_are(
    tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002 - what it is about

    def seeded() -> None:
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(5)

    with torch.random.fork_rng():
        seeded()
        expected = drawn()
        seeded()
        train_source(target_domain, tmp_path / "a", config=settings(epochs=1), base=tiny_base, show_progress=False)
        assert drawn() == expected
