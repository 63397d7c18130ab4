import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from xcrossrec.data.readers.author import read_author
from xcrossrec.exceptions import DataError

FOLDER: dict[str, Any] = {
    "train.json": {"1": [10, 11, 10], "2": [12]},
    "val.json": {"3": [11, 12]},
    "test.json": {"3": [11, 12]},
    "umap.json": {"ua": 1, "ub": 2, "uc": 3},
    "smap.json": {"ia": 10, "ib": 11, "ic": 12, "id": 13},
    "meta_data.json": {"ia": "Saw", "ib": float("nan"), "ic": {"title": "Drill", "brand": "x"}},
}


def folder_of(path: Path, changes: dict[str, Any] | None = None, packed: bool = False) -> Path:
    for name, content in {**FOLDER, **(changes or {})}.items():
        data = json.dumps(content).encode()
        if content is not None:
            (path / (name + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_the_folder_form(tmp_path: Path, packed: bool) -> None:
    raw = read_author(folder_of(tmp_path, packed=packed))
    assert raw.items.rows() == [("ia", "Saw"), ("ib", ""), ("ic", "Drill"), ("id", "")]
    assert raw.interactions.rows() == [
        ("ua", "ia", 0, "train"),
        ("ua", "ib", 1, "train"),
        ("ua", "ia", 2, "train"),
        ("ub", "ic", 0, "train"),
        ("uc", "ib", 0, "validation"),
        ("uc", "ic", 1, "validation"),
        ("uc", "ib", 0, "test"),
        ("uc", "ic", 1, "test"),
    ]
    assert raw.split_way == "given"
    assert len(raw.sources) == 6


def test_lists_by_user_number_and_absent_splits(tmp_path: Path) -> None:
    changes = {"train.json": [[10], [11]], "umap.json": {"a": 0, "b": 1}, "val.json": None, "test.json": None}
    raw = read_author(folder_of(tmp_path, changes))
    assert raw.interactions.rows() == [("a", "ia", 0, "train"), ("b", "ib", 0, "train")]


def test_single_held_out_items_follow_what_came_before(tmp_path: Path) -> None:
    changes = {"val.json": {"1": [12]}, "test.json": {"1": [13], "2": [10]}}
    raw = read_author(folder_of(tmp_path, changes))
    rows = [row for row in raw.interactions.rows() if row[3] != "train"]
    assert raw.split_way == "leave_last_out"
    assert rows == [
        ("ua", "ia", 0, "validation"),
        ("ua", "ib", 1, "validation"),
        ("ua", "ia", 2, "validation"),
        ("ua", "ic", 3, "validation"),
        ("ua", "ia", 0, "test"),
        ("ua", "ib", 1, "test"),
        ("ua", "ia", 2, "test"),
        ("ub", "ic", 0, "test"),
        ("ua", "ic", 3, "test"),
        ("ua", "id", 4, "test"),
        ("ub", "ia", 1, "test"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.json": None}, r"train\.json: it does not exist"),
        ({"smap.json": None}, r"smap\.json: it does not exist"),
        ({"umap.json": [1]}, r"umap\.json holds a list, expected a JSON object"),
        ({"smap.json": {"a": 1, "b": 1}}, "'b' has number 1, expected a whole number of its own"),
        ({"smap.json": {"a": "1"}}, "'a' has number '1', expected a whole number"),
        ({"train.json": {"1": [99]}}, r"item number 99 is not in smap\.json"),
        ({"train.json": {"9": [10]}}, r"user number '9' is not in umap\.json"),
        ({"train.json": {"1": 10}}, "user '1' has 10, expected a list"),
        ({"train.json": 5}, "holds a int, expected user numbers"),
    ],
)
def test_bad_folders_are_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_author(folder_of(tmp_path, changes))


def test_no_folder_and_no_json_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder: --format author takes the folder"):
        read_author(tmp_path / "nowhere")
    (folder_of(tmp_path) / "umap.json").write_text("{")
    with pytest.raises(DataError, match=r"umap\.json is not JSON"):
        read_author(tmp_path)
