"""An engine by its name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, TypeAlias, get_args

from xcrossrec.engine.local import Engine, Local
from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require

EngineName: TypeAlias = Literal["local", "ray"]
_ENGINES: tuple[EngineName, ...] = get_args(EngineName)


def check_engine(name: EngineName, address: str | None) -> None:
    """Refuse an unknown engine, an address for one that has none, and Ray where it is not installed.

    Raises:
        ConfigError: says which.
        MissingExtraError: names the install line.
    """
    if name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}: choose {' or '.join(_ENGINES)}")
    if name == "local" and address is not None:
        raise ConfigError(f"--address {address} is a Ray cluster's, and --engine local works in this process: leave "
                          "one of the two out, or give --engine ray")  # fmt: skip
    if name == "ray":
        require("ray")


@contextmanager
def engine_named(name: EngineName, address: str | None = None) -> Iterator[Engine]:
    """Open an engine for as long as the block lasts.

    Args:
        name: ``local`` or ``ray``.
        address: of a Ray cluster: ``auto`` finds the one that this machine belongs to; None takes
            ``RAY_ADDRESS``, or starts Ray on this machine alone, with a worker a core, and ends it afterwards.

    Raises:
        ConfigError: see :func:`check_engine`; or no cluster answers there.
        MissingExtraError: Ray is not installed.
    """
    check_engine(name, address)
    if name == "local":
        yield Local()
        return
    from xcrossrec.engine.ray import connected

    with connected(address) as engine:
        yield engine
