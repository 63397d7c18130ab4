"""Models on disk: complete, verified, never half-written, and never code from the folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer

from model_families import fresh_base, randomise
from xcrossrec.exceptions import BundleError, DataError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.system import FINDER
from xcrossrec.types import Scoring

TEXTS = ["w1 w2 w3", "w4", "w5 w6\nw7 w8 w9", "w1 w2\nw3\nw4 w5"]
ADAPTER_FILE = "adapters/source0/adapter_model.safetensors"
PAIRS = [(text, candidate) for text in TEXTS for candidate in ("w9 w8", "w2")]


@pytest.fixture
def saved(make_model: Callable[..., Model], tmp_path: Path) -> Path:
    """A bundle that is there already."""
    bundle.save(make_model(), tmp_path / "model", {"kind": "x-cross"})
    return tmp_path / "model"


def vectors(model: Any) -> np.ndarray:
    encoded: np.ndarray = model.encode(TEXTS, show_progress_bar=False)
    return encoded


# ---- saving and loading

FRESH = """
import sys
import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer
from xcrossrec.models.bundle import load

dual, pair, texts, pairs, out = sys.argv[1], sys.argv[2], eval(sys.argv[3]), eval(sys.argv[4]), sys.argv[5]
quiet = {"show_progress_bar": False}
np.savez(
    out,
    dual_load=load(dual).encode(texts, **quiet),
    dual_library=SentenceTransformer(dual, trust_remote_code=True).encode(texts, **quiet),
    pair_load=load(pair).predict(pairs, **quiet),
    pair_library=CrossEncoder(pair, trust_remote_code=True).predict(pairs, **quiet),
)
"""


def test_a_fresh_process_gives_the_same_bits(make_model: Callable[..., Model], tmp_path: Path) -> None:
    dual, pair = make_model("dual"), make_model("pair")
    expected = {"dual": vectors(dual), "pair": pair.predict(PAIRS, show_progress_bar=False)}
    bundle.save(dual, tmp_path / "dual", {})
    bundle.save(pair, tmp_path / "pair", {})
    places = [str(tmp_path / "dual"), str(tmp_path / "pair")]
    out = tmp_path / "out.npz"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, *places, repr(TEXTS), repr(PAIRS), str(out)],
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    got = np.load(out)
    for key in got.files:
        np.testing.assert_array_equal(got[key], expected[key.split("_")[0]], err_msg=key)
    assert len(np.unique(expected["pair"].round(5))) == len(PAIRS)


@pytest.mark.parametrize("scoring", ["dual", "pair"])
def test_a_loaded_model_is_of_its_kind(make_model: Callable[..., Model], tmp_path: Path, scoring: Scoring) -> None:
    table = pl.DataFrame({"x": [1]})
    bundle.save(make_model(scoring), tmp_path / "m", {"note": 1}, tables={"t.parquet": table})
    loaded = bundle.load(tmp_path / "m")
    assert isinstance(loaded, CrossEncoder if scoring == "pair" else SentenceTransformer)
    assert kind_of(loaded).name == scoring
    assert isinstance(encoder_of(loaded), XCrossEncoder)
    assert not loaded.training
    manifest = bundle.read_bundle_manifest(tmp_path / "m")
    assert (manifest["note"], manifest["scoring"], manifest["format_version"]) == (1, scoring, 5)
    assert manifest["base"]["digest"] == encoder_of(loaded).base_digest
    assert {"t.parquet", "integrators.safetensors", ADAPTER_FILE} <= set(manifest["files"])
    modes = {oct(path.stat().st_mode)[-3:] for path in ((tmp_path / "m"), *(tmp_path / "m").rglob("*"))}
    assert modes == {"755", "644"}, "another user may read it, as a service does"


@pytest.mark.parametrize("trainable", [False, True])
def test_a_merged_model_is_saved_and_loaded_to_train_on(trainable: bool, tiny_models: Any, tmp_path: Path) -> None:
    model = bundle.load(tiny_models.merged)
    assert isinstance(encoder_of(model), MergedEncoder)
    bundle.save(model, tmp_path / "merged", {})
    loaded = bundle.load(tmp_path / "merged", trainable=trainable)
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
    assert {p.requires_grad for n, p in loaded.named_parameters() if "lora_" in n} == {trainable}
    if not trainable:
        np.testing.assert_array_equal(vectors(loaded), vectors(model))


def test_a_bundle_holds_no_pickle(saved: Path) -> None:
    assert not [p for p in saved.rglob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]


def test_a_single_adapter_is_saved_and_loaded_to_train_on(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), default_lora(2))
    randomise(encoder, "lora_B", 0.3)
    model = build_model(encoder).eval()
    bundle.save(model, tmp_path / "adapter", {"kind": "adapter"})
    loaded = bundle.load(tmp_path / "adapter")
    np.testing.assert_array_equal(vectors(loaded), vectors(model))
    again = bundle.load(tmp_path / "adapter", base=fresh_base(base_of("bert")), trainable=True)
    assert any("lora_" in name for name, p in again.named_parameters() if p.requires_grad)
    assert read_adapter(tmp_path / "adapter", fresh_base(base_of("bert"))).manifest["kind"] == "adapter"


# ---- never half-written


def test_an_interrupted_save_leaves_nothing(
    make_model: Callable[..., Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()

    def fail(folder: str, **settings: Any) -> None:
        (Path(folder) / "half.safetensors").write_bytes(b"x")
        raise OSError("disk full")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(OSError, match="disk full"):
        bundle.save(model, tmp_path / "model", {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_replacement_keeps_the_old_model(
    make_model: Callable[..., Model], saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vectors(bundle.load(saved))
    model = make_model()
    monkeypatch.setattr(model, "save_pretrained", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        bundle.save(model, saved, {}, overwrite=True)
    np.testing.assert_array_equal(vectors(bundle.load(saved)), before)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_a_model_that_macos_has_shown_is_the_same(saved: Path) -> None:
    for folder in (saved, saved / "1_Pooling"):
        (folder / FINDER).write_bytes(b"where icons stand")
    bundle.load(saved)
    bundle.save(bundle.load(saved), saved, {"kind": "x-cross"}, overwrite=True)
    (saved / "notes.txt").touch()
    with pytest.raises(BundleError, match=r"has notes\.txt, which its manifest does not list"):
        bundle.load(saved)


def test_a_model_is_replaced_when_asked(make_model: Callable[..., Model], saved: Path) -> None:
    bundle.save(make_model("pair"), saved, {"kind": "second"}, overwrite=True)
    assert bundle.read_bundle_manifest(saved)["kind"] == "second"
    assert isinstance(bundle.load(saved), CrossEncoder)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


@pytest.mark.parametrize("before", [True, False])
def test_a_folder_that_is_replaced_while_it_is_read_is_read_again(
    make_model: Callable[..., Model], saved: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    """Else files of one model were compared with the digests of another, or made a model with its files."""
    other, read, reads = make_model(), bundle.load_modules, list[int]()
    randomise(other, "stream_weight", 0.5)

    def replaced(*given: Any, **options: Any) -> Any:
        found = None if before else read(*given, **options)
        reads.append(1)
        if len(reads) < most:
            bundle.save(other, saved, {"kind": "x-cross"}, overwrite=True)
        return found or read(*given, **options)

    monkeypatch.setattr(bundle, "load_modules", replaced)
    most = 3
    np.testing.assert_array_equal(vectors(bundle.load(saved)), vectors(other))
    assert len(reads) == 3
    most = 99
    with pytest.raises(BundleError, match="was replaced each time that it was read: load it when nobody writes there"):
        bundle.load(saved)


def test_damage_that_stays_is_told_at_the_first_reading(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / ADAPTER_FILE).write_bytes(b"nothing")
    verified = Mock(wraps=bundle.verify_files)
    monkeypatch.setattr(bundle, "verify_files", verified)
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors"):
        bundle.load(saved)
    assert verified.call_count == 1


def test_an_existing_folder_is_not_replaced_unasked(make_model: Callable[..., Model], saved: Path) -> None:
    with pytest.raises(BundleError, match="model exists: choose another place, or allow to overwrite"):
        bundle.save(make_model(), saved, {})


def test_a_folder_that_is_no_model_is_never_replaced(make_model: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear to someone", encoding="utf-8")
    with pytest.raises(BundleError, match="exists and is no xcrossrec model: it is not replaced"):
        bundle.save(make_model(), tmp_path, {}, overwrite=True)
    with pytest.raises(DataError, match=r"thesis\.txt is a file and no folder: choose another place"):
        bundle.save(make_model(), tmp_path / "thesis.txt", {}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "dear to someone"


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # PEFT's, on loading
def test_loading_draws_from_no_generator_of_its_process(tiny_models: Any) -> None:
    before = torch.get_rng_state()
    bundle.load(tiny_models.pair)
    assert torch.equal(torch.get_rng_state(), before)
