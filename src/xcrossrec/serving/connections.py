"""Connections of clients, with limits of their number, idle time and headers.

Uvicorn's own protocol over httptools accepts headers of any size, and waits forever for the rest of a request.
"""

from __future__ import annotations

import logging
import math
from asyncio import Transport
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeAlias

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from xcrossrec.exceptions import ConfigError
from xcrossrec.serving.gate import method_of
from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.problems import Problem, busy
from xcrossrec.serving.room import HOLD_S, Room
from xcrossrec.serving.settings import Settings
from xcrossrec.system import resource

log = logging.getLogger(__name__)

Reason: TypeAlias = Literal["idle", "slow", "large", "wrong", "room", "full"]
"""Why the server ended a connection: it was idle; a request's head was slow, too large or not HTTP; it was idle while
another one needed its place; or all others were busy."""

_SPARE_FILES = 24
"""File descriptors reserved for catalogues, for loading models, and for refusing connections."""

_AHEAD = 256
"""Requests that a client may send on one connection before the first of them is answered."""

_FEWEST = 4
_LINGER_S = 1.0
"""How long a refused client may go on sending, unread, so that it receives the refusal."""

_TELL_EVERY_S = 1.0
_TOGETHER_S = 0.05
"""Interval at which refusals are sent together, which takes less time from requests that are being answered."""


class Connections:
    """What a server's connections share: limits, metrics and room for requests.

    ConfigError where the process may open too few files.
    """

    def __init__(self, settings: Settings, metrics: Metrics, room: Room) -> None:
        self.settings, self.metrics, self.room = settings, metrics, room
        self.most = _most_connections(settings.connections)
        self._ended: Counter[Reason] = Counter()
        self._tell_at = 0.0

    def ended(self, reason: Reason, now: float) -> None:
        """Count a connection that the server ended; unless it was idle, the log is told, at most once a second."""
        self.metrics.ended.labels(reason).inc()
        if reason != "idle":
            self._ended[reason] += 1
            self.tell(now)

    def tell(self, now: float) -> None:
        """Write the new counts to the log."""
        if self._ended and now >= self._tell_at:
            facts = {"ended": dict(self._ended), "most": self.most}
            log.warning("connections ended by the server", extra={"facts": facts})
            self._ended.clear()
            self._tell_at = now + _TELL_EVERY_S


class Connection(HttpToolsProtocol):
    """One client's connection."""

    def __init__(self, shared: Connections, **options: Any) -> None:
        super().__init__(**options)
        self._shared, self._limits = shared, shared.settings
        self._refusal: Problem | None = None
        self._in_head = False
        self._head_bytes = self._head_count = 0
        self._begins: tuple[Any, Any] | None = None  # a request for the application
        self._unread = 0  # bytes since the parser last completed something
        self._open = 0  # requests that are not completely answered
        self.deadline = math.inf

    # ---- how many

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Accept a connection, if necessary in place of the one that has been idle longest."""
        super().connection_made(transport)
        self._wait_for(self._limits.header_timeout_s)
        if len(self.connections) > self._shared.most:
            others: list[Any] = [each for each in self.connections if each is not self]
            waiting = [each for each in others if each.deadline < math.inf and not each.transport.is_closing()]
            if waiting:
                min(waiting, key=lambda each: each.deadline).end("room")
            else:
                said = f"{self._shared.most} connections are being answered and no more may be: ask again in a second"
                self._refuse(busy(said, status=503, code="full"), "full")

    # ---- how long

    def _wait_for(self, seconds: float) -> None:
        self.deadline = self.loop.time() + seconds

    def expire(self) -> None:
        """End a connection whose time is over."""
        if self._in_head and self._refusal is None:
            said = f"the request's head was not complete after {self._limits.header_timeout_s:g} s: send it faster"
            self._refuse(Problem(408, "slow", said), "slow")
        else:
            self.end(None if self._refusal else "idle")

    def end(self, reason: Reason | None) -> None:
        """Close at once, even with unsent data."""
        self.deadline = math.inf
        self.transport.abort()
        if reason is not None:
            self._shared.ended(reason, self.loop.time())

    def on_response_complete(self) -> None:
        """Wait for the next request, or answer one that is waiting; then refuse the last one, if it must be."""
        self._open -= 1
        super().on_response_complete()
        self._begin()
        self._rest()
        self._say_why()

    def _rest(self) -> None:
        if self._open and not self.flow.write_paused:
            self.deadline = math.inf
        else:
            self._wait_for(self._limits.idle_timeout_s)

    def pause_writing(self) -> None:
        """The client does not read: wait for it for a while."""
        super().pause_writing()
        self._wait_for(self._limits.idle_timeout_s)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        self._rest()

    # ---- how much

    def data_received(self, data: bytes) -> None:
        """Parse what came, within the limits."""
        if self._refusal is not None:
            return
        self._unread += len(data)
        self._unset_keepalive_if_required()
        while data and self._refusal is None:
            try:
                self.parser.feed_data(data)
                break
            except httptools.HttpParserError:
                self.send_400_response("")
            except httptools.HttpParserUpgrade as asked:
                data = self._plain() + data[asked.args[0] :]
        if self._unread > self._limits.header_bytes and self._refusal is None:
            self._refuse(self._too_large(), "large")
        self._begin()

    def _plain(self) -> bytes:
        """The head of a request without its Upgrade header, with which httptools would leave out the body."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("")
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        headers = [name + b": " + value for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([method + b" " + self.url + b" HTTP/" + version, *headers, b"", b""])

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._head_count = 0
        if not self._open:
            self._wait_for(self._limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        """Take a part of the address."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer of a body."""
        self._head_count += 1
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > self._limits.header_bytes or self._head_count > self._limits.header_count:
            self._refusal = self._too_large()
        elif len(self.pipeline) >= _AHEAD:
            said = f"{_AHEAD} requests wait on this connection and no more may: read their answers, then send more"
            self._refusal = busy(said, code="ahead")
        if self._refusal is not None:
            raise self._refusal  # the parser stops, and asks for send_400_response

    def on_headers_complete(self) -> None:
        """The head is complete: the body has limits of its own."""
        if self.parser.should_upgrade():
            return
        self._unread, self._in_head = 0, False
        super().on_headers_complete()
        self._open += 1
        self._rest()

    def on_body(self, body: bytes) -> None:
        """Take a part of the body."""
        self._unread = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._unread = 0
        if not self.parser.should_upgrade():
            super().on_message_complete()

    # ---- room

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        """Wait until the received data are parsed: a complete request may be refused without the application."""
        self._begins = cycle, app

    def _begin(self) -> None:
        if self._begins is None:
            return
        (cycle, app), self._begins = self._begins, None
        if cycle.more_body or not self._shared.room.is_full(cycle.scope["path"], cycle.body):
            super()._start_asgi_task(cycle, app)
        else:
            at = math.ceil((self.loop.time() + HOLD_S) / _TOGETHER_S) * _TOGETHER_S
            self.loop.call_at(at, self._refuse_request, cycle)

    def _refuse_request(self, cycle: Any) -> None:
        """Refuse a request without the application, at the least cost, and keep the connection."""
        self._shared.room.refused(method_of(cycle.scope), HOLD_S)
        if self.transport.is_closing():
            return
        self.transport.write(_written(self._shared.room.refusal(), keep=cycle.keep_alive))
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()

    # ---- refusals

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or what :meth:`on_header` refused."""
        if self._refusal is None:
            said = "this is not an HTTP/1.1 request: check its method, address, headers and chunk sizes"
            self._refuse(Problem(400, "http", said), "wrong")
        else:
            self._refuse(self._refusal, "large")

    def _too_large(self) -> Problem:
        most, count = self._limits.header_bytes, self._limits.header_count
        return Problem(431, "headers", f"the request's head has more than {most} bytes or {count} headers: send fewer")

    def _refuse(self, problem: Problem, reason: Reason) -> None:
        """Read no more, and send the refusal after the answers to all complete requests, never within an answer."""
        self._refusal = problem
        self._shared.ended(reason, self.loop.time())
        if self._open and self.cycle.more_body:  # its body is refused
            self._open -= 1
            if self.pipeline:
                self.pipeline.popleft()
            elif self.cycle.response_started:
                self.end(None)
            else:
                self._begins, self.cycle.disconnected = None, True  # the application hears that the body ends
                self.cycle.message_event.set()
        self._say_why()

    def _say_why(self) -> None:
        if self._refusal is not None and not self._open and not self.transport.is_closing():
            self.transport.write(_written(self._refusal, keep=False))
            self.transport.write_eof()
            self._wait_for(_LINGER_S)


def _written(problem: Problem, *, keep: bool) -> bytes:
    body, sent = problem.answer()
    if not keep:
        sent["connection"] = "close"
    lines = [f"{name}: {value}\r\n".encode() for name, value in sent.items()]
    return b"".join([STATUS_LINE[problem.status], *lines, b"\r\n", body])


def _most_connections(wanted: int) -> int:
    """The limit of connections that leaves enough file descriptors."""
    try:
        limit, used = resource.getrlimit(resource.RLIMIT_NOFILE)[0], len(list(Path("/dev/fd").iterdir()))
    except OSError:
        return wanted
    room = limit - used - _SPARE_FILES
    if limit != resource.RLIM_INFINITY and room < _FEWEST:
        raise ConfigError(
            f"this process may open {limit} files, {used} are open and {_SPARE_FILES} are kept for models and "
            f"catalogues, which leaves {room} connections: raise the limit (ulimit -n, LimitNOFILE)"
        )
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, room)
