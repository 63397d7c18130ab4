"""How a base makes one vector of a text, as its sentence-transformers folder says: pooling, prompts, layers behind.

What cannot be taken over is refused by name. No code of the folder is run, and no pickle is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from xcrossrec.exceptions import ModelError
from xcrossrec.models.files import Dim, RelativePath, Settings, read_settings, take_over
from xcrossrec.types import POOLING_MODES, PoolingMode

OF_HISTORY = "of_history"
"""Of tokenized texts, where the prompts differ: which are read as a history's items."""

_HISTORY_PROMPT = "query"
_ITEM_PROMPTS = ("document", "passage", "corpus")
"""What sentence-transformers calls the prompts of what asks, and of what is found."""

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    f"{kind.__module__}.{kind.__name__}": kind for kind in (nn.GELU, nn.Identity, nn.ReLU, nn.Sigmoid, nn.SiLU, nn.Tanh)
}
_PLAIN = {"transformer_task": "feature-extraction", "module_output_name": "token_embeddings"}
"""Settings of sentence-transformers' Transformer that change nothing where they have these values."""
_WITHOUT_EFFECT = {"max_seq_length", "unpad_inputs", "modality_config"}
"""The last one says how texts and other things go in; ``module_output_name`` what comes out."""


@dataclass(frozen=True)
class Recipe:
    """What is done to a text beside its encoding.

    Attributes:
        pooling: how the states of a text's tokens become one vector (`dual` scoring).
        history_prompt: put before the items of a history, of a `pair` model before the whole history.
        item_prompt: put before an item that is scored.
        dense: digest of the base's Dense layers behind the pooling; empty without one.
    """

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid", str_max_length=4096)  # of one in a saved folder

    pooling: PoolingMode = "mean"
    history_prompt: str = ""
    item_prompt: str = ""
    dense: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""

    @property
    def apart(self) -> bool:
        """Whether an item is read otherwise in a history than where it is scored."""
        return self.history_prompt != self.item_prompt

    def __str__(self) -> str:
        prompts = "".join(
            f", {name} prompt {text!r}"
            for name, text in (("history", self.history_prompt), ("item", self.item_prompt))
            if text
        )
        return f"pooling {self.pooling}{prompts}{', Dense layers ' + self.dense[:12] if self.dense else ''}"


@dataclass(frozen=True)
class BaseFolder:
    """A base's folder, taken apart.

    Attributes:
        weights: where configuration, weights and tokenizer lie.
        recipe: but for the digest of the Dense layers.
        dense: those layers, frozen.
        max_tokens: longest text that the folder allows; None where it says nothing.
        plain: whether it is a model of transformers, without anything of sentence-transformers.
    """

    weights: Path
    recipe: Recipe
    dense: tuple[Dense, ...] = ()
    max_tokens: int | None = None
    plain: bool = False


def read_base_folder(folder: Path) -> BaseFolder:
    """Read how a base is used, from the files that sentence-transformers writes.

    A folder without ``modules.json`` is used as sentence-transformers would: pooling by the last token if it was made
    for causal language modelling, else by the mean.

    Raises:
        BundleError: damaged files, or pickled weights.
        ModelError: something that cannot be taken over; names it.
    """
    if not (folder / "modules.json").is_file():
        made = _json(folder / "config.json")
        causal = str((made.get("architectures") or [""])[0]).endswith("ForCausalLM") and made.get("is_causal", True)
        return BaseFolder(folder, Recipe(pooling="lasttoken" if causal else "mean"), plain=True)
    entries = read_settings(folder / "modules.json", ModuleList)
    kinds = [_kind(entry["type"]) for entry in entries]
    places = [folder / entry["path"] for entry in entries]
    if kinds[-1:] == ["Normalize"]:  # vectors are brought to unit length behind the center, whatever the base does
        kinds, places = kinds[:-1], places[:-1]
    for number, kind in enumerate(kinds):
        if kind != ("Transformer", "Pooling", "Dense")[min(number, 2)]:
            raise _refused(folder, f"a {kind} as module {number + 1}")
    if len(kinds) < 2:
        raise _refused(folder, "no Pooling")
    history, item = _prompts(folder)
    recipe = Recipe(_pooling(folder, places[1], bool(history or item)), history, item)
    return BaseFolder(places[0], recipe, tuple(map(read_dense, places[2:])), _longest(folder, places[0]))


class ModuleEntry(Settings):
    """An entry in the list of a model's modules, as sentence-transformers writes it."""

    path: RelativePath | Literal[""]
    type: str


class ModuleList(RootModel[Annotated[list[ModuleEntry], Field(min_length=1, max_length=16)]]):
    """The modules of a sentence-transformers folder, or of a model."""


class _DenseSettings(Settings):
    in_features: Dim
    out_features: Dim
    bias: bool = True
    activation_function: str = "torch.nn.modules.activation.Tanh"
    module_input_name: Literal["sentence_embedding"] = "sentence_embedding"
    module_output_name: Literal["sentence_embedding"] | None = None
    use_residual: bool = False


def read_dense(folder: Path) -> Dense:
    """Read a Dense layer of sentence-transformers; it is frozen. BundleError: missing, damaged or pickled; ModelError:
    an activation that is not known."""
    settings = read_settings(folder / "config.json", _DenseSettings)
    named = settings.pop("activation_function", "torch.nn.modules.activation.Tanh")
    if named not in _ACTIVATIONS:
        raise ModelError(f"{folder} has the activation {named[:80]!r}: known are {', '.join(sorted(_ACTIVATIONS))}")
    known = {name: value for name, value in settings.items() if name in _DenseSettings.model_fields}
    dense = Dense(**known, activation_function=_ACTIVATIONS[named]())
    take_over(dense.state_dict(), folder / "model.safetensors")
    dense.requires_grad_(False).eval()
    return dense


def dense_state(layers: Sequence[Dense]) -> dict[str, Any]:
    """The tensors of Dense layers by names that tell place and activation, to be hashed."""
    return {
        f"{number}.{type(layer.activation_function).__name__}.{key}": value
        for number, layer in enumerate(layers)
        for key, value in layer.state_dict().items()
    }


def _kind(reference: str) -> str:
    ours, _, name = reference.rpartition(".")
    return name if ours.split(".")[0] == "sentence_transformers" else reference


def _refused(folder: Path, what: str) -> ModelError:
    return ModelError(
        f"base {str(folder)!r} has {what}, which cannot be taken over: xcrossrec reads a Transformer, one Pooling, "
        "Dense layers and Normalize of sentence-transformers; use another base"
    )


def _json(path: Path) -> dict[str, Any]:
    """Settings by name; empty where there is no such file."""
    return read_settings(path, Settings) if path.is_file() else {}


def _pooling(folder: Path, place: Path, prompted: bool) -> PoolingMode:
    if not _json(place / "config.json"):
        raise ModelError(f"{place} has no config.json: copy the base again")
    settings = Pooling.load_config(str(place))  # which understands the names that older releases wrote
    mode = settings.get("pooling_mode", "mean")
    modes = [mode] if isinstance(mode, str) else list(mode)
    if len(modes) != 1 or modes[0] not in POOLING_MODES:
        raise _refused(folder, f"the pooling {' with '.join(map(str, modes))}")
    if prompted and not settings.get("include_prompt", True):
        raise _refused(folder, "a pooling that leaves prompts out (include_prompt)")
    found: PoolingMode = modes[0]
    return found


def _prompts(folder: Path) -> tuple[str, str]:
    """The prompts of histories and of items; where neither has one of its own, the folder's default for both."""
    settings = _json(folder / "config_sentence_transformers.json")
    if (kind := settings.get("model_type", "SentenceTransformer")) != "SentenceTransformer":
        raise _refused(folder, f"the model type {kind}")
    if settings.get("truncate_dim") is not None:
        raise _refused(folder, f"truncate_dim {settings['truncate_dim']}")
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str | None) for text in prompts.values()):
        raise ModelError(f"{folder / 'config_sentence_transformers.json'}: prompts are texts by name, got {prompts!r}")
    history = prompts.get(_HISTORY_PROMPT) or ""
    item = next((prompts[name] for name in _ITEM_PROMPTS if prompts.get(name)), "")
    usual = prompts.get(settings.get("default_prompt_name") or "") or ""
    return (history, item) if history or item else (usual, usual)


def _longest(folder: Path, weights: Path) -> int | None:
    """The longest text that a folder allows; other settings of how texts are read are refused."""
    found = next(iter(sorted(weights.glob("sentence_*_config.json"))), None)
    settings = {} if found is None else _json(found)
    if "message" in (settings.get("modality_config") or {}):
        raise _refused(folder, "a chat template that its texts are put into (modality_config: message)")
    for name, value in settings.items():
        if value and name not in _WITHOUT_EFFECT and value != _PLAIN.get(name):
            raise _refused(folder, f"the setting {name}={value!r}")
    longest = settings.get("max_seq_length")
    return longest if isinstance(longest, int) and longest >= 8 else None
