"""The files of a model's folder, which may come from anybody: settings by a schema, tensors by value, within limits."""

from __future__ import annotations

import hashlib
import os
import reprlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeAlias

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from xcrossrec.exceptions import BundleError, StorageError, not_read
from xcrossrec.system import FINDER

_MOST_BYTES = 4 * 2**20
"""Of a file of settings; the largest here lists the files of a model, 100 bytes each."""

_MOST_FILES = 10_000
_MOST_BYTES_IN_ALL = 8 * 2**30
"""A model has the updates of its sources, never the base's weights."""


def _plain(name: str) -> str:
    """A relative path of plain names, which leaves no folder."""
    if name != PurePosixPath(name).as_posix() or {"..", "."} & {*name.split("/")} or name.startswith("/"):
        raise ValueError("expected a plain relative name")
    return name


RelativePath: TypeAlias = Annotated[
    str, StringConstraints(min_length=1, max_length=400, pattern=r"^[^\\\x00-\x1f]+$"), AfterValidator(_plain)
]
PlainName: TypeAlias = Annotated[RelativePath, StringConstraints(max_length=200, pattern="^[^/]+$")]
Digest: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Dim: TypeAlias = Annotated[int, Field(ge=1, le=16_384)]
Rank: TypeAlias = Annotated[int, Field(ge=1, le=1024)]


class Settings(BaseModel):
    """Base of all settings files: strict types, finite numbers; unknown keys are kept."""

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False, str_max_length=4096)


def read_settings(path: Path, schema: type[BaseModel]) -> Any:
    """Read a JSON file by a schema, without filling in defaults. BundleError: the file is missing, too large, not JSON,
    or has a value that the schema does not allow; names the value."""
    try:
        if path.exists() and not path.is_file():
            raise BundleError(f"{path} is not a file: copy or train the model again")
        if (size := path.stat().st_size) > _MOST_BYTES:
            raise BundleError(f"{path} has {size:,} bytes, too many for settings: xcrossrec did not write it")
        return schema.model_validate_json(path.read_bytes()).model_dump(exclude_unset=True)
    except FileNotFoundError as error:
        raise BundleError(
            f"{path.parent} has no {path.name}: it is no xcrossrec model, or was not written to its end"
        ) from error
    except OSError as error:
        raise not_read(path, error) or BundleError(
            f"{path} cannot be read ({error}): copy or train the model again"
        ) from error
    except ValidationError as error:
        raise BundleError(f"{path}: {what_does_not_fit(error)}: copy or train the model again") from error


def what_does_not_fit(error: ValidationError) -> str:
    """Name the first value that a schema does not allow, and the reason."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))[:200] or "the content"
    if first["type"] == "json_invalid":
        return f"{place} is not valid JSON ({first['msg']})"
    if first["type"] == "missing":
        return f"{place} is missing"
    return f"{place} is {reprlib.repr(first['input'])} ({first['msg'].removeprefix('Value error, ')})"


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file. BundleError: missing, corrupt or foreign content (a pickle, say), which is never
    executed, or a number that is not finite."""
    if not path.is_file():
        pickles = sorted(p.name for p in path.parent.glob("*.bin")) + sorted(p.name for p in path.parent.glob("*.pt"))
        why = f"; {', '.join(pickles)} is a pickle and is never read: convert it" if pickles else ": copy it again"
        raise BundleError(f"weights {path} are missing{why}")
    check_right(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise not_read(path, error) or BundleError(
            f"{path} is not a readable safetensors file ({error}): copy or train it again"
        ) from error
    for key, tensor in tensors.items():
        if tensor.is_complex() or not torch.isfinite(tensor.float()).all():
            raise BundleError(f"{key} in {path} has numbers that are not finite: copy or train it again")
    return tensors


def check_right(path: Path) -> None:
    """Refuse a file that this user may not read (StorageError): safetensors says that there is none."""
    if path.exists() and not os.access(path, os.R_OK):
        raise StorageError(f"{path} may not be read by this user: give it the right to (chmod), or copy it")


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file."""
    save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, path)


@torch.no_grad()
def take_over(own: Mapping[str, Tensor], path: Path) -> None:
    """Copy a file's tensors into a module's own. BundleError: one is missing, surplus, of another shape, or not of a
    floating-point type."""
    saved = load_tensors(path)
    wrong = sorted(set(own) ^ set(saved)) or [
        key for key in own if own[key].shape != saved[key].shape or not saved[key].is_floating_point()
    ]
    if wrong:
        raise BundleError(f"{path} does not fit its settings ({wrong[0]}): it belongs to another configuration")
    for key, tensor in own.items():
        tensor.copy_(saved[key])


def file_digest(path: Path) -> str:
    """Hash a file (sha256, hex)."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(folder: Path, *, besides: str, apart: str = "") -> dict[str, str]:
    """Hash every file of a folder, by its relative name.

    Args:
        besides: the name of a file in it to skip.
        apart: the name of a folder in it, or of a link to one, whose content is skipped.

    Raises:
        BundleError: a link that leaves the folder, something that is no file, or far too many of them.
    """
    found: dict[str, Path] = {}
    size = 0
    for place, folders, names in os.walk(folder):
        for path in sorted(Path(place, name) for name in (*folders, *names)):
            if path.relative_to(folder).parts[0] == apart:
                continue
            if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
                raise BundleError(f"{path} is a link that leaves its folder: copy the model without links")
            if path.is_dir():
                continue
            if not path.is_file():
                raise BundleError(f"{path} is neither a file nor a folder: the model is foreign, or was damaged")
            size += path.stat().st_size
            if path != folder / besides and path.name != FINDER:
                found[path.relative_to(folder).as_posix()] = path
            if len(found) > _MOST_FILES or size > _MOST_BYTES_IN_ALL:
                most = f"{_MOST_FILES:,} files or {_MOST_BYTES_IN_ALL:,} bytes"
                raise BundleError(f"{folder} has more than {most}: it is no xcrossrec model")
    return {name: file_digest(path) for name, path in found.items()}


def verify_files(folder: Path, digests: Mapping[str, str], *, besides: str, apart: str = "") -> None:
    """Compare all files of a folder with the digests that were written; see :func:`file_digests`. BundleError: one is
    missing, changed, or was not there."""
    found = file_digests(folder, besides=besides, apart=apart)
    if lost := sorted(set(digests) - set(found)):
        raise BundleError(f"{folder} lacks {lost[0]}, which its manifest lists: copy or train the model again")
    if more := sorted(set(found) - set(digests)):
        raise BundleError(f"{folder} has {more[0]}, which its manifest does not list: remove it, or copy it again")
    for name, digest in digests.items():
        if found[name] != digest:
            raise BundleError(
                f"{folder / name} is not the file that was written (its digest differs): copy or train the model again"
            )
