"""Models on disk: complete, verified, never half-written, and never code from the folder itself."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from xcrossrec._version import __version__
from xcrossrec.exceptions import BundleError
from xcrossrec.models.adapters import MANIFEST, read_manifest
from xcrossrec.models.base import Base
from xcrossrec.models.encoder import TitleEncoder
from xcrossrec.models.heads import Center, HistoryMatcher, Projection
from xcrossrec.models.kinds import assembled, kind_named, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.replacing import replacing_folder

FORMAT_VERSION = 2

_MODULE_KEYS = {"name", "path", "type"}
_OWN_CLASSES: tuple[type[nn.Module], ...] = (
    MergedEncoder,
    SourceEncoder,
    XCrossEncoder,
    Center,
    HistoryMatcher,
    PairHead,
    Projection,
)
_BORROWED_CLASSES: tuple[type[nn.Module], ...] = (Pooling, Normalize)


def save(
    model: Model,
    path: Path | str,
    manifest: Mapping[str, Any],
    *,
    overwrite: bool = False,
    tables: Mapping[str, pl.DataFrame] | None = None,
) -> None:
    """Write a model folder beside its place, then rename it into place.

    Args:
        model: from :func:`xcrossrec.models.kinds.build_model` or :func:`load`.
        path: the folder to make.
        manifest: what to record (data fingerprint, training, metrics, ...); format, versions, base and the
            digests of all files are added.
        overwrite: replace an existing xcrossrec model.
        tables: Parquet files to put beside, by name.

    Raises:
        BundleError: the folder exists and may not be replaced.
    """
    with replacing(Path(path), overwrite=overwrite) as folder:
        model.save_pretrained(str(folder), create_model_card=False)
        for name, table in (tables or {}).items():
            table.write_parquet(folder / name)
        encoder = encoder_of(model)
        full = {
            "format_version": FORMAT_VERSION,
            "xcrossrec_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "scoring": kind_of(model).name,
            "pair_attention": encoder.pair_attention,
            "prompt_version": encoder.prompt_version,
            "base": {"name": encoder.base_name, "digest": encoder.base_digest},
            **manifest,
            "files": _file_digests(folder),
        }
        (folder / MANIFEST).write_text(json.dumps(full, indent=2), encoding="utf-8")


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give an empty folder beside ``path`` to fill; on success it takes the place, on failure nothing stays.

    Raises:
        BundleError: ``path`` exists and is no xcrossrec model, or may not be replaced.
    """
    if path.exists():
        if not overwrite:
            raise BundleError(f"{path} exists: choose another place, or allow to overwrite it")
        if not path.is_dir() or (any(path.iterdir()) and not (path / MANIFEST).exists()):
            raise BundleError(f"{path} exists and is no xcrossrec model: it is not replaced, choose another place")
    with replacing_folder(path) as folder:
        yield folder


def read_bundle_manifest(path: Path | str) -> dict[str, Any]:
    """Read the manifest of a model or adapter folder written by this project.

    Raises:
        BundleError: no folder, not ours, not finished, or of another format.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"model folder {str(folder)!r} does not exist: check the path")
    manifest = read_manifest(folder)
    if not manifest:
        raise BundleError(f"{folder} has no {MANIFEST}: it is no xcrossrec model, or was not written to its end")
    version = manifest.get("format_version")
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{folder} has format version {version!r}, this release reads {FORMAT_VERSION}: train it again, or "
            f"install the release that made it ({manifest.get('xcrossrec_version')!r})"
        )
    if lost := [key for key in ("scoring", "base", "files") if key not in manifest]:
        raise BundleError(f"the manifest of {folder} has no {lost[0]!r}: it is damaged, copy or train the model again")
    return manifest


def load(path: Path | str, *, base: Base | None = None, trainable: bool = False) -> Model:
    """Load a model or adapter folder.

    Every file is checked against the digest in the manifest, the base against its weight digest. Classes come
    from the installed packages alone, whatever the folder names or contains.

    Args:
        path: what ``xcrossrec train`` wrote.
        base: use this base instead of loading it by name; taken over.
        trainable: leave the LoRA factors trainable that were: a single adapter's, or the target's own beside sources.

    Raises:
        BundleError: incomplete, changed, foreign or unsafe content.
        BaseMismatchError: the base's weights are not those of the training.
    """
    folder = Path(path)
    manifest = read_bundle_manifest(folder)
    _verify_files(folder, manifest)
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    for entry in _module_list(folder):
        cls = _class_named(entry["type"], folder)
        extra: dict[str, Any] = {}
        if issubclass(cls, TitleEncoder):
            extra = {"base": base, "trainable": trainable}
        modules[entry["name"]] = cls.load(str(folder), subfolder=entry["path"], **extra)
    model = assembled(kind_named(manifest["scoring"]), modules)
    model.eval()
    return model


def _module_list(folder: Path) -> list[dict[str, str]]:
    try:
        entries: list[dict[str, str]] = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleError(
            f"{folder / 'modules.json'} cannot be read ({error}): copy or train the model again"
        ) from error
    if not isinstance(entries, list) or not all(isinstance(e, dict) and set(e) >= _MODULE_KEYS for e in entries):
        raise BundleError(f"{folder / 'modules.json'} is no list of modules: copy or train the model again")
    for entry in entries:
        place = PurePosixPath(entry["path"])
        if place.is_absolute() or ".." in place.parts:
            raise BundleError(f"{folder} has a module at {entry['path']!r}, outside the folder: the bundle is foreign")
    return entries


def _class_named(reference: str, folder: Path) -> Any:
    known = {f"{cls.__module__}.{cls.__name__}": cls for cls in (*_OWN_CLASSES, *_BORROWED_CLASSES)}
    if reference not in known:
        raise BundleError(
            f"{folder} asks for the class {reference!r}, which is none of xcrossrec's: the bundle is foreign and "
            "none of its code is run"
        )
    return known[reference]


def _file_digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / MANIFEST
    }


def _verify_files(folder: Path, manifest: Mapping[str, Any]) -> None:
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.exists():
            raise BundleError(f"{folder} lacks {name}, which its manifest lists: copy or train the model again")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise BundleError(
                f"{path} is not the file that was written (its digest differs): copy or train the model again"
            )
