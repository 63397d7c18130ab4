import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xcrossrec.data.readers import records, streams
from xcrossrec.data.readers.records import (
    LINE,
    atomic_records,
    csv_records,
    json_keys,
    json_records,
    parquet_columns,
    parquet_records,
)
from xcrossrec.exceptions import DataError


def write(path: Path, text: str, *, packed: bool = False) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_csv_records_handle_quotes_and_project(tmp_path: Path, packed: bool) -> None:
    path = write(tmp_path / "x", 'a,b,c\r\n1,"two, ""or""\nso",3\n\n4,,6\n', packed=packed)
    (batch,) = csv_records(path, ["c", "b"], optional=["z"])
    assert batch.columns == [LINE, "c", "b"]
    assert batch.rows() == [(3, "3", 'two, "or"\nso'), (5, "6", "")]


def test_csv_records_come_in_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH_ROWS", 2)
    path = write(tmp_path / "x", "a\n" + "\n".join("12345"))
    assert [batch["a"].to_list() for batch in csv_records(path, ["a"])] == [["1", "2"], ["3", "4"], ["5"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x is empty: expected a header"),
        ("a,b\n", "x has no column 'c', it has 'a', 'b'"),
        ("c,c\n", "x has 2 columns 'c'"),
        ("c,d\n1,2\n1\n", r"x, line 3: 1 fields where 2 are expected \(c, d\)"),
        ('c\n1\n"open\n', "x, line 3: not a CSV row"),
    ],
)
def test_bad_csv_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(csv_records(write(tmp_path / "x", text), ["c"]))


def test_atomic_records_drop_types_and_know_no_quotes(tmp_path: Path) -> None:
    path = write(tmp_path / "x", 'item_id:token\ttitle:token_seq\ni1\t6" ruler\n')
    (batch,) = atomic_records(path, ["item_id", "title"])
    assert batch.rows() == [(2, "i1", '6" ruler')]
    with pytest.raises(DataError, match="no column 'name', it has 'item_id', 'title'"):
        list(atomic_records(path, ["name"]))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("block", [10, 10_000])
def test_json_records_agree_with_the_standard_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool, block: int
) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", block)
    rows = [{"a": f"é{i}", "n": i, "skip": {"deep": [i]}, **({"o": None} if i % 2 else {})} for i in range(9)]
    path = write(tmp_path / "x", "\n".join(map(json.dumps, rows)), packed=packed)
    table = pl.concat(json_records(path, ["a", "n"], optional=["o"]))
    assert table.rows() == [(i + 1, f"é{i}", str(i), None) for i in range(9)]


BROKEN = ['{"a": 1}', '{"a": "x"}', '{"a": null}', "", '{"b": 1}', '{"a": [1]}', '{"a": 1', '{"a": NaN, "o": [1]}']


@given(st.lists(st.sampled_from(BROKEN), max_size=12), st.integers(3, 60), st.booleans())
def test_parsing_ahead_changes_nothing(tmp_path_factory: Any, lines: list[str], size: int, cut: bool) -> None:
    """Against one block at a time, line by line: the same rows, or the same error."""
    path = tmp_path_factory.mktemp("ahead") / "x"
    path.write_bytes(gzip.compress("\n".join(lines).encode())[: -9 if cut else None])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "BLOCK_BYTES", size)
        fast = outcome(path)
        patch.setattr(records, "_parsed", lambda blocks, parse: ((block, None) for block in blocks))
        assert fast == outcome(path)


def outcome(path: Path) -> list[tuple[Any, ...]] | str:
    rows: list[tuple[Any, ...]] = []
    try:
        for batch in json_records(path, ["a"], optional=["o"]):
            rows.extend(batch.rows())
    except DataError as error:
        return f"after {len(rows)} rows: {error}"
    return rows


def test_json_blank_lines_and_nan_are_read_with_right_line_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "x", '\n{"a": 1, "t": NaN}\n\n{"a": "[2", "t": true}\r\n')
    (batch,) = json_records(path, ["a"], optional=["t"])
    assert batch.rows() == [(2, "1", None), (4, "[2", "true")]


def test_loose_lines_are_python_literals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK_BYTES", 30)
    path = write(tmp_path / "x", "{'a': 'it\\'s', 'r': [1, None]}\n{\"a\": 'b'}\n{\"a\": null}\n" + "{'a': 3}")
    table = pl.concat(json_records(path, [], optional=["a"], loose=True))
    assert table.rows() == [(1, "it's"), (2, "b"), (3, None), (4, "3")]
    with pytest.raises(DataError, match=r"x, line 1: .* is not a JSON object"):
        list(json_records(path, ["a"]))


def test_loose_lines_run_no_code(tmp_path: Path) -> None:
    path = write(tmp_path / "x", "{'a': __import__('os').getpid()}\n")
    with pytest.raises(DataError, match=r"line 1: .* is not a JSON object or a Python dict"):
        list(json_records(path, ["a"], loose=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": 1\n', r"x, line 2: '\{\"a\": 1' is not a JSON object: mend or remove"),
        ('{"a": 1}\n[1]\n', r"x, line 2: '\[1\]' is not a JSON object"),
        ('{"a": 1}\n{"b": 1}\n', "x, line 2: has no column 'a', it has 'b'"),
        ('{"a": 1}\n{"a": [1]}\n', "x, line 2: a is a list, expected text or a number"),
    ],
)
def test_bad_json_lines_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(json_records(write(tmp_path / "x", text), ["a"]))


def test_json_keys_are_those_of_the_first_record(tmp_path: Path) -> None:
    assert json_keys(write(tmp_path / "x", '\n{"a": 1, "b": 2}\n')) == ["a", "b"]
    assert json_keys(write(tmp_path / "y", "")) == []


def test_parquet_records_keep_types_and_come_in_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "BATCH_ROWS", 2)
    path = tmp_path / "x[1].parquet"
    pl.DataFrame({"a": [1, 2, 3], "b": ["x", "y", "z"]}).write_parquet(path)
    assert parquet_columns(path) == ["a", "b"]
    assert [b.rows() for b in parquet_records(path, ["a"])] == [[(1, 1), (2, 2)], [(3, 3)]]
    with pytest.raises(DataError, match="no column 'c'"):
        list(parquet_records(path, ["c"]))


def test_what_is_not_parquet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"y\.parquet: it does not exist"):
        parquet_columns(tmp_path / "y.parquet")
    with pytest.raises(DataError, match=r"is not a readable Parquet file .*: write it again"):
        parquet_columns(write(tmp_path / "z.parquet", "no parquet at all"))
