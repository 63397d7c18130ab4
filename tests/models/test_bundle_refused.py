"""What a bundle is refused for: lost, changed and foreign files, and code that it may bring along."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file
from sentence_transformers.sentence_transformer.modules import Pooling

from xcrossrec.exceptions import BaseMismatchError, BundleError
from xcrossrec.models import bundle, files
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.base import load_base
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.files import file_digests
from xcrossrec.models.heads import Center, HistoryMatcher, Projection, PromptedCenter
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.purchases import Purchases
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder

ADAPTER_FILE = "adapters/source0/adapter_model.safetensors"


@pytest.fixture
def saved(make_model: Callable[..., Model], tmp_path: Path) -> Path:
    """A bundle to be damaged."""
    bundle.save(make_model(), tmp_path / "model", {"kind": "x-cross"})
    return tmp_path / "model"


def set_json(path: Path, change: Callable[[Any], Any]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")


def restamp(folder: Path, apart: str = "") -> None:
    """Make the manifest agree with the files again, as an attacker would."""
    digests = file_digests(folder, besides=MANIFEST, apart=apart)
    set_json(folder / MANIFEST, lambda manifest: {**manifest, "files": digests})


# ---- what is refused on load


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model folder '.*absent' does not exist: check the path"):
        bundle.load(tmp_path / "absent")


def test_a_bundle_without_manifest_was_not_finished(saved: Path) -> None:
    (saved / MANIFEST).unlink()
    with pytest.raises(BundleError, match=r"has no xcrossrec\.json: .*not written to its end"):
        bundle.load(saved)


@pytest.mark.parametrize(("version", "release"), [(2, "0.1"), (6, "9.1"), (None, None)])
def test_another_format(saved: Path, version: int | None, release: str | None) -> None:
    set_json(saved / MANIFEST, lambda m: {**m, "format_version": version, "xcrossrec_version": release})
    with pytest.raises(
        BundleError,
        match=rf"format version {version}, this release reads 5: train it again, or install .*\({release!r}\)",
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
    with pytest.raises(BaseMismatchError, match=r"weights 000000000000.*bert has weights [0-9a-f]{12}.*with --base"):
        bundle.load(saved)


def test_a_base_with_two_words_swapped_in_its_vocabulary(
    tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_models.base, tmp_path / "base")
    set_json(tmp_path / "base" / "tokenizer.json", swap_words)
    with pytest.raises(BaseMismatchError, match=r"\(tokenizer [0-9a-f]{12}\).*restore the original base"):
        bundle.load(tiny_models.merged, base=load_base(str(tmp_path / "base")))


def swap_words(tokenizer: Any) -> Any:
    words = tokenizer["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    return tokenizer


def test_a_file_that_the_manifest_does_not_list(saved: Path) -> None:
    (saved / "adapters" / "more.txt").touch()
    with pytest.raises(BundleError, match=r"has adapters/more\.txt, which its manifest does not list"):
        bundle.load(saved)


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../b", "", ".", "a//b", "a\\b"])
def test_a_manifest_lists_plain_names_alone(saved: Path, name: str) -> None:
    set_json(saved / MANIFEST, lambda manifest: {**manifest, "files": {**manifest["files"], name: "0" * 64}})
    with pytest.raises(BundleError, match=r"xcrossrec\.json: files"):
        bundle.load(saved)


def test_a_manifest_that_lists_nothing(saved: Path) -> None:
    set_json(saved / MANIFEST, lambda manifest: {**manifest, "files": {}})
    with pytest.raises(BundleError, match=r"files is \{\} \(Dictionary should have at least 1 item"):
        bundle.load(saved)


@pytest.mark.parametrize(("limit", "value"), [("_MOST_FILES", 3), ("_MOST_BYTES_IN_ALL", 5000)])
def test_far_too_much_is_not_read(limit: str, value: int, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, limit, value)
    monkeypatch.setattr(files, "file_digest", lambda path: pytest.fail("it was read"))
    with pytest.raises(BundleError, match=r"has more than .* files or .* bytes: it is no xcrossrec model"):
        bundle.load(saved)


def test_links_that_leave_the_folder(saved: Path, tmp_path: Path) -> None:
    weights = saved / "integrators.safetensors"
    shutil.move(weights, tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=r"integrators\.safetensors is a link that leaves its folder"):
        bundle.load(saved)
    weights.unlink()
    shutil.move(tmp_path / "elsewhere", weights)
    (saved / "more").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(BundleError, match=r"more is a link that leaves its folder"):
        bundle.load(saved)


@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "a"}, {"a": "a/b"}])
def test_links_that_lead_in_a_circle(saved: Path, links: dict[str, str]) -> None:
    for name, to in links.items():
        (saved / name).symlink_to(to)
    with pytest.raises(BundleError, match="a is neither a file nor a folder"):
        bundle.load(saved)
    with pytest.raises(BundleError, match=r"model folder '.*a' does not exist: check the path"):
        bundle.load(saved / "a")


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"created": 5}, "created is 5"),
        ({"created": ["today"]}, r"created is \['today'\]"),
    ],
)
def test_a_manifest_states_what_people_and_services_read_of_it(
    saved: Path, stated: dict[str, Any], message: str
) -> None:
    set_json(saved / MANIFEST, lambda manifest: {**manifest, **stated})
    with pytest.raises(BundleError, match=rf"xcrossrec\.json: .*{message}"):
        bundle.load(saved)


@pytest.mark.parametrize(
    ("kind", "place", "key", "value"),
    [
        ("late", "3_HistoryMatcher/head.safetensors", "log_sharpness", 1000.0),
        ("late", "3_HistoryMatcher/head.safetensors", "log_sharpness", -1000.0),
        ("late", "3_HistoryMatcher/head.safetensors", "log_recency", -200.0),
        ("late", "integrators.safetensors", "stream_weight", 1e38),
        ("merged", "scale.safetensors", "scale", 1e38),
        ("pair", "1_PairHead/head.safetensors", None, 1e38),
    ],
)
def test_finite_weights_that_make_scores_which_are_not(
    kind: str, place: str, key: str | None, value: float, tiny_models: Any, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(getattr(tiny_models, kind), tmp_path / "model"))
    tensors = load((folder / place).read_bytes())
    changed = {k: torch.full_like(v, value) if key in (None, k) else v for k, v in tensors.items()}
    save_file(changed, folder / place)
    restamp(folder)
    with pytest.raises(BundleError, match="makes scores that are not finite: its weights are damaged"):
        bundle.load(folder)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**5}, "a configuration of num_hidden_layers=100000"),
        ({"intermediate_size": 10**9}, "a configuration of"),
    ],
)
def test_a_base_that_a_bundle_brings_along_is_of_the_size_of_its_weights(
    change: dict[str, int], said: str, saved: Path, base_of: Callable[[str], Path]
) -> None:
    shutil.copytree(base_of("bert"), saved / "base")
    set_json(saved / "base" / "config.json", lambda config: {**config, **change})
    set_json(saved / "xcrossrec_encoder.json", lambda s: {**s, "base": {**s["base"], "name": "of-a-stranger"}})
    restamp(saved, apart="base")
    began = time.process_time()
    with pytest.raises(BaseMismatchError, match=f"not found under that name.*{said}"):
        bundle.load(saved)
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda modules: [modules[0], modules[2], modules[1], modules[3]], "make no dual model"),
        (lambda modules: modules[:-1], "make no dual model"),
        (lambda modules: [*modules, modules[-1]], "make no dual model"),
        (lambda modules: modules[:1], "make no dual model"),
        (lambda modules: [], "at least 1 item"),
    ],
)
def test_modules_that_make_no_model(saved: Path, change: Callable[[Any], Any], message: str) -> None:
    set_json(saved / "modules.json", change)
    restamp(saved)
    with pytest.raises(BundleError, match=message):
        bundle.load(saved)


def test_an_interrupted_replacement_is_named_where_the_model_is_gone(saved: Path) -> None:
    left = saved.rename(saved.with_name(f".{saved.name}.0123abcd.retired"))
    with pytest.raises(BundleError, match=rf"does not exist.*; an interrupted replacement left .*{left.name}"):
        bundle.load(saved)


def test_a_source_outside_the_folder(saved: Path) -> None:
    set_json(saved / "xcrossrec_encoder.json", lambda s: {**s, "sources": ["../../adapter", "source1"]})
    restamp(saved)
    with pytest.raises(BundleError, match=r"sources\.0 is '\.\./\.\./adapter'"):
        bundle.load(saved)
    set_json(saved / "xcrossrec_encoder.json", lambda s: {**s, "sources": ["\U0001f600" * 200, "source1"]})
    restamp(saved)
    # 800 bytes, which no disk takes; from Python 3.14 on exists() hides why
    with pytest.raises(BundleError, match=r"cannot be used: .*File name too long|is no adapter: it has no"):
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
    with pytest.raises(BundleError, match=rf"asks for the class '{reference}'.*runs no code from it"):
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
    with pytest.raises(BundleError, match=rf"modules\.json: 3\.path\..* is '{place}' .*plain relative name"):
        bundle.load(saved)


def test_the_list_of_allowed_classes_is_what_models_are_made_of() -> None:
    encoders = {MergedEncoder, SourceEncoder, XCrossEncoder}
    assert encoders | {Center, DayOne, HistoryMatcher, PairHead, Projection, PromptedCenter, Purchases} == set(
        bundle._OWN_CLASSES
    )
    assert Pooling in bundle._BORROWED_CLASSES
