"""What is exported, what it is worth, and what is refused by name."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

import xcrossrec
from exported_models import IDS, TITLES, saved, with_everything
from model_families import DIM, FAMILIES, randomise, write_base
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.export import distilling, folders
from xcrossrec.export.score import scores
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder, default_lora

WORDS = ["w1 w2 w3", "w4", "w5 w6 w7 w8"]


def lora_over(base: Path, **lora: Any) -> Any:
    model = build_model(SourceEncoder(load_base(str(base)), default_lora(2, **lora)))
    randomise(model, "lora_B", 0.3)
    return model.eval()


@pytest.mark.parametrize(("name", "to"), [("deberta-v3", "peft"), ("qwen3", "onnx")])
def test_other_architectures(name: str, to: Any, tmp_path: Path) -> None:
    model = saved(lora_over(write_base(tmp_path / "base", FAMILIES[name])), tmp_path / "m")
    found = xcrossrec.export_model(model, to, tmp_path / to)
    assert (found.parity.texts, found.exact) == (200, True)
    assert found.parity.vectors < 1e-5


def test_an_architecture_that_torch_cannot_write(tmp_path: Path) -> None:
    model = saved(lora_over(write_base(tmp_path / "base", FAMILIES["gemma"])), tmp_path / "m")
    with pytest.raises(ModelError, match=r"torch cannot write Gemma3TextModel as ONNX .*: use --to sentence-transf"):
        xcrossrec.export_model(model, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_prompts_dense_layers_and_two_centers(tmp_path: Path) -> None:
    base, prompts = write_base(tmp_path / "base", FAMILIES["bert"]), {"query": "w38 ", "document": "w39 w38 "}
    layers = [Pooling(DIM, "cls"), Dense(DIM, DIM // 2, activation_function=nn.Tanh())]
    SentenceTransformer(modules=[Transformer(str(base)), *layers], prompts=prompts).save(str(tmp_path / "st"))
    model = with_everything(lora_over(tmp_path / "st"))
    saved(model, tmp_path / "m")
    for to in ("sentence-transformers", "onnx"):
        found = xcrossrec.export_model(tmp_path / "m", to, tmp_path / to)
        assert max(found.parity.vectors, found.parity.scores) < 1e-5
    assert (
        "Before an item stands 'w39 w38 ', before a history's item 'w38 '" in (tmp_path / "onnx/README.md").read_text()
    )
    plain: Any = SentenceTransformer(str(tmp_path / "sentence-transformers"))
    np.testing.assert_allclose(plain.encode(WORDS), plain.encode_document(WORDS))
    assert np.abs(plain.encode_query(WORDS) - plain.encode_document(WORDS)).max() > 0.05
    items = pl.DataFrame({"item_id": ["a", "b", "c"], "title": WORDS})
    items.write_csv(tmp_path / "items.csv")
    xcrossrec.export_model(tmp_path / "m", "vectors", tmp_path / "v", catalogue=tmp_path / "items.csv")
    table = pl.read_parquet(tmp_path / "v" / "items.parquet")
    assert table.schema["vector"] == table.schema["history_vector"] == pl.Array(pl.Float32, DIM // 2)
    np.testing.assert_allclose(table["history_vector"].to_numpy(), plain.encode_query(WORDS), atol=1e-5)
    assert "items['history_vector'].to_numpy()[ids.index(item)]" in (tmp_path / "v" / "README.md").read_text()


def test_vectors_are_those_of_a_catalogue_on_disk(whole: Path, tmp_path: Path) -> None:
    from xcrossrec.catalogue import build_catalogue

    items = pl.DataFrame({"item_id": IDS, "title": TITLES})
    build_catalogue(bundle.load(whole), items, tmp_path / "catalogue").close()
    found = xcrossrec.export_model(whole, "vectors", tmp_path / "out", catalogue=tmp_path / "catalogue")
    table = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert table["item_id"].to_list() == IDS
    assert table["title"].to_list() == TITLES
    assert str(found).startswith("largest difference to the model ")
    assert "over 12 texts" in str(found)


def test_eight_bits_cost_what_is_said(whole: Path, domain: Any, tmp_path: Path) -> None:
    full = xcrossrec.export_model(whole, "onnx", tmp_path / "full")
    found = xcrossrec.export_model(whole, "onnx", tmp_path / "small", int8=True, catalogue=domain[1])
    sizes = [(tmp_path / name / "model.onnx").stat().st_size for name in ("full", "small")]
    assert sizes[1] < sizes[0]
    assert full.parity.vectors < 1e-5 < found.parity.vectors
    assert 0.95 < found.parity.cosine < 1 - 1e-6
    assert found.ranks is not None
    assert (found.ranks["users"], found.ranks["split"]) == (8, "test")
    assert "cosine to the model's vectors at least 0.9" in str(found)
    assert "(95%, 8 users of test)" in str(found)


def test_streams_are_distilled_into_one(
    tiny_models: Any, domain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = with_everything(bundle.load(tiny_models.late))
    saved(model, tmp_path / "m")
    found = []
    for steps in (1, 30):
        monkeypatch.setattr(distilling, "STEPS", steps)
        export = xcrossrec.export_model
        found.append(export(tmp_path / "m", "peft", tmp_path / f"{steps}", catalogue=domain[1], distill=True))
    assert found[0].parity.cosine < found[1].parity.cosine < 1 - 1e-6
    found = found[1]
    assert found.ranks is not None
    of_model = xcrossrec.evaluate(
        xcrossrec.scorer_for(tmp_path / "m", domain[0]).scorer, domain[0], "test", negatives=["full"]
    )
    assert found.ranks["model"] == pytest.approx(of_model.of("full")["mrr"].mean())
    low, high = found.ranks["ci"]
    assert low <= found.ranks["difference"] <= high
    assert found.ranks["difference"] == pytest.approx(found.ranks["export"] - found.ranks["model"])
    assert "X-Cross, distilled into one LoRA" in (tmp_path / "30" / "README.md").read_text()


def test_the_unknown_take_their_place_in_a_history() -> None:
    vectors = np.eye(3)
    known = {
        "recency": [1.0, 0.5], "sharpness": 2.0, "copurchase": {"one": 0.0, "several": 1.0}, "decay": 0.5,
        "longest": 2, "items": ["a", "b"], "together": {"a": [[1], [0.25]]}, "popularity": {},
    }  # fmt: skip
    text = scores(["x", "y"], vectors[:2], ["a", "b", "c"], vectors, known)
    both = scores(["a", "y"], vectors[:2], ["a", "b", "c"], vectors, known)
    np.testing.assert_allclose(both - text, [0, 0.125, 0])  # one older: half of .25
    soft = [np.log((0.5 * np.exp(2 * (row == 0)) + np.exp(2 * (row == 1))) / 1.5) / 2 for row in range(3)]
    np.testing.assert_allclose(text, soft)
    older = scores(["a", "y", "z"], vectors, ["a", "b", "c"], vectors, known)
    np.testing.assert_allclose(older, scores(["x", "y", "z"], vectors, ["a", "b", "c"], vectors, known))


def test_a_difference_leaves_nothing(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = folders.read_sentence_transformer
    monkeypatch.setattr(
        folders, "read_sentence_transformer", lambda folder: lambda *asked: read(folder)(*asked) + np.float32(2e-5)
    )
    (tmp_path / "out").mkdir()
    with pytest.raises(
        ModelError, match=r"would differ from the model by [2-9]\.\de-05, at most 1e-05 is allowed: noth"
    ):
        xcrossrec.export_model(whole, "sentence-transformers", tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out"]


REFUSED: list[tuple[str, dict[str, Any], type[Exception], str]] = [
    ("pair", {"to": "onnx"}, ModelError, "is a pair model, .*: train one with --scoring dual"),
    ("late", {"to": "peft"}, ModelError, "is X-Cross of 2 streams, .*: add --distill with --catalog DOMAIN"),
    ("merged", {"to": "peft", "distill": True, "catalogue": "DOMAIN"}, ModelError, "is one encoder already.*: leave"),
    (
        "late",
        {"to": "peft", "distill": True, "catalogue": "TABLE"},
        ConfigError,
        "is no domain's folder: distilling is",
    ),
    ("merged", {"to": "vectors", "catalogue": "NONE"}, DataError, "does not exist"),
    ("merged", {"to": "coreml"}, ConfigError, "unknown export 'coreml': choose one of sentence-transformers, peft,"),
    ("sources", {"to": "peft"}, BundleError, "has no xcrossrec.json"),
]


@pytest.mark.parametrize(("name", "asked", "error", "said"), REFUSED)
def test_what_cannot_be_is_refused_by_name(
    name: str, asked: dict[str, Any], error: type[Exception], said: str, tiny_models: Any, domain: Any, tmp_path: Path
) -> None:
    pl.DataFrame({"item_id": IDS, "title": TITLES}).write_csv(tmp_path / "items.csv")
    places = {"DOMAIN": domain[1], "TABLE": tmp_path / "items.csv", "NONE": tmp_path / "none"}
    asked = {key: places.get(value, value) for key, value in asked.items()}
    model = tiny_models.base if name == "sources" else getattr(tiny_models, name)
    with pytest.raises(error, match=said):
        xcrossrec.export_model(model, out=tmp_path / "out", **asked)
    assert not (tmp_path / "out").exists()


def test_a_base_alone_has_no_lora(tiny_models: Any, tmp_path: Path) -> None:
    saved(build_model(SourceEncoder(load_base(str(tiny_models.base)))), tmp_path / "m")
    with pytest.raises(
        ModelError, match="is its base as it is, without a LoRA: use the base, or --to sentence-transfo"
    ):
        xcrossrec.export_model(tmp_path / "m", "peft", tmp_path / "out")


def test_only_an_earlier_export_is_replaced(whole: Path, tmp_path: Path) -> None:
    pl.DataFrame({"item_id": IDS, "title": TITLES}).write_csv(tmp_path / "items.csv")
    out, items = tmp_path / "out", tmp_path / "items.csv"
    export = partial(xcrossrec.export_model, whole, "vectors", out, catalogue=items)
    export()
    before = (out / "README.md").stat().st_mtime_ns
    with pytest.raises(BundleError, match="out exists: choose another place, or allow to overwrite it"):
        export()
    export(overwrite=True)
    assert (out / "README.md").stat().st_mtime_ns > before
    (out / "history.json").unlink()
    with pytest.raises(BundleError, match="out exists and is no earlier export: it is not replaced"):
        export(overwrite=True)


def test_the_command_line(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from xcrossrec.cli import app

    done = CliRunner().invoke(
        app, ["export", str(whole), "--to", "sentence-transformers", "--out", str(tmp_path / "o")]
    )
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'o'}: sentence-transformers\nlargest difference to the model" in done.stdout
