"""Tiny random encoders of every supported family, with tokenizers and PEFT adapters, written to disk."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    DebertaV2Config,
    DistilBertConfig,
    Gemma3TextConfig,
    LlamaConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from xcrossrec.models.base import Base, load_base

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = tuple(f"w{number}" for number in range(40))
VOCABULARY = (*SPECIAL, ";", *WORDS)
DIM = 32
_SHAPE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": DIM,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.15,
}
_DEBERTA: dict[str, Any] = {
    **_SHAPE,
    "relative_attention": True,
    "pos_att_type": "p2c|c2p",
    "max_relative_positions": -1,
    "position_biased_input": False,
    "norm_rel_ebd": "layer_norm",
    "type_vocab_size": 0,
    "max_position_embeddings": 64,
}
_DECODER: dict[str, Any] = {
    **_SHAPE,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
_PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj"]


@dataclass(frozen=True)
class Family:
    """One architecture: its tiny configuration and what its linear layers are called."""

    name: str
    config: Any
    query_value: list[str]
    every: list[str]
    tokens: int = 64
    """longest text that the architecture takes"""
    template: str = "[CLS] $A [SEP]"
    """what its tokenizer puts around a text"""


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "bert",
            BertConfig(**_SHAPE, max_position_embeddings=64),
            ["query", "value"],
            ["query", "key", "value", "dense"],
        ),
        Family("mpnet", MPNetConfig(**_SHAPE, max_position_embeddings=66, pad_token_id=1), ["q", "v"], ["q", "k", "o"]),
        Family(
            "deberta-v3",
            DebertaV2Config(**_DEBERTA, share_att_key=True, position_buckets=8),
            ["query_proj", "value_proj"],
            ["query_proj", "key_proj", "value_proj", "output.dense"],
        ),
        Family(
            "deberta-conv",
            DebertaV2Config(**_DEBERTA, share_att_key=False, position_buckets=-1, conv_kernel_size=3, conv_act="gelu"),
            ["query_proj", "value_proj"],
            ["query_proj", "pos_key_proj", "pos_query_proj", "intermediate.dense"],
        ),
        Family(
            "modernbert",
            ModernBertConfig(
                **{**_SHAPE, "initializer_range": 0.08},
                max_position_embeddings=64,
                pad_token_id=0,
                bos_token_id=2,
                eos_token_id=3,
                cls_token_id=2,
                sep_token_id=3,
                global_attn_every_n_layers=2,
                local_attention=8,
            ),
            ["Wqkv"],
            ["Wqkv", "Wo", "Wi"],
        ),
        Family(
            "distilbert",
            DistilBertConfig(
                vocab_size=len(VOCABULARY),
                dim=DIM,
                n_layers=3,
                n_heads=4,
                hidden_dim=48,
                initializer_range=0.15,
                max_position_embeddings=64,
            ),
            ["q_lin", "v_lin"],
            ["q_lin", "k_lin", "v_lin", "out_lin"],
        ),
        Family("llama", LlamaConfig(**_DECODER), ["q_proj", "v_proj"], _PROJECTIONS, template="[CLS] $A"),
        Family("qwen3", Qwen3Config(**_DECODER, head_dim=8), ["q_proj", "v_proj"], _PROJECTIONS, template="$A [SEP]"),
        Family(
            "gemma",
            Gemma3TextConfig(
                **_DECODER,
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window=8,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                use_bidirectional_attention=True,
            ),
            ["q_proj", "v_proj"],
            _PROJECTIONS,
        ),
    )
}
"""Gemma reads both ways, as EmbeddingGemma does; Llama and Qwen only backwards."""

DECODERS = ("llama", "qwen3", "gemma")
SHARED_LAYERS = Family(
    "albert",
    AlbertConfig(**_SHAPE, embedding_size=16, max_position_embeddings=64),
    ["query", "value"],
    ["query", "key", "value", "dense"],
)
"""Its three layers are one, run three times."""


def write_base(folder: Path, family: Family, *, seed: int = 0) -> Path:
    """Write a random model of a family and its tokenizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModel.from_config(family.config)
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # biases start at zero, which would hide their loss
                torch.nn.init.normal_(parameter, 0.0, 0.1)
    model.save_pretrained(str(folder))
    words = list(VOCABULARY)
    pad = family.config.pad_token_id or 0
    words[0], words[pad] = words[pad], words[0]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single=family.template, special_tokens=[(word, words.index(word)) for word in ("[CLS]", "[SEP]")]
    )
    roles = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **roles).save_pretrained(str(folder))
    return folder


@dataclass
class Source:
    """An adapter on disk, with PEFT's own model of it to compare with."""

    folder: Path
    peft: Any
    settings: Mapping[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """PEFT's own last hidden states (batch, token, dim), without a head."""
        return self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state

    @property
    def encoder(self) -> Any:
        """The backbone with PEFT's layers in it."""
        model = self.peft.get_base_model()
        return getattr(model, model.base_model_prefix, model)


def write_adapter(folder: Path, base: Path, *, seed: int, head: bool = False, **lora: Any) -> Source:
    """Train nothing: write a PEFT LoRA adapter with random factors."""
    loader = AutoModelForSequenceClassification if head else AutoModel
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # only what third parties say of a model made for a test
        torch.manual_seed(seed)
        model = loader.from_pretrained(str(base), dtype=torch.float32)
        peft = get_peft_model(model, LoraConfig(**{"task_type": "SEQ_CLS"} if head else {}, **lora))
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, 0.0, 0.2)
        peft.save_pretrained(str(folder))
    return Source(folder, peft.eval(), lora)


def adapter_settings(family: Family, count: int) -> list[dict[str, Any]]:
    """Settings of ``count`` adapters that differ in everything that may differ."""
    pattern = family.query_value[0]
    settings: list[dict[str, Any]] = [
        {"r": 4, "lora_alpha": 8, "target_modules": family.query_value},
        {
            "r": 2,
            "lora_alpha": 3,
            "use_rslora": True,
            "target_modules": family.every,
            "rank_pattern": {pattern: 5},
            "alpha_pattern": {pattern: 7},
        },
        {"r": 3, "lora_alpha": 1, "target_modules": family.every[1:], "alpha_pattern": {f"0.*{family.every[1]}": 9}},
    ]
    return settings[:count]


def write_sources(folder: Path, base: Path, family: Family, count: int, *, head: bool = False) -> list[Source]:
    """Write ``count`` different adapters over one base."""
    return [
        write_adapter(folder / f"source{number}", base, seed=number + 1, head=head, **settings)
        for number, settings in enumerate(adapter_settings(family, count))
    ]


def fresh_base(folder: Path) -> Base:
    """Load a base anew; encoders change theirs in place."""
    return load_base(str(folder))


def random_batch(family: Family, lengths: Sequence[int] = (12, 5, 9), *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random token ids (batch, token) and their mask, padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(6, len(VOCABULARY), (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths))[None, :] < torch.tensor(lengths)[:, None]).long()
    pad = family.config.pad_token_id or 0
    return torch.where(mask.bool(), ids, torch.full_like(ids, pad)), mask


def randomise(module: torch.nn.Module, part: str, scale: float, *, seed: int = 0) -> None:
    """Give the parameters whose names hold ``part`` random values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if part in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
