"""Sources of a target: which are refused, which were made elsewhere, and what they are called."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from model_families import FAMILIES, write_adapter, write_base
from xcrossrec.config import Integration, TrainingConfig
from xcrossrec.data import Domain
from xcrossrec.exceptions import BaseMismatchError, BundleError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG, MANIFEST
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.target import build_target_model, count_parameters, source_names, train_target

Settings = Callable[..., TrainingConfig]

MERGED, XCROSS = Integration("merged"), Integration("xcross", top_layers=None)


# ---- what is refused


def test_one_source_is_refused(
    two_sources: list[Path], target_domain: Domain, settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="integration needs at least 2 sources, got 1: pass --source once more"):
        train_target(target_domain, two_sources[:1], tmp_path / "m", integration=XCROSS, config=settings())


def test_a_missing_source(two_sources: list[Path]) -> None:
    with pytest.raises(BundleError, match="/no/such/adapter is no adapter: it has no adapter_config"):
        build_target_model([two_sources[0], "/no/such/adapter"], XCROSS)


def test_a_folder_that_is_no_adapter(two_sources: list[Path], tmp_path: Path) -> None:
    for order in ([two_sources[0], tmp_path], [tmp_path, two_sources[0]]):
        with pytest.raises(BundleError, match=r"is no adapter: it has no adapter_config\.json"):
            build_target_model(order, XCROSS)


def test_sources_of_different_bases_are_refused_and_both_named(two_sources: list[Path], tmp_path: Path) -> None:
    other = str(write_base(tmp_path / "other-base", FAMILIES["bert"], seed=3))
    encoder = SourceEncoder(load_base(other), default_lora(2))
    bundle.save(build_model(encoder), tmp_path / "foreign", {"kind": "adapter"})
    with pytest.raises(
        BaseMismatchError, match=r"foreign was trained on base '.*other-base' .*, but '.*base' here has"
    ):
        build_target_model([two_sources[0], tmp_path / "foreign"], XCROSS)


# ---- adapters made elsewhere, names, heads


def test_adapters_made_with_peft_alone_can_be_integrated(tiny_base: str, tmp_path: Path) -> None:
    folders = [
        write_adapter(tmp_path / name, Path(tiny_base), seed=seed, r=rank, target_modules=["query", "value"]).folder
        for seed, (name, rank) in enumerate((("toys", 2), ("tools", 4)))
    ]
    model = build_target_model(folders, XCROSS)
    assert model[0].sources == ("toys", "tools")
    counted = count_parameters(model)
    assert counted["lora_per_source"] == {"toys": 3 * 2 * 2 * 64, "tools": 3 * 2 * 4 * 64}
    assert counted["share"] == counted["integrators"] / (3 * 2 * 4 * 64)


def test_one_base_under_two_paths_is_one(
    two_sources: list[Path], tiny_base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copies = [shutil.copytree(tiny_base, tmp_path / name) for name in ("one", "two")]
    folders = [shutil.copytree(source, tmp_path / source.name) for source in two_sources]
    for folder, copy in zip(folders, copies, strict=True):
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        manifest["base"]["name"] = str(copy)
        (folder / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    plain = [
        write_adapter(tmp_path / f"plain{copy.name}", copy, seed=1, r=2, target_modules=["query"]).folder
        for copy in copies
    ]
    model = build_target_model([*folders, *plain], Integration(), strict=True)
    assert len(model[0].adapters) == 4
    assert not caplog.text


def test_an_adapter_that_names_another_base_warns_or_is_refused(
    two_sources: list[Path], tiny_base: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain = write_adapter(tmp_path / "plain", Path(tiny_base), seed=1, r=2, target_modules=["query"]).folder
    settings = json.loads((plain / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    (plain / ADAPTER_CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": "a/b"}), encoding="utf-8")
    model = build_target_model([plain, two_sources[0]], Integration())
    assert f"plain was trained on base 'a/b', not on '{tiny_base}'" in caplog.text
    caplog.clear()
    bundle.save(model, tmp_path / "model", {})
    assert bundle.load(tmp_path / "model")[0].sources == ("plain", "first")
    assert not caplog.text, "what is in a model was said before"
    with pytest.raises(BaseMismatchError, match=r"plain was trained on base 'a/b', not on .*leave out --strict"):
        build_target_model([plain, two_sources[0]], Integration(), strict=True)


def test_names_come_from_the_domain_and_are_made_unique(two_sources: list[Path], tmp_path: Path) -> None:
    odd = tmp_path / "Toys & Games"
    odd.mkdir()
    assert source_names([two_sources[0], odd, two_sources[0], two_sources[0]]) == [
        "first",
        "Toys---Games",
        "first~2",
        "first~3",
    ]
    cases = [tmp_path / "a" / "Toys", tmp_path / "b" / "toys", tmp_path / "toys2"]  # one folder on a Mac, and another
    for folder in cases:
        folder.mkdir(parents=True)
    assert source_names(cases) == ["Toys", "toys~2", "toys2"]


def test_the_same_adapter_twice_has_two_names(two_sources: list[Path]) -> None:
    model = build_target_model([two_sources[0], two_sources[0]], XCROSS)
    assert model[0].sources == ("first", "first~2")
