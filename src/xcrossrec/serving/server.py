"""The process: listens, reloads on SIGHUP, and stops on SIGTERM once everything is answered."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any, cast

import uvicorn
from fastapi import FastAPI

from xcrossrec.exceptions import ConfigError
from xcrossrec.serving.app import create_app
from xcrossrec.serving.connections import Connection, Connections
from xcrossrec.serving.service import Service

log = logging.getLogger(__name__)

_SWITCH_S = 0.0001
"""Python's switch interval, in seconds: each step of a model waits that long for another thread."""

_BACKLOG = 4096

_CLOSE_S = 5.0
"""Seconds after the time for requests until a stop aborts work that still goes on."""


class Server(uvicorn.Server):
    """Uvicorn, with signals that first drain the service, and exit status 0."""

    def __init__(self, service: Service, app: FastAPI, hangups: Sequence[int] = ()) -> None:
        settings = service.settings
        self._hangups = hangups
        self.shared = Connections(settings, service.metrics, service.room)
        super().__init__(
            uvicorn.Config(
                app,
                http=cast(Any, partial(Connection, self.shared)),
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                backlog=_BACKLOG,
                timeout_keep_alive=math.ceil(settings.idle_timeout_s),
                timeout_graceful_shutdown=round(settings.stop_s),
            )
        )
        service.metrics.connections.set_function(lambda: len(self.server_state.connections))
        self.service = service
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        if self._hangups:
            self._reload()
        await super().serve(sockets)

    async def on_tick(self, counter: int) -> bool:
        """End the connections whose time is over; called ten times a second."""
        now = asyncio.get_running_loop().time()
        for connection in cast(list[Connection], list(self.server_state.connections)):
            if connection.deadline <= now:
                connection.expire()
        self.shared.tell(now)
        return await super().on_tick(counter)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a second signal stops at once."""
        if self.service.draining or self._loop is None:
            self.should_exit = True
            self.force_exit = sig == signal.SIGINT
            if self.force_exit and self._loop is not None:
                self._end_in(_CLOSE_S, self._loop)
            return
        self.service.draining = True
        self._end_in(self.service.settings.drain_s + self.service.settings.stop_s + _CLOSE_S, self._loop)
        self._loop.call_soon_threadsafe(self._drain, self._loop)

    def _end_in(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """End the process after so many seconds, unless the loop is closed: encoding, or waiting for a database, cannot
        be interrupted."""
        loop.call_soon_threadsafe(loop.call_later, seconds, _end)

    def _drain(self, loop: asyncio.AbstractEventLoop) -> None:
        log.info("stopping in %g s: requests in flight are answered", self.service.settings.drain_s)
        loop.call_later(self.service.settings.drain_s, setattr, self, "should_exit", True)

    def _reload(self) -> None:
        if len(self._tasks) > 1:  # one is running, and one is waiting
            return
        log.info("reading all models again (SIGHUP)")
        task = asyncio.ensure_future(self.service.replace_all())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end() -> None:
    log.warning("unfinished work is aborted: each of its writes is complete, or was not made")
    os._exit(0)


def serve(service: Service, listener: socket.socket, hangups: Sequence[int] = ()) -> None:
    """Serve at a socket from :func:`bind` until SIGTERM or SIGINT, then finish current requests and close the service.

    Models are loaded again if there were ``hangups`` before.
    """
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()  # else the collector visits models and catalogues again and again while all requests wait
    server = Server(service, create_app(service), hangups)
    listener.listen(_BACKLOG)
    host, port = listener.getsockname()[:2]
    log.info("listening at http://%s:%d", f"[{host}]" if ":" in host else host, port)
    server.run(sockets=[listener])


def bind(host: str, port: int) -> socket.socket:
    """Reserve an address before models are loaded; nobody can connect yet (ConfigError: the address is not usable)."""
    listener: socket.socket | None = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, UnicodeError) as error:  # of a host's name that no host can have
        if listener is not None:
            listener.close()
        raise ConfigError(
            f"{host} port {port} cannot be listened at ({error}): choose another --host or --port, or stop what has it"
        ) from error
    return listener
