"""The one door to the fast pass: it gives an encoder's states, or None where the layers themselves have to.

Everything that decides is here: the switch, the architecture, the device, the adapters, what trains, the pairs, the
layout of the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from xcrossrec.models.fast import switched_on
from xcrossrec.models.fast.architectures import is_known, unwrapped
from xcrossrec.models.fast.passes import Combine, NumberTypes, PackedPass
from xcrossrec.models.fast.texts import PackedTexts
from xcrossrec.models.xcross.integrator import IntegratedLayer
from xcrossrec.types import EncodingPrecision

_PRODUCTS: dict[EncodingPrecision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class FastPass:
    """What an encoder asks for its states before it runs its layers.

    Args:
        owner: the encoder, of which ``backbone``, ``pair_attention`` and ``precision`` (of products outside autocast)
            are read. Its backbone may be any: plain, with PEFT's LoRA, or stacked and integrated. None if only the
            layers can run it.
        mixers: after each of the last layers, what mixes the streams; none for a single stream.
    """

    def __init__(self, owner: Any = None, mixers: Sequence[IntegratedLayer] = ()) -> None:
        self._owner = owner
        self._mixers = mixers
        self._pass: PackedPass | None = None

    @property
    def leaves_padding_out_in_training(self) -> bool:
        """Whether texts need no sorting into groups of like length to train fast."""
        with torch.enable_grad():
            return self._applicable() is not None

    def states(self, features: Mapping[str, Any], combine: Combine) -> Float[Tensor, "batch token dim"] | None:
        """Encode tokenized texts, pairs in rows, or pairs that share their histories, or leave it to the layers.

        Returns:
            states, zero where there is padding; None where only the layers themselves can do it.
        """
        packed = self._applicable()
        if packed is None or self._owner is None:
            return None
        kind = features["input_ids"].device.type
        mixed = torch.is_autocast_enabled(kind)
        products = torch.get_autocast_dtype(kind) if mixed else _PRODUCTS[self._owner.precision]
        types = NumberTypes(products, torch.float32 if mixed else products)
        with torch.autocast(kind, enabled=False):
            if "candidate" in features:
                shares = unwrapped(packed.backbone).config.model_type == "bert"  # others restart positions another way
                return packed.of_shared_pairs(features, types, combine) if shares else None
            mask = features["attention_mask"]
            pairs = bool((features.get("segments", mask) < 0).any())
            texts = None if pairs and self._owner.pair_attention == "shared" else PackedTexts.of(mask)
            if texts is None:
                return None
            keep = not pairs  # a pair hardly comes twice
            return packed.of_texts(features["input_ids"], texts, types, combine, keep=keep)

    def forget(self) -> None:
        """Free what training kept of the texts that it saw."""
        if self._pass is not None:
            self._pass.kept.forget()

    def _applicable(self) -> PackedPass | None:
        """The pass, if it gives now what the layers themselves would."""
        if self._owner is None or not switched_on() or not is_known(self._owner.backbone):
            return None
        backbone = self._owner.backbone
        model = unwrapped(backbone)
        words = model.embeddings.word_embeddings.weight
        if words.device.type != "cpu" or words.dtype is not torch.float32:
            return None  # of other numbers (half, bfloat16) PyTorch's own layers know how to multiply them
        if any(mixer.observed is not None for mixer in self._mixers):
            return None  # whoever watches coefficients wants them in the shape of padded texts
        if torch.is_grad_enabled():
            if any(getattr(module, "gradient_checkpointing", False) for module in model.modules()):
                return None  # asked for layer by layer: transformers has renamed its own question
        elif model.training:
            return None  # whoever wants dropout without gradients
        if self._pass is None or self._pass.backbone is not backbone:
            self._pass = PackedPass(backbone, self._mixers)
        return self._pass if self._pass.folded.can_be_made() else None
