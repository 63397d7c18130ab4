"""What all encoders share: titles in, token states out, as a sentence-transformers module.

Legend: ``batch`` = text, ``token`` = position, ``dim`` = hidden size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from jaxtyping import Float
from pydantic import Field
from sentence_transformers.base.modules import Dense, InputModule
from torch import Tensor, nn

from xcrossrec.config import Integration
from xcrossrec.data.text import TITLES, ItemText
from xcrossrec.exceptions import BundleError, ConfigError, DataError, ModelError
from xcrossrec.models.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST, Adapter, BaseRecord, read_adapter
from xcrossrec.models.base import Base
from xcrossrec.models.fast.door import FastPass
from xcrossrec.models.files import PlainName, Settings, read_settings
from xcrossrec.models.identity import AnyBase, find_base
from xcrossrec.models.pair_attention import attention_arguments, set_up_pair_attention
from xcrossrec.models.recipe import OF_HISTORY, Recipe
from xcrossrec.models.tokens import CutReport, PromptTokenizer, tell_unread, token_limit
from xcrossrec.prompts import PROMPT_VERSION, clean_title, split_prompt
from xcrossrec.types import ENCODING_PRECISIONS, EncodingPrecision, PairAttention

ADAPTERS_FOLDER = "adapters"

_LEAST_OF_A_TEXT = 24
"""Tokens of each item's text that are read at least, a title's, before the oldest items of a history are left out."""


class EncoderSettings(Settings):
    """What a saved folder records of every encoder."""

    base: BaseRecord
    prompt_version: int
    max_tokens: Annotated[int, Field(ge=8, le=100_000)]
    pair_attention: PairAttention
    text: str = TITLES.template
    recipe: Recipe | None = None
    manifest: bool = False
    """whether a manifest was written beside; not by sentence-transformers' own ``save_pretrained``"""


class IntegratedSettings(EncoderSettings):
    """And of one that is made of several sources."""

    sources: Annotated[list[PlainName], Field(min_length=2, max_length=100)]
    integration: Integration


class TitleEncoder(InputModule):
    """What the encoders share: item texts in, token states out.

    Inputs are prompts (see :mod:`xcrossrec.prompts`; a single title is a prompt of one), or pairs
    ``(history prompt, candidate title)``.

    Args:
        base: taken over and changed in place, so do not use it elsewhere.
        max_tokens: longest text; None takes what the model can, at most 256.
        pair_attention: who sees whom in a pair, ``joint`` or ``shared`` (:mod:`xcrossrec.models.pair_attention`).

    Attributes:
        shares_history: whether pairs of one history share its encoding; False for ``joint``, and for
            ``shared`` on a base that cannot.
        recipe: the prompts before texts, and what makes one vector of a text's states behind the encoder.
        sources: names of the domains that it is made of; empty for a single language model.
        integration: how they became one model; None for a single language model.
    """

    sources: tuple[str, ...] = ()
    adapters: tuple[Adapter, ...] = ()
    integration: Integration | None = None

    config_file_name = "xcrossrec_encoder.json"
    settings_schema: type[EncoderSettings] = EncoderSettings
    save_in_root = True

    def __init__(self, base: Base, max_tokens: int | None, pair_attention: PairAttention = "joint") -> None:
        super().__init__()
        self.pair_attention: PairAttention = pair_attention
        self.shares_history = set_up_pair_attention(base.backbone, pair_attention)
        self.base_name = base.name
        self.base_digest = base.digest
        self.prompt_version = PROMPT_VERSION
        self.tokenizer = base.tokenizer
        self.recipe = base.recipe
        self.base_dense: tuple[Dense, ...] = base.dense
        self.max_tokens = token_limit(base.tokenizer, base.backbone.config, max_tokens, usual=base.max_tokens)
        self.prompts = PromptTokenizer(base.tokenizer, self.max_tokens)
        self.dim = int(base.backbone.config.hidden_size)
        self._check_prompts()
        self.text = TITLES
        self._precision: EncodingPrecision = "fp32"
        self.fast = FastPass()

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens; can be set, up to what the base takes."""
        return self.max_tokens

    @max_seq_length.setter
    def max_seq_length(self, tokens: int) -> None:
        self.max_tokens = self.prompts.max_tokens = token_limit(self.tokenizer, self.backbone.config, tokens)
        self._check_prompts()

    def _check_prompts(self) -> None:
        """Refuse a prompt that leaves too little room for a text."""
        for prompt in (self.recipe.history_prompt, self.recipe.item_prompt):
            if prompt and (tokens := self.prompts.length(prompt)) > self.max_tokens // 2:
                raise ConfigError(
                    f"the prompt {prompt[:60]!r} has {tokens} tokens, more than half of the {self.max_tokens} that a "
                    "text may have: give a shorter one"
                )

    @property
    def cut(self) -> CutReport:
        """How much history did not fit so far."""
        return self.prompts.cut

    def tell_unread(self, texts: Sequence[str]) -> None:
        """Warn, once, where the base hardly reads what items are read by."""
        tell_unread(self.base_name, self.tokenizer, texts)

    @property
    def text(self) -> ItemText:
        """What it reads of an item of a catalogue; texts of more than titles are shortened where there is no room."""
        return self._text

    @text.setter
    def text(self, text: ItemText) -> None:
        self._text = text
        self.prompts.least = None if text.is_title else _LEAST_OF_A_TEXT

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

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Add ``token_embeddings`` (batch, token, dim)."""
        states = self.fast.states(features, self._combine)
        features["token_embeddings"] = self._combine(self._by_layers(features)) if states is None else states
        return features

    def _by_layers(self, features: Mapping[str, Any]) -> Sequence[Float[Tensor, "batch token dim"]]:
        """The streams' last states, of one here, by the backbone's own layers."""
        attention = attention_arguments(self.backbone, features, self.pair_attention)
        return [self.backbone(input_ids=features["input_ids"], **attention).last_hidden_state]

    def _combine(self, streams: Sequence[Float[Tensor, "*batch dim"]]) -> Float[Tensor, "*batch dim"]:
        """What becomes of the streams' last states; an only one stays as it is."""
        return streams[0]

    def get_embedding_dimension(self) -> int:
        """Size of a token state."""
        return self.dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Tokenize prompts or (history, candidate) pairs.

        Args:
            inputs: all strings, or all pairs of strings.
            prompt: put before every text, of pairs before the history; None takes the recipe's: a text by itself is
                read as an item that is scored, a history's item is with the history prompt.
            **kwargs: ``task``, which sentence-transformers passes and which says nothing new.

        Raises:
            DataError: something that is no text (NaN, None), or a pair with an empty one.
            ConfigError: any other argument.
        """
        if unknown := sorted(set(kwargs) - {"task"}):
            raise ConfigError(f"xcrossrec's encoders do not know the argument {unknown[0]!r}: leave it out")
        if inputs and isinstance(inputs[0], (tuple, list)):
            if odd := [pair for pair in inputs if not isinstance(pair, (tuple, list)) or len(pair) != 2]:
                raise DataError(f"expected pairs (history, title), got {str(odd[0])[:60]}: give those, or texts")
            leads = self.recipe.history_prompt if prompt is None else prompt, self.recipe.item_prompt
            histories = [split_prompt(_text(pair[0], empty=False)) for pair in inputs]
            encode = self.prompts.encode_shared if self.shares_history else self.prompts.encode_pairs
            return encode(histories, [clean_title(_text(pair[1], empty=False)) for pair in inputs], *leads)
        return self.preprocess_each(inputs, [self.recipe.item_prompt if prompt is None else prompt] * len(inputs))

    def preprocess_each(self, texts: Sequence[Any], prompts: Sequence[str]) -> dict[str, Tensor]:
        """Tokenize texts, each with its own prompt; where histories have one of their own, those who do are told."""
        features = self.prompts.encode([split_prompt(_text(text)) for text in texts], prompts)
        if self.recipe.apart:
            features[OF_HISTORY] = torch.tensor([prompt == self.recipe.history_prompt for prompt in prompts])
        return features

    def settings(self) -> dict[str, Any]:
        """What a saved folder records, so that the same encoder can be made again."""
        sources = {"sources": list(self.sources), "integration": asdict(self.integration)} if self.integration else {}
        return {
            "base": {"name": self.base_name, "digest": self.base_digest},
            "prompt_version": self.prompt_version,
            "max_tokens": self.max_tokens,
            "pair_attention": self.pair_attention,
            **({} if self.recipe == Recipe() else {"recipe": asdict(self.recipe)}),
            **({} if self.text.is_title else {"text": self.text.template}),
            **sources,
        }

    def train(self, mode: bool = True) -> Self:
        """Switch modes; the backbone of several sources stays in evaluation mode, so its dropout never runs."""
        super().train(mode)
        if self.integration is not None:
            self.backbone.eval()
        return self

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """What trains, by the setting of :class:`xcrossrec.config.TrainingConfig` that is its learning rate."""
        raise NotImplementedError

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write settings, tokenizer and the sources' PEFT folders; never over a model that has a manifest."""
        folder = Path(output_path)
        if (folder / MANIFEST).exists():
            raise BundleError(f"{folder} is a model of xcrossrec, which this would damage: save into another folder")
        save_adapters(self.adapters, folder)
        (folder / self.config_file_name).write_text(json.dumps(self.settings(), indent=2), encoding="utf-8")
        self.tokenizer.save_pretrained(str(folder))

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",
        base: AnyBase | None = None,
        *,
        trainable: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Load from a saved folder; the base is verified by digest, adapters by shape. Errors are as of
        :func:`xcrossrec.load`.

        Args:
            base: use this one (taken over), or that of this folder or name; None looks for it
                (:func:`xcrossrec.models.identity.find_base`).
            trainable: let LoRA factors train on, which costs the fast pass its folded weights.
            **kwargs: what sentence-transformers passes; settings of the model that are made without it are refused
                (ConfigError).
        """
        _refuse_settings(kwargs)
        folder = Path(model_name_or_path) / subfolder
        settings = cls.read_settings(folder)
        found = find_base(f"model {folder}", settings["base"], [folder], base)
        found = replace(found, recipe=recipe_of(settings))
        model = cls._restored(folder, settings, found, trainable=trainable)
        model.text = _item_text(folder, settings)
        model.eval()
        return model

    @classmethod
    def _restored(cls, folder: Path, settings: Mapping[str, Any], base: Base, *, trainable: bool) -> Self:
        """Make the encoder that a folder holds, over the base that it was trained on, which is taken over."""
        raise NotImplementedError

    @classmethod
    def read_settings(cls, folder: Path) -> dict[str, Any]:
        """Read the encoder's settings of a saved folder; BundleError where they are damaged, or of another prompt
        version."""
        settings: dict[str, Any] = read_settings(folder / cls.config_file_name, cls.settings_schema)
        if settings.get("prompt_version") != PROMPT_VERSION:
            raise BundleError(
                f"{folder} was trained with prompt version {settings.get('prompt_version')!r}, this release writes "
                f"{PROMPT_VERSION}: train it again, or install the release that made it"
            )
        return settings


_REFUSED = ("model_kwargs", "processor_kwargs", "config_kwargs", "revision", "backend")


def _refuse_settings(given: Mapping[str, Any]) -> None:
    """Refuse what sentence-transformers lets users say of a model, where it would be ignored."""
    for name in _REFUSED:
        if (value := given.get(name)) and value != "torch":
            named = f"{name}={value!r}" if isinstance(value, str) else ", ".join(f"{name}: {each}" for each in value)
            raise ConfigError(
                f"{named} has no effect on an xcrossrec model: leave it out; .half() and .bfloat16() change the "
                "type of its numbers once it is loaded"
            )


def settings_in(folder: Path) -> dict[str, Any]:
    """What the folder of a model or adapter says of its encoder (BundleError: it is damaged); nothing if it was made
    elsewhere."""
    path = folder / TitleEncoder.config_file_name
    return read_settings(path, EncoderSettings) if path.is_file() else {}


def recipe_of(settings: Mapping[str, Any]) -> Recipe:
    """The recipe in an encoder's settings."""
    return Recipe(**(settings.get("recipe") or {}))


def _text(value: Any, *, empty: bool = True) -> str:
    if not isinstance(value, str):
        raise DataError(f"expected a title or a prompt as text, got {value!r}: clean the titles first")
    if not empty and not value.strip():
        raise DataError("got an empty text: give a title, or leave the item out")
    return value


def text_of(folder: Path) -> ItemText | None:
    """What the model or adapter of a folder reads of an item (BundleError: it is damaged); None for one made elsewhere,
    which does not say."""
    if not (folder / TitleEncoder.config_file_name).exists():
        return None
    return _item_text(folder, TitleEncoder.read_settings(folder))


def _item_text(folder: Path, settings: Mapping[str, Any]) -> ItemText:
    try:
        return ItemText(settings.get("text", TITLES.template))
    except ConfigError as error:
        raise BundleError(f"{folder} is damaged ({error}): copy or train the model again") from error


def save_adapters(adapters: Sequence[Adapter], folder: Path) -> None:
    """Copy the PEFT folders of a model's sources into its bundle."""
    for adapter in adapters:
        place = folder / ADAPTERS_FOLDER / adapter.name
        if place.exists() and place.resolve() == adapter.path.resolve():
            continue
        place.mkdir(parents=True, exist_ok=True)
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS, MANIFEST):
            source = adapter.path / name
            if source.exists():
                (place / name).write_bytes(source.read_bytes())


def read_adapters(folder: Path, names: Sequence[str], base: Base) -> list[Adapter]:
    """Read the sources of a bundle."""
    return [read_adapter(folder / ADAPTERS_FOLDER / name, base, name=name, of_model=True) for name in names]


def check_sources(adapters: Sequence[Adapter]) -> tuple[str, ...]:
    """Give the names of the sources of one model; ModelError where these are fewer than two, or two of one name."""
    names = [adapter.name for adapter in adapters]
    if len(names) < 2:
        raise ModelError(f"integration needs at least 2 sources, got {len(names)}: load another adapter")
    if len(set(names)) < len(names):
        raise ModelError(f"adapter names must differ, got {names}: rename a folder")
    return tuple(names)
