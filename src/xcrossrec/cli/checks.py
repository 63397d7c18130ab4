"""Checks of a command's paths and options before any heavy import, so that mistakes are reported at once.

The complete checks follow when the files are used.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from xcrossrec.cli.console import log
from xcrossrec.exceptions import BundleError, DataError, ModelError
from xcrossrec.replacing import check_folder, leftovers, state_of
from xcrossrec.types import is_url

if TYPE_CHECKING:
    from xcrossrec.data.text import ItemText

ADAPTER = "adapter_config.json"
MODEL = ("xcrossrec.json", "modules.json", ADAPTER)
ENCODER = "xcrossrec_encoder.json"
CATALOGUE = ("catalogue.sqlite", "catalogue.version")
ITEMS = "a domain's folder, a table of items, or what 'xcrossrec catalog build' made"


def check_model(folder: Path, base: str | None = None) -> None:
    """Refuse a folder without a model (BundleError), and an invalid base (ModelError)."""
    check_base(base)
    _check_place(folder, "model", MODEL, "give the folder of a bundle or an adapter")


def stated_text(folder: Path) -> ItemText | None:
    """The item text in a model's folder; None if there is none, or it is damaged."""
    from xcrossrec.data.text import ItemText

    with suppress(OSError, ValueError, AttributeError):
        stated = json.loads((folder / ENCODER).read_text(encoding="utf-8")).get("text")
        return ItemText(stated) if stated else None
    return None


def check_adapter(folder: Path) -> None:
    """Refuse (BundleError) a folder without an adapter."""
    _check_place(folder, "adapter", (ADAPTER,), "train one with `xcrossrec train source`")


def _check_place(folder: Path, kind: str, files: Sequence[str], remedy: str) -> None:
    if not folder.is_dir():
        raise BundleError(f"{kind} folder {str(folder)!r} {state_of(folder)}: check the path{leftovers(folder)}")
    if not any((folder / name).is_file() for name in files):
        raise BundleError(f"{folder} is no {kind}: it has none of {', '.join(files)}; {remedy}")


def check_category(folder: Path, *, new: bool = False) -> None:
    """Refuse (DataError) a folder without a domain or adapter; a new category must be a domain."""
    from xcrossrec.data.store import read_manifest

    if not (folder / ADAPTER).is_file():
        if (folder / MODEL[0]).is_file():
            raise DataError(
                f"{folder} is a model: give its category's folder instead, as `xcrossrec data import` made it"
            )
        read_manifest(folder)
    elif new:
        raise DataError(
            f"{folder} is an adapter: the new category is a domain's folder, adapters are given by --source"
        )


def check_sources(folders: Sequence[Path], *, alone: bool = False) -> None:
    """Refuse folders without adapters (BundleError), and a wrong number of them (ModelError)."""
    if alone and len(folders) > 1:
        raise ModelError(f"--form lora starts from the base, or from one --source, got {len(folders)}: leave some out")
    if not alone and len(folders) < 2:
        raise ModelError(f"integration needs at least 2 sources, got {len(folders)}: pass --source once more")
    for folder in folders:
        check_adapter(folder)


def check_base(name: str | None) -> None:
    """Refuse (ModelError) a path without a base model; other names may be the hub's."""
    if name is None or not (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()):
        return
    if not any((Path(name) / file).is_file() for file in ("config.json", "modules.json")):
        why = "it has no config.json" if Path(name).is_dir() else "there is no such folder"
        raise ModelError(
            f"base model {name!r} cannot be loaded ({why}): give a folder with config.json, tokenizer and safetensors "
            "weights, a hub name, or nothing for the embedded model"
        )


def is_kept(source: Path | str) -> bool:
    """Whether a source is a catalogue, in a folder or a database."""
    return is_url(source) or any((Path(source) / name).exists() for name in CATALOGUE)


def check_items(source: Path | str, *, include_bought: bool = False) -> None:
    """Refuse (DataError) anything but a domain's folder, a table or a catalogue.

    For a domain with repeat purchases, logs that bought items are left out, unless they are included.
    """
    from xcrossrec.data.readers.tables import read_item_file
    from xcrossrec.data.store import read_manifest

    if is_kept(source):
        return
    if not (source := Path(source)).exists():
        raise DataError(f"{source} does not exist: give {ITEMS}")
    if source.is_dir():
        kept = (read_manifest(source).get("filters") or {}).get("repeats") == "keep"
        if kept and not include_bought:
            log.info(
                f"customers of {source} buy the same again (--repeats keep), but what is in a history is left out: "
                "--include-bought, or include_bought in a request, asks for it, too"
            )
    if source.is_file():
        read_item_file(source)


def check_catalogue(folder: Path | str) -> None:
    """Refuse (BundleError) a folder without a catalogue; a database is checked when it is opened."""
    if not is_kept(folder):
        why = "holds no catalogue" if Path(folder).is_dir() else state_of(folder)
        raise BundleError(
            f"{folder} {why}: check the path, or make one with  xcrossrec catalog build MODEL ITEMS --out {folder}"
        )


def check_file(out: Path) -> None:
    """Refuse (DataError) an output file that is a folder, or whose folder does not exist."""
    check_folder(out.parent)
    if out.is_dir():
        raise DataError(f"{out} is a folder: give the name of a file")
    if not out.absolute().parent.is_dir():
        raise DataError(f"the folder {out.parent} does not exist: make it, or choose another place")
