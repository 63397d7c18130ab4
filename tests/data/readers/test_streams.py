import gzip
from pathlib import Path

import pytest

from xcrossrec.data.readers import streams
from xcrossrec.data.readers.streams import decode, first_byte, line_blocks
from xcrossrec.exceptions import DataError

TEXT = b"\xef\xbb\xbffirst\nsecond\n\nfourth, without an end"


@pytest.fixture(params=["plain", "gzip"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "whatever.name"
    path.write_bytes(TEXT if request.param == "plain" else gzip.compress(TEXT))
    return path


@pytest.mark.parametrize("size", [3, 7, 1000])
def test_blocks_hold_whole_lines_and_number_them(stored: Path, size: int) -> None:
    blocks = list(line_blocks(stored, size))
    assert b"".join(data for _, data in blocks) == TEXT[3:]
    line = 1
    for first, data in blocks:
        assert first == line
        assert len(data) <= size + len(b"fourth, without an end")
        line += data.count(b"\n")


def test_first_byte_skips_marks_and_blanks(stored: Path, tmp_path: Path) -> None:
    assert first_byte(stored) == b"f"
    (tmp_path / "blank").write_bytes(b"\xef\xbb\xbf  \n{")
    assert first_byte(tmp_path / "blank") == b"{"


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no\.csv: it does not exist; give the path"):
        list(line_blocks(tmp_path / "no.csv"))
    with pytest.raises(DataError, match="it is a folder"):
        list(line_blocks(tmp_path))


def test_truncated_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(bytes(range(256)) * 50)[:-20])
    with pytest.raises(DataError, match=r"cut\.gz is a truncated gzip file"):
        list(line_blocks(path))


def test_corrupt_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(gzip.compress(b"x" * 1000)[:10] + b"\xff" * 30)
    with pytest.raises(DataError, match=r"bad\.gz is a corrupt gzip file"):
        list(line_blocks(path))


def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_LINE_BYTES", 100)
    path = tmp_path / "array.json"
    path.write_bytes(b"short\n" + b"x" * 300)
    with pytest.raises(DataError, match=r"line 2 is longer than .* one record a line"):
        list(line_blocks(path, 50))


def test_other_encodings_are_refused_with_the_line() -> None:
    with pytest.raises(DataError, match="f, line 6: byte 0xe9 is not UTF-8"):
        decode(b"ok\ncaf\xe9\n", Path("f"), 5)
