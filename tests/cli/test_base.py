"""The option ``--base``: where it is given, it is the base of the model, and must have the digest of the training."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from model_families import FAMILIES, write_base
from xcrossrec.cli import app
from xcrossrec.data import Domain, write_domain
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("other") / "base", FAMILIES["bert"])


@pytest.fixture
def places(tiny_models: Any, tiny_domain: Domain, tmp_path: Path) -> dict[str, str]:
    write_domain(tiny_domain, tmp_path / "data")
    (tmp_path / "items.csv").write_text("item_id,title\na,red train\nb,blue drill\n", encoding="utf-8")
    models = {"MODEL": tiny_models.merged, "SOURCE": tiny_models.sources[0], "SECOND": tiny_models.sources[1]}
    names = {"DATA": "data", "ITEMS": "items.csv", "OUT": "out", "CATALOG": "catalogue"}
    return {name: str(path) for name, path in {**models, **{n: tmp_path / place for n, place in names.items()}}.items()}


def invoke(places: dict[str, str], words: str, *more: object) -> Any:
    given = [places.get(word, word) for word in words.split()]
    return CliRunner().invoke(app, ["-q", *given, *map(str, more)], catch_exceptions=False)


@pytest.mark.parametrize(
    "words",
    [
        "recommend MODEL --catalog ITEMS --history a",
        "evaluate MODEL DATA --negatives full",
        "inspect MODEL",
        "catalog build MODEL ITEMS --out OUT",
        "train target DATA --source SOURCE --source SECOND --out OUT",
        "train target DATA --form lora --source SOURCE --out OUT",
        "serve MODEL --catalog ITEMS --port 0",
    ],
)
def test_another_base_is_refused(words: str, places: dict[str, str], other: Path) -> None:
    done = invoke(places, words, "--base", other)
    assert done.exit_code == 2
    assert f"but '{other}' here has" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path(places["OUT"]).exists()


def test_a_base_under_another_path_is_taken(places: dict[str, str], tiny_models: Any, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_models.base, tmp_path / "copy")
    done = invoke(places, "inspect MODEL", "--base", copy)
    assert done.exit_code == 0, done.stderr
    assert f", here {copy}\n" in done.stdout


def test_strict_refuses_an_adapter_that_names_another_base(
    places: dict[str, str], tiny_models: Any, tmp_path: Path
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in (ADAPTER_CONFIG, "adapter_model.safetensors"):
        shutil.copy(tiny_models.sources[0] / name, plain)
    text = (plain / ADAPTER_CONFIG).read_text(encoding="utf-8")
    (plain / ADAPTER_CONFIG).write_text(text.replace(str(tiny_models.base), "/gone"), encoding="utf-8")
    words = f"evaluate {plain} DATA --negatives full"
    lost = invoke(places, words)
    assert "was trained on base '/gone' (without a digest), which is not found under that name" in lost.stderr
    taken = invoke(places, words, "--base", tiny_models.base)
    assert taken.exit_code == 0
    assert "'/gone', not on" in taken.stderr
    refused = invoke(places, words, "--base", tiny_models.base, "--strict")
    assert refused.exit_code == 2
    assert "leave out --strict" in refused.stderr
    assert bundle.read_bundle_manifest(tiny_models.merged)["base"]["name"] == str(tiny_models.base)
