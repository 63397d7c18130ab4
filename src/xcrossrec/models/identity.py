"""Find the base of a model or an adapter: by its digest, whatever it is called and wherever it lies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from xcrossrec.exceptions import BaseMismatchError, MissingExtraError, ModelError, lacking
from xcrossrec.models.base import DEFAULT_BASE, DIGEST_PARTS, Base, difference, load_base

AnyBase: TypeAlias = Base | Path | str
"""A base, or its folder or name."""

BASE_FOLDER = "base"
"""In or beside a model's folder: where its base is looked for."""

EMBEDDED = ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2")
"""What the embedded base is called on the hub."""

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def find_base(what: str, record: Mapping[str, str], near: Sequence[Path], given: AnyBase | None = None) -> Base:
    """Load the base that something was trained on.

    Without ``given`` it is looked for under the name as recorded, in folders called ``base`` (or as the recorded folder
    is) in or beside those of ``near``, as the embedded base, and at last on the hub. The first whose digest is the one
    recorded is taken. Where none is recorded, whatever has the name is.

    Args:
        what: named in errors.
        record: ``name`` and, unless another project's file says it, ``digest``.
        near: folders of what was trained.
        given: take this one and no other.

    Raises:
        BaseMismatchError: none is there that fits, which names the places, or the given one has another digest.
        ModelError: the given one cannot be loaded.
    """
    digest = record.get("digest")
    if given is not None:
        base = given if isinstance(given, Base) else load_base(str(given))
        if digest:
            base.check(what, {"name": record["name"], "digest": digest})
        return base
    looked = []
    for place in _places(record["name"], near, known=digest is not None):
        try:
            base = load_base(place)
        except (ModelError, MissingExtraError) as error:
            if lacking(error):  # another place would not change that
                raise
            looked.append(str(error).partition(": ")[0][:200])
            continue
        found = difference(base.digest, digest) if digest else None
        if found is None:
            return base
        looked.append(f"{place} has {found[0]} {found[1]}")
    parts = zip(DIGEST_PARTS, digest.split(".") if digest else (), strict=False)
    known = ", ".join(f"{part} {each[:12]}" for part, each in parts) or "without a digest"
    seen = f" ({'; '.join(looked)})" if looked else ""
    where = near[0] / BASE_FOLDER
    name = "a hub name" if digest else f"a hub name or {DEFAULT_BASE!r}"
    raise BaseMismatchError(
        f"{what} was trained on base {record['name']!r} ({known}), which is not found under that name, at {where} or "
        f"{near[0].absolute().parent / BASE_FOLDER}, nor embedded{seen}: give it with --base (base=), as a folder, "
        f"{name}, or put it at {where}"
    )


def _places(name: str, near: Sequence[Path], *, known: bool) -> list[str]:
    """Where a base is looked for, the likeliest first: folders that are there, the embedded one, the hub at last."""
    beside = [place for folder in near for place in (folder, folder.absolute().parent)]
    folders = [
        Path(name),
        *(place / BASE_FOLDER for place in beside),
        *(place / Path(name).name for place in beside),
        *(place / name for folder in near for place in folder.absolute().parents),
    ]
    places = [str(folder) for folder in folders if _is_base(folder)]
    if name == DEFAULT_BASE:
        places.insert(0, name)
    elif known or name in EMBEDDED:
        places.append(DEFAULT_BASE)
    if _HUB_NAME.fullmatch(name):
        places.append(name)
    return list(dict.fromkeys(places))


def _is_base(folder: Path) -> bool:
    try:
        return (folder / "config.json").is_file() or (folder / "modules.json").is_file()
    except OSError:  # a name that is too long for a path, say
        return False
