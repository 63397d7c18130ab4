"""Adapters that must be refused, and what their messages say."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from model_families import FAMILIES, Source, fresh_base, write_adapter, write_base
from xcrossrec.exceptions import BaseMismatchError, BundleError, ModelError
from xcrossrec.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    mean_update,
    read_adapter,
    read_manifest,
)
from xcrossrec.models.base import Base
from xcrossrec.models.files import load_tensors

Folders = Callable[[str], Path]
SourcesOf = Callable[..., list[Source]]


@pytest.fixture(scope="module")
def bert(base_of: Folders) -> Base:
    """Only read here, so one copy does."""
    return fresh_base(base_of("bert"))


@pytest.fixture
def adapter(sources_of: SourcesOf, tmp_path: Path) -> Path:
    """A copy of an adapter, to be damaged."""
    folder = tmp_path / "toys"
    shutil.copytree(sources_of("bert", 2)[0].folder, folder)
    return folder


def set_config(folder: Path, **changes: Any) -> None:
    path = folder / ADAPTER_CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}), encoding="utf-8")


def change_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    path = folder / ADAPTER_WEIGHTS
    save_file(change(load(path.read_bytes())), path)


def of_rank(key: str, tensor: torch.Tensor, rank: int) -> torch.Tensor:
    return tensor[:rank] if key.endswith("lora_A.weight") else tensor[:, :rank].contiguous()


def without(ending: str) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    return lambda tensors: {key: value for key, value in tensors.items() if not key.endswith(ending)}


def test_an_adapter_is_read_with_its_name_and_count(adapter: Path, bert: Base) -> None:
    read = read_adapter(adapter, bert)
    assert read.name == "toys"
    assert read.parameters == 3 * 2 * 4 * (32 + 32)  # layers, modules, rank, in + out
    assert read_adapter(adapter, bert, name="other").name == "other"


def test_missing_adapter_folder(tmp_path: Path, bert: Base) -> None:
    with pytest.raises(BundleError, match=rf"absent is no adapter: it has no {ADAPTER_CONFIG}.*train source"):
        read_adapter(tmp_path / "absent", bert)


def test_missing_weights(adapter: Path, bert: Base) -> None:
    (adapter / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(BundleError, match=r"adapter_model\.safetensors are missing: copy it again"):
        read_adapter(adapter, bert)


def test_pickled_weights_are_refused_and_never_opened(adapter: Path, bert: Base, tmp_path: Path) -> None:
    marker = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (marker,))

    (adapter / ADAPTER_WEIGHTS).unlink()
    torch.save({"x": Bomb()}, adapter / "adapter_model.bin")
    with pytest.raises(BundleError, match=r"adapter_model\.bin is a pickle and is never read: convert it"):
        read_adapter(adapter, bert)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"not a tensor file", bytes(range(256)) * 8, b"\x80\x04\x95junk"])
def test_corrupt_weights(adapter: Path, bert: Base, content: bytes) -> None:
    (adapter / ADAPTER_WEIGHTS).write_bytes(content)
    with pytest.raises(BundleError, match=r"toys/adapter_model\.safetensors is not a readable safetensors file"):
        read_adapter(adapter, bert)


def test_truncated_weights(adapter: Path, bert: Base) -> None:
    path = adapter / ADAPTER_WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        read_adapter(adapter, bert)


def test_a_pickle_under_the_name_of_safetensors_is_refused(adapter: Path, bert: Base) -> None:
    torch.save({"weight": torch.zeros(3)}, adapter / ADAPTER_WEIGHTS)
    with pytest.raises(BundleError, match="not a readable safetensors file"):
        read_adapter(adapter, bert)


def test_weights_of_something_else(adapter: Path, bert: Base) -> None:
    change_tensors(adapter, lambda _: {"encoder.weight": torch.zeros(3)})
    with pytest.raises(BaseMismatchError, match=r"no LoRA factor for any layer.*\['query', 'value'\]"):
        read_adapter(adapter, bert)


def test_a_factor_without_its_partner(adapter: Path, bert: Base) -> None:
    change_tensors(
        adapter, lambda t: {k: v for k, v in t.items() if not k.endswith("0.attention.self.query.lora_B.weight")}
    )
    with pytest.raises(BundleError, match=r"has no .*query\.lora_B\.weight"):
        read_adapter(adapter, bert)


def test_an_up_factor_without_its_partner(adapter: Path, bert: Base) -> None:
    change_tensors(
        adapter, lambda t: {k: v for k, v in t.items() if not k.endswith("0.attention.self.query.lora_A.weight")}
    )
    with pytest.raises(BundleError, match=r"has no .*query\.lora_A\.weight"):
        read_adapter(adapter, bert)


def test_a_tensor_inside_a_layer_that_is_no_factor(adapter: Path, bert: Base) -> None:
    extra = "base_model.model.encoder.layer.0.attention.self.query.lora_magnitude_vector.weight"
    change_tensors(adapter, lambda t: {**t, extra: torch.zeros(3)})
    with pytest.raises(ModelError, match=r"lora_magnitude_vector.*no LoRA factor of a linear layer"):
        read_adapter(adapter, bert)


def test_damaged_config(adapter: Path, bert: Base) -> None:
    (adapter / ADAPTER_CONFIG).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"adapter_config\.json: the content is not valid JSON"):
        read_adapter(adapter, bert)


def test_config_that_is_no_object(adapter: Path, bert: Base) -> None:
    (adapter / ADAPTER_CONFIG).write_text("[]", encoding="utf-8")
    with pytest.raises(BundleError, match=r"the content is \[\] \(Input should be an object\)"):
        read_adapter(adapter, bert)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, r"of type 'IA3': only LORA"),
        ({"use_dora": True}, r"uses use_dora, which cannot be stacked"),
        ({"bias": "all"}, r"uses bias, which cannot be stacked"),
        ({"lora_bias": True}, r"uses lora_bias"),
        ({"fan_in_fan_out": True}, r"uses fan_in_fan_out"),
        ({"init_lora_weights": "pissa_niter_4"}, r"init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": "lora_ga"}, r"init_lora_weights='lora_ga'"),
    ],
)
def test_adapters_that_cannot_be_stacked(adapter: Path, bert: Base, change: dict[str, Any], message: str) -> None:
    set_config(adapter, **change)
    with pytest.raises(ModelError, match=message):
        read_adapter(adapter, bert)


def test_a_real_dora_adapter_is_refused(base_of: Folders, bert: Base, tmp_path: Path) -> None:
    source = write_adapter(tmp_path / "dora", base_of("bert"), seed=0, use_dora=True, r=2)
    with pytest.raises(ModelError, match=r"dora uses use_dora.*train plain LoRA"):
        read_adapter(source.folder, bert)


def test_an_alpha_pattern_is_matched_on_the_path_that_peft_saw(base_of: Folders, bert: Base, tmp_path: Path) -> None:
    pattern = {"bert.encoder.layer.0.attention.self.query": 32}
    source = write_adapter(tmp_path / "a", base_of("bert"), seed=0, head=True, r=2, lora_alpha=2, alpha_pattern=pattern)
    factors = read_adapter(source.folder, bert).factors
    layer = source.encoder.encoder.layer[0].attention.self.query
    update = layer.get_delta_weight("default")
    first = factors["encoder.layer.0.attention.self.query"]
    torch.testing.assert_close(first.up @ first.down, update)


@pytest.mark.parametrize(
    ("lora", "tensor"),
    [
        ({"modules_to_save": ["word_embeddings"]}, "embeddings.word_embeddings.weight"),
        ({"modules_to_save": ["LayerNorm"]}, "LayerNorm.bias"),
        ({"target_modules": ["query", "word_embeddings"]}, "embeddings.word_embeddings.lora_embedding_A"),
        ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
        ({"target_parameters": ["encoder.layer.0.output.dense.weight"]}, "target_parameters"),
        ({"layer_replication": [(0, 2), (1, 3)]}, "layer_replication"),
    ],
)
def test_whatever_of_an_adapter_is_not_used_is_named(
    lora: dict[str, Any], tensor: str, base_of: Folders, bert: Base, tmp_path: Path
) -> None:
    source = write_adapter(tmp_path / "a", base_of("bert"), seed=0, **{"target_modules": ["query"], "r": 2, **lora})
    with pytest.raises(ModelError, match=re.escape(tensor)):
        read_adapter(source.folder, bert)


@pytest.mark.parametrize(
    "tensor", ["encoder.layer.0.output.dense.bias", "embeddings.LayerNorm.weight", "encoder.extra.lora_A.weight", "x"]
)
def test_a_surplus_tensor_is_named(tensor: str, adapter: Path, bert: Base) -> None:
    change_tensors(adapter, lambda t: {**t, f"base_model.model.{tensor}": torch.zeros(3, 3)})
    with pytest.raises(ModelError, match=re.escape(tensor)):
        read_adapter(adapter, bert)


def test_a_classifiers_head_is_left_out_and_said(
    sources_of: SourcesOf, bert: Base, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="xcrossrec")
    read_adapter(sources_of("bert", 2, head=True)[0].folder, bert)
    assert "its head (base_model.model.classifier." in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: {k: v.to(torch.int8) for k, v in t.items()}, r"factors of type torch\.int8 .*: save floats"),
        (lambda t: t | {k.replace("model.enc", "model.bert.enc"): v * 2 for k, v in t.items()}, "query twice, as "),
        (lambda t: {k: of_rank(k, v, 1) for k, v in t.items()}, "has rank 1 .* settings say"),
        (lambda t: {k: of_rank(k, v, 0) for k, v in t.items()}, "has rank 0 .* settings say"),
        (lambda t: {k.replace(".weight", ".default.weight"): v for k, v in t.items()}, r"a tensor: .*lora_A\.default"),
    ],
)
def test_tensors_that_peft_would_not_take(change: Any, message: str, adapter: Path, bert: Base) -> None:
    change_tensors(adapter, change)
    with pytest.raises((BundleError, BaseMismatchError), match=message):
        read_adapter(adapter, bert)


@pytest.mark.parametrize("name", ["alpha_pattern", "rank_pattern"])
@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", ".*.*.*x", "a{2,30}", "*", "a**", "[a-z]*[a-z]*[a-z]*[a-z]*!", "x" * 300]
)
def test_a_pattern_that_could_take_for_ever_is_refused(name: str, pattern: str, adapter: Path, bert: Base) -> None:
    set_config(adapter, **{name: {pattern: 4}})
    with pytest.raises(BundleError, match=rf"adapter_config\.json: {name}"):
        read_adapter(adapter, bert)


@pytest.mark.parametrize(
    "change",
    [
        *({"lora_alpha": value} for value in (float("nan"), float("inf"), "8", None)),
        *({"r": value} for value in (10**9, 0, -1, 2.5, True)),
        {"lora_dropout": 2.0},
        {"target_modules": {"query": 1}},
        {"use_rslora": "yes"},
    ],
)
def test_a_setting_outside_its_limits_is_named(change: dict[str, Any], adapter: Path, bert: Base) -> None:
    set_config(adapter, **change)
    with pytest.raises(BundleError, match=rf"adapter_config\.json: {next(iter(change))}"):
        read_adapter(adapter, bert)


@pytest.mark.parametrize("name", ["r", "lora_alpha", "peft_type"])
def test_a_setting_that_is_not_there_is_named(name: str, adapter: Path, bert: Base) -> None:
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    del settings[name]
    (adapter / ADAPTER_CONFIG).write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(BundleError, match=rf"adapter_config\.json: {name} is missing: copy or train the model again"):
        read_adapter(adapter, bert)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(value: float, adapter: Path, bert: Base) -> None:
    change_tensors(adapter, lambda t: {key: value + tensor for key, tensor in t.items()})
    with pytest.raises(BundleError, match=r"lora_A\.weight in .* has numbers that are not finite"):
        read_adapter(adapter, bert)


# ---- adapters of another base


def test_another_name_alone_is_a_warning_or_refused(
    adapter: Path, bert: Base, caplog: pytest.LogCaptureFixture
) -> None:
    set_config(adapter, base_model_name_or_path="some/other-model")
    both = rf"toys was trained on base 'some/other-model', not on '{bert.name}', and records no digest: "
    assert read_adapter(adapter, bert).factors
    assert re.search(both + "it is used because its shapes fit", caplog.text)
    with pytest.raises(BaseMismatchError, match=both + "pass the base it was trained on, .* leave out --strict"):
        read_adapter(adapter, bert, strict=True)


def test_a_base_under_another_path_is_the_same(
    adapter: Path, bert: Base, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = shutil.copytree(bert.name, tmp_path / "copy")
    set_config(adapter, base_model_name_or_path=str(copy))
    assert read_adapter(adapter, bert, strict=True).factors
    write_base(tmp_path / "twin", FAMILIES["bert"], seed=5)
    set_config(adapter, base_model_name_or_path=str(tmp_path / "twin"))
    assert not caplog.text
    assert read_adapter(adapter, bert).factors
    assert "that base is here with another one" in caplog.text


def test_a_part_of_a_model_may_name_any_base(adapter: Path, bert: Base, caplog: pytest.LogCaptureFixture) -> None:
    set_config(adapter, base_model_name_or_path="some/other-model")
    assert read_adapter(adapter, bert, strict=True, of_model=True).factors
    assert not caplog.text


def test_other_base_by_digest(adapter: Path, bert: Base) -> None:
    record = {"base": {"name": "my-base", "digest": "ab" * 32}}
    (adapter / MANIFEST).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BaseMismatchError, match=rf"'my-base' \(weights abababababab\), but .*{bert.digest[:12]}"):
        read_adapter(adapter, bert)


def test_other_base_by_its_tokenizer_or_configuration(adapter: Path, bert: Base) -> None:
    weights, tokenizer, _ = bert.digest.split(".")
    messages = {
        f"{weights}.{'ab' * 32}.{'cd' * 32}": r"\(tokenizer abababababab\)",
        f"{weights}.{tokenizer}.{'cd' * 32}": r"\(configuration cdcdcdcdcdcd\)",
        weights: r"\(tokenizer unknown\)",
    }
    for digest, message in messages.items():
        record = {"base": {"name": bert.name, "digest": digest}}
        (adapter / MANIFEST).write_text(json.dumps(record), encoding="utf-8")
        with pytest.raises(BaseMismatchError, match=message):
            read_adapter(adapter, bert)


def test_settings_and_weights_are_those_that_the_sidecar_lists(adapter: Path, bert: Base) -> None:
    files = {ADAPTER_WEIGHTS: "0" * 64}
    record = {"base": {"name": bert.name, "digest": bert.digest}, "files": files}
    (adapter / MANIFEST).write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(BundleError, match=rf"{ADAPTER_WEIGHTS} is not the file that was written"):
        read_adapter(adapter, bert)


def test_the_digest_counts_not_the_name(adapter: Path, bert: Base) -> None:
    set_config(adapter, base_model_name_or_path="moved/elsewhere")
    record = {"base": {"name": "moved/elsewhere", "digest": bert.digest}}
    (adapter / MANIFEST).write_text(json.dumps(record), encoding="utf-8")
    assert read_adapter(adapter, bert).manifest == record


def test_other_base_by_shape(adapter: Path, bert: Base) -> None:
    set_config(adapter, base_model_name_or_path=None)
    change_tensors(adapter, lambda t: {k: v[:, :16].contiguous() if "lora_A" in k else v for k, v in t.items()})
    with pytest.raises(BaseMismatchError, match=r"factors \(4, 16\) and \(32, 4\).*maps 32 to 32.*another base"):
        read_adapter(adapter, bert)


def test_other_base_by_number_of_layers(adapter: Path, bert: Base) -> None:
    set_config(adapter, base_model_name_or_path=None)
    change_tensors(adapter, lambda t: {k.replace("layer.2.", "layer.11."): v for k, v in t.items()})
    with pytest.raises(BaseMismatchError, match=r"layer\.11\..*a layer that base .* does not have"):
        read_adapter(adapter, bert)


def test_other_architecture(sources_of: SourcesOf, bert: Base, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(sources_of("deberta-v3", 2)[0].folder, folder)
    set_config(folder, base_model_name_or_path=None)
    with pytest.raises(BaseMismatchError, match=r"no LoRA factor for any layer"):
        read_adapter(folder, bert)


def test_same_shape_but_other_weights_are_told_apart(base_of: Folders, tmp_path: Path, bert: Base) -> None:
    other = fresh_base(write_base(tmp_path / "twin", FAMILIES["bert"], seed=5))
    same = fresh_base(base_of("bert"))
    assert same.digest == bert.digest != other.digest


# ---- pieces


def test_manifest_that_is_no_json_object(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) == {}
    (tmp_path / MANIFEST).write_text("[1]", encoding="utf-8")
    with pytest.raises(BundleError, match=r"the content is \[1\] \(Input should be an object\)"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(BundleError, match=r"xcrossrec\.json: the content is not valid JSON"):
        read_manifest(tmp_path)


def test_missing_tensor_file(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"weights .*x\.safetensors are missing: copy it again"):
        load_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize("base", [{"name": "some-base"}, "some-base", None, {"name": 1, "digest": "00"}])
def test_a_manifest_whose_base_has_no_name_or_digest(tmp_path: Path, base: object) -> None:
    (tmp_path / MANIFEST).write_text(json.dumps({"base": base}), encoding="utf-8")
    with pytest.raises(BundleError, match=r"xcrossrec\.json: base"):
        read_manifest(tmp_path)


# ---- the mean of updates


@pytest.mark.parametrize("count", [2, 3])
def test_the_mean_update_equals_a_loop_over_adapters(count: int, sources_of: SourcesOf, bert: Base) -> None:
    adapters = [read_adapter(source.folder, bert) for source in sources_of("bert", count)]
    mean = mean_update(adapters)
    assert set(mean) == {module for adapter in adapters for module in adapter.factors}
    for module, update in mean.items():
        expected = torch.zeros(update.up.shape[0], update.down.shape[1])
        rank = 0
        for adapter in adapters:
            if module in adapter.factors:
                factors = adapter.factors[module]
                expected += factors.up @ factors.down / count
                own = factors.down.shape[0]
                assert torch.equal(update.down[rank : rank + own], factors.down), "parts follow one another"
                rank += own
        assert update.down.shape[0] == update.up.shape[1] == rank
        torch.testing.assert_close(update.up @ update.down, expected)
