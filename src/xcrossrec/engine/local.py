"""What an engine is, and the one that needs nothing: a loop in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, TypeAlias

Work: TypeAlias = Callable[[Any], bytes]
"""What is done with one block; it depends on nothing but the block."""

Make: TypeAlias = Callable[[], Work]
"""Loads what the work needs, once a worker. Another process gets it pickled: it names files by whole paths."""


class Engine(Protocol):
    """Works on blocks, each independent of the others."""

    @property
    def here(self) -> bool:
        """Whether it works in this process, where what is loaded already is at hand."""

    def results(self, make: Make, blocks: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """Give each block's name and result, as they are finished; in any order.

        Args:
            make: called once a worker, in the worker.
            blocks: by name; of another process's workers they are pickled.

        Raises:
            XCrossRecError: what a worker raised; what it had not finished is lost.
        """


class Local:
    """One block after another, in this process."""

    here = True

    def results(self, make: Make, blocks: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """See :class:`Engine`; what the work needs is loaded if there is any."""
        if blocks:
            work = make()
            yield from ((name, work(block)) for name, block in blocks.items())
