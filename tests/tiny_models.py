"""Writes tiny random models to disk; used by the fixture ``tiny_models`` alone."""

from __future__ import annotations

import string
import warnings
from pathlib import Path

import torch
from transformers import BertConfig, BertModel, BertTokenizerFast

from xcrossrec.config import Integration
from xcrossrec.data.text import ItemText
from xcrossrec.models import bundle
from xcrossrec.models.base import load_base
from xcrossrec.models.kinds import build_model
from xcrossrec.models.model import encoder_of
from xcrossrec.models.source import SourceEncoder, default_lora
from xcrossrec.training.source import user_hashes, write
from xcrossrec.training.target import build_target_model, count_parameters
from xcrossrec.types import PairAttention, Scoring

SOURCES = {"kitchen": ("u0",), "camping": ("u3",)}
_CHARACTERS = string.ascii_lowercase + string.digits + ".,;-&/'"


def write_all(folder: Path) -> tuple[Path, tuple[Path, Path], Path, Path, Path, Path, Path]:
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers for a renamed attribute
        torch.manual_seed(0)
        base = _write_base(folder / "base")
        first, second = (_write_source(folder / name, base, users) for name, users in SOURCES.items())
        sources, xcross = (first, second), Integration("xcross", top_layers=None)
        late = _write_bundle(folder / "late", sources, xcross)
        text = _write_reader(folder / "text", late)
        merged = _write_bundle(folder / "merged", sources, Integration("merged"))
        pair = _write_bundle(folder / "pair", sources, xcross, "pair", "joint")
        shared = _write_bundle(folder / "shared", sources, xcross, "pair", "shared")
    return base, (first, second), late, text, merged, pair, shared


def _write_base(folder: Path) -> Path:
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*special, *_CHARACTERS, *(f"##{character}" for character in _CHARACTERS)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    tokenizer = BertTokenizerFast.from_pretrained(str(folder), model_max_length=128)
    tokenizer.save_pretrained(str(folder))
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=128,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(str(folder))
    return folder


def _write_source(folder: Path, base: Path, users: tuple[str, ...]) -> Path:
    encoder = SourceEncoder(load_base(str(base)), default_lora(2))
    _randomise(encoder, "lora_B", 0.3)
    model = build_model(encoder)
    record = {"name": folder.name, "fingerprint": "0" * 64, "simulated": True, "items": 6}
    write(model, folder, {"kind": "adapter", "domain": record}, user_hashes(users), overwrite=False)
    return folder


def _write_bundle(
    path: Path,
    sources: tuple[Path, Path],
    integration: Integration,
    scoring: Scoring = "dual",
    pair_attention: PairAttention | None = None,
) -> Path:
    model = build_target_model(sources, integration, scoring=scoring, pair_attention=pair_attention)
    _randomise(model, "concat_weight", 0.05)
    _randomise(model, "lora_B", 0.1)
    if integration.form == "xcross":
        with torch.no_grad():
            model[0].stream_weight.copy_(torch.tensor([0.7, 0.4]))
    manifest = {"kind": "target", "domain": None, "parameters": count_parameters(model)}
    users = frozenset().union(*(user_hashes(users) for users in SOURCES.values()))
    write(model, path, manifest, users, overwrite=False)
    return path


def _write_reader(path: Path, like: Path) -> Path:
    model, manifest = bundle.load(like), bundle.read_bundle_manifest(like)
    encoder_of(model).text = ItemText("{title}; by {brand}; {category}")
    bundle.save(model, path, {**manifest, "text": encoder_of(model).text.template})
    return path


def _randomise(module: torch.nn.Module, part: str, scale: float) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if part in name:
                parameter.normal_(0.0, scale)
