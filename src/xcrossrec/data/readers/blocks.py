"""Files as blocks of a job: an engine reads each file separately and returns its tables as bytes."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from xcrossrec._version import __version__
from xcrossrec.data.readers.frames import Inputs
from xcrossrec.engine import Engine, Parts, Work
from xcrossrec.progress import stage

Tables: TypeAlias = Sequence[pl.DataFrame]
Read: TypeAlias = Callable[[Path], tuple[Tables, Mapping[str, Any]]]
"""Returns a file's tables and facts about it, as plain JSON values; it is pickled for other processes."""


@dataclass(frozen=True)
class Blocks:
    """Reads files with an engine; made by :func:`by_file`."""

    engine: Engine
    parts: Parts

    @staticmethod
    def state(file: Path) -> tuple[str, int, int]:
        """Identifies a file and its version: path, size, time of change."""
        found = file.stat()
        return str(file.absolute()), found.st_size, found.st_mtime_ns

    def read(self, files: Sequence[Path], read: Read, *besides: object) -> Iterator[tuple[Tables, Mapping[str, Any]]]:
        """Read each file, in order.

        Args:
            files: which all machines find at the same paths.
            read: reads one file.
            besides: what else the result depends on, except for the file and the import's settings.
        """
        named = {_name(file, besides): file.absolute() for file in files}
        with stage("reading", "files") as bar:
            self.parts.complete(self.engine, partial(_reading, read), named, bar.at)
        for name in named:
            yield _unpacked(self.parts.read(name))


@contextmanager
def by_file(engine: Engine, out: Path | str, form: str | None, inputs: Inputs) -> Iterator[Blocks | None]:
    """Yield a reader that keeps its results next to ``out`` until the end, so that a killed run can be resumed.

    The local engine gets None: this process reads the files without intermediate copies. DataError: another process
    imports into the same folder.
    """
    if engine.here:
        yield None
        return
    place = Path(out).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    settings = (inputs.columns, inputs.separator, inputs.encoding, inputs.where, inputs.incomplete, bool(inputs.items))
    job = {"xcrossrec_version": __version__, "form": form, "settings": repr(settings)}
    with Parts.claimed(place, job, overwrite=True) as parts:
        yield Blocks(engine, parts)


def _name(file: Path, besides: object) -> str:
    return hashlib.sha256(repr((Blocks.state(file), besides)).encode()).hexdigest()[:32]


def _reading(read: Read) -> Work:
    return lambda file: _packed(*read(file))


def _packed(tables: Tables, told: Mapping[str, Any]) -> bytes:
    """A line of JSON, followed by the tables."""
    bodies = []
    for table in tables:
        table.write_ipc(body := io.BytesIO(), compression="zstd")
        bodies.append(body.getvalue())
    head = json.dumps({"told": told, "sizes": [len(body) for body in bodies]})
    return b"".join([head.encode(), b"\n", *bodies])


def _unpacked(content: bytes) -> tuple[Tables, Mapping[str, Any]]:
    stream = io.BytesIO(content)
    head = json.loads(stream.readline())
    return [pl.read_ipc(stream.read(size)) for size in head["sizes"]], head["told"]
