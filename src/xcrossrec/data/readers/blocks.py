"""Files as the blocks of a job: an engine reads each one alone, and its tables come back as bytes."""

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
"""Gives a file's tables, and what is to be told of it as JSON has it. Another process gets it pickled."""


@dataclass(frozen=True)
class Blocks:
    """Reads files by an engine; made by :func:`by_file`."""

    engine: Engine
    parts: Parts

    @staticmethod
    def state(file: Path) -> tuple[str, int, int]:
        """What tells a file from another one, or from a later one in its place."""
        found = file.stat()
        return str(file.absolute()), found.st_size, found.st_mtime_ns

    def read(self, files: Sequence[Path], read: Read, *besides: object) -> Iterator[tuple[Tables, Mapping[str, Any]]]:
        """Read each file, in order.

        Args:
            files: which every machine finds at these paths.
            read: what is done with each.
            besides: what the result depends on beside the file and the import's settings.
        """
        named = {_name(file, besides): file.absolute() for file in files}
        with stage("reading", "files") as bar:
            self.parts.complete(self.engine, partial(_reading, read), named, bar.at)
        for name in named:
            yield _unpacked(self.parts.read(name))


@contextmanager
def by_file(engine: Engine, out: Path | str, form: str | None, inputs: Inputs) -> Iterator[Blocks | None]:
    """Lend a reader whose finished files lie beside ``out`` until the block is left; a killed run finds them there.

    In this process there is none: it reads the files where they are, without a copy of what they hold. DataError:
    another process imports into the same folder.
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
    """A line of JSON, and the tables after it."""
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
