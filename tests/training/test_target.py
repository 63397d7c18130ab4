"""Integration into a new domain: what trains, what stays, what is recorded, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from model_families import randomise
from training_runs import assert_same_weights, digest, stop_at_epoch, weights
from xcrossrec.config import Integration, TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import BundleError, ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import MANIFEST, read_adapter
from xcrossrec.models.base import load_base
from xcrossrec.models.fast.passes import PackedPass
from xcrossrec.models.kinds import kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import encoder_of, matcher_of
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.training import loop
from xcrossrec.training.places import work_folder
from xcrossrec.training.source import source_users, train_source
from xcrossrec.training.target import build_target_model, count_parameters, train_target
from xcrossrec.types import Scoring

Settings = Callable[..., TrainingConfig]

MERGED, XCROSS = Integration("merged"), Integration("xcross", top_layers=None)


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    two_sources: list[Path],
    target_domain: Domain,
    settings: Settings,
) -> Path:
    """The paper's integrators over two trained sources."""
    out = tmp_path_factory.mktemp("targets") / "model"
    train_target(
        target_domain,
        two_sources,
        out,
        integration=XCROSS,
        config=settings(),
        show_progress=False,
    )
    return out


# ---- a finished run


def test_base_and_adapters_are_unchanged(trained: Path, two_sources: list[Path], tiny_base: str) -> None:
    manifest = bundle.read_bundle_manifest(trained)
    assert manifest["base"] == {"name": tiny_base, "digest": load_base(tiny_base).digest}
    for name, folder in zip(("first", "second"), two_sources, strict=True):
        inside = trained / "adapters" / name
        for file in ("adapter_model.safetensors", "adapter_config.json", MANIFEST):
            assert (inside / file).read_bytes() == (folder / file).read_bytes()
        assert bundle.load(folder) is not None  # every digest of the source still holds


def test_integrators_stream_weights_and_head_moved(trained: Path, two_sources: list[Path]) -> None:
    start = build_target_model(two_sources, XCROSS)
    start = kind_of(start).centered(start, ["w1 w2"])
    end = bundle.load(trained)
    before, after = start.state_dict(), end.state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    trained = {key for key, parameter in start.named_parameters() if parameter.requires_grad}
    assert moved == trained | {"2.mean"}
    assert any("concat_weight" in key for key in moved)
    assert "0.stream_weight" in moved
    assert any("log_scale" in key for key in moved)


def test_the_manifest_is_complete(
    trained: Path, two_sources: list[Path], target_domain: Domain, settings: Settings
) -> None:
    manifest = bundle.read_bundle_manifest(trained)
    assert manifest["kind"] == "target"
    assert manifest["domain"]["fingerprint"] == target_domain.fingerprint
    assert manifest["training"] == {**asdict(settings()), "budget": None}
    assert Integration(**manifest["integration"]) == XCROSS
    assert [source["name"] for source in manifest["sources"]] == ["first", "second"]
    digests = [digest(folder)["adapter_model.safetensors"] for folder in two_sources]
    assert [source["digest"] for source in manifest["sources"]] == digests
    metrics = manifest["metrics"]
    assert metrics["holdout_users"] == 10
    assert metrics["best_loss"] == min(metrics["losses"])
    assert metrics["best_loss"] != metrics["initial_loss"]
    counted = manifest["parameters"]
    assert counted["integrators"] == 3 * 2 * 2 * 1 * 2 * 32
    assert counted["share"] == 0.25
    trainable = counted["integrators"] + counted["stream_weights"] + counted["head"]
    assert metrics["trained_parameters"] == trainable
    written = {path.relative_to(trained).as_posix() for path in trained.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == written - {MANIFEST}


def test_the_users_of_the_sources_are_recorded(trained: Path, two_sources: list[Path]) -> None:
    assert source_users(trained) == source_users(two_sources[0]) | source_users(two_sources[1])


def test_a_tensorboard_log_stays(trained: Path) -> None:
    assert list(work_folder(trained).rglob("events.out.tfevents*"))
    assert not list(work_folder(trained).glob("checkpoint-*"))


def test_training_lowers_the_loss_on_users_set_aside(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    report = train_target(
        target_domain,
        two_sources,
        tmp_path / "m",
        integration=XCROSS,
        config=settings(epochs=4, patience=4),
        show_progress=False,
    )
    assert report.initial_loss is not None
    assert report.best_loss is not None
    assert report.best_loss < report.initial_loss


# ---- options


@pytest.mark.parametrize("attention", ["joint", "shared"])
def test_pairs_train_too(
    attention: Any, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    report = train_target(
        target_domain,
        two_sources,
        tmp_path / "m",
        config=settings(epochs=1),
        integration=XCROSS,
        scoring="pair",
        pair_attention=attention,
        budget=40,
        show_progress=False,
    )
    assert report.users + report.holdout_users == 40
    model = bundle.load(tmp_path / "m")
    encoder = encoder_of(model)
    assert isinstance(encoder, XCrossEncoder)
    assert kind_of(model).name == "pair"
    assert encoder.shares_history == (attention == "shared")
    assert all(p.abs().max() > 0 for module in encoder.integrators for p in module.parameters())


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_by_default_merged_sources_train_one_lora_for_the_target(
    scoring: Scoring, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    report = train_target(
        target_domain, two_sources, tmp_path / "m", config=settings(epochs=1), scoring=scoring, show_progress=False
    )
    model = bundle.load(tmp_path / "m", trainable=True)
    encoder = encoder_of(model)
    assert isinstance(encoder, MergedEncoder)
    assert (encoder.integration, encoder.sources) == (MERGED, ("first", "second"))
    factors = dict(encoder.backbone.named_parameters())
    assert {p.shape[0] for name, p in factors.items() if "lora_A" in name} == {2}
    assert all(p.abs().max() > 0 for name, p in factors.items() if "lora_B" in name)
    head = sum(p.numel() for module in list(model)[1:] for p in module.parameters())
    assert report.trained_parameters == count_parameters(model)["target_lora"] + 1 + head


def test_an_existing_result_is_refused_or_replaced(
    trained: Path, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(trained, out)
    with pytest.raises(BundleError, match="copy exists: choose another place, or allow to overwrite it"):
        train_target(target_domain, two_sources, out, integration=XCROSS, config=settings())
    train_target(
        target_domain,
        two_sources,
        out,
        integration=XCROSS,
        config=settings(epochs=1),
        budget=10,
        overwrite=True,
        show_progress=False,
    )
    assert bundle.read_bundle_manifest(out)["training"]["budget"] == 10


# ---- interruptions and faults


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_a_resumed_target_run_reaches_the_same_bits(
    scoring: Any, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"config": settings(epochs=3), "scoring": scoring, "show_progress": False}
    train_target(target_domain, two_sources, tmp_path / "straight", **options)
    with pytest.MonkeyPatch.context() as patch:
        stop_at_epoch(patch, 1)
        with pytest.raises(KeyboardInterrupt):
            train_target(target_domain, two_sources, tmp_path / "cut", **options)
    assert not (tmp_path / "cut").exists()
    with pytest.raises(ConfigError, match="holds a run with other settings, data or sources"):
        train_target(
            target_domain, two_sources, tmp_path / "cut", resume=True, **{**options, "config": settings(seed=4)}
        )
    changed = ({"integration": Integration("merged", rank=1)}, {"integration": XCROSS})
    for changes in (*changed, *([{"pair_attention": "shared"}] if scoring == "pair" else [])):
        with pytest.raises(ConfigError, match="holds a run with other settings, data or sources"):
            train_target(target_domain, two_sources, tmp_path / "cut", resume=True, **options, **changes)
    with pytest.raises(ConfigError, match="holds a run with other settings, data or sources"):
        train_target(target_domain, two_sources[::-1], tmp_path / "cut", resume=True, **options)
    train_target(target_domain, two_sources, tmp_path / "cut", resume=True, **options)
    assert_same_weights(tmp_path / "straight", tmp_path / "cut")


def test_a_frozen_weight_that_changes_stops_the_run(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer_of = loop._trainer

    def meddle(model: Any, *args: Any) -> Any:
        with torch.no_grad():
            next(iter(model[0].backbone.parameters())).add_(1e-3)
        return trainer_of(model, *args)

    monkeypatch.setattr(loop, "_trainer", meddle)
    with pytest.raises(ModelError, match="a frozen weight changed during training"):
        train_target(
            target_domain,
            two_sources,
            tmp_path / "m",
            integration=XCROSS,
            config=settings(epochs=1),
            budget=10,
            show_progress=False,
        )
    assert not (tmp_path / "m").exists()


def test_a_best_checkpoint_that_does_not_come_back_stops_the_run(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify = loop._verify_best
    monkeypatch.setattr(loop, "_verify_best", lambda trainer, best: verify(trainer, best - 1))
    with pytest.raises(ModelError, match=r"the best checkpoint \(loss .*\) was not restored"):
        train_target(
            target_domain,
            two_sources,
            tmp_path / "m",
            integration=XCROSS,
            config=settings(epochs=1),
            show_progress=False,
        )


# ---- how it starts


def test_the_head_starts_from_the_mean_of_the_sources_heads(two_sources: list[Path], tmp_path: Path) -> None:
    changed = bundle.load(two_sources[1])
    randomise(changed[-1], "log_", 0.5)
    manifest = json.loads((two_sources[1] / MANIFEST).read_text(encoding="utf-8"))
    bundle.save(changed, tmp_path / "changed", {"domain": manifest["domain"]})
    sources = [two_sources[0], tmp_path / "changed"]
    states = [matcher_of(bundle.load(path)).state_dict() for path in sources]
    mean = matcher_of(build_target_model(sources, XCROSS)).state_dict()
    for key, value in mean.items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 2)


def test_an_untrained_model_is_the_mean_of_its_sources(two_sources: list[Path]) -> None:
    model = build_target_model(two_sources, XCROSS).eval()
    features = model[0].preprocess(["w1 w2", "w3\nw4 w5"])
    with torch.no_grad():
        mean = sum(bundle.load(path)[0](dict(features))["token_embeddings"] for path in two_sources) / 2
        got = model[0](dict(features))["token_embeddings"]
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(got[mask], mean[mask], rtol=1e-5, atol=1e-5)


def test_counts_agree_with_what_trains(trained: Path, tiny_base: str) -> None:
    model = bundle.load(trained)
    counted = count_parameters(model)
    own = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counted["integrators"] + counted["stream_weights"] + counted["head"] == own
    base = load_base(tiny_base)
    assert counted["base"] == sum(p.numel() for p in base.backbone.parameters())
    adapter = read_adapter(trained / "adapters" / "first", base)
    assert counted["lora_per_source"] == adapter.parameters
    assert weights(trained).keys() > {"integrators.safetensors:stream_weight"}


def test_the_target_takes_the_pair_attention_that_its_sources_agree_on(
    two_sources: list[Path], tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        options: dict[str, Any] = {"scoring": "pair", "pair_attention": "shared", "budget": 8, "show_progress": False}
        train_source(target_domain, tmp_path / name, config=settings(epochs=1), base=tiny_base, **options)
    shared = [tmp_path / "first", tmp_path / "second"]
    assert encoder_of(build_target_model(shared, MERGED, scoring="pair")).pair_attention == "shared"
    assert encoder_of(build_target_model(shared, XCROSS)).pair_attention == "joint"
    mixed = [tmp_path / "first", two_sources[0]]
    assert encoder_of(build_target_model(mixed, MERGED, scoring="pair")).pair_attention == "joint"
    with pytest.raises(ConfigError, match="pair attention 'shared' belongs to pair scoring"):
        build_target_model(shared, MERGED, pair_attention="shared")


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["one beginning", "two beginnings"])
def test_a_pair_head_starts_from_sources_that_began_alike(
    seeds: tuple[int, int], tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    for name, seed in zip(("first", "second"), seeds, strict=True):
        options: dict[str, Any] = {"scoring": "pair", "pair_start": "fresh", "budget": 8, "show_progress": False}
        train_source(target_domain, tmp_path / name, config=settings(epochs=1, seed=seed), base=tiny_base, **options)
    sources = [tmp_path / "first", tmp_path / "second"]
    heads = [bundle.load(path)[-1].state_dict() for path in sources]
    head = build_target_model(sources, MERGED, scoring="pair")[-1]
    assert head.starts == "fresh"
    mean = torch.stack([state["project.weight"] for state in heads]).mean(0)
    assert torch.equal(head.state_dict()["project.weight"], mean) == (seeds[0] == seeds[1])
    assert bool(head.value.weight.any()) == (seeds[0] == seeds[1])


def test_the_last_layers_only(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    top = Integration("xcross", top_layers=2)
    options: dict[str, Any] = {"integration": top, "budget": 16, "show_progress": False}
    train_target(target_domain, two_sources, tmp_path / "m", config=settings(epochs=1), **options)
    model = bundle.load(tmp_path / "m")
    assert encoder_of(model).layer_numbers == [2, 3]
    manifest = bundle.read_bundle_manifest(tmp_path / "m")
    assert Integration(**manifest["integration"]) == top
    assert manifest["parameters"]["integrators"] == count_parameters(model)["integrators"] == 2 * 2 * 2 * 2 * 32


@pytest.mark.parametrize(
    ("integration", "still", "moving"),
    [(MERGED, "target_learning_rate", "head_learning_rate"), (XCROSS, "learning_rate", "head_learning_rate")],
    ids=["merged", "xcross"],
)
def test_each_group_trains_at_its_own_rate(
    integration: Integration,
    still: str,
    moving: str,
    two_sources: list[Path],
    target_domain: Domain,
    settings: Settings,
    tmp_path: Path,
) -> None:
    config = settings(epochs=1, holdout_share=0.0, **{still: 1e-12, moving: 1e-2})
    start = build_target_model(two_sources, integration)
    train_target(
        target_domain, two_sources, tmp_path / "m", config=config, integration=integration, show_progress=False
    )
    end = encoder_of(bundle.load(tmp_path / "m"))
    before, after = encoder_of(start).parameter_groups(), end.parameter_groups()
    change = {
        rate: max(float((a - b).detach().abs().max()) for a, b in zip(after[rate], before[rate], strict=True))
        for rate in (still, moving)
    }
    if integration.form == "xcross":
        assert change[still] < 1e-9
    else:  # A begins at random draws of the training's own seed
        assert max(float(p.detach().abs().max()) for p in list(end.lora_state().values())[1::2]) < 1e-9
    assert change[moving] > 1e-3


def test_kept_states_change_no_training(
    two_sources: list[Path],
    target_domain: Domain,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"integration": Integration("xcross", top_layers=2), "show_progress": False}
    kept = train_target(target_domain, two_sources, tmp_path / "kept", config=settings(), **options)
    monkeypatch.setattr(PackedPass, "_can_keep", lambda self: False)
    anew = train_target(target_domain, two_sources, tmp_path / "anew", config=settings(), **options)
    assert kept.losses == pytest.approx(anew.losses, rel=1e-3)
