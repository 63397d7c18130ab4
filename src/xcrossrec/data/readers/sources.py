"""Files as Polars scans: which files there are, their formats, and their columns, nested ones with dotted names.

Polars reads UTF-8 text, plain, gzip or zst, and Parquet. Everything else is first copied as plain text (`copies`).
"""

from __future__ import annotations

import codecs
import csv
import glob
import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

import polars as pl

from xcrossrec.data.readers import copies
from xcrossrec.data.readers.columns import candidates, is_usual
from xcrossrec.data.store import is_panic, readable
from xcrossrec.exceptions import ConfigError, DataError

Form: TypeAlias = Literal["csv", "parquet", "jsonl", "recbole"]
Paths: TypeAlias = str | Path | Sequence[str | Path]
T = TypeVar("T")

BATCH_ROWS = 1 << 18
_FOUND_SEPARATORS = ",;\t|"
_INFERRED_ROWS = 1000  # of JSON, for its keys
_ODD, _AGAIN = "__odd", "__again"
_LIKE_DATA = re.compile(r"[-+\d.]+|\d{4}-\d\d-\d\d.*")
NAMELESS = re.compile(r"unnamed \d+").fullmatch
_LOG = logging.getLogger(__name__)
_ATOMIC_SUFFIXES = (".inter", ".item", ".user")


@dataclass(frozen=True)
class Reading:
    """How text is read; None is detected. ``folder`` is for plain copies.

    ``said`` has the remarks that were already logged. ConfigError: a separator of more than one character.
    """

    folder: Path
    separator: str | None = None
    encoding: str | None = None
    numbered: bool = False
    names: Sequence[str] | None = None
    loose: bool = False
    said: set[str] = field(default_factory=set, compare=False)

    def __post_init__(self) -> None:
        if self.separator is not None and (len(self.separator) != 1 or not self.separator.isascii()):
            raise ConfigError(f"--separator {self.separator!r} is not one character: give ',', ';', '|' or tab")

    def say(self, text: str, shown: str = "") -> None:
        """Log a remark once, with the first file (``shown``) if it may apply to many."""
        if text not in self.said:
            self.said.add(text)
            _LOG.info("%s", f"{shown}: {text}" if shown else text)


@dataclass(frozen=True)
class Source:
    """One file: the path that is scanned (perhaps a plain copy), and its name in messages."""

    path: Path
    shown: str
    form: Form
    reading: Reading
    rewritten: bool = False

    @cached_property
    def names(self) -> list[str]:
        """The columns of a text table, named by its first row or the caller."""
        if self.reading.names is not None:
            return list(self.reading.names)
        if self.numbered:
            return [str(place) for place in range(1, len(self.first_row) + 1)]
        names = [name.split(":")[0] if self.form == "recbole" else name for name in self.first_row]
        return [name or f"unnamed {place}" for place, name in enumerate(names, 1)]

    @property
    def numbered(self) -> bool:
        """Whether columns have numbers as names: the user gave numbers, and the first row has no usual name."""
        return self.reading.numbered and not any(map(is_usual, self.first_row))

    @cached_property
    def first_row(self) -> list[str]:
        """The first row of a text table."""
        rows = csv.reader(self._head.splitlines(keepends=True), **self.how)
        return [name.strip() for name in next((row for row in rows if row), [])]

    @cached_property
    def how(self) -> Mapping[str, Any]:
        """Arguments of Python's `csv.reader`.

        Besides the separator, these may allow backslashes before quotes inside a text, as MySQL, Hive and Spark write
        them, or blanks before quotes around it, if that makes more rows complete.
        """
        quoting = csv.QUOTE_NONE if self.form == "recbole" else csv.QUOTE_MINIMAL
        usual: Mapping[str, Any] = {"delimiter": self.separator, "quoting": quoting}
        cut = re.escape(self.separator)
        others: Mapping[str, Any] = {rf'\\["{cut}]': {"escapechar": "\\"}, rf'{cut} +"': {"skipinitialspace": True}}
        found = [way for mark, way in others.items() if self.form == "csv" and re.search(mark, self._head)]
        return max((usual, *({**usual, **way} for way in found)), key=self._whole_rows) if found else usual

    def _whole_rows(self, how: Mapping[str, Any]) -> int:
        """Count the complete rows, without a leading quote in a value, until one cannot be read."""
        rows: list[list[str]] = []
        with suppress(csv.Error):
            rows.extend(csv.reader(self._head.splitlines(keepends=True), strict=True, **how))
        return sum(len(row) == len(rows[0]) and not any(cell.lstrip()[:1] == '"' for cell in row) for row in rows)

    @cached_property
    def _head(self) -> str:
        return copies.sample(self.path, self.shown).decode("utf-8", "replace").removeprefix("\ufeff")

    @cached_property
    def separator(self) -> str:
        """The separator: named, a tab in RecBole's files, or detected."""
        return "\t" if self.form == "recbole" else self.reading.separator or self.likely_separator

    @cached_property
    def likely_separator(self) -> str:
        """The separator that divides most of the first rows into the same number of parts, preferably many."""
        lines = self._head.splitlines(keepends=True)[:50]

        def fit(separator: str) -> tuple[float, int]:
            try:
                sizes = [len(row) for row in csv.reader(lines, delimiter=separator) if row][:20]
            except csv.Error:
                return (0, 0)
            width = sizes[0] if sizes else 1
            return (0, 0) if width == 1 else (sum(size == width for size in sizes) / len(sizes), width)

        return max(_FOUND_SEPARATORS, key=fit)

    @cached_property
    def types(self) -> Mapping[str, pl.DataType]:
        """The columns with values, by dotted name, and their types (DataError: the file cannot be read)."""
        return _flattened(pl.LazyFrame(schema=self._schema), None).collect_schema() | dict.fromkeys(
            self.folders, pl.String()
        )

    @cached_property
    def folders(self) -> Mapping[str, str]:
        """Columns of a text table in the names of its folders, ``column=value``; Polars reads those of Parquet."""
        parts = [part.partition("=") for part in Path(self.shown).parts[:-1] if self.form != "parquet"]
        return {name: value for name, equals, value in parts if name and equals and name not in self._schema}

    @cached_property
    def shared(self) -> tuple[str, list[str]]:
        """The key of an order or product that has several rows, and the columns that only its first row fills.

        There is such a key if at least two columns are blank in exactly those rows that repeat its value of the row
        above. All columns that are blank in all of these rows are then filled, except for item ids.
        """
        first = int(self.reading.names is None and not self.numbered)
        rows: list[list[str]] = []
        with suppress(csv.Error):  # reported by the reading itself
            rows.extend(csv.reader(self._head.splitlines(keepends=True), **self.how) if self.every else ())
        whole = [row for row in rows[first:-1] if len(row) == len(self.names)]
        table = pl.DataFrame(whole, schema=dict.fromkeys(self.every, pl.String()), orient="row")
        blank = {name: table[name].str.strip_chars() == "" for name in table.columns}
        for key in [name for name in blank if not blank[name].any()]:
            again = (table[key] == table[key].shift()).fill_null(value=False)
            if again.any() and sum(blank[name].equals(again) for name in blank) > 1:
                own = candidates("item", table.columns)
                return key, [name for name in blank if blank[name].filter(again).all() and name not in own]
        return "", []

    @property
    def listed(self) -> list[str]:
        """The names of all columns with values, including duplicates."""
        return [*self.names, *self.folders] if self.form in ("csv", "recbole") else list(self.types)

    @property
    def every(self) -> list[str]:
        """All columns of a text table: Polars notices rows with too many values only if all are read."""
        return _unique(self.names) if self.form in ("csv", "recbole") else []

    @cached_property
    def _schema(self) -> Mapping[str, pl.DataType]:
        if self.form == "parquet":
            with readable(Path(self.shown), "write it again"):
                return self._parquet.collect_schema()
        if self.form == "jsonl":
            return {name: _as_text(dtype) for name, dtype in self._keys().items()}
        return dict.fromkeys(_unique(self.names), pl.String())

    def _keys(self) -> Mapping[str, pl.DataType]:
        """The keys of the first objects; one with both lists and objects, as PHP writes them, is text."""
        try:
            return pl.scan_ndjson(self.path, infer_schema_length=_INFERRED_ROWS).collect_schema()
        except pl.exceptions.SchemaError:
            if not self.rewritten:
                raise
        with self.path.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in islice(lines, _INFERRED_ROWS)]
        found = dict[str, pl.DataType]()
        for key in dict.fromkeys(key for record in records for key in record):
            values = [json.dumps({key: record.get(key)}) for record in records]
            found[key] = pl.String()
            with suppress(pl.exceptions.SchemaError):
                found |= pl.scan_ndjson("\n".join(values).encode()).collect_schema()
        return found

    @property
    def _parquet(self) -> pl.LazyFrame:
        return pl.scan_parquet(self.path, glob=False, hive_partitioning=True, try_parse_hive_dates=False)

    def hint(self) -> str:
        """What else may be wrong if a text table lacks a column."""
        likely = self.likely_separator if self.form == "csv" else ""
        if likely and likely != self.separator:
            called = "tab" if likely == "\t" else repr(likely)
            return f"; its separator seems to be {likely!r} (--separator {called})"
        if likely and len(self.names) == 1:
            return "; its first row has no separator: name it (--separator), or remove lines above the header"
        if likely and any(map(NAMELESS, self.names)):
            return "; if its header stands further down, remove the lines above it"
        if likely and not self.numbered and any(map(_LIKE_DATA.fullmatch, self.first_row)):
            return (
                "; if its first row is no header, number its columns: --column user=1 --column item=2 --column time=3, "
                "or join the files if the first alone has one"
            )
        return ""

    def read(self, wanted: Sequence[str], use: Callable[[Iterator[pl.DataFrame]], T], selected: Sequence[pl.Expr]) -> T:
        """Pass some columns to ``use`` in batches; text that Polars refuses is rewritten, and read again.

        DataError: a damaged file, a row of another width, or a line that is not JSON, with its number.
        """
        try:
            told = [pl.lit(value).alias(name) for name, value in self.folders.items()]
            frame = _flattened(self._scan(wanted), wanted).with_columns(told).select(wanted).fill_nan(None)
            order, shared = pl.col(self.shared[0]).rle_id(), [pl.col(name) for name in self.shared[1]]
            frame = frame.with_columns(
                pl.when(each.fill_null("") == "").then(each.first().over(order)).otherwise(each) for each in shared
            )
            texts = self.every if self.form == "csv" and not self.rewritten and copies.holds(self.path, b'"') else []
            marks = ["\n", "\\"] if texts and copies.holds(self.path, b'\\"') else ["\n"]
            odd = [pl.col(name).str.contains_any(marks) for name in texts]
            names = [] if self.numbered else [name for name in self.every if not NAMELESS(name)][:3]
            heads = [pl.col(n).str.ends_with(n) & (pl.col(n).str.len_bytes() <= len(n.encode()) + 3) for n in names]
            again = pl.all_horizontal(*heads) if heads else pl.lit(value=False)
            frame = frame.select(
                *selected, pl.any_horizontal(pl.lit(value=False), *odd).alias(_ODD), again.alias(_AGAIN)
            )
            return use(self._plain(frame.collect_batches(chunk_size=BATCH_ROWS, maintain_order=True)))
        except BaseException as error:
            if not (isinstance(error, (pl.exceptions.PolarsError, OSError)) or is_panic(error)):
                raise
            if self.form == "parquet":
                with readable(Path(self.shown), "write it again"):
                    raise
            if self.rewritten:
                raise DataError(f"{self.shown} cannot be read ({' '.join(str(error).split())[:200]})") from error
            return self.rewrite().read(wanted, use, selected)

    def _plain(self, batches: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
        """Raise if values may contain several rows, so that the file is rewritten, which checks its quotes.

        Rows that repeat the header, as in joined files, are left out.
        """
        for batch in batches:
            if batch[_ODD].any():
                raise pl.exceptions.ComputeError("a text has several lines, or backslashes before quotes")
            if batch[_AGAIN].any():
                self.reading.say("rows that repeat the header are left out", self.shown)
                batch = batch.filter(~pl.col(_AGAIN))
            yield batch.drop(_ODD, _AGAIN)

    def rewrite(self) -> Source:
        """Rewrite text as plain UTF-8, row by row; a bad row raises an error with its line."""
        encoding = self.reading.encoding or copies.encoding_of_all(self.path, self.shown, self.reading.say)
        text = copies.Text(self.path, self.shown, encoding)
        if self.form == "jsonl":
            return replace(self, path=copies.json_lines(text, self.reading.folder, self.reading.loose), rewritten=True)
        path = copies.rewrite_table(text, self.names, self.how, self.reading.folder)
        reading = replace(self.reading, names=self.names, separator=self.separator)
        return Source(path, self.shown, "csv", reading, rewritten=True)

    def _scan(self, wanted: Sequence[str]) -> pl.LazyFrame:
        """Scan the columns that contain the wanted ones, still nested."""
        parts = {*wanted, *_above(wanted)}
        tops = [name for name in self._schema if name in parts]
        if self.form == "parquet":
            return self._parquet.select(tops)
        if self.form == "jsonl":
            return pl.scan_ndjson(self.path, schema={name: self._schema[name] for name in tops})
        return pl.scan_csv(
            self.path, separator=self.separator, quote_char=None if self.form == "recbole" else '"', glob=False,
            has_header=self.reading.names is None and not self.numbered, schema=self._schema, raise_if_empty=False,
        )  # fmt: skip


def open_sources(paths: Paths, form: Form | None, reading: Reading) -> list[Source]:
    """Find the files of paths, folders and patterns, and detect how each is read.

    ``form`` is their format; None detects it by the content, RecBole's by the name. DataError: no such file, an empty
    folder, or a file of another format or encoding.
    """
    files = original_files(paths)
    if not (found := [source for file in files for source in sources_in(file, form, reading)]):
        raise DataError(f"{', '.join(map(str, files))} is empty: give a file with rows")
    return found


def sources_in(file: Path, form: Form | None, reading: Reading) -> list[Source]:
    """Detect how one file, or each file of a zip file, is read; empty ones are left out. See `open_sources`."""
    full = [(part, shown) for part, shown in _unpacked(file, reading.folder) if part.stat().st_size]
    sources = (_source(part, shown, form, reading) for part, shown in full)
    return [source for source in sources if source.path.stat().st_size]  # an empty array, or only a byte order mark


def original_files(paths: Paths) -> list[Path]:
    """Find the files on disk that paths name, each once."""
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = [file for path in given for file in _matching(Path(path))]
    return list({file.resolve(): file for file in reversed(files)}.values())[::-1]


def _unpacked(file: Path, folder: Path) -> list[tuple[Path, str]]:
    if copies.packing(file) != "zip":
        return [(file, str(file))]
    inner = copies.unzip(file, folder)
    if (inner / "[Content_Types].xml").exists() or (inner / "content.xml").exists():
        raise DataError(f"{file} is a workbook and not a table: save its sheet as CSV")
    return [(part, f"{file}/{part.relative_to(inner)}") for part in _visible(inner)]


def _matching(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if path.is_dir():
        found, state = _visible(path), "is a folder without files"
    else:
        names = glob.glob(str(path), recursive=True) if glob.has_magic(str(path)) else []  # noqa: PTH207
        found = [file for name in sorted(names) for file in _matching(Path(name))]
        state = "does not exist" if not glob.has_magic(str(path)) else "matches nothing"
        state = "is an address, which is not fetched" if re.match(r"\w\w+:/", str(path)) else state
    if not found:
        raise DataError(f"cannot read {path}: it {state}; give the path of a file, a folder or a pattern")
    return found


def _visible(folder: Path) -> list[Path]:
    """List the files below a folder, without hidden ones and markers of jobs."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if not any(part[0] in "._" for part in file.relative_to(folder).parts)]


def _source(path: Path, shown: str, form: Form | None, reading: Reading) -> Source:
    head = copies.sample(path, shown)
    if head.startswith(b"PAR1"):
        found: Form = "parquet"
    else:
        encoding = reading.encoding or copies.encoding_of(head, shown, reading.say)
        if encoding.lower() not in ("utf-8", "utf8") or copies.packing(path) in ("bz2", "xz"):
            path = copies.plain_copy(copies.Text(path, shown, encoding), reading.folder)
            reading = replace(reading, encoding="utf-8")
            head = copies.sample(path, shown)
        if marked := re.match(rb"(?i)sep=(.)\r?\n", head.removeprefix(codecs.BOM_UTF8)):  # as Excel does
            path = copies.plain_copy(copies.Text(path, shown, "utf-8"), reading.folder, skip=1)
            reading = replace(reading, separator=reading.separator or marked[1].decode())
            head = copies.sample(path, shown)
        text = head.removeprefix(codecs.BOM_UTF8).lstrip()
        atomic = any(suffix in _ATOMIC_SUFFIXES for suffix in Path(shown.lower()).suffixes)
        found = "jsonl" if text[:1] in (b"{", b"[") else "recbole" if atomic or form == "recbole" else "csv"
        if not text and form is not None:
            found = form
    if form is not None and found != form:
        raise DataError(
            f"{shown} is not a readable {_TITLES[form]} file, it looks like {_TITLES[found]}: write it again, or name "
            f"its format (--format {found})"
        )
    source = Source(path, shown, found, reading)
    try:
        _ = source.types
    except (pl.exceptions.PolarsError, OSError):  # an array, a mark, NaN, Python literals
        return source.rewrite()
    odd = head.partition(b"\n")[0].count(b'"') % 2  # with a quote in a name Polars takes all for the header: מק"ט
    return source.rewrite() if found == "csv" and (odd or len(source.how) > 2) else source


_TITLES: Mapping[Form, str] = {"csv": "CSV", "parquet": "Parquet", "jsonl": "JSON Lines", "recbole": "RecBole"}


def _flattened(frame: pl.LazyFrame, wanted: Sequence[str] | None) -> pl.LazyFrame:
    """Unnest columns into dotted names, all or those that contain wanted ones; a list of objects becomes rows."""
    above = _above(wanted or ())
    while True:
        schema = frame.collect_schema()
        inner = {name: dtype.inner if isinstance(dtype, pl.List) else dtype for name, dtype in schema.items()}
        holds = [name for name, dtype in inner.items() if isinstance(dtype, pl.Struct)]
        nested = [name for name in holds if wanted is None or name in above]
        if not nested:
            return frame
        for name in nested:
            frame = frame.explode(name, empty_as_null=True) if isinstance(schema[name], pl.List) else frame
        frame = frame.unnest(nested, separator=".")


def _above(names: Iterable[str]) -> set[str]:
    """The prefixes of dotted names."""
    return {name[:dot] for name in names for dot, letter in enumerate(name) if letter == "."}


def _as_text(dtype: pl.DataType) -> pl.DataType:
    """The type with every JSON value as text, so that ids stay as written; a list of values is JSON text."""
    if isinstance(dtype, pl.Struct):
        return pl.Struct({part.name: _as_text(part.dtype) for part in dtype.fields})  # type: ignore[arg-type]
    if isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct):
        return pl.List(_as_text(dtype.inner))
    return pl.String()


def _unique(names: Sequence[str]) -> list[str]:
    first = {name: place for place, name in reversed([*enumerate(names)])}
    return [name if first[name] == place else f"{name} ({place})" for place, name in enumerate(names)]
