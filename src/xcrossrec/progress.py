"""Progress of long work: one stage at a time, a bar on a terminal or in a notebook, elsewhere a line every 10 s.

Long work opens a :func:`stage`; its caller decides with :func:`showing` where progress is reported, if at all.
"""

from __future__ import annotations

import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import TypeAlias

LINE_S = 10.0
"""Seconds between two lines."""

_FRAME_S = 0.1
_PATIENCE_S = 0.3
"""Shorter stages are not shown."""

_BAR = 24
_CLEAR = "\r\x1b[K"
_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

Line: TypeAlias = Callable[[str], None]


def printable(text: str) -> str:
    """Escape terminal control characters and changes of text direction; JSON stays JSON."""
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_stderr(text: str, end: str = "\n", start: str = "") -> None:
    """Write a line to stderr; errors of writing are ignored. A stage draws a bar instead if it is a terminal."""
    if sys.stderr is not None:
        with suppress(OSError):  # a file on a full disk, or a closed pipe
            sys.stderr.write(f"{start}{printable(text)}{end}")
            sys.stderr.flush()


_line: ContextVar[Line | None] = ContextVar("xcrossrec_progress", default=None)


@contextmanager
def showing(line: Line | None) -> Iterator[None]:
    """Within the block, pass progress lines to a function (:func:`to_stderr` also draws bars), or None to be silent."""
    token = _line.set(line)
    try:
        yield
    finally:
        _line.reset(token)


class Stage:
    """Some work in steps; see :func:`stage`."""

    def __init__(self, what: str, unit: str, line: Line | None) -> None:
        self.what, self.unit, self._line = what, unit, line
        self._bar = line is to_stderr and sys.stderr is not None and (sys.stderr.isatty() or "ipykernel" in sys.modules)
        self._began = self._told = time.monotonic()
        self._first: int | None = None
        self._said, self._at = "", (0.0, "")

    def at(self, done: int, total: int, note: str = "") -> None:
        """Report how many of all steps are done, with an optional note."""
        if self._line is None:
            return
        now = time.monotonic()
        self._first = done if self._first is None else self._first
        elapsed, made = now - self._began, done - self._first
        told = f"{done:,} of {total:,} {self.unit}{', ' * bool(note)}{note}"
        self._at = done / max(total, 1), told
        if now - self._told < (_FRAME_S if self._bar else LINE_S) or (self._bar and elapsed < _PATIENCE_S):
            return
        self._told = now
        left = f"about {in_words(elapsed * (total - done) / made)} left" if made and done < total else ""
        self._say(done / max(total, 1), f"{told}{', ' * bool(left)}{left}")

    def within(self, text: str) -> None:
        """Report the line of a nested stage, the progress of this stage's current step."""
        share, told = self._at
        self._told = time.monotonic()
        self._say(share, f"{told}{', ' * bool(told)}{text}")

    def close(self) -> None:
        """Report the time it took, if any progress was shown."""
        if self._said and self._line is not None:
            self._say(1.0, f"done in {in_words(time.monotonic() - self._began)}")
            if self._bar:
                to_stderr("")

    def _say(self, share: float, told: str) -> None:
        self._said = told
        if not self._bar:
            if self._line is not None:
                self._line(f"{self.what}: {told}")
            return
        filled = round(min(share, 1.0) * _BAR)
        text = f"{self.what} [{'#' * filled}{'.' * (_BAR - filled)}] {share:4.0%} {told}"
        to_stderr(text[: shutil.get_terminal_size().columns - 1], end="", start=_CLEAR)


@contextmanager
def stage(what: str, unit: str) -> Iterator[Stage]:
    """Open a stage of work; lines of nested stages are appended to its own state."""
    made = Stage(what, unit, line := _line.get())
    try:
        with showing(line and made.within):
            yield made
    finally:
        made.close()


def in_words(seconds: float) -> str:
    """A duration in words: from 100 s on in minutes, from 100 minutes on in hours."""
    if seconds < 100:
        return f"{seconds:.{int(0 < seconds < 1)}f} s"
    if seconds < 6000:
        return f"{seconds / 60:.{int(seconds < 600)}f}".removesuffix(".0") + " min"
    return f"{seconds / 3600:.1f} h"
