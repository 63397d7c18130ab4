"""A model of one stream taken apart: plain transformer, LoRA over the base, and what makes a unit vector of states.

Legend: ``text`` = one text, ``token`` = position, ``dim`` = vector size.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from sentence_transformers.base.modules import Dense, Normalize, Router
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import Tensor, nn
from transformers import AutoModel

from xcrossrec.exceptions import ModelError
from xcrossrec.models.adapters import LoraFactors, mean_update, side_by_side
from xcrossrec.models.dual import vector_dim
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.heads import Center, Projection, PromptedCenter
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.source import SingleStreamEncoder


@dataclass(frozen=True)
class Head:
    """What makes a unit vector of a text's states, of sentence-transformers' own classes.

    Attributes:
        pooling: from states to a vector.
        dense: the base's own layers behind it, and the scale before these where there is one.
        item: center and projection as one affine map; None where there is neither.
        history: the same for a history's items, where these have a center of their own.
    """

    pooling: Pooling
    dense: list[Dense] = field(default_factory=list)
    item: Dense | None = None
    history: Dense | None = None

    @classmethod
    def of(cls, model: Model, scale: float) -> Head:
        """Of a `dual` model, whose states are multiplied by ``scale`` (a unit vector alone does not feel it)."""
        found = list(model)[1:]
        pooling = next(deepcopy(module) for module in found if isinstance(module, Pooling))
        dense = [deepcopy(module) for module in found if isinstance(module, Dense)]
        maps = [module for module in found if isinstance(module, (Center, Projection))]
        if dense and scale != 1:
            width = dense[0].in_features
            dense.insert(0, affine(scale * torch.eye(width, dtype=torch.float64), torch.zeros(width)))
        if not maps:
            return cls(pooling, dense)
        dim, factor = vector_dim(model), 1.0 if dense else scale
        turn = torch.eye(dim, dtype=torch.float64)
        shifts = [torch.zeros(dim, dtype=torch.float64) for _ in range(2)]
        for module in maps:
            if isinstance(module, Projection):
                turn = turn + (module.up.detach().cpu().double() @ module.down.detach().cpu().double())
            else:
                prompted = module.history_mean if isinstance(module, PromptedCenter) else module.mean
                shifts = [mean.cpu().double() for mean in (module.mean, prompted)]
        item, history = (affine(factor * turn, -turn @ shift) for shift in shifts)
        return cls(pooling, dense, item, history if any(isinstance(m, PromptedCenter) for m in maps) else None)

    def modules(self) -> list[nn.Module]:
        """In order, for a ``SentenceTransformer``; a router where histories are read otherwise than items."""
        if self.item is None or self.history is None:
            last: list[nn.Module] = [] if self.item is None else [self.item]
        else:
            last = [Router({"query": [self.history], "document": [self.item]}, default_route="document")]
        return [self.pooling, *self.dense, *last, Normalize()]


@dataclass(frozen=True)
class Reading:
    """How texts are read.

    Attributes:
        tokenizer: pads on the right.
        max_tokens: longest text, special tokens and prompt included.
        prompts: before a history's items (``query``) and before what is scored (``document``).
    """

    tokenizer: Any
    max_tokens: int
    prompts: dict[str, str]

    @classmethod
    def of(cls, encoder: TitleEncoder) -> Self:
        """As an encoder does."""
        tokenizer, recipe = deepcopy(encoder.tokenizer), encoder.recipe
        tokenizer.padding_side, tokenizer.model_max_length = "right", encoder.max_tokens
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return cls(tokenizer, encoder.max_tokens, {"query": recipe.history_prompt, "document": recipe.item_prompt})

    def texts(self, texts: Sequence[str], as_history: bool) -> list[str]:
        """Texts behind their prompt."""
        prompt = self.prompts["query" if as_history else "document"]
        return [prompt + text for text in texts]

    def tokens(self, texts: Sequence[str], as_history: bool) -> tuple[Tensor, ...]:
        """What :class:`Vectors` takes: ids and mask, padded, and whether these are of a history."""
        limits: dict[str, Any] = {"padding": True, "truncation": True, "max_length": self.max_tokens}
        found = self.tokenizer(self.texts(texts, as_history), return_tensors="pt", **limits)
        return found["input_ids"], found["attention_mask"], torch.full((len(texts),), as_history)


@dataclass(frozen=True)
class Stream:
    """A model of one stream.

    Attributes:
        backbone: a plain transformer with the updates added to its weights.
        update: what was added, by the path of its layer; empty for a base alone.
    """

    backbone: Any
    head: Head
    update: dict[str, LoraFactors]
    reading: Reading

    @classmethod
    def of(cls, model: Model) -> Self:
        """Take a model of one stream apart; it is left as it is."""
        encoder = encoder_of(model)
        assert isinstance(encoder, SingleStreamEncoder)
        scale = float(encoder.scale.detach()) if isinstance(encoder, MergedEncoder) else 1.0
        own = [factors_of(encoder.backbone)] if isinstance(encoder.backbone, PeftModel) else []
        updates = [mean_update(encoder.adapters), *own] if encoder.adapters else own
        return cls(plain(encoder.backbone), Head.of(model, scale), side_by_side(updates), Reading.of(encoder))

    def vectors(self) -> Vectors:
        """As one module of torch."""
        return Vectors(self.backbone, self.head).eval()


class Vectors(nn.Module):
    """From token ids to unit vectors."""

    def __init__(self, backbone: Any, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.parts = nn.ModuleList(
            [head.pooling, *head.dense, *(m for m in (head.item, head.history) if m is not None)]
        )

    def forward(
        self,
        input_ids: Int[Tensor, "text token"],
        attention_mask: Int[Tensor, "text token"],
        of_history: Bool[Tensor, " text"] | None = None,
    ) -> Float[Tensor, "text dim"]:
        """Encode ids, padded anywhere (mask 0); ``of_history`` tells texts of a history's items, where these have a
        center of their own."""
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        features = {"token_embeddings": states, "attention_mask": attention_mask}
        for module in (self.head.pooling, *self.head.dense):
            features = module(features)
        vectors: Tensor = features["sentence_embedding"]
        if (item := self.head.item) is not None:
            of_items = item.linear(vectors)
            if self.head.history is not None and of_history is not None:
                of_items = torch.where(of_history[:, None], self.head.history.linear(vectors), of_items)
            vectors = of_items
        return nn.functional.normalize(vectors, dim=-1)


def factors_of(backbone: PeftModel) -> dict[str, LoraFactors]:
    """The update of PEFT's adapter in a backbone, by the path of its layer."""
    layers = {name: module for name, module in backbone.base_model.model.named_modules() if hasattr(module, "lora_A")}
    return {
        name: LoraFactors(
            layer.lora_A["default"].weight.detach().float(),
            layer.lora_B["default"].weight.detach().float() * layer.scaling["default"],
        )
        for name, layer in layers.items()
    }


def plain(backbone: Any) -> Any:
    """The same weights in transformers' own model: without PEFT's layers and those of the fast pass.

    A backbone under PEFT's adapter is copied and merged. A pooler, which bases are loaded without, is filled with
    zeros: nothing reads it, and loading says nothing of it.
    """
    merged = deepcopy(backbone).merge_and_unload() if isinstance(backbone, PeftModel) else backbone
    plain = AutoModel.from_config(merged.config, dtype=torch.float32).requires_grad_(False).eval()
    state = {name: tensor.float() for name, tensor in merged.state_dict().items()}
    lost = plain.load_state_dict(state, strict=False)
    if odd := [*lost.unexpected_keys, *(name for name in lost.missing_keys if not name.startswith("pooler."))]:
        raise ModelError(f"{type(plain).__name__} cannot be exported: its weight {odd[0]} has no place")
    with torch.no_grad():
        for name in lost.missing_keys:
            plain.get_parameter(name).zero_()
    return plain


def affine(weight: Float[Tensor, "dim dim"], bias: Float[Tensor, " dim"]) -> Dense:
    """A layer of sentence-transformers' without activation, frozen."""
    size = len(weight)
    dense = Dense(size, size, activation_function=None, init_weight=weight.float(), init_bias=bias.float())
    return dense.requires_grad_(False)
