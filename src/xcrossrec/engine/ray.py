"""Blocks on the machines of a cluster, by Ray Data: `map_batches` over actors, one a core, that load the model once.

Blocks go out and results come back through Ray's object store; the driver alone writes. Ray gives a block of a machine
that died to another one. Paths in a job must mean the same on every machine.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions

from xcrossrec import exceptions
from xcrossrec._version import __version__
from xcrossrec.engine.local import Make, Work
from xcrossrec.exceptions import ConfigError, XCrossRecError

_PATIENCE_S = 10.0
_WAITING = 2
"""Blocks that are sent to a worker at once: it works on one while the next one comes."""

_RESULT = pa.schema([("name", pa.string()), ("result", pa.large_binary()), ("fault", pa.string())])


@contextmanager
def connected(address: str | None) -> Iterator[Ray]:
    """Connect to a cluster, or start Ray on this machine; a connection that is there already is used, and left.

    Args:
        address: see :func:`xcrossrec.engine.engine_named`.

    Raises:
        ConfigError: no cluster answers there.
    """
    if ray.is_initialized():
        yield Ray()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = address or os.environ.get("RAY_ADDRESS") or "local"  # a job of a cluster is told where it is
    alone: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if place == "local" else {}
    try:
        _answers(place)
        ray.init(address=place, log_to_driver=False, logging_level="error", **alone)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        if place == "local":
            raise ConfigError(f"Ray did not start on this machine ({said}): give --engine local") from error
        raise ConfigError(
            f"no Ray cluster answers at {place!r} that this machine can use ({said}): start one with  ray start --head"
            ", or leave --address and RAY_ADDRESS out for this machine alone"
        ) from error
    try:
        yield Ray()
    finally:
        ray.shutdown()


def _answers(place: str) -> None:
    """Raise an error where nobody answers at HOST:PORT, which Ray tries for a quarter of an hour."""
    host, _, port = place.rpartition(":")
    if host and "://" not in place and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _PATIENCE_S).close()


class Ray:
    """The cluster that this process is connected to; see :class:`xcrossrec.engine.Engine`."""

    here = False

    def results(self, make: Make, blocks: Mapping[str, Any]) -> Iterator[tuple[str, bytes]]:
        """See :class:`xcrossrec.engine.Engine`."""
        if not blocks:
            return
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        workers = min(len(blocks), max(1, int(ray.cluster_resources().get("CPU", 1))))
        rows = [pa.table({"name": [name], "block": [pickle.dumps(block)]}) for name, block in blocks.items()]
        given = ray.data.from_arrow(rows)
        given.context.enable_progress_bars = False
        done = given.map_batches(
            _Worker,
            fn_constructor_args=([ray.put(make)], __version__),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=1,
            # fewer than all are enough: where a machine died, its workers may never come again
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=workers, initial_size=workers, max_tasks_in_flight_per_actor=_WAITING
            ),
        )
        try:
            for row in done.iter_rows():
                if row["fault"] is not None:
                    raise _fault(row["fault"], row["result"].decode())
                yield row["name"], row["result"]
        except ray.exceptions.RayError as error:
            said = str(error).strip().rpartition("\n")[2]
            raise XCrossRecError(
                f"the cluster failed ({said}): finished blocks are kept, give the same command again"
            ) from error


class _Worker:
    """An actor; it loads what it needs with its first block, so that a fault comes back like any other."""

    def __init__(self, make: list[Any], version: str) -> None:
        self._make, self._version = make, version
        self._work: Work | None = None

    def __call__(self, blocks: pa.Table) -> pa.Table:
        """Work on the blocks of a table."""
        warnings.filterwarnings("ignore")
        columns = zip(*(blocks[name].to_pylist() for name in ("name", "block")), strict=True)
        return pa.Table.from_pylist([self._row(*each) for each in columns], schema=_RESULT)

    def _row(self, name: str, block: bytes) -> dict[str, Any]:
        try:
            if self._version != __version__:
                raise ConfigError(
                    f"a worker on {os.uname().nodename} has xcrossrec {__version__}, and this machine has "
                    f"{self._version}: install the same on all"
                )
            if self._work is None:
                self._work = ray.get(self._make[0])()
            return {"name": name, "result": self._work(pickle.loads(block)), "fault": None}
        except (XCrossRecError, OSError) as error:
            return {"name": name, "result": str(error).encode(), "fault": type(error).__name__}


def _fault(name: str, message: str) -> XCrossRecError:
    """The exception that a worker raised, of its class."""
    kind = getattr(exceptions, name, XCrossRecError)
    made: XCrossRecError = kind.__new__(kind, message)
    return made
