"""Plain UTF-8 copies of files that Polars does not read: other compressions and encodings, irregular rows.

Also detects compression, encoding and damage of files.
"""

from __future__ import annotations

import ast
import bz2
import codecs
import csv
import gzip
import json
import lzma
import mmap
import re
import shutil
import tempfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import polars as pl

from xcrossrec.exceptions import ConfigError, DataError

SAMPLE_BYTES = 1 << 20
csv.field_size_limit(1 << 27)  # descriptions may exceed Python's default of 131,072
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"PK\x03\x04": "zip", b"\x28\xb5\x2f\xfd": "zst", b"\xfd7zXZ": "xz"}
_OPEN: Mapping[str, Callable[[Path, str], Any]] = {"gzip": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_FAULTS = (EOFError, OSError, zlib.error, lzma.LZMAError)
_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHERS = {
    b"\xd0\xcf\x11\xe0": "an Excel workbook", b"PK": "a zip file in another", b"SQLite": "an SQLite database",
    b"ARROW1": "an Arrow (Feather) file", b"Obj\x01": "Avro", b"ORC": "ORC", b"\x04\x22M\x18": "lz4",
    b"\x1f\x8b": "a file that is packed twice",
}  # fmt: skip
_END = "\x1eend"  # appended as the last row; it is not found if a quote is open
_WESTERN = "cp1252"  # Windows-1252; Latin-1 is the same but for control characters
_FEW = 0.5  # at most this share of non-ASCII bytes is adjacent in Western text, as in Größe
_OFTEN: Mapping[str, str] = {
    "cp932": "HIRAGANA KATAKANA CJK", "cp949": "HANGUL", "gb18030": "CJK", "big5": "CJK", "cp1251": "CYRILLIC",
    "cp1253": "GREEK", "cp1255": "HEBREW", "cp1256": "ARABIC", "cp874": "THAI",
}  # fmt: skip
"""Encodings that are still in use, and the first words of the Unicode names of their letters."""
_MOST = 0.7
_WIDER = {"shift_jis": "cp932", "gb2312": "gb18030", "gbk": "gb18030", "euc_kr": "cp949", "big5": "cp950"}
"""Extensions of encodings, which files that declare the narrower one often use."""


class Text(NamedTuple):
    """A text file: its path, its name in messages, and its encoding."""

    path: Path
    shown: str
    encoding: str


def packing(path: Path) -> str:
    """Detect a file's compression by its first bytes: gzip, bz2, xz, zst, zip, or none (``plain``)."""
    with path.open("rb") as stream:
        head = stream.read(6)
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "plain")


def sample(path: Path, shown: str) -> bytes:
    """The first bytes, decompressed (DataError: a damaged file, or no permission to read it)."""
    with _damage_named(path, shown):
        if packing(path) == "zst":
            return "\n".join(pl.scan_lines(path, glob=False).head(1000).collect().to_series()).encode()
        with _opened(path) as stream:
            return stream.read(SAMPLE_BYTES)


def _opened(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", _OPEN.get(packing(path), Path.open)(path, "rb"))


@contextmanager
def _damage_named(path: Path, shown: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError:
        raise
    except PermissionError as error:
        raise DataError(f"{shown} may not be read by this user: give it the right to (chmod), or copy it") from error
    except (*_FAULTS, pl.exceptions.PolarsError) as error:
        kind = packing(path)
        if kind == "zst" and "utf8" in str(error):
            raise DataError(f"{shown} is zst and not UTF-8: unpack it first (zstd -d {shown})") from error
        if kind == "plain":
            raise DataError(f"cannot read {shown} ({error}): give a readable file") from error
        state = "a truncated" if isinstance(error, EOFError) or "end of file" in str(error) else "a corrupt"
        raise DataError(f"{shown} is {state} {kind} file ({error}): fetch or compress it again") from error


def encoding_of(head: bytes, shown: str, say: Callable[[str], object] = str) -> str:
    """Detect the encoding of the first bytes: by marks, zeros between letters (UTF-16), UTF-8, or Windows-1252.

    A guess is reported to ``say``. DataError: another encoding, or UTF-8 with a few invalid bytes.
    """
    for mark, name in _MARKS.items():
        if head.startswith(mark):
            return name
    if re.search(rb"\x1b\$[@B]", head):
        return "iso2022_jp_ext"
    for name in ("utf-16-le", "utf-16-be") if b"\0" in head else ():
        start = head[:4096].decode(name, "replace")
        if "\n" in start and all(char.isprintable() or char.isspace() for char in start.rstrip("\ufffd")):
            return name
    odd, even = head[1::2].count(0), head[::2].count(0)
    controls = len(re.findall(rb"[\x01-\x08\x0e-\x1a]", head[:4096]))
    if controls > min(len(head), 4096) // 50 or min(odd, even) > len(head) // 20:
        found = next((f", it looks like {name}" for magic, name in _OTHERS.items() if head.startswith(magic)), "")
        raise DataError(f"{shown} is neither text nor Parquet{found}: write it as CSV, JSON or Parquet")
    if odd + even > len(head) // 5:
        return "utf-16-le" if odd > even else "utf-16-be"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError as error:
        return _single_bytes(head, error, shown, say)
    return "utf-8"


def _single_bytes(head: bytes, error: UnicodeDecodeError, shown: str, say: Callable[[str], object]) -> str:
    line, byte = 1 + head.count(b"\n", 0, error.start), f"byte {head[error.start]:#04x}"
    broken = head.decode("utf-8", "replace").count("\ufffd")
    many = len(re.findall(rb"[\xc3-\xf4][\x80-\xbf]+", head))
    if many > broken:
        raise DataError(f"{shown}, line {line}: {byte} is not UTF-8, although the rest is: correct or remove the line")
    high, together = (re.findall(run, head) for run in (rb"[\x80-\xff]", rb"[\x80-\xff]{2,}"))
    words = len(set(together)) > 3 or any(len(run) > 2 for run in together)
    dense = words and len(b"".join(together)) > _FEW * len(high)
    if dense or re.search(rb"[\x81\x8d\x8f\x90\x9d]", head):
        readings = ", ".join(f"--encoding {name} ({text!r})" for name, text in _readings(head, error.start))
        raise DataError(
            f"{shown}, line {line}: {byte} is not UTF-8, and the text does not look Western: name its encoding, "
            f"such as {readings or '--encoding cp1251'}"
        )
    begin = max(error.start - 12, head.rfind(b"\n", 0, error.start) + 1)
    word = head[begin : error.start + 12].decode(_WESTERN, "replace").splitlines()[0]
    say(f"{shown} is read as Windows-1252 (line {line}: {word!r}); if it is not, give --encoding (cp1250, cp1254, ...)")
    return _WESTERN


def _readings(head: bytes, start: int) -> Iterator[tuple[str, str]]:
    """Encodings in which most letters belong to one script, each with a sample of the decoded text."""
    for name, script in _OFTEN.items():
        with suppress(UnicodeDecodeError):
            text = codecs.getincrementaldecoder(name)().decode(head)
            beyond = [unicodedata.name(char, "") for char in text if char > "\x7f" and not char.isspace()]
            if sum(each.startswith(tuple(script.split())) for each in beyond) > _MOST * len(beyond):
                yield name, head[start : start + 24].decode(name, "ignore").splitlines()[0]


def encoding_of_all(path: Path, shown: str, say: Callable[[str], object]) -> str:
    """Detect the encoding by the first part of the whole file that is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    if packing(path) == "zst":
        return "utf-8"
    with _damage_named(path, shown), _opened(path) as stream:
        while part := stream.read(SAMPLE_BYTES):
            try:
                decoder.decode(part)
            except UnicodeDecodeError:
                return encoding_of(part, shown, say)
    return "utf-8"


def plain_copy(text: Text, folder: Path, skip: int = 0) -> Path:
    """Copy a text file as plain UTF-8, without its first ``skip`` lines.

    ConfigError: an unknown encoding. DataError: the file is damaged, or in another encoding.
    """
    with _new(folder) as (path, out), _lines(text) as lines:
        out.writelines(islice(lines, skip, None))
    return path


def unzip(path: Path, folder: Path) -> Path:
    """Unpack a zip file into a new folder."""
    inner = Path(tempfile.mkdtemp(dir=folder))
    try:
        with zipfile.ZipFile(path) as packed:
            if (size := sum(each.file_size for each in packed.infolist())) > shutil.disk_usage(inner).free:
                raise DataError(f"{path} holds {size:,} bytes, more than {folder} has room for: unpack it elsewhere")
            packed.extractall(inner)
            lost = sum(not each.is_dir() for each in packed.infolist()) - sum(map(Path.is_file, inner.rglob("*")))
    except (*_FAULTS, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path} is a corrupt or locked zip file ({error}): fetch or compress it again") from error
    if lost:  # macOS ignores case in file names
        raise DataError(f"{path} has {lost} files whose names others have, too: unpack it, each under its own")
    return inner


def rewrite_table(text: Text, names: Sequence[str], how: Mapping[str, Any], folder: Path) -> Path:
    """Rewrite a text table without its header and with every value quoted; ``how`` has the arguments of `csv.reader`.

    DataError, with the line: a row with more fields than columns, or unpaired quotes.
    """
    with _new(folder) as (path, out), _lines(text) as lines:
        plain = csv.writer(out, delimiter=how["delimiter"], quoting=csv.QUOTE_ALL, lineterminator="\n")
        for number, (line, row) in enumerate(_rows_of(lines, text, len(names), how)):
            if number == 0 and [c.strip().split(":")[0] or n for c, n in zip(row, names, strict=False)] == list(names):
                continue
            if any(row[len(names) :]):
                raise DataError(
                    f"{text.shown}, line {line}: {len(row)} fields where {len(names)} are expected "
                    f"({', '.join(names)}): correct the row, or name the separator (--separator)"
                )
            plain.writerow([*row, *[""] * len(names)][: len(names)])
    return path


def _rows_of(lines: Iterator[str], text: Text, width: int, how: Mapping[str, Any]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row with the number of its last line."""
    last, taken = 0, list[str]()
    edge = '"' + re.escape(how["delimiter"])
    null = re.compile(rf"(?<![^{edge}])\\N(?![^{edge}\r\n])")

    def noted() -> Iterator[str]:
        for line in chain(lines, [_END]):
            taken.append(null.sub(r"\\\\N", line) if "escapechar" in how else line)
            yield taken[-1]

    rows = csv.reader(noted(), **how)
    try:
        for row in rows:
            if row == [_END]:
                return
            if row and row[-1].endswith(_END):
                raise DataError(
                    f"{text.shown}, line {last + 1}: a quote is never closed, so that all that follows is one text: "
                    "close it, or write quotes inside a text twice"
                )
            if (len(taken) > 1 or len(row) < width or '\\"' in taken[0]) and _run_on(taken, width, how):
                place = f"line {last + 1}" if len(taken) == 1 else f"lines {last + 1} to {rows.line_num}"
                raise DataError(
                    f"{text.shown}, {place}: quotes do not come in pairs, so that rows or "
                    "values run into one another: close each, or write quotes inside a text twice"
                )
            last = rows.line_num
            taken.clear()
            yield last, row
    except csv.Error as error:
        raise DataError(f"{text.shown}, line {rows.line_num}: {error}: correct the row") from error


def _run_on(lines: Sequence[str], width: int, how: Mapping[str, Any]) -> bool:
    """Whether the lines of one row look like several rows, or have quotes in invalid places."""
    if width > 1 and len(lines) > 2 and {line.count(how["delimiter"]) for line in lines} == {width - 1}:
        return True
    try:
        return not list(csv.reader(lines, strict=True, **how))
    except csv.Error:
        return True


def holds(path: Path, mark: bytes) -> bool:
    """Whether a file contains some bytes; a compressed one may."""
    if packing(path) != "plain":
        return True
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(mark) >= 0


def json_lines(text: Text, folder: Path, loose: bool) -> Path:
    """Rewrite JSON Lines, a JSON array or (``loose``) Python literals as JSON Lines; NaN becomes null.

    DataError: a line that is not a JSON object, with its number.
    """
    with _new(folder) as (path, out):
        out.writelines(json.dumps(record) + "\n" for record in _records(text, loose))
    return path


def _records(text: Text, loose: bool) -> Iterator[dict[str, Any]]:
    with _lines(text) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            records: Any = _record(line, loose)
            records = _objects(line + "".join(lines)) if records is None else records
            records = records if isinstance(records, list) else [records]
            if not all(isinstance(record, dict) for record in records):
                expected = "a JSON object or a Python dict" if loose else "a JSON object or an array of them"
                raise DataError(
                    f"{text.shown}, line {number}: {line.strip()[:60]!r} is not {expected}: correct or remove the line"
                )
            yield from records


def _record(line: str, loose: bool) -> object:
    with suppress(ValueError, RecursionError):
        return json.loads(line, parse_constant=lambda _: None)
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return ast.literal_eval(line.strip()) if loose else None
    return None


def _objects(text: str) -> object:
    """Parse an array, or a sequence of objects with any line breaks; None if it is neither."""
    found, start, decoder = [], 0, json.JSONDecoder(parse_constant=lambda _: None)
    try:
        while start < len(text):
            record, end = decoder.raw_decode(text, start)
            found.append(record)
            start = end + len(re.compile(r"\s*").match(text, end)[0])  # type: ignore[index]
    except (ValueError, RecursionError):
        return None
    return found[0] if len(found) == 1 else found


@contextmanager
def _lines(text: Text) -> Iterator[Iterator[str]]:
    """Open a text file of any compression and encoding as lines."""
    with _damage_named(text.path, text.shown):
        if packing(text.path) == "zst":
            batches = pl.scan_lines(text.path, glob=False).collect_batches()
            yield (f"{line}\n" for batch in batches for line in batch.to_series())
            return
        try:
            encoding = "utf-8-sig" if (name := codecs.lookup(text.encoding).name) == "utf-8" else _WIDER.get(name, name)
        except LookupError as error:
            raise ConfigError(f"--encoding {text.encoding!r} is unknown: give utf-8, cp1252, utf-16, ...") from error
        try:
            with TextIOWrapper(_opened(text.path), encoding, newline="") as lines:
                yield lines
        except UnicodeError as error:
            raise DataError(_misread(text, error)) from error


def _misread(text: Text, error: UnicodeError) -> str:
    with _opened(text.path) as stream:
        head = stream.read(SAMPLE_BYTES)
    try:
        meant = f"it seems to be {encoding_of(head, text.shown)} (--encoding)"
    except DataError:
        meant = "name another one (--encoding)"
    return f"{text.shown} is not {text.encoding} ({error}): {meant}"


@contextmanager
def _new(folder: Path) -> Iterator[tuple[Path, IO[str]]]:
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", newline="", dir=folder, delete=False) as out:
        yield Path(out.name), cast("IO[str]", out)
