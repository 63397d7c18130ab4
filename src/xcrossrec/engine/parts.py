"""The finished blocks of an unfinished output, in a folder beside it: a killed job goes on where it was.

Each block's result is a file. It is written under another name, brought to disk and renamed, so whatever has its final
name is complete; a checksum tells what the disk changed since. What the output is made of stands beside them: another
job's parts are not taken.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self
from zlib import crc32

from xcrossrec.engine.engines import Engine, Make
from xcrossrec.exceptions import DataError
from xcrossrec.replacing import claimed, replace_text, replacing_file

_JOB, _PART = "job.json", ".part"
_CHECK = 4  # bytes of a checksum, behind a result


class Parts:
    """Results by the names of their blocks; made by :meth:`claimed`."""

    def __init__(self, out: Path, job: Mapping[str, Any]) -> None:
        self._job = json.dumps(job)
        self.folder = out.with_name(f".{out.name}.parts")

    @classmethod
    @contextmanager
    def claimed(cls, out: Path, job: Mapping[str, Any], *, overwrite: bool) -> Iterator[Self]:
        """Make or take the folder, for this process alone; it goes when the block is left without an error.

        Args:
            out: the output, which is to be complete when the block is left.
            job: what the output is made of, as JSON has it.
            overwrite: drop another job's parts.

        Raises:
            DataError: parts of another job, or another process at work on this output.
        """
        if not out.parent.is_dir():
            raise DataError(f"the folder {out.parent} does not exist: make it, or choose another --out")
        parts = cls(out, job)
        with claimed(parts.folder):
            parts._take_job(overwrite=overwrite)
            try:
                yield parts
                shutil.rmtree(parts.folder)
            finally:
                if not any(parts.folder.glob(f"*{_PART}")):  # nothing to go on with
                    (parts.folder / _JOB).unlink(missing_ok=True)

    def _take_job(self, *, overwrite: bool) -> None:
        """Keep the folder's parts if they are this job's."""
        path = self.folder / _JOB
        if path.exists() and path.read_text(encoding="utf-8", errors="replace") != self._job:
            if not overwrite:
                raise DataError(
                    f"{self.folder} holds an unfinished output of other users, another model, catalogue or settings, "
                    "or one begun before a customer was forgotten: give --overwrite to drop it, or choose another --out"
                )
            for part in self.folder.glob(f"*{_PART}"):
                part.unlink()
            path.unlink()
        if not path.exists():
            replace_text(path, self._job)

    def complete(
        self,
        engine: Engine,
        make: Make,
        blocks: Mapping[str, Any],
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> int:
        """Let an engine work on the blocks that are not finished; ``progress`` is told, after each one, how many of how
        many are. Gives how many were finished before."""
        missing = {name: block for name, block in blocks.items() if not self.path(name).exists()}
        finished = len(blocks) - len(missing)
        for number, (name, result) in enumerate(engine.results(make, missing), finished + 1):
            self.write(name, result)
            progress(number, len(blocks))
        return finished

    def write(self, name: str, result: bytes) -> None:
        """Keep one block's result."""
        with replacing_file(self.path(name)) as temporary, temporary.open("wb") as file:
            file.write(result)
            file.write(crc32(result, crc32(name.encode())).to_bytes(_CHECK))  # no other block's

    def read(self, name: str) -> bytes:
        """One block's result (DataError: the disk changed it)."""
        content = self.path(name).read_bytes()
        result, check = content[:-_CHECK], content[-_CHECK:]
        if crc32(result, crc32(name.encode())).to_bytes(_CHECK) != check:
            raise DataError(f"{self.path(name)} is damaged: remove it and run again, its block is worked on anew")
        return result

    def path(self, name: str) -> Path:
        """Where a finished block lies."""
        return self.folder / f"{name}{_PART}"
