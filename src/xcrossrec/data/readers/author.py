"""The folder form of the first author's data: numbered sequences, and maps from raw ids to numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import polars as pl

from xcrossrec.data.readers.frames import SPLIT, RawDomain
from xcrossrec.data.readers.streams import open_stream, read_bytes
from xcrossrec.data.splitting import LEAVE_LAST_OUT
from xcrossrec.exceptions import DataError
from xcrossrec.types import ITEM, POSITION, TITLE, USER

FILES = {"train": "train.json", "validation": "val.json", "test": "test.json"}
USERS, ITEMS, TITLES = "umap.json", "smap.json", "meta_data.json"


def read_author(folder: Path) -> RawDomain:
    """Read train, val and test.json (user number to item numbers), umap, smap and meta_data.json.

    train.json must be there, val.json and test.json may; each may be gzip (``train.json.gz``). The
    catalogue is every item of smap.json; a title that is NaN, null or absent is empty. The files are
    single JSON objects, hence read whole.

    Either each split has users of its own with whole sequences, or (leave-last-out) every user of val.json
    and test.json is in train.json and has one item there: that item then follows those before it.

    Raises:
        DataError: a missing or malformed file, or a number that a map lacks.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder: --format author takes the folder that holds train.json")
    users, items = _numbers(_file(folder, USERS)), _numbers(_file(folder, ITEMS))
    present = {split: _file(folder, name) for split, name in FILES.items() if split == "train" or _has(folder, name)}
    tables = {split: _split(split, path, users, items) for split, path in present.items()}
    way = LEAVE_LAST_OUT if _is_leave_last_out(tables) else "given"
    titles = _titles(_file(folder, TITLES))
    catalogue = pl.DataFrame(
        {ITEM: list(items.values()), TITLE: [titles.get(raw, "") for raw in items.values()]},
        schema={ITEM: pl.String, TITLE: pl.String},
    )
    sources = (*present.values(), *(_file(folder, name) for name in (USERS, ITEMS, TITLES)))
    joined = _lengthened(tables) if way == LEAVE_LAST_OUT else tables
    return RawDomain(catalogue, pl.concat(joined.values()), sources, way)


def _is_leave_last_out(tables: Mapping[str, pl.DataFrame]) -> bool:
    """Tell whether validation and test hold single next items of users of train."""
    later = [table for split, table in tables.items() if split != "train"]
    known = tables["train"].select(USER).unique()
    single = all(table[USER].is_unique().all() for table in later)
    return bool(later) and single and all(t.join(known, on=USER, how="anti").is_empty() for t in later)


def _lengthened(tables: Mapping[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Put what came before in front of each split's single items, for the users it has."""
    whole: dict[str, pl.DataFrame] = {}
    before = tables["train"].clear()
    for split, table in tables.items():
        history = before if split == "train" else before.join(table, on=USER, how="semi", maintain_order="left")
        place = pl.int_range(pl.len(), dtype=pl.Int64).over(USER)
        whole[split] = pl.concat([history, table]).with_columns(pl.lit(split).alias(SPLIT), place.alias(POSITION))
        before = pl.concat([before, table])
    return whole


def _has(folder: Path, name: str) -> bool:
    return (folder / name).is_file() or (folder / f"{name}.gz").is_file()


def _file(folder: Path, name: str) -> Path:
    packed = folder / f"{name}.gz"
    return packed if packed.is_file() and not (folder / name).is_file() else folder / name


def _load(path: Path) -> Any:
    with open_stream(path) as stream:
        data = read_bytes(stream, path, -1)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON ({error}): fetch it again") from error


def _mapping(path: Path) -> dict[str, Any]:
    loaded = _load(path)
    if not isinstance(loaded, dict):
        raise DataError(f"{path} holds a {type(loaded).__name__}, expected a JSON object: is it the right file?")
    return cast("dict[str, Any]", loaded)


def _numbers(path: Path) -> dict[int, str]:
    """Turn a map of raw ids to numbers around."""
    around: dict[int, str] = {}
    for raw, number in _mapping(path).items():
        if not isinstance(number, int) or number in around:
            raise DataError(
                f"{path}: {raw!r} has number {number!r}, expected a whole number of its own: fetch it again"
            )
        around[number] = raw
    return around


def _titles(path: Path) -> dict[str, str]:
    return {raw: _title(entry) for raw, entry in _mapping(path).items()}


def _title(entry: object) -> str:
    value = cast("Mapping[str, object]", entry).get(TITLE) if isinstance(entry, dict) else entry
    return value if isinstance(value, str) else ""


def _split(split: str, path: Path, users: Mapping[int, str], items: Mapping[int, str]) -> pl.DataFrame:
    rows = [
        (_raw(users, user, path, "user", USERS), _raw(items, item, path, "item", ITEMS), place, split)
        for user, sequence in _sequences(path)
        for place, item in enumerate(sequence)
    ]
    schema = {USER: pl.String, ITEM: pl.String, POSITION: pl.Int64, SPLIT: pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _sequences(path: Path) -> Iterator[tuple[object, list[object]]]:
    loaded = _load(path)
    pairs = loaded.items() if isinstance(loaded, dict) else enumerate(loaded if isinstance(loaded, list) else [])
    if not isinstance(loaded, dict | list):
        raise DataError(f"{path} holds a {type(loaded).__name__}, expected user numbers with lists of items")
    for user, sequence in pairs:
        if not isinstance(sequence, list):
            raise DataError(f"{path}: user {user!r} has {sequence!r}, expected a list of item numbers")
        yield user, sequence


def _raw(names: Mapping[int, str], number: object, path: Path, what: str, file: str) -> str:
    try:
        return names[int(cast("int", number))]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: {what} number {number!r} is not in {file}: the files are of different versions"
        ) from error
