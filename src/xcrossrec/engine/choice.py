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


def check_engine(name: EngineName) -> None:
    """Refuse an unknown engine, and Ray where it is not installed.

    Raises:
        ConfigError: unknown.
        MissingExtraError: names the install line.
    """
    if name not in _ENGINES:
        raise ConfigError(f"unknown engine {name!r}: choose {' or '.join(_ENGINES)}")
    if name == "ray":
        require("ray")


@contextmanager
def engine_named(name: EngineName) -> Iterator[Engine]:
    """Open an engine for as long as the block lasts.

    Args:
        name: ``local``, or ``ray``: on the cluster that ``RAY_ADDRESS`` names (``auto``: the one that this machine
            belongs to), or else on this machine alone, with a worker a core, for as long as the block lasts.

    Raises:
        ConfigError: see :func:`check_engine`; or no cluster answers there.
        MissingExtraError: Ray is not installed.
    """
    check_engine(name)
    if name == "local":
        yield Local()
        return
    from xcrossrec.engine.ray import connected

    with connected() as engine:
        yield engine
