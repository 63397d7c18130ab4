"""An index on disk: three arrays to map into memory, and a manifest that says whose they are."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from xcrossrec._version import __version__
from xcrossrec.exceptions import BundleError, DataError
from xcrossrec.index.codes import Codes
from xcrossrec.models.adapters import MANIFEST
from xcrossrec.models.bundle import replacing

FORMAT_VERSION = 1
KIND = "index"

_VECTORS, _CODES, _SCALE = "vectors.npy", "codes.npy", "scale.npy"
_REMEDY = "make it again with  xcrossrec index MODEL --catalog DIR --out FOLDER --overwrite"


def write(
    folder: Path,
    vectors: Float32[Tensor, "item dim"],
    codes: Codes | None,
    *,
    model: str,
    catalogue: str,
    overwrite: bool,
) -> None:
    """Write arrays and manifest beside ``folder``, then rename.

    Raises:
        BundleError: the folder exists and may not be replaced, or is no index.
    """
    if overwrite and (folder / MANIFEST).exists() and _manifest(folder).get("kind") != KIND:
        raise BundleError(f"{folder} holds a model, not an index: it is not replaced, choose another place")
    with replacing(folder, overwrite=overwrite) as temporary:
        _save(temporary / _VECTORS, vectors)
        if codes:
            _save(temporary / _CODES, codes.values)
            _save(temporary / _SCALE, codes.scale)
        manifest = {
            "kind": KIND,
            "format_version": FORMAT_VERSION,
            "xcrossrec_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": model,
            "catalogue": catalogue,
            "items": len(vectors),
            "dim": vectors.shape[1],
            "codes": {"error": codes.error, "length": codes.length} if codes else None,
            "bytes": {path.name: path.stat().st_size for path in sorted(temporary.iterdir())},
        }
        (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")


def read(folder: Path, *, model: str, catalogue: str) -> tuple[Float32[Tensor, "item dim"], Codes | None]:
    """Map the arrays of an index into memory, after everything that its manifest says was checked.

    Raises:
        BundleError: no index, damaged, of another format, or another model's.
        DataError: another catalogue's.
    """
    manifest = read_manifest(folder)
    if manifest["model"] != model:
        raise BundleError(
            f"the index {folder} holds another model's vectors (fingerprint {manifest['model'][:12]}, this model's is "
            f"{model[:12]}): {_REMEDY}"
        )
    if manifest["catalogue"] != catalogue:
        raise DataError(
            f"the index {folder} is of another catalogue ({manifest['items']} items, fingerprint "
            f"{manifest['catalogue'][:12]}, this one's is {catalogue[:12]}): {_REMEDY}"
        )
    for name, size in manifest["bytes"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise BundleError(f"{path} is missing or not of the {size} bytes that were written: {_REMEDY}")
    return _map(folder / _VECTORS), _codes(folder, manifest["codes"])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest of an index.

    Raises:
        BundleError: no folder, no index, damaged, or of another format.
    """
    if not folder.is_dir():
        raise BundleError(f"index folder {str(folder)!r} does not exist: check the path, or {_REMEDY}")
    if not (folder / MANIFEST).is_file():
        raise BundleError(f"{folder} has no {MANIFEST}: it is no index, or was not written to its end; {_REMEDY}")
    manifest = _manifest(folder)
    if manifest.get("kind") != KIND:
        raise BundleError(f"{folder} holds a {manifest.get('kind')!r}, not an index: {_REMEDY}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{folder} has format version {manifest.get('format_version')!r}, this release reads {FORMAT_VERSION}: "
            f"{_REMEDY}"
        )
    if lost := [key for key in ("model", "catalogue", "items", "codes", "bytes") if key not in manifest]:
        raise BundleError(f"the manifest of {folder} has no {lost[0]!r}: it is damaged; {_REMEDY}")
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise BundleError(f"{folder / MANIFEST} is not valid JSON ({error}): {_REMEDY}") from error
    return manifest if isinstance(manifest, dict) else {}


def _codes(folder: Path, bounds: dict[str, float] | None) -> Codes | None:
    if bounds is None:
        return None
    return Codes(_map(folder / _CODES), _map(folder / _SCALE), bounds["error"], bounds["length"])


def _save(path: Path, tensor: Tensor) -> None:
    np.save(path, tensor.numpy(), allow_pickle=False)


def _map(path: Path) -> Tensor:
    """Map an array; pages are private, so that nobody writes into the file through the tensor."""
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except (ValueError, OSError) as error:
        raise BundleError(f"{path} is not a readable array ({error}): {_REMEDY}") from error
    return torch.from_numpy(array)
