"""A domain on disk: Parquet files and a manifest in one folder, written completely or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import polars as pl

from xcrossrec._version import __version__
from xcrossrec.arguments import checked
from xcrossrec.data.domain import Domain
from xcrossrec.data.text import TITLES, ItemText
from xcrossrec.exceptions import ConfigError, DataError, not_read
from xcrossrec.replacing import check_vacant, replacing_folder, state_of
from xcrossrec.types import SPLITS

FORMAT_VERSION = 2
_WITHOUT_TEXT = 1
"""An older format in which models read only titles."""

MANIFEST = "manifest.json"
ITEMS_FILE = "items.parquet"
OTHER_FILE = "other.parquet"
CANDIDATES_FOLDER = "candidates"
WRITERS = 2  # tables written at once
AGAIN = "import the domain again"
_CHECKSUMS = "checksums"


def manifest_of(domain: Domain) -> dict[str, Any]:
    """Complete a domain's manifest with defaults, counts and the fingerprint.

    Existing ``simulated``, ``sources``, ``filters``, ``seed`` and ``created`` are kept.
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
        "text": domain.text.template,
        "counts": {
            "items": domain.items.height,
            "users": {split: domain.count_users(split) for split in frames},
            "interactions": {split: frame.height for split, frame in frames.items()},
        },
        "fingerprint": domain.fingerprint,
    }


@checked
def write_domain(domain: Domain, path: Path | str, *, overwrite: bool = False) -> None:
    """Write a domain to its own folder; an interrupted write leaves either the old domain or none.

    Args:
        path: the folder; must not exist, or be empty.
        overwrite: replace an existing domain with its candidate files and catalogues, even open ones (which
            `data import` checks first). A folder with any other content is never replaced.

    Raises:
        DataError: the folder has content that may not be replaced.
        StorageError: the disk refuses the write.
    """
    path = Path(path)
    refuse_taken(path, overwrite=overwrite)
    with replacing_folder(path, overwrite=overwrite) as temporary:
        tables = {ITEMS_FILE: domain.items, **{f"{s}.parquet": domain.interactions[s] for s in domain.splits}}
        if domain.other is not None:
            tables[OTHER_FILE] = domain.other
        with ThreadPoolExecutor(WRITERS, "xcrossrec-write") as pool:
            for written in [pool.submit(table.write_parquet, temporary / file) for file, table in tables.items()]:
                written.result()
        stated = manifest_of(domain)
        checksums = {file: crc32((temporary / file).read_bytes()) for file in tables} | {MANIFEST: _checksum(stated)}
        manifest = json.dumps(stated | {_CHECKSUMS: checksums}, indent=2, ensure_ascii=False)
        (temporary / MANIFEST).write_text(manifest + "\n", encoding="utf-8")


@checked
def read_domain(path: Path | str) -> Domain:
    """Read a domain that `write_domain` wrote.

    Raises:
        DataError: no such folder, not a domain, another format version, a file missing or damaged, or
            contents that differ from the manifest's fingerprint.
    """
    path = Path(path)
    manifest = read_manifest(path)
    _check_files(path, manifest)
    splits = [split for split in SPLITS if split in manifest["counts"]["interactions"]]
    domain = Domain(
        name=manifest["name"],
        items=read_parquet(path / ITEMS_FILE, remedy=AGAIN),
        interactions={split: read_parquet(path / f"{split}.parquet", remedy=AGAIN) for split in splits},
        manifest={name: value for name, value in manifest.items() if name != _CHECKSUMS},
        text=_text(path, manifest),
        other=read_parquet(path / OTHER_FILE, remedy=AGAIN) if manifest.get("shared_users") else None,
    )
    if domain.fingerprint != manifest["fingerprint"]:
        raise DataError(
            f"{path} holds other data (fingerprint {domain.fingerprint[:12]}) than its manifest states "
            f"({manifest['fingerprint'][:12]}): it was changed after the import; import it again"
        )
    return domain


def _text(path: Path, manifest: Mapping[str, Any]) -> ItemText:
    try:
        return ItemText(manifest.get("text", TITLES.template))
    except ConfigError as error:
        raise DataError(f"{path / MANIFEST} is damaged ({error}): {AGAIN}") from error


def _check_files(path: Path, manifest: Mapping[str, Any]) -> None:
    """Compare a domain's files with their checksums, if the manifest has them."""
    checksums = manifest.get(_CHECKSUMS)
    for name, checksum in checksums.items() if isinstance(checksums, dict) else ():
        file = path / name
        if file.is_file() and checksum != (_checksum(manifest) if name == MANIFEST else crc32(file.read_bytes())):
            raise DataError(f"{file} is not the file that was written (its checksum differs): {AGAIN}")


def _checksum(manifest: Mapping[str, Any]) -> int:
    stated = {name: value for name, value in manifest.items() if name != _CHECKSUMS}
    return crc32(json.dumps(stated, sort_keys=True).encode())


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a domain folder's manifest; DataError: absent, not JSON, incomplete, or of another format version."""
    file = path / MANIFEST
    if not path.is_dir():
        raise DataError(f"no domain folder at {path} (it {state_of(path)}): make one with  xcrossrec data import")
    if not file.is_file():
        raise DataError(f"{path} is not a domain folder (it has no {MANIFEST}): give one made by xcrossrec data import")
    try:
        manifest: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{file} is not valid JSON ({error}): {AGAIN}") from error
    found = manifest.get("format_version") if isinstance(manifest, dict) else None
    if found not in (FORMAT_VERSION, _WITHOUT_TEXT):
        raise DataError(f"{file} has format version {found!r}, this xcrossrec reads {FORMAT_VERSION}: {AGAIN}")
    counts = manifest.get("counts")
    if not {"name", "fingerprint"} <= set(manifest) or not isinstance(counts, dict) or "interactions" not in counts:
        raise DataError(f"{file} lacks name, fingerprint or counts: {AGAIN}")
    return manifest


def read_parquet(file: Path, *, remedy: str) -> pl.DataFrame:
    """Read one Parquet file; DataError, with ``remedy``, if it is missing or damaged."""
    if not file.is_file():
        raise DataError(f"{file.parent} lacks {file.name}: {remedy}")
    with readable(file, remedy):
        return pl.read_parquet(file, glob=False, hive_partitioning=False)


@contextmanager
def readable(file: Path, remedy: str, *faults: type[Exception]) -> Iterator[None]:
    """Turn errors and panics of Polars on a damaged Parquet file, and ``faults`` of other readers, into a DataError."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, PermissionError):
            raise DataError(f"{file} may not be read by this user: give it the right to (chmod), or copy it") from error
        known = isinstance(error, (pl.exceptions.PolarsError, OSError, UnicodeDecodeError, *faults))
        if not known and not is_panic(error):
            raise
        if lack := not_read(file, error):
            raise lack from error
        raise DataError(f"{file} is not a readable Parquet file ({' '.join(str(error).split())}): {remedy}") from error


def is_panic(error: BaseException) -> bool:
    """Whether Polars panicked; its panics are no :class:`Exception` and cannot be imported."""
    return type(error).__name__ == "PanicException"


def refuse_taken(path: Path, *, overwrite: bool) -> None:
    """Refuse (DataError) any target but a free place, an empty folder or, with ``overwrite``, a domain's folder."""
    if check_vacant(path, overwrite=True):
        return
    if not (path / MANIFEST).is_file():
        raise DataError(f"{path} exists and is not a domain folder: it is left alone, choose another path")
    if not overwrite:
        raise DataError(f"{path} already holds a domain: choose another path, or let it be overwritten (--overwrite)")
