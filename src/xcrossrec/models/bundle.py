"""Models on disk: complete, verified, never half-written, and never code from the folder itself."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import torch
from sentence_transformers.base.modules import Dense, Normalize
from sentence_transformers.sentence_transformer.modules import Pooling
from torch import nn

from xcrossrec._version import __version__
from xcrossrec.arguments import checked
from xcrossrec.exceptions import BundleError, ConfigError, ModelError, StorageError, XCrossRecError
from xcrossrec.models.adapters import MANIFEST, read_manifest
from xcrossrec.models.day_one import DayOne
from xcrossrec.models.encoder import TitleEncoder, settings_in
from xcrossrec.models.files import Dim, Settings, file_digest, file_digests, read_settings, verify_files
from xcrossrec.models.heads import RECENCY_SLOTS, Center, HistoryMatcher, Projection, PromptedCenter
from xcrossrec.models.identity import BASE_FOLDER, AnyBase
from xcrossrec.models.kinds import kind_named, kind_of
from xcrossrec.models.merged import MergedEncoder
from xcrossrec.models.model import Model, encoder_of
from xcrossrec.models.pair_head import PairHead
from xcrossrec.models.purchases import Purchases
from xcrossrec.models.recipe import ModuleList, read_dense
from xcrossrec.models.source import SourceEncoder
from xcrossrec.models.xcross.encoder import XCrossEncoder
from xcrossrec.replacing import check_vacant, leftovers, replacing_folder, state_of
from xcrossrec.types import EncodingPrecision, PoolingMode, Scoring

_LOG = logging.getLogger(__name__)
_TRIES = 3  # of a folder that is replaced while it is read

FORMAT_VERSION = 5
FORGOTTEN = "forgotten"
"""Of a manifest: the hashes of customers whom the model knew and was made to forget, if there are any."""

_READ = (3, 4, FORMAT_VERSION)
"""Models of format 3 read titles alone, those of format 4 know no purchases."""

_OWN_CLASSES: tuple[type[nn.Module], ...] = (
    MergedEncoder,
    SourceEncoder,
    XCrossEncoder,
    Center,
    DayOne,
    HistoryMatcher,
    PairHead,
    Projection,
    PromptedCenter,
    Purchases,
)
_BORROWED_CLASSES: tuple[type[nn.Module], ...] = (Pooling, Dense, Normalize)

_ORDERS: Mapping[Scoring, tuple[tuple[type[nn.Module], ...], tuple[type[nn.Module], ...]]] = {
    "dual": (
        (TitleEncoder, Pooling, Dense, Center, Projection, Normalize, HistoryMatcher, Purchases, DayOne),
        (Dense, Center, Projection, Purchases, DayOne),
    ),
    "pair": ((TitleEncoder, PairHead), ()),
}
"""Per kind its modules in order, and those that are optional."""


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
        settings = {**encoder.settings(), "manifest": True}
        (folder / encoder.config_file_name).write_text(json.dumps(settings, indent=2), encoding="utf-8")
        full = {
            "format_version": FORMAT_VERSION,
            "xcrossrec_version": __version__,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "scoring": kind_of(model).name,
            "pair_attention": encoder.pair_attention,
            "prompt_version": encoder.prompt_version,
            "text": encoder.text.template,
            "base": {"name": encoder.base_name, "digest": encoder.base_digest},
            "recipe": asdict(encoder.recipe),
            **manifest,
            "files": file_digests(folder, besides=MANIFEST),
        }
        (folder / MANIFEST).write_text(json.dumps(full, indent=2), encoding="utf-8")


def save_tables(path: Path | str, tables: Mapping[str, pl.DataFrame], forgotten: Collection[str] = ()) -> None:
    """Replace some Parquet files of a saved model; the rest stays as it is.

    ``forgotten`` are the hashes of all customers whom it was made to forget.

    Raises:
        BundleError: no model there, or a damaged one.
        StorageError: the disk refuses.
    """
    path = Path(path)
    manifest = read_bundle_manifest(path)
    verify_files(path, manifest["files"], besides=MANIFEST, apart=BASE_FOLDER)
    with replacing(path, overwrite=True) as folder:
        for name in manifest["files"]:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            if name not in tables:
                try:  # a hard link will do: files are never changed in place
                    os.link((path / name).resolve(), folder / name)
                except OSError:  # another owner or disk, or no hard links
                    shutil.copy2(path / name, folder / name)
        for name, table in tables.items():
            table.write_parquet(folder / name)
        digests = {**manifest["files"], **{name: file_digest(folder / name) for name in tables}}
        write_manifest(folder, {**manifest, "files": digests}, forgotten)


def write_manifest(folder: Path, manifest: Mapping[str, Any], forgotten: Collection[str]) -> None:
    """Write a manifest into a folder, and who was forgotten."""
    told = {**manifest, FORGOTTEN: sorted(forgotten)} if forgotten else manifest
    (folder / MANIFEST).write_text(json.dumps(told, indent=2), encoding="utf-8")


@contextmanager
def replacing(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder to fill, which takes the place of ``path`` on success and is removed on failure.

    A base inside the old folder is kept.

    Raises:
        BundleError: ``path`` exists and is no xcrossrec model, or may not be replaced.
    """
    if not check_vacant(path, overwrite=overwrite) and not (path / MANIFEST).exists():
        raise BundleError(f"{path} exists and is no xcrossrec model: it is not replaced, choose another place")
    with replacing_folder(path, overwrite=overwrite) as folder:
        yield folder
        if (base := path / BASE_FOLDER).is_symlink():
            (folder / BASE_FOLDER).symlink_to(base.readlink())
        elif base.is_dir():
            shutil.copytree(base, folder / BASE_FOLDER)


def read_bundle_manifest(path: Path | str) -> dict[str, Any]:
    """Read the manifest of a model or adapter folder written by this project.

    Raises:
        BundleError: no folder, not ours, not finished, or of another format.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise BundleError(f"model folder {str(folder)!r} {state_of(folder)}: check the path{leftovers(folder)}")
    manifest = read_manifest(folder)
    if not manifest:
        raise BundleError(f"{folder} has no {MANIFEST}: it is no xcrossrec model, or was not written to its end")
    version = manifest.get("format_version")
    if version not in _READ:
        raise BundleError(
            f"{folder} has format version {version!r}, this release reads {FORMAT_VERSION}: train it again, or "
            f"install the release that made it ({manifest.get('xcrossrec_version')!r})"
        )
    if lost := [key for key in ("scoring", "base", "files") if key not in manifest]:
        raise BundleError(f"the manifest of {folder} has no {lost[0]!r}: it is damaged, copy or train the model again")
    return manifest


@checked
def load(path: Path | str, *, base: AnyBase | None = None, trainable: bool = False) -> Model:
    """Load a model or adapter folder.

    Every file is checked against the digest in the manifest, the base against its weight digest. Classes come
    from the installed packages alone, whatever the folder names or contains. What sentence-transformers'
    ``save_pretrained`` wrote has no manifest: it loads, and the log says that its files were not compared. A folder
    that is replaced meanwhile is read again.

    Args:
        path: what ``xcrossrec train`` wrote.
        base: use this one (taken over), or that of this folder or name; None looks for it under the name as recorded,
            in a folder ``base`` in or beside the model's, as the embedded one, and on the hub.
        trainable: leave the LoRA factors trainable that were: a single adapter's, or the target's own beside sources.

    Raises:
        BundleError: incomplete, changed, foreign or unsafe content.
        BaseMismatchError: no base is there that has the digest of the training, or the given one has another.
    """
    folder = Path(path)
    for _ in range(_TRIES):
        before = _stated(folder)
        try:
            model = _load(folder, base, trainable)
        except XCrossRecError:
            if _stated(folder) == before:
                raise
        else:
            if _stated(folder) == before:
                return model
    raise BundleError(f"{folder} was replaced each time that it was read: load it when nobody writes there")


def _stated(folder: Path) -> tuple[int, int, int] | None:
    """What changes when the manifest, which has the digests of all files, is replaced; None without a manifest."""
    with suppress(OSError):
        found = (folder / MANIFEST).stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
    return None


@torch.random.fork_rng(devices=[])  # heads draw initial weights, which are then overwritten
def _load(folder: Path, base: AnyBase | None, trainable: bool) -> Model:
    if (folder / MANIFEST).exists() or not (written := settings_in(folder)) or written.get("manifest", False):
        manifest = read_bundle_manifest(folder)
        verify_files(folder, manifest["files"], besides=MANIFEST, apart=BASE_FOLDER)
        scoring: Scoring = manifest["scoring"]
    else:
        _LOG.warning("%s has no %s, so its files are not compared with what was written", folder, MANIFEST)
        scoring = "pair" if any(folder.glob(f"*_{PairHead.__name__}")) else "dual"
    model = load_modules(folder, scoring, base=base, trainable=trainable)
    scores = kind_of(model).scorer(model, ["a", "b"]).score([[0, 1] * RECENCY_SLOTS])
    encoder_of(model).cut.reset()
    if not (abs(scores) < float("inf")).all():
        raise BundleError(f"{folder} makes scores that are not finite: its weights are damaged, copy or train it again")
    return model


@dataclass(frozen=True)
class Loading:
    """Loads a model from its path when called, in any process; see :func:`xcrossrec.load` for the base."""

    path: Path | str
    base: AnyBase | None = None
    precision: EncodingPrecision = "fp32"

    def __call__(self) -> Model:
        """Load it; see :func:`xcrossrec.load` for the errors."""
        model = load(self.path, base=self.base)
        encoder_of(model).precision = self.precision
        return model

    def anywhere(self) -> Loading:
        """The same with absolute paths, for processes in other working directories."""
        base = self.base
        if isinstance(base, (Path, str)) and Path(base).exists():
            base = Path(base).absolute()
        return replace(self, path=Path(self.path).absolute(), base=base)


def load_modules(
    folder: Path,
    scoring: Scoring,
    *,
    base: AnyBase | None = None,
    trainable: bool = False,
    also: Sequence[type[nn.Module]] = (),
) -> Model:
    """Load a model that sentence-transformers saved, such as a checkpoint; see :func:`load`.

    ``also`` names further classes that its modules may have, besides xcrossrec's.
    """
    entries = read_settings(folder / "modules.json", ModuleList)
    classes = [_class_named(entry["type"], folder, also) for entry in entries]
    _check_order(classes, scoring, folder)
    places = [entry["path"] for entry in entries]
    try:
        encoder = classes[0].load(str(folder), subfolder=places[0], base=base, trainable=trainable)
        heads = _heads(classes[1:], [folder / place for place in places[1:]], encoder)
    except (BundleError, StorageError):
        raise
    except (ConfigError, ModelError, OSError) as error:  # of a name that is too long, say
        raise BundleError(f"{folder} cannot be used: {error}") from error
    model = kind_named(scoring).assemble([encoder, *heads])
    model.eval()
    return model


class _Pooling(Settings):
    """The settings of a pooling that are used here."""

    embedding_dimension: Dim
    pooling_mode: PoolingMode


def _heads(classes: Sequence[Any], folders: Sequence[Path], encoder: TitleEncoder) -> list[nn.Module]:
    """Load the modules after the encoder; each must take the vectors of the one before."""
    dim, found = encoder.dim, []
    for cls, folder in zip(classes, folders, strict=True):
        module, takes = _head(cls, folder, dim)
        if takes != dim:
            raise BundleError(f"{folder} takes vectors of {takes} numbers, but gets {dim}: copy the model again")
        dim = module.out_features if isinstance(module, Dense) else dim
        found.append(module)
    return found


def _head(cls: Any, folder: Path, dim: int) -> tuple[nn.Module, int]:
    """Load a module, and give the size of the vectors that it takes."""
    if cls is Normalize:
        return Normalize(), dim
    if cls is Pooling:
        found = read_settings(folder / "config.json", _Pooling)
        return Pooling(found["embedding_dimension"], found["pooling_mode"]), found["embedding_dimension"]
    if cls is Dense:
        dense = read_dense(folder)
        return dense, dense.in_features
    module = cls.load(str(folder))
    return module, getattr(module, "dim", dim)


def _check_order(classes: Sequence[type[nn.Module]], scoring: Scoring, folder: Path) -> None:
    """Refuse modules that are missing, repeated or in the wrong order for this kind of model."""
    kinds, optional = _ORDERS[scoring]
    places = [next((place for place, kind in enumerate(kinds) if issubclass(cls, kind)), -1) for cls in classes]
    lost = [kind for place, kind in enumerate(kinds) if place not in places and kind not in optional]
    once = [place for place in places if kinds[place] is not Dense]
    if lost or -1 in places or places != sorted(places) or len(once) != len({*once}):
        names = ", ".join(cls.__name__ for cls in classes)
        raise BundleError(f"{folder / 'modules.json'} lists {names}, which make no {scoring} model: copy it again")


def _class_named(reference: str, folder: Path, also: Sequence[type[nn.Module]]) -> Any:
    known = {f"{cls.__module__}.{cls.__name__}": cls for cls in (*_OWN_CLASSES, *_BORROWED_CLASSES, *also)}
    if reference not in known:
        raise BundleError(
            f"{folder} asks for the class {reference!r}, which is not one of xcrossrec's: xcrossrec did not write "
            "this folder, and runs no code from it"
        )
    return known[reference]
