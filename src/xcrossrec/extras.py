"""What each optional extra brings, and the sentence that names it where it is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from xcrossrec.exceptions import MissingExtraError

_MODELS = ("torch", "transformers", "sentence_transformers", "peft", "safetensors", "scipy", "pydantic", "jinja2")
_TRAIN = (*_MODELS, "accelerate", "datasets", "tensorboard")

EXTRAS: Mapping[str, tuple[str, ...]] = {
    "models": _MODELS,
    "train": _TRAIN,
    "baselines": ("sklearn",),
    "serve": (*_MODELS, "fastapi", "uvicorn", "httptools", "prometheus_client", "pyarrow", "httpx"),
    "onnx": (*_MODELS, "onnx", "onnxruntime"),
    "postgres": (*_MODELS, "psycopg"),
    "ray": ("ray", "pyarrow"),
    "client": ("httpx", "pydantic"),
}
"""Extra to the modules that it brings and that code imports by name."""


def require(extra: str) -> None:
    """Check, without importing anything, that one of :data:`EXTRAS` is installed.

    MissingExtraError where a module of it is absent; names its install line.
    """
    for module in EXTRAS[extra]:
        require_package(module, extra)


def require_package(module: str, extra: str | None = None) -> None:
    """Check, without importing it, that a package is installed, under its name in code.

    ``extra`` brings it; None where none does. MissingExtraError, as there, where it is absent.
    """
    if find_spec(module) is None:
        raise MissingExtraError(module, extra)
