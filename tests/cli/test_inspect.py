"""The inspecting command: parameters counted, digests, provenance."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from xcrossrec.cli import app
from xcrossrec.models import bundle

RUNNER = CliRunner()


def invoke(*arguments: object) -> Any:
    return RUNNER.invoke(app, ["inspect", *map(str, arguments)], catch_exceptions=False)


def test_parameters_are_counted_from_the_live_modules(tiny_models: Any) -> None:
    done = invoke(tiny_models.late, "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    layers, dim, rank = 2, 32, 2
    assert found["parameters"]["integrators"] == layers * 8 * dim
    assert found["parameters"]["lora_per_source"] == layers * 2 * (rank * dim + dim * rank)
    assert found["parameters"]["share"] == found["parameters"]["integrators"] / found["parameters"]["lora_per_source"]
    assert found["kind"] == "target"
    assert [adapter["name"] for adapter in found["adapters"]] == ["kitchen", "camping"]
    assert found["adapters"][0]["rank"] == rank
    assert found["adapters"][0]["target_modules"] == ["query", "value"]
    assert found["base"]["digest"] == bundle.read_bundle_manifest(tiny_models.late)["base"]["digest"]
    assert "integrators.safetensors" in found["digests"]


def test_an_adapter_is_described_too(tiny_models: Any) -> None:
    found = json.loads(invoke(tiny_models.sources[0], "--json").stdout)
    assert found["kind"] == "adapter"
    assert found["parameters"]["lora_per_source"] == 512
    assert found["parameters"]["integrators"] == 0
    assert found["fingerprint"] == "0" * 64
    text = invoke(tiny_models.sources[0]).stdout
    assert "kitchen (simulated users)" in text
    assert "512" in text


def test_text_shows_base_adapters_and_shares(tiny_models: Any) -> None:
    text = invoke(tiny_models.late).stdout
    assert "target, dual scoring" in text
    assert "camping" in text
    assert "100.0%" in text


def test_what_learned_without_training_is_shown(tiny_models: Any, tmp_path: Path) -> None:
    manifest = bundle.read_bundle_manifest(tiny_models.late)
    bundle.save(bundle.load(tiny_models.late), tmp_path / "m", {**manifest, "metrics": {"copurchase": {"users": 7}}})
    assert "training" not in invoke(tmp_path / "m").stdout


def test_a_changed_or_missing_model_is_refused(tiny_models: Any, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_models.late, copy)
    with (copy / "integrators.safetensors").open("ab") as file:
        file.write(b"x")
    done = invoke(copy)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "is not the file that was written" in done.stderr
    assert invoke(tmp_path / "nothing").exit_code == 2


@pytest.mark.parametrize("value", [{"kitchen": 512, "camping": 1024}])
def test_lora_of_different_sizes_is_listed_by_name(value: dict[str, int]) -> None:
    from xcrossrec.cli.inspect import _number

    assert _number(value) == "kitchen 512, camping 1,024"
