"""A suite's source adapters in a folder that can be committed, and back.

What is left out is made anew: the tokenizer from the base, and the hashed ids of the training users from the domain,
whose draw the manifest's budget and seed decide.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars as pl

from xcrossrec import DataError, read_domain
from xcrossrec.models.adapters import MANIFEST, read_manifest
from xcrossrec.models.bundle import replacing
from xcrossrec.models.identity import find_base
from xcrossrec.training.source import TRAINING_USERS, user_hashes
from xcrossrec_lab.suites.suite import Suite

SOURCES = "sources"
_TOKENIZER = "tokenizer.json"
_MADE_ANEW = {TRAINING_USERS, _TOKENIZER}


def keep_sources(suite: Suite, directory: Path) -> list[Path]:
    """Copy the suite's adapters, without users and tokenizer; those that the folder has already are replaced.

    Args:
        suite: names the adapters.
        directory: what :func:`xcrossrec_lab.suites.kept.keep` writes to.

    Returns:
        the folders written.
    """
    kept = []
    for name in suite.source_names():
        if not (suite.adapters / name).is_dir():
            continue
        with replacing(directory / SOURCES / name, overwrite=True) as folder:
            shutil.copytree(
                suite.adapters / name, folder, dirs_exist_ok=True, ignore=lambda _, names: _MADE_ANEW & set(names)
            )
        kept.append(directory / SOURCES / name)
    return kept


def restore_sources(suite: Suite, directory: Path) -> list[Path]:
    """Make the adapters anew that the suite lacks and the folder keeps.

    Args:
        suite: names the adapters and the data.
        directory: what :func:`keep_sources` wrote to.

    Returns:
        the folders written.

    Raises:
        DataError: the suite's data is not what an adapter was trained on.
    """
    kept = {name: directory / SOURCES / name for name in suite.source_names()}
    missing = {
        name: folder for name, folder in kept.items() if folder.is_dir() and not (suite.adapters / name).exists()
    }
    users = {name: _training_users(suite, name, read_manifest(folder)) for name, folder in missing.items()}
    for name, source in missing.items():
        with replacing(suite.adapters / name, overwrite=False) as folder:
            shutil.copytree(source, folder, dirs_exist_ok=True)
            manifest = read_manifest(source)
            users[name].write_parquet(folder / TRAINING_USERS)
            find_base(f"source {name}", manifest["base"], [source]).tokenizer.save_pretrained(str(folder))
            for file in manifest["files"]:
                manifest["files"][file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=2), encoding="utf-8")
    return [suite.adapters / name for name in missing]


def _training_users(suite: Suite, name: str, manifest: Mapping[str, Any]) -> pl.DataFrame:
    domain = read_domain(suite.data / name)
    wanted = manifest["domain"]["fingerprint"]
    if domain.fingerprint != wanted:
        raise DataError(
            f"the kept source {name!r} was trained on data of fingerprint {wanted}, but {suite.data / name} has "
            f"{domain.fingerprint}: import the same data, or train it with `xcrossrec-lab sources`"
        )
    training = manifest["training"]
    users = domain.sequences("train").take(training["budget"], training["seed"])
    return pl.DataFrame({"user": sorted(user_hashes(users.user_ids))}, schema={"user": pl.String})
