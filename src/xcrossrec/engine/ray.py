"""Blocks on the machines of a cluster, by Ray Data: `map_batches` over tasks, one a core at a time.

Ray lends a worker's process to one task after another, so the model is loaded once a process. Blocks go out and results
come back through Ray's object store; the driver alone writes. Ray gives a block of a machine that died to another one.
Paths in a job must mean the same on every machine.
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
from xcrossrec.engine.engines import Make, Work
from xcrossrec.exceptions import ConfigError, XCrossRecError

_PATIENCE_S = 10.0
_RESULT = pa.schema([("name", pa.string()), ("result", pa.large_binary()), ("fault", pa.string())])

_loaded: dict[str, Work] = {}
"""What this process loaded for the job that it works for, if it is a worker; by the job's reference."""


@contextmanager
def connected() -> Iterator[Ray]:
    """Connect to ``RAY_ADDRESS`` (ConfigError: no cluster answers there), or start Ray on this machine; a connection
    that is there is used, and left."""
    if ray.is_initialized():
        yield Ray()
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = os.environ.get("RAY_ADDRESS") or "local"  # a job of a cluster is told where it is
    alone: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"} if place == "local" else {}
    try:
        _answers(place)
        ray.init(address=place, log_to_driver=False, logging_level="error", **alone)
    except (OSError, ValueError, RuntimeError) as error:
        said = str(error).partition("\n")[0]
        if place == "local":
            remedy = "give --engine local, or a HOME that may be written where that is what it lacks"
            raise ConfigError(f"Ray did not start on this machine ({said}): {remedy}") from error
        raise ConfigError(
            f"no Ray cluster answers at {place!r} that this machine can use ({said}): start one with  ray start --head"
            ", or unset RAY_ADDRESS for this machine alone"
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
        rows = [pa.table({"name": [name], "block": [pickle.dumps(block)]}) for name, block in blocks.items()]
        given = ray.data.from_blocks(rows)  # from_arrow starts a worker a core to look at them
        given.context.enable_progress_bars = False
        job = {"make": [ray.put(make)], "version": __version__}
        done = given.map_batches(_worked, fn_kwargs=job, batch_size=None, batch_format="pyarrow", num_cpus=1)
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


def _worked(blocks: pa.Table, make: list[Any], version: str) -> pa.Table:
    """Work on the blocks of a table, in a worker."""
    warnings.filterwarnings("ignore")
    columns = zip(blocks["name"].to_pylist(), blocks["block"].to_pylist(), strict=True)
    return pa.Table.from_pylist([_row(name, block, make[0], version) for name, block in columns], schema=_RESULT)


def _row(name: str, block: bytes, make: Any, version: str) -> dict[str, Any]:
    try:
        if version != __version__:
            raise ConfigError(
                f"a worker on {os.uname().nodename} has xcrossrec {__version__}, and this machine has {version}: "
                "install the same on all"
            )
        return {"name": name, "result": _work(make)(pickle.loads(block)), "fault": None}
    except (XCrossRecError, OSError) as error:
        return {"name": name, "result": str(error).encode(), "fault": type(error).__name__}


def _work(make: Any) -> Work:
    """Load what a job needs, unless it is there."""
    if make.hex() not in _loaded:
        _loaded.clear()
        _loaded[make.hex()] = ray.get(make)()
    return _loaded[make.hex()]


def _fault(name: str, message: str) -> XCrossRecError:
    """The exception that a worker raised, of its class."""
    kind = getattr(exceptions, name, XCrossRecError)
    made: XCrossRecError = kind.__new__(kind, message)
    return made
