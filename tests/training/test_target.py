"""Integration into a new domain: what trains, what stays, what is recorded, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DebertaV2Config

from model_families import FAMILIES, VOCABULARY, Family, randomise, write_adapter, write_base
from training_runs import assert_same_weights, digest, stop_at_epoch, weights
from xcrossrec.config import TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import BaseMismatchError, BundleError, ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import MANIFEST, read_adapter
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.fast.passes import PackedPass
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.model import encoder_of, matcher_of
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.training import loop
from xcrossrec.training.source import source_users, train_source, work_folder
from xcrossrec.training.target import (
    build_target_model,
    count_parameters,
    source_names,
    train_target,
    write_unchanged_adapter,
)
from xcrossrec.types import Scoring

Settings = Callable[..., TrainingConfig]


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
        integrator="paper",
        config=settings(),
        gamma=0.5,
        top_layers=None,
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
    start = bundle.with_center(build_target_model(two_sources, gamma=0.5))
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
    assert manifest["kind"] == "x-cross"
    assert manifest["domain"]["fingerprint"] == target_domain.fingerprint
    assert manifest["training"] == {**settings().to_dict(), "budget": None}
    assert manifest["integration"] == {
        "integrator": "paper",
        "beta": 1.0,
        "gamma": 0.5,
        "base_stream": False,
        "top_layers": None,
        "target_rank": 0,
        "target_layers": None,
    }
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
        integrator="paper",
        config=settings(epochs=4, patience=4),
        show_progress=False,
    )
    assert report.initial_loss is not None
    assert report.best_loss is not None
    assert report.best_loss < report.initial_loss


# ---- options


@pytest.mark.parametrize(
    ("integrator", "scoring", "pooling", "attention"),
    [("pairwise", "dual", "prompt", None), ("paper", "pair", "late", None), ("paper", "pair", "late", "shared")],
)
def test_other_forms_train_too(
    integrator: str,
    scoring: Any,
    pooling: Any,
    attention: Any,
    two_sources: list[Path],
    target_domain: Domain,
    settings: Settings,
    tmp_path: Path,
) -> None:
    report = train_target(
        target_domain,
        two_sources,
        tmp_path / "m",
        config=settings(epochs=1),
        integrator=integrator,
        scoring=scoring,
        pooling=pooling,
        pair_attention=attention,
        budget=40,
        show_progress=False,
    )
    assert report.users + report.holdout_users == 40
    model = bundle.load(tmp_path / "m")
    encoder = encoder_of(model)
    assert isinstance(encoder, XCrossEncoder)
    assert (encoder.integrator, kind_of(model).name) == (integrator, scoring)
    assert encoder.shares_history == (attention == "shared")
    assert matcher_of(model).pooling == pooling
    assert all(p.abs().max() > 0 for module in encoder.integrators for p in module.parameters())


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_by_default_merged_sources_train_one_lora_for_the_target(
    scoring: Scoring, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    report = train_target(
        target_domain,
        two_sources,
        tmp_path / "m",
        config=settings(epochs=1),
        scoring=scoring,
        show_progress=False,
    )
    model = bundle.load(tmp_path / "m")
    encoder = encoder_of(model)
    assert isinstance(encoder, XCrossEncoder)
    assert (encoder.integrator, encoder.streams, encoder.sources) == ("merged", 1, ("first", "second"))
    assert {lora.down.shape[0] for lora in encoder.target_loras.values()} == {2}
    assert all(lora.up.abs().max() > 0 for lora in encoder.target_loras.values())
    head = sum(p.numel() for module in list(model)[1:] for p in module.parameters())
    assert report.trained_parameters == count_parameters(model)["target_lora"] + 1 + head


def test_an_existing_result_is_refused_or_replaced(
    trained: Path, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    out = tmp_path / "copy"
    shutil.copytree(trained, out)
    with pytest.raises(BundleError, match="copy exists: choose another place, or pass --overwrite"):
        train_target(target_domain, two_sources, out, integrator="paper", config=settings())
    train_target(
        target_domain,
        two_sources,
        out,
        integrator="paper",
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
    changed = ({"beta": 0.5}, {"pooling": "prompt"}, {"integrator": "pairwise"}, {"max_tokens": 16})
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
            integrator="paper",
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
            integrator="paper",
            config=settings(epochs=1),
            show_progress=False,
        )


# ---- what is refused


def test_one_source_is_refused(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="integration needs at least 2 sources, got 1: pass --source once more"):
        train_target(target_domain, two_sources[:1], tmp_path / "m", integrator="paper", config=settings())


def test_a_missing_source(two_sources: list[Path]) -> None:
    with pytest.raises(BundleError, match="adapter folder '/no/such/adapter' does not exist: check the path"):
        build_target_model([two_sources[0], "/no/such/adapter"])


def test_a_folder_that_is_no_adapter(two_sources: list[Path], tmp_path: Path) -> None:
    for order in ([two_sources[0], tmp_path], [tmp_path, two_sources[0]]):
        with pytest.raises(BundleError, match=r"is no adapter: it has no adapter_config\.json"):
            build_target_model(order)


def test_sources_of_different_bases_are_refused_and_both_named(two_sources: list[Path], tmp_path: Path) -> None:
    other = str(write_base(tmp_path / "other-base", FAMILIES["bert"], seed=3))
    encoder = SourceEncoder(load_base(other), default_lora(2))
    bundle.save(build_model(encoder), tmp_path / "foreign", {"kind": "adapter"})
    with pytest.raises(BaseMismatchError, match=r"foreign was trained on base '.*other-base'.*, not on '.*base'"):
        build_target_model([two_sources[0], tmp_path / "foreign"])


def test_an_unknown_integrator(two_sources: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"unknown integrator 'attention': choose one of paper, pairwise"):
        build_target_model(two_sources, integrator="attention")


# ---- adapters made elsewhere, names, heads


def test_adapters_made_with_peft_alone_can_be_integrated(tiny_base: str, tmp_path: Path) -> None:
    folders = [
        write_adapter(tmp_path / name, Path(tiny_base), seed=seed, r=rank, target_modules=["query", "value"]).folder
        for seed, (name, rank) in enumerate((("toys", 2), ("tools", 4)))
    ]
    model = build_target_model(folders)
    assert model[0].sources == ("toys", "tools")
    counted = count_parameters(model)
    assert counted["lora_per_source"] == {"toys": 3 * 2 * 2 * 64, "tools": 3 * 2 * 4 * 64}
    assert counted["share"] == counted["integrators"] / (3 * 2 * 4 * 64)


def test_names_come_from_the_domain_and_are_made_unique(two_sources: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "Toys & Games"
    odd.mkdir()
    assert source_names([two_sources[0], odd, two_sources[0], two_sources[0]]) == [
        "first",
        "Toys---Games",
        "first~2",
        "first~3",
    ]


def test_the_same_adapter_twice_has_two_names(two_sources: list[Path]) -> None:
    model = build_target_model([two_sources[0], two_sources[0]])
    assert model[0].sources == ("first", "first~2")


def test_the_head_starts_from_the_mean_of_the_sources_heads(two_sources: list[Path], tmp_path: Path) -> None:
    changed = bundle.load(two_sources[1])
    randomise(changed[-1], "log_", 0.5)
    manifest = json.loads((two_sources[1] / MANIFEST).read_text(encoding="utf-8"))
    bundle.save(changed, tmp_path / "changed", {"domain": manifest["domain"]})
    sources = [two_sources[0], tmp_path / "changed"]
    states = [matcher_of(bundle.load(path)).state_dict() for path in sources]
    mean = matcher_of(build_target_model(sources)).state_dict()
    for key, value in mean.items():
        torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 2)
    fresh = matcher_of(build_target_model(sources, pooling="prompt")).state_dict()
    assert not torch.equal(fresh["log_recency"], mean["log_recency"])  # sources of another pooling have no say


def test_an_untrained_model_is_the_mean_of_its_sources(two_sources: list[Path]) -> None:
    model = build_target_model(two_sources).eval()
    features = model[0].preprocess(["w1 w2", "w3\nw4 w5"])
    with torch.no_grad():
        mean = sum(bundle.load(path)[0](dict(features))["token_embeddings"] for path in two_sources) / 2
        got = model[0](dict(features))["token_embeddings"]
    mask = features["attention_mask"].bool()
    torch.testing.assert_close(got[mask], mean[mask], rtol=1e-5, atol=1e-5)


# ---- the 25 %


def save_untrained_source(base: str, folder: Path) -> Path:
    model = build_model(SourceEncoder(load_base(base), default_lora(8)))
    bundle.save(model, folder, {"kind": "adapter"})
    return folder


def test_the_share_on_minilm_is_a_quarter(tmp_path: Path) -> None:
    folders = [save_untrained_source(DEFAULT_BASE, tmp_path / name) for name in ("a", "b")]
    counted = count_parameters(build_target_model(folders))
    assert counted["integrators"] == 18_432
    assert counted["lora_per_source"] == 73_728
    assert counted["share"] == 0.25
    pairwise = count_parameters(build_target_model(folders, integrator="pairwise"))
    assert pairwise["integrators"] == 6 * 2 * (384 + 1)
    assert pairwise["share"] < 0.25
    merged = count_parameters(build_target_model(folders, integrator="merged", target_rank=2))
    assert (merged["integrators"], merged["target_lora"], merged["stream_weights"]) == (0, 18_432, 1)
    assert (merged["share"], merged["base"]) == (0.25, counted["base"])


def test_the_share_on_a_deberta_v3_base_shape_is_a_quarter(tmp_path: Path) -> None:
    config = DebertaV2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=64,  # no LoRA here, so its size has no say
        relative_attention=True,
        pos_att_type="p2c|c2p",
        share_att_key=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    )
    base = write_base(tmp_path / "base", Family("deberta-v3-base", config, ["query_proj", "value_proj"], []))
    folders = [save_untrained_source(str(base), tmp_path / name) for name in ("a", "b")]
    counted = count_parameters(build_target_model(folders))
    assert counted["integrators"] == 73_728
    assert counted["lora_per_source"] == 294_912
    assert counted["share"] == 0.25
    assert counted["stream_weights"] == 2


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
    assert encoder_of(build_target_model(shared, scoring="pair")).pair_attention == "shared"
    assert encoder_of(build_target_model(shared)).pair_attention == "joint"
    mixed = [tmp_path / "first", two_sources[0]]
    assert encoder_of(build_target_model(mixed, scoring="pair")).pair_attention == "joint"
    with pytest.raises(ConfigError, match="pair attention 'shared' belongs to pair scoring"):
        build_target_model(shared, pair_attention="shared")


@pytest.mark.parametrize("seeds", [(0, 0), (0, 1)], ids=["one beginning", "two beginnings"])
def test_a_pair_head_starts_from_sources_that_began_alike(
    seeds: tuple[int, int], tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    for name, seed in zip(("first", "second"), seeds, strict=True):
        options: dict[str, Any] = {"scoring": "pair", "pair_start": "fresh", "budget": 8, "show_progress": False}
        train_source(target_domain, tmp_path / name, config=settings(epochs=1, seed=seed), base=tiny_base, **options)
    sources = [tmp_path / "first", tmp_path / "second"]
    heads = [bundle.load(path)[-1].state_dict() for path in sources]
    head = build_target_model(sources, scoring="pair")[-1]
    assert head.starts == "fresh"
    mean = torch.stack([state["project.weight"] for state in heads]).mean(0)
    assert torch.equal(head.state_dict()["project.weight"], mean) == (seeds[0] == seeds[1])
    assert bool(head.value.weight.any()) == (seeds[0] == seeds[1])


def test_the_base_as_one_more_stream(
    two_sources: list[Path], tiny_base: str, target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"integrator": "pairwise", "budget": 16, "show_progress": False}
    train_target(target_domain, two_sources, tmp_path / "m", config=settings(epochs=1), base_stream=True, **options)
    model = bundle.load(tmp_path / "m")
    encoder = encoder_of(model)
    assert encoder.sources == ("first", "second", "base")
    base = build_model(SourceEncoder(load_base(tiny_base))).eval()
    features = encoder.preprocess(["w1 w2", "w3 w4 w5"])
    with encoder.integration_off(), torch.no_grad():
        streams = encoder.encode_streams(features["input_ids"], features["attention_mask"])
        expected = base[0](dict(features))["token_embeddings"]
    present = features["attention_mask"].bool()
    torch.testing.assert_close(streams[2][present], expected[present])
    manifest = json.loads((tmp_path / "m" / MANIFEST).read_text(encoding="utf-8"))
    assert manifest["integration"]["base_stream"] is True
    assert [source["name"] for source in manifest["sources"]] == ["first", "second", "base"]


def test_the_last_layers_only(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"integrator": "pairwise", "base_stream": True, "budget": 16, "show_progress": False}
    train_target(target_domain, two_sources, tmp_path / "m", config=settings(epochs=1), top_layers=2, **options)
    model = bundle.load(tmp_path / "m")
    assert encoder_of(model).layer_numbers == [2, 3]
    manifest = bundle.read_bundle_manifest(tmp_path / "m")
    assert manifest["integration"]["top_layers"] == 2
    assert manifest["parameters"]["integrators"] == 2 * 3 * 2 * (32 + 1)
    assert count_parameters(model)["integrators"] == 2 * 3 * 2 * (32 + 1)


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_a_lora_of_the_targets_own(
    scoring: Scoring, two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"scoring": scoring, "top_layers": 1, "budget": 40, "show_progress": False}
    config = settings(epochs=3, holdout_share=0.0, target_learning_rate=1e-2)
    train_target(
        target_domain, two_sources, tmp_path / "m", integrator="paper", config=config, target_rank=1, **options
    )
    manifest = bundle.read_bundle_manifest(tmp_path / "m")
    assert manifest["integration"]["target_rank"] == 1
    encoder = encoder_of(bundle.load(tmp_path / "m"))
    assert isinstance(encoder, XCrossEncoder)
    assert all(bool(lora.up.any()) for lora in encoder.target_loras.values()), "it moved"
    counted = manifest["parameters"]
    assert counted["target_lora"] == sum(p.numel() for lora in encoder.target_loras.values() for p in lora.parameters())
    assert counted["share"] == (counted["integrators"] + counted["target_lora"]) / counted["lora_per_source"]


def test_the_targets_own_lora_has_a_learning_rate_of_its_own(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    config = settings(epochs=1, holdout_share=0.0, learning_rate=1e-12, target_learning_rate=1e-2)
    train_target(
        target_domain,
        two_sources,
        tmp_path / "m",
        integrator="paper",
        config=config,
        target_rank=1,
        show_progress=False,
    )
    state = encoder_of(bundle.load(tmp_path / "m")).integration_state()
    moved = {key.split(".")[0]: float(value.abs().max()) for key, value in sorted(state.items()) if "down" not in key}
    assert moved["layers"] < 1e-9
    assert moved["target"] > 1e-3


@pytest.mark.parametrize("own", [{}, {"target_rank": 2, "target_layers": 2}], ids=["integrators", "a LoRA of its own"])
def test_kept_states_change_no_training(
    own: dict[str, int],
    two_sources: list[Path],
    target_domain: Domain,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options: dict[str, Any] = {"integrator": "pairwise", "top_layers": 2, "show_progress": False} | own
    kept = train_target(target_domain, two_sources, tmp_path / "kept", config=settings(), **options)
    monkeypatch.setattr(PackedPass, "_can_keep", lambda self: False)
    anew = train_target(target_domain, two_sources, tmp_path / "anew", config=settings(), **options)
    assert kept.losses == pytest.approx(anew.losses, rel=1e-3)


def test_the_base_has_no_say_in_the_head(two_sources: list[Path], tiny_base: str, tmp_path: Path) -> None:
    write_unchanged_adapter(tmp_path / "base", tiny_base, seed=0)
    with_base, without = (
        matcher_of(build_target_model(sources)).state_dict()
        for sources in ([*two_sources, tmp_path / "base"], two_sources)
    )
    assert without["log_recency"].any(), "the sources' heads have moved, so the comparison tells"
    assert all(torch.equal(with_base[key], without[key]) for key in without)


def test_one_source_and_the_base_make_two_streams(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    train_target(
        target_domain,
        two_sources[:1],
        tmp_path / "m",
        integrator="paper",
        config=settings(epochs=1),
        base_stream=True,
        show_progress=False,
    )
    assert encoder_of(bundle.load(tmp_path / "m")).sources == ("first", "base")
