"""A `dual` model used as the SentenceTransformer that it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer

import xcrossrec
from model_families import fresh_base, randomise
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.dual import DualScorer
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.scorer import trained
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8", ""]
FORMS = {"source": SourceEncoder, "merged": MergedEncoder, "xcross": XCrossEncoder}


@pytest.fixture
def make(base_of: Callable[[str], Path], sources_of: Callable[..., Any]) -> Callable[..., Any]:
    def of(form: str, family: str = "bert") -> Any:
        base = fresh_base(base_of(family))
        adapters = [read_adapter(source.folder, base) for source in sources_of(family, 2)]
        rest = [default_lora(2)] if form == "source" else [adapters]
        model = build_model(FORMS[form](base, *rest))
        randomise(model, "lora_B", 0.2)
        model = kind_of(model).with_projection(kind_of(model).centered(model, TEXTS[:3]), 4, 0)
        model.eval()
        return model

    return of


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize(("numbers", "error"), [("half", 0.01), ("bfloat16", 0.06)])
def test_other_numbers(form: str, numbers: str, error: float, make: Callable[..., Any], tmp_path: Path) -> None:
    model = make(form)
    full = model.encode(TEXTS)
    assert getattr(model, numbers)() is model
    assert next(model.parameters()).dtype is {"half": torch.float16, "bfloat16": torch.bfloat16}[numbers]
    narrow = model.encode(TEXTS).astype(np.float32)
    np.testing.assert_allclose(narrow, full, atol=error)
    assert not np.array_equal(narrow, full)
    assert np.isfinite(DualScorer(model, TEXTS).score([[0, 1]])).all()
    model.save_pretrained(str(tmp_path / "m"))
    np.testing.assert_allclose(xcrossrec.load(tmp_path / "m").encode(TEXTS), full, atol=error)


@pytest.mark.parametrize("family", ["mpnet", "modernbert", "qwen3"])
def test_half_of_other_families(family: str, make: Callable[..., Any]) -> None:
    model = make("merged", family)
    full = model.encode(TEXTS)
    np.testing.assert_allclose(model.half().encode(TEXTS).astype(np.float32), full, atol=0.02)


def test_the_longest_text_can_be_set(make: Callable[..., Any], tmp_path: Path) -> None:
    model = make("merged")
    long = " ".join(["w1 w2 w3 w4"] * 5)
    full = model.encode(long)
    model.max_seq_length = 10
    assert (model.max_seq_length, model[0].max_tokens) == (10, 10)
    np.testing.assert_array_equal(model.encode(long), model.encode(" ".join(long.split()[:8])))
    assert not np.allclose(model.encode(long), full, atol=1e-3)
    model.save_pretrained(str(tmp_path / "m"))
    assert xcrossrec.load(tmp_path / "m").max_seq_length == 10
    for wrong, said in (
        (65, "max_tokens is 65, but the model takes at most 64"),
        (4, "max_tokens is 4: give at least 8"),
        ("9", "max_tokens is '9': give at least 8"),
    ):
        with pytest.raises(ModelError, match=said):
            model.max_seq_length = wrong


def test_an_empty_text_has_a_vector_and_disturbs_no_other(make: Callable[..., Any]) -> None:
    model = make("merged")
    alone, among = model.encode(""), model.encode(TEXTS)
    assert np.linalg.norm(alone) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(among[3], alone, atol=1e-6)
    np.testing.assert_allclose(among[:3], model.encode(TEXTS[:3]), atol=1e-6)


@pytest.mark.parametrize("form", list(FORMS))
def test_saved_by_sentence_transformers_and_back(
    form: str, make: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = make(form)
    model.save_pretrained(str(tmp_path / "first"))
    loaded: Any = xcrossrec.load(tmp_path / "first")
    assert "has no xcrossrec.json, so its files are not compared with what was written" in caplog.text
    np.testing.assert_array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    SentenceTransformer(str(tmp_path / "first"), trust_remote_code=True).save_pretrained(str(tmp_path / "second"))
    np.testing.assert_array_equal(xcrossrec.load(tmp_path / "second").encode(TEXTS), model.encode(TEXTS))
    scores = trained(tmp_path / "second", TEXTS).score([[0, 1]])
    np.testing.assert_array_equal(scores, DualScorer(model, TEXTS).score([[0, 1]]))


def test_a_finished_model_is_not_saved_over(tiny_models: Any, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(tiny_models.merged, folder)
    model: Any = xcrossrec.load(folder)
    with pytest.raises(BundleError, match="m is a model of xcrossrec, which this would damage: save into another"):
        model.save_pretrained(str(folder))
    np.testing.assert_array_equal(xcrossrec.load(folder).encode("saw"), model.encode("saw"))


@pytest.mark.parametrize("odd", [[[]], [("a",)], [("a", "b", "c")], [("a", "b"), "c"]])
def test_what_is_neither_text_nor_pair_is_refused(odd: Any, make: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"expected pairs \(history, title\), got .*: give those, or texts"):
        make("merged").encode(odd)


def test_a_pair_model_saved_by_sentence_transformers(make_model: Callable[..., Any], tmp_path: Path) -> None:
    model = make_model("pair")
    model.save_pretrained(str(tmp_path / "m"))
    pairs = [("w1\nw2", "w3"), ("w4", "w5")]
    np.testing.assert_array_equal(xcrossrec.load(tmp_path / "m").predict(pairs), model.predict(pairs))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"backend": "onnx"}, "backend='onnx' has no effect"),
        ({"model_kwargs": {"torch_dtype": "float16"}}, "model_kwargs: torch_dtype has no effect"),
        ({"processor_kwargs": {"padding_side": "left"}}, "processor_kwargs: padding_side has no effect"),
        ({"config_kwargs": {"hidden_size": 8}}, "config_kwargs: hidden_size has no effect"),
        ({"revision": "main"}, "revision='main' has no effect"),
    ],
)
def test_what_would_be_ignored_is_refused(
    arguments: dict[str, Any], named: str, make: Callable[..., Any], tmp_path: Path
) -> None:
    bundle.save(make("source"), tmp_path / "m", {"kind": "adapter", "domain": None})
    with pytest.raises(ConfigError, match=named):
        SentenceTransformer(str(tmp_path / "m"), trust_remote_code=True, **arguments)
    shutil.rmtree(tmp_path / "m")
