import gzip
import threading
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
    assert b"".join(block.data for block in blocks) == TEXT[3:]
    line = 1
    for first, ends, data in blocks:
        assert first == line
        assert ends == data.count(b"\n")
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


PACKED = gzip.compress(bytes(range(256)) * 50, mtime=0)
DAMAGED = {
    "cut in the data": PACKED[:-20],
    "cut in the checksum": PACKED[:-3],
    "cut in the header": PACKED[:5],
    "another checksum": PACKED[:-8] + bytes(4) + PACKED[-4:],
    "another length": PACKED[:-4] + bytes(4),
    "another method": PACKED[:2] + b"\x07" + PACKED[3:],
    "no deflate": PACKED[:10] + b"\xff" * 30,
    "bytes after the end": PACKED + b"bytes",
    "half a second member": PACKED + PACKED[:50],
}


@pytest.mark.parametrize("packed", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_is_told_in_the_standard_librarys_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bytes
) -> None:
    path = tmp_path / "bad.gz"
    path.write_bytes(packed)
    with pytest.raises(DataError) as fast:
        list(line_blocks(path))
    monkeypatch.setattr(streams, "_open_gzip", gzip.open)
    with pytest.raises(DataError) as slow:
        list(line_blocks(path))
    assert str(fast.value) == str(slow.value)


@pytest.mark.parametrize(
    "packed", [PACKED + PACKED, PACKED + bytes(7), PACKED + bytes(7) + PACKED, gzip.compress(b"", mtime=0)]
)
def test_whole_gzip_files_read_as_the_standard_library_reads_them(tmp_path: Path, packed: bytes) -> None:
    path = tmp_path / "good.gz"
    path.write_bytes(packed)
    assert b"".join(block.data for block in line_blocks(path)) == gzip.decompress(packed)


def test_a_reader_left_early_leaves_no_thread(stored: Path) -> None:
    before = threading.active_count()
    blocks = line_blocks(stored, 3)
    next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "LONGEST_LINE_BYTES", 100)
    path = tmp_path / "array.json"
    path.write_bytes(b"short\n" + b"x" * 300)
    with pytest.raises(DataError, match=r"line 2 is longer than .* one record a line"):
        list(line_blocks(path, 50))


def test_other_encodings_are_refused_with_the_line() -> None:
    with pytest.raises(DataError, match="f, line 6: byte 0xe9 is not UTF-8"):
        decode(b"ok\ncaf\xe9\n", Path("f"), 5)
