"""What a command can tell of its paths and options before it loads anything heavy: mistakes are answered at once.

Whatever is read here is read again, and in full, where it is used.
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
    """Refuse what is no model's folder (BundleError), and a base that is none (ModelError)."""
    check_base(base)
    _check_place(folder, "model", MODEL, "give the folder of a bundle or an adapter")


def stated_text(folder: Path) -> ItemText | None:
    """What a model's folder states that it reads of an item; None where it states nothing, or is damaged."""
    from xcrossrec.data.text import ItemText

    with suppress(OSError, ValueError, AttributeError):
        stated = json.loads((folder / ENCODER).read_text(encoding="utf-8")).get("text")
        return ItemText(stated) if stated else None
    return None


def check_adapter(folder: Path) -> None:
    """Refuse (BundleError) what is no adapter's folder."""
    _check_place(folder, "adapter", (ADAPTER,), "train one with `xcrossrec train source`")


def _check_place(folder: Path, kind: str, files: Sequence[str], remedy: str) -> None:
    if not folder.is_dir():
        raise BundleError(f"{kind} folder {str(folder)!r} {state_of(folder)}: check the path{leftovers(folder)}")
    if not any((folder / name).is_file() for name in files):
        raise BundleError(f"{folder} is no {kind}: it has none of {', '.join(files)}; {remedy}")


def check_category(folder: Path, *, new: bool = False) -> None:
    """Refuse (DataError) what is neither a domain's folder nor an adapter; a new category has no adapter yet."""
    from xcrossrec.data.store import read_manifest

    if not (folder / ADAPTER).is_file():
        read_manifest(folder)
    elif new:
        raise DataError(
            f"{folder} is an adapter: the new category is a domain's folder, adapters are given by --source"
        )


def check_sources(folders: Sequence[Path], *, alone: bool = False) -> None:
    """Refuse what is no adapter (BundleError), and fewer than two, or more than one to stand alone (ModelError)."""
    if alone and len(folders) > 1:
        raise ModelError(f"--form lora starts from the base, or from one --source, got {len(folders)}: leave some out")
    if not alone and len(folders) < 2:
        raise ModelError(f"integration needs at least 2 sources, got {len(folders)}: pass --source once more")
    for folder in folders:
        check_adapter(folder)


def check_base(name: str | None) -> None:
    """Refuse (ModelError) a base that is written like a path where no base lies; a name may be a hub's."""
    if name is None or not (name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).exists()):
        return
    if not any((Path(name) / file).is_file() for file in ("config.json", "modules.json")):
        why = "it has no config.json" if Path(name).is_dir() else "there is no such folder"
        raise ModelError(
            f"base model {name!r} cannot be loaded ({why}): give a folder with config.json, tokenizer and safetensors "
            "weights, a hub name, or nothing for the embedded model"
        )


def is_kept(source: Path | str) -> bool:
    """Whether a catalogue is there, in a folder or in a database."""
    return is_url(source) or any((Path(source) / name).exists() for name in CATALOGUE)


def check_items(source: Path | str, *, include_bought: bool = False) -> None:
    """Refuse (DataError) what names no items: neither a domain's folder, nor a table, nor a catalogue.

    Of a domain whose customers buy the same again it says that what was bought is left out, where it is.
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
    """Refuse (BundleError) what is no catalogue's folder; a database is asked when it is opened."""
    if not is_kept(folder):
        why = "holds no catalogue" if Path(folder).is_dir() else state_of(folder)
        raise BundleError(
            f"{folder} {why}: check the path, or make one with  xcrossrec catalog build MODEL ITEMS --out {folder}"
        )


def check_file(out: Path) -> None:
    """Refuse (DataError) a file to write that is a folder, or has none to lie in."""
    check_folder(out.parent)
    if out.is_dir():
        raise DataError(f"{out} is a folder: give the name of a file")
    if not out.absolute().parent.is_dir():
        raise DataError(f"the folder {out.parent} does not exist: make it, or choose another place")
