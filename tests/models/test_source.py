"""One stream: a source's model is PEFT's, and its folder a PEFT folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModel

from encoders import CLOSE, Folders, SourcesOf, output, real, save_to
from model_families import DIM, FAMILIES, Family, fresh_base, random_batch, randomise
from xcrossrec.models.adapters import read_adapter
from xcrossrec.models.source import SourceEncoder, default_lora


def source_over(base: Path, **settings: Any) -> SourceEncoder:
    encoder = SourceEncoder(fresh_base(base), default_lora(3), **settings)
    randomise(encoder, "lora_B", 0.3)
    return encoder.eval()


def test_its_states_are_pefts_own(family: Family, base_of: Folders, tmp_path: Path) -> None:
    encoder = source_over(base_of(family.name))
    ids, mask = random_batch(family)
    folder = save_to(encoder, tmp_path / "adapter")
    base = AutoModel.from_pretrained(str(base_of(family.name)), dtype=torch.float32).eval()
    plain = base(input_ids=ids, attention_mask=mask).last_hidden_state.detach()
    peft = PeftModel.from_pretrained(base, str(folder)).eval()
    with torch.no_grad():
        expected = peft(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(expected, mask), **CLOSE)
    assert (real(expected, mask) - real(plain, mask)).abs().max() > 0.1


def test_a_saved_one_is_a_peft_folder_and_gives_the_same_bits(family: Family, base_of: Folders, tmp_path: Path) -> None:
    encoder = source_over(base_of(family.name))
    ids, mask = random_batch(family)
    folder = save_to(encoder, tmp_path / "adapter")
    loaded = SourceEncoder.load(str(folder))
    assert loaded.has_adapter
    assert not [name for name, p in loaded.named_parameters() if p.requires_grad]
    assert torch.equal(output(loaded, ids, mask), output(encoder, ids, mask))
    assert not (folder / "README.md").exists()
    adapter = read_adapter(folder, fresh_base(base_of(family.name)))
    assert adapter.parameters == sum(p.numel() for name, p in encoder.named_parameters() if "lora_" in name)
    assert len(adapter.factors) == family.config.num_hidden_layers * len(family.query_value)


def test_without_an_adapter_it_is_the_base(base_of: Folders, tmp_path: Path) -> None:
    encoder = SourceEncoder(fresh_base(base_of("bert")), max_tokens=16).eval()
    folder = save_to(encoder, tmp_path / "plain")
    loaded = SourceEncoder.load(str(folder))
    assert not loaded.has_adapter
    assert (loaded.settings()["adapter"], loaded.parameter_groups()) == (False, {})
    assert loaded.max_seq_length == 16
    assert loaded.get_embedding_dimension() == DIM
    ids, mask = random_batch(FAMILIES["bert"])
    expected = fresh_base(base_of("bert")).backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    torch.testing.assert_close(real(output(loaded, ids, mask), mask), real(expected, mask), **CLOSE)


def test_named_layers_are_taken_whatever_the_architecture(base_of: Folders) -> None:
    lora = default_lora(2)
    lora.target_modules = {"key"}
    encoder = SourceEncoder(fresh_base(base_of("bert")), lora)
    adapted = {name.split(".lora_")[0] for name, _ in encoder.named_parameters() if "lora_" in name}
    assert {name.rsplit(".", 1)[1] for name in adapted} == {"key"}
    assert len(adapted) == FAMILIES["bert"].config.num_hidden_layers


def test_the_default_lora_scales_by_two() -> None:
    lora = default_lora(4)
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (4, 8, 0.0)


def test_a_trainable_one_keeps_its_gradients(base_of: Folders, tmp_path: Path) -> None:
    folder = save_to(source_over(base_of("bert")), tmp_path / "adapter")
    loaded = SourceEncoder.load(str(folder), trainable=True)
    assert {"lora_A", "lora_B"} == {n.split(".")[-3] for n, p in loaded.named_parameters() if p.requires_grad}


def test_an_adapter_made_elsewhere_gives_pefts_states(family: Family, base_of: Folders, sources_of: SourcesOf) -> None:
    source = sources_of(family.name, 2)[1]
    encoder = SourceEncoder(fresh_base(base_of(family.name))).eval()
    encoder.backbone = PeftModel.from_pretrained(encoder.backbone, str(source.folder))
    ids, mask = random_batch(family)
    torch.testing.assert_close(real(output(encoder, ids, mask), mask), real(source.states(ids, mask), mask), **CLOSE)
