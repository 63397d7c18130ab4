"""The modules of each optional extra, and the check that they are installed."""

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
"""The modules that each extra installs and that code imports by name."""


def require(extra: str) -> None:
    """Check, without importing anything, that one of :data:`EXTRAS` is installed.

    MissingExtraError, with the install line: a module is absent.
    """
    for module in EXTRAS[extra]:
        require_package(module, extra)


def require_package(module: str, extra: str | None = None) -> None:
    """Check, without importing it, that a module is installed; MissingExtraError as for `require`.

    ``extra`` installs it; None for a separate package.
    """
    if find_spec(module) is None:
        raise MissingExtraError(module, extra)
