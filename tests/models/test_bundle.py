"""Models on disk: complete, verified, never half-written, and never code from the folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling

from model_families import fresh_base, randomise
from xcrossrec.exceptions import BaseMismatchError, BundleError
from xcrossrec.models import bundle
from xcrossrec.models.adapters import MANIFEST, read_adapter
from xcrossrec.models.heads import Center, HistoryMatcher, Projection
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.types import Scoring

TEXTS = ["w1 w2 w3", "w4", "w5 w6\nw7 w8 w9", "w1 w2\nw3\nw4 w5"]
ADAPTER_FILE = "adapters/source0/adapter_model.safetensors"
PAIRS = [(text, candidate) for text in TEXTS for candidate in ("w9 w8", "w2")]


@pytest.fixture
def saved(make_model: Callable[..., Model], tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    bundle.save(make_model(), tmp_path / "model", {"kind": "x-cross"})
    return tmp_path / "model"


def vectors(model: Any) -> np.ndarray:
    encoded: np.ndarray = model.encode(TEXTS, show_progress_bar=False)
    return encoded


def set_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def restamp(folder: Path) -> None:
    """Make the manifest agree with the files again, as an attacker would."""
    set_json(folder / MANIFEST, lambda manifest: {**manifest, "files": bundle._file_digests(folder)})


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
    assert (manifest["note"], manifest["scoring"], manifest["format_version"]) == (1, scoring, 2)
    assert manifest["base"]["digest"] == encoder_of(loaded).base_digest
    assert {"t.parquet", "integrators.safetensors", ADAPTER_FILE} <= set(manifest["files"])
    assert oct((tmp_path / "m").stat().st_mode)[-3:] == "755"


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


def test_a_failed_last_step_puts_the_old_model_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / MANIFEST).write_text("old", encoding="utf-8")
    replace = Path.replace

    def fail_into_place(self: Path, other: Path) -> Path:
        if other == target and "-old-" not in self.name:
            raise PermissionError("no")
        return replace(self, other)

    monkeypatch.setattr(Path, "replace", fail_into_place)
    with pytest.raises(PermissionError), bundle.replacing(target, overwrite=True):
        pass
    assert (target / MANIFEST).read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_model_is_replaced_when_asked(make_model: Callable[..., Model], saved: Path) -> None:
    bundle.save(make_model("pair"), saved, {"kind": "second"}, overwrite=True)
    assert bundle.read_bundle_manifest(saved)["kind"] == "second"
    assert isinstance(bundle.load(saved), CrossEncoder)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_an_existing_folder_is_not_replaced_unasked(make_model: Callable[..., Model], saved: Path) -> None:
    with pytest.raises(BundleError, match="model exists: choose another place, or allow to overwrite"):
        bundle.save(make_model(), saved, {})


def test_a_folder_that_is_no_model_is_never_replaced(make_model: Callable[..., Model], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("dear to someone", encoding="utf-8")
    with pytest.raises(BundleError, match="exists and is no xcrossrec model: it is not replaced"):
        bundle.save(make_model(), tmp_path, {}, overwrite=True)
    with pytest.raises(BundleError, match="is no xcrossrec model"):
        bundle.save(make_model(), tmp_path / "thesis.txt", {}, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "dear to someone"


# ---- what is refused on load


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model folder '.*absent' does not exist: check the path"):
        bundle.load(tmp_path / "absent")


def test_a_bundle_without_manifest_was_not_finished(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"has no xcrossrec\.json: .*not written to its end"):
        bundle.load(saved)


@pytest.mark.parametrize(("version", "release"), [(1, "0.1"), (3, "9.1"), (None, None)])
def test_another_format(saved: Path, version: int | None, release: str | None) -> None:
    set_json(saved / MANIFEST, lambda m: {**m, "format_version": version, "xcrossrec_version": release})
    with pytest.raises(
        BundleError,
        match=rf"format version {version}, this release reads 2: train it again, or install .*\({release!r}\)",
    ):
        bundle.load(saved)


@pytest.mark.parametrize("lost", ["files", "scoring"])
def test_a_manifest_without_its_entries(saved: Path, lost: str) -> None:
    set_json(saved / MANIFEST, lambda m: {k: v for k, v in m.items() if k != lost})
    with pytest.raises(BundleError, match=f"manifest of .* has no '{lost}'"):
        bundle.load(saved)


@pytest.mark.parametrize("name", ["integrators.safetensors", "modules.json", ADAPTER_FILE])
def test_a_file_changed_after_the_fact(saved: Path, name: str) -> None:
    path = saved / name
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BundleError, match=rf"{name} is not the file that was written \(its digest differs\)"):
        bundle.load(saved)


def test_a_lost_file(saved: Path) -> None:
    (saved / "integrators.safetensors").unlink()
    with pytest.raises(BundleError, match=r"lacks integrators\.safetensors, which its manifest lists"):
        bundle.load(saved)


def test_another_base(saved: Path, base_of: Callable[[str], Path]) -> None:
    set_json(saved / "xcrossrec_encoder.json", lambda s: {**s, "base": {**s["base"], "digest": "0" * 64}})
    restamp(saved)
    with pytest.raises(BaseMismatchError, match=r"weights 000000000000.*restore the original base"):
        bundle.load(saved)


def test_a_source_outside_the_folder(saved: Path) -> None:
    set_json(saved / "xcrossrec_encoder.json", lambda s: {**s, "sources": ["../../adapter", "source1"]})
    restamp(saved)
    with pytest.raises(BundleError, match=r"source '\.\./\.\./adapter', which is no plain folder name"):
        bundle.load(saved)


def test_a_head_without_its_settings_or_with_other_tensors(saved: Path) -> None:
    head = next(saved.glob("*_HistoryMatcher"))
    shutil.copy(saved / "integrators.safetensors", head / "head.safetensors")
    restamp(saved)
    with pytest.raises(BundleError, match=r"head\.safetensors does not fit its settings"):
        bundle.load(saved)
    (head / "history_matcher.json").unlink()
    restamp(saved)
    with pytest.raises(BundleError, match=r"has no history_matcher\.json"):
        bundle.load(saved)


@pytest.mark.parametrize("text", ["{", '{"a": 1}', '["x"]', '[{"path": ""}]'])
def test_a_damaged_list_of_modules(saved: Path, text: str) -> None:
    (saved / "modules.json").write_text(text, encoding="utf-8")
    restamp(saved)
    with pytest.raises(BundleError, match=r"modules\.json"):
        bundle.load(saved)


# ---- hostile bundles


@pytest.mark.parametrize(
    "reference",
    [
        "evil.Payload",
        "os.system",
        "subprocess.Popen",
        "torch.nn.modules.linear.Linear",
        "xcrossrec.models.encoder.TitleEncoder",
        "xcrossrec.models.bundle.load",
    ],
)
def test_no_class_but_the_known_ones_is_run(saved: Path, reference: str, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = saved / "executed"
    code = f"open({str(marker)!r}, 'w').close()\nclass Payload:\n    pass\n"
    for name in ("evil.py", "custom_st.py", "modeling_evil.py", "sitecustomize.py"):
        (saved / name).write_text(code, encoding="utf-8")
    set_json(saved / "modules.json", lambda modules: [{**modules[0], "type": reference}, *modules[1:]])
    restamp(saved)
    monkeypatch.chdir(saved)
    with pytest.raises(BundleError, match=rf"asks for the class '{reference}'.*none of its code is run"):
        bundle.load(saved)
    assert not marker.exists()


def test_code_beside_a_sound_model_is_not_run(saved: Path) -> None:
    marker = saved / "executed"
    for name in ("custom_st.py", "modeling.py", "xcrossrec.py", "encoder.py"):
        (saved / name).write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    restamp(saved)
    bundle.load(saved)
    assert not marker.exists()


@pytest.mark.parametrize("place", ["../elsewhere", "/etc", "3_HistoryMatcher/../../x"])
def test_a_module_outside_the_folder(saved: Path, place: str) -> None:
    set_json(saved / "modules.json", lambda modules: [*modules[:-1], {**modules[-1], "path": place}])
    restamp(saved)
    with pytest.raises(BundleError, match=rf"a module at '{place}', outside the folder"):
        bundle.load(saved)


def test_the_list_of_allowed_classes_is_what_models_are_made_of() -> None:
    encoders = {MergedEncoder, SourceEncoder, XCrossEncoder}
    assert encoders | {Center, HistoryMatcher, PairHead, Projection} == set(bundle._OWN_CLASSES)
    assert Pooling in bundle._BORROWED_CLASSES
