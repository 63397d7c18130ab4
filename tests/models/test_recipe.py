"""A base's own recipe: what its sentence-transformers folder says is taken over, or refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import nn
from transformers import T5Config, T5EncoderModel, XLNetConfig

from model_families import DIM, FAMILIES, SHARED_LAYERS, VOCABULARY, Family, write_base
from xcrossrec.catalogue.fingerprint import fingerprint_of
from xcrossrec.exceptions import BundleError, ConfigError, ModelError
from xcrossrec.models import bundle
from xcrossrec.models.base import Base, load_base, with_choices
from xcrossrec.models.dual import DualScorer, encode_titles
from xcrossrec.models.kinds import build_model, kind_of
from xcrossrec.models.recipe import Recipe, read_base_folder
from xcrossrec.models.source import SourceEncoder

TEXTS = ["w1 w2 w3", "w4", "w5 w6 w7 w8 w9 w1 w2 w3 w4", ""]
SHAPES = {**FAMILIES, SHARED_LAYERS.name: SHARED_LAYERS}
POOLINGS = {"bert": "cls", "modernbert": "cls", "llama": "lasttoken", "qwen3": "lasttoken", "albert": "weightedmean"}
WITH_DENSE = ("gemma", "mpnet")


def write_recipe(
    folder: Path,
    base: Path,
    *,
    pooling: str = "mean",
    dense: int = 0,
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    default: str | None = None,
) -> Path:
    """Write a sentence-transformers folder over a base, with Dense layers to half the size."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        layers = [Dense(DIM // 2**n, DIM // 2 ** (n + 1), activation_function=nn.Tanh()) for n in range(dense)]
    transformer = Transformer(str(base))
    modules = [transformer, Pooling(DIM, pooling), *layers, *([Normalize()] if normalize else [])]
    model = SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name=default)
    model.save(str(folder), create_model_card=False)
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def untrained(base: Base) -> Any:
    model = build_model(SourceEncoder(base))
    model.eval()
    return model


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT that pools by its first token, with prompts and two Dense layers."""
    root = tmp_path_factory.mktemp("recipe")
    base = write_base(root / "bert", FAMILIES["bert"])
    return write_recipe(root / "st", base, pooling="cls", dense=2, prompts={"query": "w38 ", "passage": "w39 w38 "})


@pytest.mark.parametrize("name", list(SHAPES))
def test_untrained_vectors_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", SHAPES[name])
    prompts = {"query": "w30 w31 ", "document": "w32 "}
    how = {"pooling": POOLINGS.get(name, "mean"), "dense": 2 * (name in WITH_DENSE)}
    folder = write_recipe(tmp_path / "st", base, prompts=prompts, **how)
    ours, theirs = untrained(load_base(str(folder))), SentenceTransformer(str(folder))
    for encode in ("encode_query", "encode_document"):
        np.testing.assert_allclose(getattr(ours, encode)(TEXTS), getattr(theirs, encode)(TEXTS), atol=1e-5)
    np.testing.assert_allclose(ours.encode(TEXTS), theirs.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encode_titles(ours, TEXTS), theirs.encode_document(TEXTS), atol=1e-5)
    np.testing.assert_allclose(encode_titles(ours, TEXTS, as_history=True), theirs.encode_query(TEXTS), atol=1e-5)
    assert not np.allclose(ours.encode_query(TEXTS), ours.encode_document(TEXTS), atol=1e-3)


def test_a_folder_says_how_it_is_used(prompted: Path) -> None:
    base = load_base(str(prompted))
    assert base.recipe == Recipe("cls", "w38 ", "w39 w38 ", base.recipe.dense)
    assert [layer.out_features for layer in base.dense] == [DIM // 2, DIM // 4]
    assert str(base.recipe).startswith("pooling cls, history prompt 'w38 ', item prompt 'w39 w38 ', Dense layers ")
    model = untrained(base)
    assert kind_of(model).dim(model) == DIM // 4


def test_what_a_user_chose_wins(prompted: Path) -> None:
    base = with_choices(load_base(str(prompted)), pooling="lasttoken", history_prompt="", item_prompt=None)
    assert (base.recipe.pooling, base.recipe.history_prompt, base.recipe.item_prompt) == ("lasttoken", "", "w39 w38 ")
    with pytest.raises(ConfigError, match="unknown pooling 'middle': choose one of mean, cls, lasttoken"):
        with_choices(base, pooling="middle")


@pytest.mark.parametrize(
    ("prompts", "default", "expected"),
    [
        ({}, None, ("", "")),
        ({"query": "w1 ", "corpus": "w2 "}, None, ("w1 ", "w2 ")),
        ({"query": "w1 "}, "query", ("w1 ", "")),
        ({"clustering": "w3 "}, "clustering", ("w3 ", "w3 ")),
        ({"clustering": "w3 "}, None, ("", "")),
    ],
)
def test_which_prompts_are_taken(
    prompts: dict[str, str], default: str | None, expected: tuple[str, str], prompted: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    edit(folder / "config_sentence_transformers.json", prompts=prompts, default_prompt_name=default)
    recipe = read_base_folder(folder).recipe
    assert (recipe.history_prompt, recipe.item_prompt) == expected


@pytest.mark.parametrize(
    ("made_for", "pooling"), [("LlamaForCausalLM", "lasttoken"), ("LlamaModel", "mean"), ("BertForMaskedLM", "mean")]
)
def test_a_folder_without_a_recipe_is_used_as_sentence_transformers_would(
    made_for: str, pooling: str, tmp_path: Path
) -> None:
    base = write_base(tmp_path / "base", FAMILIES["llama"])
    edit(base / "config.json", architectures=[made_for])
    assert read_base_folder(base).recipe == Recipe(pooling=pooling)  # type: ignore[arg-type]


def test_a_chat_template_without_a_recipe_is_not_applied_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_base(tmp_path / "base", FAMILIES["llama"])
    edit(folder / "tokenizer_config.json", chat_template="{{ messages[0].content }} w9")
    model = untrained(load_base(str(folder)))
    assert "has a chat template, which is not applied: texts are read as they are" in caplog.text
    assert model[0].preprocess(["w1"])["input_ids"].shape == (1, 2)


def test_older_releases_wrote_the_pooling_otherwise(prompted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    old = {"word_embedding_dimension": DIM, "pooling_mode_cls_token": False, "pooling_mode_lasttoken": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old), encoding="utf-8")
    modules = (folder / "modules.json").read_text(encoding="utf-8")
    for now, then in (("base.modules.dense", "models"), ("sentence_transformer.modules.pooling", "models")):
        modules = modules.replace(now, then)
    (folder / "modules.json").write_text(modules, encoding="utf-8")
    edit(folder / "sentence_bert_config.json", max_seq_length=16, do_lower_case=False)
    found = read_base_folder(folder)
    assert (found.recipe.pooling, len(found.dense), found.max_tokens) == ("lasttoken", 2, 16)
    assert SourceEncoder(load_base(str(folder))).max_tokens == 16


MODULE = {"idx": 4, "name": "4", "path": "4_LayerNorm", "type": "sentence_transformers.models.LayerNorm"}


@pytest.mark.parametrize(
    ("file", "changes", "refused"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["cls", "mean"]}, "the pooling cls with mean"),
        ("1_Pooling/config.json", {"include_prompt": False}, r"leaves prompts out \(include_prompt\)"),
        ("config_sentence_transformers.json", {"truncate_dim": 8}, "truncate_dim 8"),
        ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "the model type SparseEncoder"),
        (
            "sentence_bert_config.json",
            {"modality_config": {"text": {}, "message": {}}},
            "a chat template that its texts",
        ),
        ("sentence_bert_config.json", {"do_lower_case": True}, "the setting do_lower_case=True"),
        ("sentence_bert_config.json", {"model_args": {"trust": 1}}, "the setting model_args="),
        ("2_Dense/config.json", {"activation_function": "torch.nn.Softmax"}, "the activation 'torch.nn.Softmax'"),
        ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "module_input_name is 'token_embeddings'"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_by_name(
    file: str, changes: dict[str, Any], refused: str, prompted: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    edit(folder / file, **changes)
    with pytest.raises(ModelError, match=refused):
        read_base_folder(folder)


@pytest.mark.parametrize("kind", ["sentence_transformers.models.LayerNorm", "custom_st.Head"])
def test_a_module_that_is_not_known_is_refused_by_name(kind: str, prompted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    (folder / "modules.json").write_text(json.dumps([*modules[:2], {**MODULE, "type": kind}]), encoding="utf-8")
    name = kind.rpartition(".")[2] if kind.startswith("sentence") else kind
    with pytest.raises(ModelError, match=f"has a {name} as module 3, which cannot be taken over"):
        load_base(str(folder))


@pytest.mark.parametrize("number", [2, 3])
def test_dense_layers_of_another_width_are_refused(number: int, prompted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    layer = folder / f"{number}_Dense"
    weights = load((layer / "model.safetensors").read_bytes())
    weights["linear.weight"] = torch.zeros(len(weights["linear.weight"]), 24)
    save_file(weights, layer / "model.safetensors")
    edit(layer / "config.json", in_features=24)
    with pytest.raises(ModelError, match=rf"has Dense layers that do not fit \[{DIM}, {DIM // 2}, {DIM // 4}\]"):
        load_base(str(folder))


def test_pickled_dense_layers_are_never_read(prompted: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(prompted, tmp_path / "st")
    (folder / "2_Dense" / "model.safetensors").rename(folder / "2_Dense" / "pytorch_model.bin")
    with pytest.raises(BundleError, match=r"pytorch_model\.bin is a pickle and is never read"):
        load_base(str(folder))


def test_an_encoder_with_a_decoder_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base", FAMILIES["bert"])
    edit(base / "config.json", is_encoder_decoder=True)
    with pytest.raises(ModelError, match=r"\(bert\) is an encoder with a decoder"):
        load_base(str(base))


def test_the_encoder_of_an_encoder_with_a_decoder_is_refused_too(tmp_path: Path) -> None:
    config = T5Config(vocab_size=len(VOCABULARY), d_model=DIM, d_kv=8, num_layers=2, num_heads=4, d_ff=48)
    base = write_base(tmp_path / "base", Family("t5", config, ["q", "v"], ["q", "v"], template="$A [SEP]"))
    T5EncoderModel(config).save_pretrained(str(base))  # as sentence-transformers saves such a model
    with pytest.raises(
        ModelError, match=r"\(t5\) lacks the weights decoder\.block.*: copy it again, or use another base"
    ):
        load_base(str(base))


def test_a_base_without_a_longest_text_reads_as_many_tokens_as_others(tmp_path: Path) -> None:
    config = XLNetConfig(vocab_size=len(VOCABULARY), d_model=DIM, n_layer=2, n_head=4, d_inner=48, pad_token_id=0)
    base = load_base(str(write_base(tmp_path / "base", Family("xlnet", config, [], [], template="$A [SEP]"))))
    assert config.max_position_embeddings == -1
    assert SourceEncoder(base).max_tokens == 256


def test_a_prompt_that_leaves_no_room_is_refused(prompted: Path) -> None:
    base = with_choices(load_base(str(prompted)), item_prompt="w1 " * 40)
    with pytest.raises(ConfigError, match=r"the prompt 'w1 w1 .*' has 40 tokens, more than half of the 64"):
        SourceEncoder(base)


def test_a_history_has_its_own_prompt_and_its_own_center(prompted: Path) -> None:
    titles = ["w1 w2", "w3", "w4 w5 w6"]
    model = untrained(load_base(str(prompted)))
    plain = DualScorer(model, titles).score([[0, 1]])
    raw = {role: torch.from_numpy(getattr(model, f"encode_{role}")(titles)) for role in ("query", "document")}
    model[-1].log_sharpness.data.fill_(-9.0)  # the mean over the history
    scores = DualScorer(model, titles).score([[0, 1]])[0]
    np.testing.assert_allclose(scores, (raw["query"][:2] @ raw["document"].t()).mean(0), atol=1e-3)
    centered = kind_of(model).centered(model, titles).eval()
    for as_history in (False, True):  # every side is centered by its own mean
        features = centered[0].preprocess(titles, prompt="w38 " if as_history else None)
        for module in list(centered)[: list(centered).index(centered[-2])]:
            features = module(features)
        np.testing.assert_allclose(features["sentence_embedding"].mean(0), np.zeros(DIM // 4), atol=1e-6)
    assert not np.allclose(plain, DualScorer(centered, titles).score([[0, 1]]), atol=1e-2)


@pytest.mark.parametrize("change", [{}, {"history_prompt": "w39 w38 "}])
def test_saved_and_loaded_with_the_recipe(change: dict[str, str], prompted: Path, tmp_path: Path) -> None:
    base = with_choices(load_base(str(prompted)), **change)
    model = kind_of(made := untrained(base)).centered(made, ["w1 w2", "w3"])
    model = kind_of(model).with_projection(model, 2, 0)
    bundle.save(model, tmp_path / "bundle", {"kind": "adapter", "domain": None})
    loaded: Any = bundle.load(tmp_path / "bundle")
    assert loaded[0].recipe == base.recipe
    assert [type(module).__name__ for module in loaded] == [type(module).__name__ for module in model]
    for encode in ("encode", "encode_query"):
        np.testing.assert_array_equal(getattr(loaded, encode)(TEXTS), getattr(model, encode)(TEXTS))
    theirs = SentenceTransformer(str(tmp_path / "bundle"), trust_remote_code=True)
    np.testing.assert_array_equal(theirs.encode_query(TEXTS), model.encode_query(TEXTS))


def test_the_recipe_counts_in_the_fingerprint(prompted: Path) -> None:
    base = load_base(str(prompted))
    others = [{}, {"pooling": "mean"}, {"item_prompt": "w1 "}, {"history_prompt": "w1 "}]
    assert len({fingerprint_of(untrained(with_choices(base, **change))) for change in others}) == 4
