"""What an export may be asked for; told without loading anything heavy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeAlias

from xcrossrec.exceptions import BundleError, ConfigError
from xcrossrec.replacing import check_vacant

To: TypeAlias = Literal["sentence-transformers", "peft", "onnx", "vectors"]

MOST_APART: Mapping[To, float] = {"sentence-transformers": 1e-5, "peft": 1e-5, "onnx": 1e-3, "vectors": 1e-5}
"""By kind the largest difference to the model, of a vector's numbers and of scores, with which an export is left."""

HISTORY, README = "history.json", "README.md"
"""What every export has."""


def check_request(to: To, out: Path, *, catalogue: object, distill: bool, int8: bool, overwrite: bool) -> None:
    """Refuse what does not go together (ConfigError), and an output that may not be replaced (BundleError); see
    :func:`xcrossrec.export.exporting.export_model`."""
    if to not in MOST_APART:
        raise ConfigError(f"unknown export {to!r}: choose one of {', '.join(MOST_APART)}")
    if to == "vectors" and catalogue is None:
        raise ConfigError("vectors are those of a catalogue's items: give it with --catalog")
    if to == "vectors" and distill:
        raise ConfigError("the vectors of every model can be exported as they are: leave out --distill")
    if distill and catalogue is None:
        raise ConfigError("distilling reads the target's items and is measured on its users: give --catalog DOMAIN")
    if int8 and to != "onnx":
        raise ConfigError(f"--int8 belongs to --to onnx, got --to {to}: leave it out")
    if not check_vacant(out, overwrite=overwrite) and not all((out / name).is_file() for name in (HISTORY, README)):
        raise BundleError(f"{out} exists and is no earlier export: it is not replaced, choose another place")
