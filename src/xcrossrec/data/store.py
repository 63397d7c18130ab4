"""A domain on disk: Parquet files and a manifest in one folder, written as a whole or not at all."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec._version import __version__
from xcrossrec.data.domain import Domain
from xcrossrec.exceptions import DataError
from xcrossrec.types import SPLITS

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
ITEMS_FILE = "items.parquet"
CANDIDATES_FOLDER = "candidates"
WRITERS = 2  # tables written at once


def manifest_of(domain: Domain) -> dict[str, Any]:
    """Complete a domain's manifest: what it states itself, with the counts and the fingerprint.

    ``simulated``, ``sources``, ``filters``, ``seed`` and ``created`` are kept as they are given.
    """
    frames = {split: domain.interactions[split] for split in domain.splits}
    stated = dict(domain.manifest)
    return {
        "simulated": False,
        "sources": [],
        "filters": {},
        "seed": None,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **stated,
        "format_version": FORMAT_VERSION,
        "xcrossrec": stated.get("xcrossrec", __version__),
        "name": domain.name,
        "counts": {
            "items": domain.items.height,
            "users": {split: domain.count_users(split) for split in frames},
            "interactions": {split: frame.height for split, frame in frames.items()},
        },
        "fingerprint": domain.fingerprint,
    }


def write_domain(domain: Domain, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a domain into a folder of its own, atomically.

    Everything goes into a temporary folder beside ``path``, which is renamed at the end: an interrupted
    write leaves either the old domain or none.

    Args:
        domain: what to write.
        path: the folder; must not exist, or be empty.
        overwrite: replace an existing domain, with its candidate files. A folder that holds anything
            else is never replaced.

    Raises:
        DataError: the folder is taken.
    """
    path = Path(path).resolve()  # so that '.' has a name and a parent
    _refuse_taken(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _temporary_beside(path) as temporary:
        tables = {ITEMS_FILE: domain.items, **{f"{s}.parquet": domain.interactions[s] for s in domain.splits}}
        with ThreadPoolExecutor(WRITERS, "xcrossrec-write") as pool:
            for written in [pool.submit(table.write_parquet, temporary / file) for file, table in tables.items()]:
                written.result()
        manifest = json.dumps(manifest_of(domain), indent=2, ensure_ascii=False)
        (temporary / MANIFEST).write_text(manifest + "\n", encoding="utf-8")
        _swap(temporary, path)


def read_domain(path: Path | str) -> Domain:
    """Read a domain that `write_domain` wrote.

    Raises:
        DataError: no such folder, not a domain, another format version, a file missing or damaged, or
            contents that differ from the manifest's fingerprint.
    """
    path = Path(path)
    manifest = read_manifest(path)
    splits = manifest["counts"]["interactions"]
    domain = Domain(
        name=manifest["name"],
        items=read_parquet(path / ITEMS_FILE),
        interactions={split: read_parquet(path / f"{split}.parquet") for split in SPLITS if split in splits},
        manifest=manifest,
    )
    if domain.fingerprint != manifest["fingerprint"]:
        raise DataError(
            f"{path} holds other data (fingerprint {domain.fingerprint[:12]}) than its manifest states "
            f"({manifest['fingerprint'][:12]}): it was changed after the import; import it again"
        )
    return domain


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a domain folder's manifest.

    Raises:
        DataError: no folder, no manifest, not JSON, a foreign one or one of another format version.
    """
    file = path / MANIFEST
    if not path.is_dir():
        raise DataError(f"no domain folder at {path}: make one with  xcrossrec data import ... --out {path}")
    if not file.is_file():
        raise DataError(
            f"{path} is not a domain folder (it has no {MANIFEST}): give a folder made by xcrossrec data import"
        )
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON ({error}): import the domain again") from error
    if not isinstance(manifest, dict) or manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version") if isinstance(manifest, dict) else None
        raise DataError(
            f"{file} has format version {found!r}, this xcrossrec reads {FORMAT_VERSION}: import the domain again"
        )
    if not {"name", "fingerprint", "counts"} <= set(manifest):
        raise DataError(f"{file} lacks name, fingerprint or counts: import the domain again")
    return manifest


def read_parquet(file: Path, *, remedy: str = "import the domain again") -> pl.DataFrame:
    """Read one Parquet file of a domain folder.

    Args:
        file: what to read.
        remedy: what the error's message tells the user to do.

    Raises:
        DataError: the file is missing or damaged.
    """
    if not file.is_file():
        raise DataError(f"{file.parent} lacks {file.name}, which its manifest names: {remedy}")
    try:
        return pl.read_parquet(file, glob=False, hive_partitioning=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{file} is not a readable Parquet file ({error}): {remedy}") from error


def write_parquet(frame: pl.DataFrame, file: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write one Parquet file atomically: to a temporary sibling, then renamed.

    Args:
        frame: what to write.
        file: where; its folder is made if it is absent.
        metadata: kept in the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = _sibling(file)
    try:
        frame.write_parquet(temporary, metadata=metadata)
        temporary.replace(file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Refuse to write over anything but an empty folder or, if asked to, a domain."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir() or not (path / MANIFEST).is_file():
        raise DataError(f"{path} exists and is not a domain folder: it is left alone, choose another path")
    if not overwrite:
        raise DataError(f"{path} already holds a domain: choose another path, or allow it to be overwritten")


def _sibling(path: Path) -> Path:
    """Choose a free hidden name beside ``path``."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """Lend a folder beside ``path`` that is gone afterwards, unless it was renamed."""
    temporary = _sibling(path)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _swap(temporary: Path, path: Path) -> None:
    """Rename ``temporary`` to ``path``; a domain that stands there goes only after that worked."""
    if not path.exists():
        temporary.replace(path)
        return
    retired = _sibling(path)
    path.replace(retired)
    try:
        temporary.replace(path)
    except BaseException:
        retired.replace(path)
        raise
    shutil.rmtree(retired)
