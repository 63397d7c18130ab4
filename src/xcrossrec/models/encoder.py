"""Encoders as sentence-transformers modules: one adapter alone, or n integrated layer by layer.

Legend: ``source`` = stream of one domain's adapter, ``batch`` = text, ``token`` = position,
``dim`` = hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from operator import itemgetter
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import save_file
from sentence_transformers.base.modules import InputModule
from torch import Tensor, nn

from xcrossrec.exceptions import BaseMismatchError, BundleError, ConfigError, DataError, ModelError
from xcrossrec.models.adapters import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    MANIFEST,
    Adapter,
    TargetLora,
    load_tensors,
    mean_update,
    read_adapter,
    stack_adapters,
)
from xcrossrec.models.base import Base, encoder_layers, load_base
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.integrator import MERGED, Integrator, build_integrator
from xcrossrec.models.pair_attention import attention_arguments, repeat_rows, set_up_pair_attention
from xcrossrec.models.tokens import CutReport, PromptTokenizer, token_limit
from xcrossrec.prompts import PROMPT_VERSION, clean_title, split_prompt
from xcrossrec.types import ENCODING_PRECISIONS, EncodingPrecision, PairAttention

# Query and value where PEFT has no default; ModernBERT's fused layer adds as many parameters as two apart.
_QUERY_VALUE = {"mpnet": ["q", "v"], "modernbert": ["Wqkv"]}

INTEGRATOR_WEIGHTS = "integrators.safetensors"
ADAPTERS_FOLDER = "adapters"


class TitleEncoder(InputModule):
    """What the encoders share: titles in, token states out.

    Inputs are prompts (see :mod:`xcrossrec.prompts`; a single title is a prompt of one), or pairs
    ``(history prompt, candidate title)``.

    Attributes:
        fast: the fast pass, which is asked before the layers run; one that never runs unless a subclass sets its own.
        pair_attention: who sees whom in a pair (see :mod:`xcrossrec.models.pair_attention`).
        shares_history: whether pairs of one history share its encoding; False for ``joint``, and for
            ``shared`` on a base that cannot.
    """

    config_file_name = "xcrossrec_encoder.json"
    save_in_root = True
    backbone: Any

    def __init__(self, base: Base, max_tokens: int | None, pair_attention: PairAttention = "joint") -> None:
        super().__init__()
        self.pair_attention: PairAttention = pair_attention
        self.shares_history = set_up_pair_attention(base.backbone, pair_attention)
        self.base_name = base.name
        self.base_digest = base.digest
        self.prompt_version = PROMPT_VERSION
        self.tokenizer = base.tokenizer
        self.max_tokens = token_limit(base.tokenizer, base.backbone.config, max_tokens)
        self.prompts = PromptTokenizer(base.tokenizer, self.max_tokens)
        self.dim = int(base.backbone.config.hidden_size)
        self._precision: EncodingPrecision = "fp32"
        self.fast = FastPass()

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens."""
        return self.max_tokens

    @property
    def cut(self) -> CutReport:
        """How much history did not fit so far."""
        return self.prompts.cut

    @property
    def precision(self) -> EncodingPrecision:
        """Type of the products outside training: ``fp32`` (exact), or ``bf16`` (faster where the CPU has it)."""
        return self._precision

    @precision.setter
    def precision(self, precision: EncodingPrecision) -> None:
        if precision not in ENCODING_PRECISIONS:
            known = ", ".join(ENCODING_PRECISIONS)
            raise ConfigError(f"unknown encoding precision {precision!r}: choose one of {known}")
        self._precision = precision

    def _states_by_layers(self, features: Mapping[str, Any]) -> Float[Tensor, "batch token dim"]:
        """Encode by the backbone's own layers, one stream."""
        attention = attention_arguments(self.backbone.config, features, self.pair_attention)
        states: Tensor = self.backbone(input_ids=features["input_ids"], **attention).last_hidden_state
        return states

    def get_embedding_dimension(self) -> int:
        """Size of a token state."""
        return self.dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokenize prompts or (history, candidate) pairs.

        Args:
            inputs: all strings, or all pairs of strings.
            prompt: a text put before every history, as sentence-transformers offers it; normally None.
            **kwargs: ignored; sentence-transformers passes its own.

        Raises:
            DataError: an empty text, or something that is no text (NaN, None).
        """
        lead = prompt or ""
        if inputs and isinstance(inputs[0], (tuple, list)):
            histories = [self._titles(lead + self._text(pair[0])) for pair in inputs]
            encode = self.prompts.encode_shared if self.shares_history else self.prompts.encode_pairs
            return encode(histories, [clean_title(self._text(pair[1])) for pair in inputs])
        return self.prompts.encode([self._titles(lead + self._text(text)) for text in inputs])

    @staticmethod
    def _text(value: Any) -> str:
        if not isinstance(value, str):
            raise DataError(f"expected a title or a prompt as text, got {value!r}: clean the titles first")
        if not value.strip():
            raise DataError("got an empty text: give a title, or leave the item out")
        return value

    @staticmethod
    def _titles(text: str) -> list[str]:
        return split_prompt(text)

    def _save_shared(self, folder: Path, settings: Mapping[str, Any]) -> None:
        shared = {
            "base": {"name": self.base_name, "digest": self.base_digest},
            "prompt_version": self.prompt_version,
            "max_tokens": self.max_tokens,
            "pair_attention": self.pair_attention,
        }
        (folder / self.config_file_name).write_text(json.dumps({**shared, **settings}, indent=2), encoding="utf-8")
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        base: Base | None = None,
        *,
        trainable: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load from a saved folder; the base is verified by digest, adapters by shape.

        Args:
            model_name_or_path: the folder.
            subfolder: inside it.
            base: use this base instead of loading it by name.
            trainable: let LoRA factors train on, which costs the fast pass its folded weights.
            **kwargs: ignored; sentence-transformers passes its own.

        Raises:
            BundleError: missing or damaged content.
            BaseMismatchError: the base's weights are not those of the training.
        """
        folder = Path(model_name_or_path) / subfolder
        settings = cls.read_settings(folder)
        found = load_matching_base(settings, folder, base)
        model = cls._restored(folder, settings, found, trainable=trainable)
        model.eval()
        return model

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        """Make the encoder that a folder holds.

        Args:
            folder: what :meth:`save` wrote.
            settings: as :meth:`read_settings` gives them.
            base: the one that it was trained on; taken over.
            trainable: let LoRA factors train on.
        """
        raise NotImplementedError

    @classmethod
    def read_settings(cls, folder: Path) -> dict[str, Any]:
        """Read the encoder's settings of a saved folder.

        Raises:
            BundleError: missing or damaged settings, or another prompt version.
        """
        path = folder / cls.config_file_name
        if not path.exists():
            raise BundleError(
                f"{folder} has no {cls.config_file_name}: it is no xcrossrec model, or was not written to its end"
            )
        try:
            settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise BundleError(f"{path} is not valid JSON ({error}): copy or train the model again") from error
        if settings.get("prompt_version") != PROMPT_VERSION:
            raise BundleError(
                f"{folder} was trained with prompt version {settings.get('prompt_version')!r}, this release writes "
                f"{PROMPT_VERSION}: train it again, or install the release that made it"
            )
        return settings


def load_matching_base(settings: Mapping[str, Any], folder: Path, base: Base | None = None) -> Base:
    """Load the base that a saved model names and verify its weights.

    Args:
        settings: the model's settings, with ``base.name`` and ``base.digest``.
        folder: named in errors.
        base: use this one instead of loading by name.

    Raises:
        BaseMismatchError: the weights found are not those the model was trained on.
    """
    wanted = settings["base"]
    found = base or load_base(wanted["name"])
    if found.digest != wanted["digest"]:
        raise BaseMismatchError(
            f"model {folder} was trained on base {wanted['name']!r} (weights {wanted['digest'][:12]}), but "
            f"{found.name!r} here has weights {found.digest[:12]}: restore the original base"
        )
    return found


class IntegratedLayer(nn.Module):
    """One layer of the backbone followed by its integrator.

    Args:
        layer: the backbone's module whose output is the layer's output.
        integrator: mixes the streams of that output.
    """

    def __init__(self, layer: nn.Module, integrator: Integrator) -> None:
        super().__init__()
        self.layer = layer
        self.integrator = integrator
        self.without: int | None = None
        self.enabled = True
        self.observed: list[Tensor] | None = None
        if hasattr(layer, "attention_type"):  # ModernBERT's model reads it off its layers
            self.attention_type = layer.attention_type

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, then mix; whatever else the layer returns is passed on."""
        output = self.layer(*args, **kwargs)
        hidden = output[0] if isinstance(output, tuple) else output
        mixed = self._mix(hidden)
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    def _mix(self, hidden: Float[Tensor, "rows token dim"]) -> Float[Tensor, "rows token dim"]:
        streams = hidden.view(self.integrator.sources, -1, *hidden.shape[1:]).unbind(0)
        return torch.cat(list(self.mix(streams)))

    def mix(self, hidden: Sequence[Float[Tensor, "*batch dim"]]) -> Sequence[Float[Tensor, "*batch dim"]]:
        """Mix streams that stand apart, as far as ablations allow."""
        if not self.enabled:
            return hidden
        if self.observed is not None:
            self.observed.append(self.integrator.coefficients(hidden).detach())
        return self.integrator.mix(hidden, without=self.without)

    def mixing_parameters(self) -> Iterator[nn.Parameter]:
        """The integrator's parameters."""
        return self.integrator.parameters()


class IntegratedEncoder(TitleEncoder):
    """n domain-specific language models over one base, integrated after every layer (X-Cross), or after the last ones.

    The streams are the leading part of the batch axis: each base weight multiplies all of them at once. With the form
    ``merged`` there is one stream, the base with the mean of the sources' updates, at the price of a single model.
    Only the integrators, the stream weights and, with a ``target_rank``, a LoRA shared by all streams train; base and
    adapters are frozen.

    Args:
        base: the shared base; taken over and changed in place, so do not use it elsewhere.
        adapters: at least two, of one base, with different names.
        integrator: one of :data:`xcrossrec.models.integrator.FORMS`.
        beta: strength of what one stream takes from another.
        gamma: strength of the contrast term (paper's form only).
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
        top_layers: number of last layers after which the streams are integrated; below, each goes its own way. None
            integrates after all, as in the paper; ``merged`` has no use for it.
        target_rank: rank of a LoRA of the target's own in the layers that a source adapts, added to each stream
            alike; it starts at zero. 0 makes none, as in the paper.
        target_layers: number of last layers that have the target's own LoRA; None for all.

    Raises:
        ModelError: fewer than two adapters, or two of one name.
        ConfigError: ``top_layers`` or ``target_layers`` is not from 1 to the number of layers, ``target_rank`` no
            rank, or ``target_layers`` without one.
    """

    def __init__(
        self,
        base: Base,
        adapters: Sequence[Adapter],
        *,
        integrator: str = "paper",
        beta: float = 1.0,
        gamma: float = 1.0,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
        top_layers: int | None = None,
        target_rank: int = 0,
        target_layers: int | None = None,
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        names = [adapter.name for adapter in adapters]
        if len(names) < 2:
            raise ModelError(f"integration needs at least 2 sources, got {len(names)}: load another adapter")
        if len(set(names)) < len(names):
            raise ModelError(f"adapter names must differ, got {names}: rename a folder")
        self.sources = tuple(names)
        self.integrator = integrator
        self.beta, self.gamma = beta, gamma
        self.top_layers = top_layers
        self.target_rank = _checked_rank(target_rank)
        if target_layers is not None and not target_rank:
            raise ConfigError(f"target_layers is {target_layers!r}, but target_rank is 0: give that LoRA a rank")
        self.target_layers = target_layers
        layers = encoder_layers(base.backbone)
        self._first_integrated = _first_of("top_layers", top_layers, len(layers))
        first_own = _first_of("target_layers", target_layers, len(layers))
        own = None if target_layers is None else list(layers)[first_own:]
        self._adapters = tuple(adapters)
        self.backbone = base.backbone
        updates = [mean_update(adapters)] if integrator == MERGED else [adapter.factors for adapter in adapters]
        self.streams = len(updates)
        self._stacked = stack_adapters(self.backbone, updates, target_rank, own)
        self._target_loras = {path: layer.target for path, layer in self._stacked.items() if layer.target is not None}
        self.backbone.requires_grad_(False)
        for lora in self.target_loras.values():
            lora.requires_grad_()
        if self.streams > 1:
            self._integrate(integrator, beta, gamma)
        self.fast = FastPass(self, self.streams, self.integrated_layers)
        self.stream_weight = nn.Parameter(torch.full((self.streams,), 1 / self.streams))

    def _integrate(self, name: str, beta: float, gamma: float) -> None:
        layers = encoder_layers(self.backbone)
        for number in range(self._first_integrated, len(layers)):
            integrator = build_integrator(name, self.streams, self.dim, beta=beta, gamma=gamma)
            conv = getattr(getattr(self.backbone, "encoder", None), "conv", None)
            if number == 0 and conv is not None:  # DeBERTa-v2 xlarge: the first layer's output is the convolution's
                self.backbone.encoder.conv = IntegratedLayer(conv, integrator)
            else:
                layers[number] = IntegratedLayer(layers[number], integrator)

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """The adapters, in stream order."""
        return self._adapters

    @property
    def integrated_layers(self) -> list[IntegratedLayer]:
        """The layers with their integrators, first to last."""
        conv = getattr(getattr(self.backbone, "encoder", None), "conv", None)
        first = [conv] if isinstance(conv, IntegratedLayer) else []
        return first + [layer for layer in encoder_layers(self.backbone) if isinstance(layer, IntegratedLayer)]

    @property
    def layer_numbers(self) -> list[int]:
        """Which of the base's layers are integrated; 1 is the lowest."""
        return [self._first_integrated + place + 1 for place in range(len(self.integrated_layers))]

    @property
    def integrators(self) -> list[Integrator]:
        """The integrators, first layer to last."""
        return [layer.integrator for layer in self.integrated_layers]

    @property
    def target_loras(self) -> dict[str, TargetLora]:
        """The target's own updates, by the base's layer that each belongs to; empty without a ``target_rank``."""
        return self._target_loras

    def train(self, mode: bool = True) -> Self:
        """Switch modes; the frozen backbone stays in evaluation mode, so its dropout never runs."""
        super().train(mode)
        self.backbone.eval()
        return self

    def encode_streams(
        self, input_ids: Int[Tensor, "batch token"], attention_mask: Any, **attention: Any
    ) -> Float[Tensor, "source batch token dim"]:
        """Run all streams and give each one's refined last states (before stage 4).

        Args:
            input_ids: token ids.
            attention_mask: 1 for tokens, 0 for padding; or any form that the backbone takes.
            **attention: what else :func:`xcrossrec.models.pair_attention.attention_arguments` gives.
        """
        n = self.streams
        arguments = repeat_rows({"attention_mask": attention_mask, **attention}, n)
        hidden = self.backbone(input_ids=input_ids.repeat(n, 1), **arguments)
        states: Tensor = hidden.last_hidden_state
        return states.view(n, *input_ids.shape, self.dim)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``token_embeddings`` (batch, token, dim): the streams' weighted sum (stage 4)."""
        states = self.fast.states(features, self._combine)
        if states is None:
            attention = attention_arguments(self.backbone.config, features, self.pair_attention)
            states = self._combine(self.encode_streams(features["input_ids"], **attention).unbind(0))
        features["token_embeddings"] = states
        return features

    def _combine(self, streams: Sequence[Float[Tensor, "*batch dim"]]) -> Float[Tensor, "*batch dim"]:
        """Stage 4: the streams' weighted sum."""
        total = streams[0] * self.stream_weight[0]
        for state, weight in zip(streams[1:], self.stream_weight[1:], strict=True):
            total = total + weight * state
        return total

    @contextmanager
    def ablated(self, layer: int, source: int) -> Iterator[None]:
        """Within the block, ``source`` gives nothing to the others at ``layer`` (counted over those integrated)."""
        target = self.integrated_layers[layer]
        target.without = source
        try:
            yield
        finally:
            target.without = None

    @contextmanager
    def left_out(self, source: int) -> Iterator[None]:
        """Within the block, ``source`` has no part in the final sum, or, where all are one stream, in that one."""
        parts = self._merged_parts(source) if self.streams == 1 else [self.stream_weight.detach()[source]]
        before = [part.detach().clone() for part in parts]
        with torch.no_grad():
            for part in parts:
                part.zero_()
        try:
            yield
        finally:
            with torch.no_grad():
                for part, value in zip(parts, before, strict=True):
                    part.copy_(value)

    def _merged_parts(self, source: int) -> list[Tensor]:
        """A source's part of the one stream's update, in every layer that it changes."""
        parts = []
        for path, layer in self._stacked.items():
            ranks = [len(a.factors[path].down) if path in a.factors else 0 for a in self._adapters]
            start = sum(ranks[:source])
            parts.append(layer.up[0, start : start + ranks[source]])
        return parts

    @contextmanager
    def integration_off(self) -> Iterator[None]:
        """Within the block no layer mixes: the output is the weighted mean of the source models' states."""
        for layer in self.integrated_layers:
            layer.enabled = False
        try:
            yield
        finally:
            for layer in self.integrated_layers:
                layer.enabled = True

    @contextmanager
    def observing(self) -> Iterator[list[list[Tensor]]]:
        """Collect, per layer, the mixing coefficients (source, source, batch, token) of every forward pass."""
        layers = self.integrated_layers
        records: list[list[Tensor]] = [[] for _ in layers]
        for layer, record in zip(layers, records, strict=True):
            layer.observed = record
        try:
            yield records
        finally:
            for layer in layers:
                layer.observed = None

    def reselect(self, base: Base, adapters: Sequence[Adapter]) -> IntegratedEncoder:
        """Make the encoder of another choice of sources; what belongs to those that stay is kept.

        Args:
            base: a fresh copy of the same base.
            adapters: the new sources; those named as a present one keep its pairs, the others start at zero.

        Raises:
            ModelError: the integrator's form cannot change its sources (the paper's).
        """
        index = {name: number for number, name in enumerate(self.sources)}
        kept = [index.get(adapter.name) for adapter in adapters]
        new_integrators = [integrator.reselect(kept) for integrator in self.integrators]
        new = IntegratedEncoder(
            base,
            adapters,
            integrator=self.integrator,
            beta=self.beta,
            gamma=self.gamma,
            max_tokens=self.max_tokens,
            pair_attention=self.pair_attention,
            top_layers=self.top_layers,
            target_rank=self.target_rank,
            target_layers=self.target_layers,
        )
        for layer, integrator in zip(new.integrated_layers, new_integrators, strict=True):
            layer.integrator = integrator
        for path, lora in new.target_loras.items():
            if path in self.target_loras:  # else no source adapted that layer so far, and it starts at zero
                lora.load_state_dict(self.target_loras[path].state_dict())
        streams = [0] if self.streams == 1 else kept  # merged, they share one weight
        with torch.no_grad():
            joining = self.stream_weight.new_zeros(())
            weights = torch.stack([joining if k is None else self.stream_weight[k] for k in streams])
            new.stream_weight.copy_(weights)
        return new

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings, integrators and the adapters' PEFT folders."""
        folder = Path(output_path)
        settings = {
            "sources": list(self.sources),
            "integrator": self.integrator,
            "beta": self.beta,
            "gamma": self.gamma,
            "top_layers": self.top_layers,
            "target_rank": self.target_rank,
            "target_layers": self.target_layers,
        }
        for adapter in self._adapters:
            _copy_adapter(adapter, folder / ADAPTERS_FOLDER / adapter.name)
        save_file(self.integration_state(), folder / INTEGRATOR_WEIGHTS)
        self._save_shared(folder, settings)

    def integration_state(self) -> dict[str, Tensor]:
        """The trained tensors: per integrated layer, counted from 0, the integrator's, per adapted layer the target's
        own LoRA, and the stream weights."""
        state = {
            f"{prefix}.{key}": value.detach().cpu().contiguous()
            for prefix, module in self._trained_modules().items()
            for key, value in module.state_dict().items()
        }
        state["stream_weight"] = self.stream_weight.detach().cpu().contiguous()
        return state

    def _trained_modules(self) -> dict[str, nn.Module]:
        """The modules that train in the backbone, by the names under which they are saved."""
        integrators = {f"layers.{number}": integrator for number, integrator in enumerate(self.integrators)}
        return {**integrators, **{f"target.{path}": lora for path, lora in self.target_loras.items()}}

    def load_integration_state(self, state: Mapping[str, Tensor], origin: str) -> None:
        """Take over trained tensors.

        Args:
            state: as :meth:`integration_state` gives them.
            origin: named in errors.

        Raises:
            BundleError: missing, surplus or wrongly shaped tensors.
        """
        own = self.integration_state()
        wrong = sorted(set(own) ^ set(state)) or [k for k in own if own[k].shape != state[k].shape]
        if wrong:
            raise BundleError(f"{origin} does not fit this encoder ({wrong[0]}): it belongs to another configuration")
        with torch.no_grad():
            for prefix, module in self._trained_modules().items():
                module.load_state_dict({key: state[f"{prefix}.{key}"] for key in module.state_dict()})
            self.stream_weight.copy_(state["stream_weight"])

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        adapters = [
            read_adapter(folder / ADAPTERS_FOLDER / name, base, name=name) for name in _safe_names(settings, folder)
        ]
        model = cls(
            base,
            adapters,
            integrator=settings["integrator"],
            beta=settings["beta"],
            gamma=settings["gamma"],
            max_tokens=settings["max_tokens"],
            pair_attention=settings.get("pair_attention", "joint"),
            top_layers=settings.get("top_layers"),
            target_rank=settings.get("target_rank", 0),
            target_layers=settings.get("target_layers"),
        )
        model.load_integration_state(load_tensors(folder / INTEGRATOR_WEIGHTS), str(folder / INTEGRATOR_WEIGHTS))
        for lora in model.target_loras.values():
            lora.requires_grad_(trainable)
        return model


class SourceEncoder(TitleEncoder):
    """One language model: the base alone, or with one LoRA adapter trained by PEFT.

    A saved one *is* a PEFT LoRA folder (with this project's sidecars beside).

    Args:
        base: the base; taken over.
        lora: a new adapter to train; None leaves the base as it is.
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared``.
    """

    def __init__(
        self,
        base: Base,
        lora: LoraConfig | None = None,
        *,
        max_tokens: int | None = None,
        pair_attention: PairAttention = "joint",
    ) -> None:
        super().__init__(base, max_tokens, pair_attention)
        self.fast = FastPass(self)
        self.backbone: Any = base.backbone
        if lora is not None:
            self.backbone = get_peft_model(base.backbone, _with_targets(lora, base))

    @property
    def has_adapter(self) -> bool:
        """Whether a LoRA adapter is in place."""
        return isinstance(self.backbone, PeftModel)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``token_embeddings`` (batch, token, dim)."""
        states = self.fast.states(features, itemgetter(0))
        features["token_embeddings"] = self._states_by_layers(features) if states is None else states
        return features

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write a PEFT folder (if there is an adapter) and the settings."""
        folder = Path(output_path)
        if self.has_adapter:
            self.backbone.save_pretrained(str(folder), save_embedding_layers=False)
            (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card
        self._save_shared(folder, {"adapter": self.has_adapter})

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        pair_attention = settings.get("pair_attention", "joint")
        model = cls(base, max_tokens=settings["max_tokens"], pair_attention=pair_attention)
        if settings["adapter"]:
            read_adapter(folder, base)  # checks weights and base with our own messages
            model.backbone = PeftModel.from_pretrained(
                base.backbone, str(folder), is_trainable=trainable, use_safetensors=True
            )
        return model


def default_lora(rank: int = 8, alpha: float | None = None, dropout: float = 0.0) -> LoraConfig:
    """LoRA on query and value, as PEFT's defaults choose them for the base's architecture.

    Args:
        rank: r.
        alpha: LoRA's alpha; None takes twice the rank.
        dropout: on the adapter's input.
    """
    return LoraConfig(r=rank, lora_alpha=alpha or 2 * rank, lora_dropout=dropout, bias="none")


def _with_targets(lora: LoraConfig, base: Base) -> LoraConfig:
    """Fill in the layers to adapt where neither the caller nor PEFT names them.

    Raises:
        ModelError: nobody knows the architecture's query and value.
    """
    kind = base.backbone.config.model_type
    if lora.target_modules or kind in TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING:
        return lora
    if kind not in _QUERY_VALUE:
        raise ModelError(f"no default LoRA layers are known for {kind!r} models: name them in target_modules")
    filled = copy(lora)
    filled.target_modules = set(_QUERY_VALUE[kind])
    return filled


def _first_of(name: str, last: int | None, layers: int) -> int:
    """The number of the first of so many last layers, or of all; ``name`` is the setting's."""
    if last is None:
        return 0
    if isinstance(last, bool) or not isinstance(last, int) or not 1 <= last <= layers:
        raise ConfigError(f"{name} is {last!r}: expected a whole number from 1 to {layers}, the base's layers")
    return layers - last


def _checked_rank(rank: int) -> int:
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise ConfigError(f"target_rank is {rank!r}: expected a whole number, 0 for no LoRA of the target's own")
    return rank


def _copy_adapter(adapter: Adapter, folder: Path) -> None:
    if folder.exists() and folder.resolve() == adapter.path.resolve():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST):
        source = adapter.path / name
        if source.exists():
            (folder / name).write_bytes(source.read_bytes())


def _safe_names(settings: Mapping[str, Any], folder: Path) -> list[str]:
    names: list[str] = settings["sources"]
    for name in names:
        if Path(name).name != name or name in {"", ".", ".."}:
            raise BundleError(f"{folder} names a source {name!r}, which is no plain folder name: the bundle is foreign")
    return names
