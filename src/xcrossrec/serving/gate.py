"""Checks of every request before it is read (key, size, time, room), and the log entry and metrics after it."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xcrossrec.exceptions import XCrossRecError
from xcrossrec.serving.problems import Problem, busy, nothing_at, problem_of
from xcrossrec.serving.reading import check_query
from xcrossrec.serving.room import HOLD_S, FullError, new_request_id
from xcrossrec.serving.settings import ADMIN_KEYS, is_loopback

if TYPE_CHECKING:
    from xcrossrec.serving.service import Service

access = logging.getLogger("xcrossrec.access")
log = logging.getLogger(__name__)

_BODIES, _SMALL = 64, 64 * 1024
"""How many of the largest bodies may be incomplete in memory; small ones, in bytes, always may."""

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_OPEN = ("/healthz", "/readyz", "/", "/openapi.json")
_READING = ("/v1/recommend", "/v1/score", "/v1/explain")
"""Paths to which a key that may only read can post."""


class Gate:
    """The only ASGI middleware. HEAD is answered like GET, without the body."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.settings, self.metrics, self.room = service.settings, service.metrics, service.room
        self._coming = 0  # bytes of incomplete bodies
        self._readers = [key.encode() for key in (*self.settings.api_keys, *self.settings.admin_keys)]
        self._admins = [key.encode() for key in self.settings.admin_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        visit = _Visit(scope, send, lambda: self.service.draining)
        self.metrics.in_flight.inc()
        try:
            await self._pass(visit, receive)
        except FullError:
            await self._refuse_at_once(scope, visit.send)
            return
        except XCrossRecError as error:
            await visit.refuse(problem_of(error))
        except asyncio.CancelledError:  # by the server alone, which stops
            said = "the service stops, and this request took too long: ask again, or another service"
            await visit.refuse(busy(said, status=503, code="draining"))
        except Exception as error:
            log.exception("request %s failed", visit.request_id)
            await visit.refuse(problem_of(error))
        finally:
            self.metrics.in_flight.dec()
        self._tell(visit)

    async def _pass(self, visit: _Visit, receive: Receive) -> None:
        headers, path = Headers(scope=visit.scope), visit.scope["path"]
        if len(hosts := headers.getlist("host")) > 1 or (not hosts and visit.scope["http_version"] == "1.1"):
            raise Problem(400, "host", f"the request has {len(hosts)} Host headers: send one")
        if not self._readers:
            self._check_host(headers.get("host", ""))
        elif path not in _OPEN and not path.startswith("/static/"):
            self._check_key(headers, visit.scope["method"], path)
        if not path.isprintable():  # a route's pattern allows a line break at the end
            raise nothing_at(path)
        if path == "/openapi.json" or path.startswith("/static/"):  # which starlette answers
            check_query(Request(visit.scope), ())
        body = await self._body(headers, receive)
        # all answers are small, and a senseless range is no error
        visit.scope["headers"] = [each for each in visit.scope["headers"] if each[0] != b"range"]
        with self.room.taken(path, body):
            await self.app(visit.scope, _replay(body, receive), visit.send)

    async def _refuse_at_once(self, scope: Scope, send: Send) -> None:
        """Refuse at the least cost: requests that are being answered need the time."""
        started = perf_counter()
        problem = self.room.refusal()
        await asyncio.sleep(HOLD_S)
        await _send(send, problem)
        self.room.refused(method_of(scope), perf_counter() - started)

    def _check_host(self, host: str) -> None:
        """Without keys, refuse requests for other host names (DNS rebinding)."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if is_loopback(self.settings.host) and not is_loopback(name.strip("[]")):
            said = f"the request is for the host {name[:80]!r}, and without keys only localhost is answered"
            raise Problem(403, "host", f"{said}: ask at 127.0.0.1, or set keys")

    def _check_key(self, headers: Headers, method: str, path: str) -> None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode() if kind.lower() == "bearer" else headers.get("x-api-key", "").encode()
        if not _any_equal(given, self._readers):
            reason = "unknown" if given else "missing"
            said = f"the API key is {reason}: send a valid one as 'Authorization: Bearer KEY'"
            raise Problem(401, "key", said, {"WWW-Authenticate": "Bearer"})
        reads = method in ("GET", "HEAD") or path in _READING
        if not reads and not _any_equal(given, self._admins):
            raise Problem(403, "key", f"this key may read only: use one of {ADMIN_KEYS} to write")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Read the whole body, within the limits of size and time."""
        limit = self.settings.request_bytes
        if (declared := headers.get("content-length", "")).isdecimal() and int(declared) > limit:
            raise _too_large(f"{declared} bytes", limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Problem(400, "hung_up", "the client hung up before its request was complete")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._coming += len(parts[-1])
                    if size > limit:
                        raise _too_large("more", limit)
                    if size > _SMALL and self._coming > _BODIES * limit:
                        raise busy("too much is being sent at once: ask again in a second")
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            said = f"the request's body was not complete after {self.settings.body_timeout_s:g} s: send it faster"
            raise Problem(408, "slow", said, {"Connection": "close"}) from None
        finally:
            self._coming -= size

    def _tell(self, visit: _Visit) -> None:
        seconds, method = perf_counter() - visit.started, method_of(visit.scope)
        route = getattr(visit.scope.get("route"), "path", None) or "other"
        self.metrics.observe(method, route, visit.status, seconds)
        if access.isEnabledFor(logging.INFO):
            fixed = {"request_id": visit.request_id, "method": method, "route": route, "status": visit.status}
            access.info("request", extra={"facts": {**fixed, "ms": round(seconds * 1000, 2), **visit.facts}})


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class _Visit:
    """A request that is being answered; records the answer's status and adds headers."""

    def __init__(self, scope: Scope, send: Send, draining: Callable[[], bool]) -> None:
        self.scope, self.started, self.status = scope, perf_counter(), 0
        self._send, self._draining = send, draining
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else new_request_id()
        self.facts: dict[str, Any] = scope.setdefault("state", {}).setdefault("facts", {})
        self._bare = scope["method"] == "HEAD"
        if self._bare:
            scope["method"] = "GET"

    async def send(self, message: Message) -> None:
        if self._bare:
            self.scope["method"] = "HEAD"  # for the server and the log
            message = {**message, "body": b""} if message["type"] == "http.response.body" else message
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cache-Control"] = "no-cache" if self.scope["path"].startswith("/static/") else "no-store"
            if self._draining():
                headers["Connection"] = "close"
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a refusal, unless an answer has begun."""
        if not self.status:
            self.facts["code"] = problem.code
            await _send(self.send, problem)


async def _send(send: Send, problem: Problem) -> None:
    body, headers = problem.answer()
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def method_of(scope: Scope) -> str:
    """A request's method in the metrics."""
    return scope["method"] if scope["method"] in _METHODS else "other"


def _replay(body: bytes, receive: Receive) -> Receive:
    """Receive the body first, then what follows."""
    whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return whole.pop() if whole else await receive()

    return replay


def _any_equal(given: bytes, keys: Sequence[bytes]) -> bool:
    """Compare with every key, in a time that reveals neither which one matched nor how much of it."""
    return sum(hmac.compare_digest(given, key) for key in keys) > 0


def _too_large(size: str, limit: int) -> Problem:
    said = f"the request's body has {size}, at most {limit} bytes are read: send it in parts"
    return Problem(413, "too_large", said, {"Connection": "close"})
