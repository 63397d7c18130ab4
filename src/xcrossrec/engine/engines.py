"""What an engine is, the one that needs nothing (a loop in this process), and each by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require

EngineName: TypeAlias = Literal["local", "ray"]
_ENGINES: tuple[EngineName, ...] = get_args(EngineName)

Work: TypeAlias = Callable[[Any], bytes]
"""What is done with one block; it depends on nothing but the block."""

Make: TypeAlias = Callable[[], Work]
"""Loads what the work needs, once a worker. Another process gets it pickled: it names files by whole paths."""


@runtime_checkable
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


def check_engine(name: EngineName) -> None:
    """Refuse an unknown engine (ConfigError), and Ray where it is not installed (MissingExtraError)."""
    if name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}: choose {' or '.join(_ENGINES)}")
    if name == "ray":
        require("ray")


@contextmanager
def engine_named(name: EngineName) -> Iterator[Engine]:
    """Open an engine for as long as the block lasts; see :func:`check_engine` for what is refused.

    Args:
        name: ``local``, or ``ray``: on the cluster that ``RAY_ADDRESS`` names (``auto``: the one that this machine
            belongs to; ConfigError where none answers), or else on this machine alone, with a worker a core.
    """
    check_engine(name)
    if name == "local":
        yield Local()
        return
    from xcrossrec.engine.ray import connected

    with connected() as engine:
        yield engine
