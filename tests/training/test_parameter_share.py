"""The share of trained parameters, counted on live models: a quarter of one source's LoRA."""

from __future__ import annotations

from pathlib import Path

from transformers import DebertaV2Config

from model_families import VOCABULARY, Family, write_base
from xcrossrec.config import Integration
from xcrossrec.models import bundle
from xcrossrec.models.base import DEFAULT_BASE, load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.target import build_target_model, count_parameters

MERGED, XCROSS = Integration("merged"), Integration("xcross", top_layers=None)


def save_untrained_source(base: str, folder: Path) -> Path:
    model = build_model(SourceEncoder(load_base(base), default_lora(8)))
    bundle.save(model, folder, {"kind": "adapter"})
    return folder


def test_the_share_on_minilm_is_a_quarter(tmp_path: Path) -> None:
    folders = [save_untrained_source(DEFAULT_BASE, tmp_path / name) for name in ("a", "b")]
    counted = count_parameters(build_target_model(folders, XCROSS))
    assert counted["integrators"] == 18_432
    assert counted["lora_per_source"] == 73_728
    assert counted["share"] == 0.25
    merged = count_parameters(build_target_model(folders, MERGED))
    assert (merged["integrators"], merged["target_lora"], merged["stream_weights"]) == (0, 18_432, 1)
    assert (merged["share"], merged["base"]) == (0.25, counted["base"])


def test_the_share_on_a_deberta_v3_base_shape_is_a_quarter(tmp_path: Path) -> None:
    config = DebertaV2Config(
        vocab_size=len(VOCABULARY),
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=64,  # no LoRA here, so its size has no say
        relative_attention=True,
        pos_att_type="p2c|c2p",
        share_att_key=True,
        position_buckets=256,
        norm_rel_ebd="layer_norm",
        position_biased_input=False,
        type_vocab_size=0,
    )
    base = write_base(tmp_path / "base", Family("deberta-v3-base", config, ["query_proj", "value_proj"], []))
    folders = [save_untrained_source(str(base), tmp_path / name) for name in ("a", "b")]
    counted = count_parameters(build_target_model(folders, XCROSS))
    assert counted["integrators"] == 73_728
    assert counted["lora_per_source"] == 294_912
    assert counted["share"] == 0.25
    assert counted["stream_weights"] == 2
