"""What every request passes before it is read: keys, size, time, room; and what is told of it afterwards."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import re
import secrets
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from xcrossrec.serving.problems import Problem, busy, problem_of
from xcrossrec.serving.settings import ADMIN_KEYS, is_loopback

if TYPE_CHECKING:
    from xcrossrec.serving.service import Service

access = logging.getLogger("xcrossrec.access")
log = logging.getLogger(__name__)

_REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_OPEN = ("/healthz", "/readyz", "/", "/openapi.json")
_HOLD_S = 0.2
"""How long a refusal is held, in seconds: clients that ask again at once cost those less that are being answered."""

_TITLE = b'"title"'
"""What a request that asks by titles has in its body: these have a room of their own and keep no ids out."""

_QUICK = ("/v1/models", "/v1/model")


class Gate:
    """ASGI middleware; the only one.

    Args:
        app: the application behind it.
        service: has limits and keys, says how many requests may be inside, and counts every answer.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        self.settings, self.metrics = service.settings, service.metrics
        self._inside = {False: 0, True: 0}  # requests that name ids alone, and those that name a title
        self._refused, self._tell_refused_at = 0, 0.0
        self._readers = [key.encode() for key in (*self.settings.api_keys, *self.settings.admin_keys)]
        self._admins = [key.encode() for key in self.settings.admin_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if min(self._inside.values()) >= self.service.room and _needs_room(scope["path"]):
            await self._refuse_at_once(scope, send)
            return
        visit = _Visit(scope, send, lambda: self.service.draining)
        self.metrics.in_flight.inc()
        try:
            await self._pass(visit, receive)
        except _FullError:
            await self._refuse_at_once(scope, send)
            return
        except Problem as problem:
            await visit.refuse(problem)
        except Exception as error:
            log.exception("request %s failed", visit.request_id)
            await visit.refuse(problem_of(error))
        finally:
            self.metrics.in_flight.dec()
        self._tell(visit)

    async def _pass(self, visit: _Visit, receive: Receive) -> None:
        headers, path = Headers(scope=visit.scope), visit.scope["path"]
        if not self._readers:
            self._check_host(headers.get("host", ""))
        elif path not in _OPEN and not path.startswith("/static/"):
            self._check_key(headers, visit.scope["method"], path)
        body = await self._body(headers, receive)
        if not _needs_room(path):
            await self.app(visit.scope, _replay(body, receive), visit.send)
            return
        titles = _TITLE in body
        if self._inside[titles] >= self.service.room:
            raise _FullError
        self._inside[titles] += 1
        try:
            await self.app(visit.scope, _replay(body, receive), visit.send)
        finally:
            self._inside[titles] -= 1

    async def _refuse_at_once(self, scope: Scope, send: Send) -> None:
        """Refuse as cheaply as can be, most without reading them: those that are being answered need the time.

        Written to the log once a second, with how many there were.
        """
        started = perf_counter()
        problem = _no_room(sum(self._inside.values()))
        problem.headers["X-Request-Id"] = secrets.token_hex(8)
        await asyncio.sleep(_HOLD_S)
        await _send(send, problem)
        self.metrics.observe(_method(scope), "refused", problem.status, perf_counter() - started)
        self._refused += 1
        if started >= self._tell_refused_at:
            access.warning(
                "requests refused, the queue is full", extra={"facts": {"status": 429, "count": self._refused}}
            )
            self._refused, self._tell_refused_at = 0, started + 1.0

    def _check_host(self, host: str) -> None:
        """Without keys, refuse a page of another host that a browser was led to take for this one."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if self.settings.is_local and not is_loopback(name.strip("[]")):
            raise Problem(
                403,
                "host",
                f"the request is for the host {name[:80]!a}, and without keys only localhost is answered: ask at "
                "127.0.0.1, or set keys",
            )

    def _check_key(self, headers: Headers, method: str, path: str) -> None:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = key.strip().encode() if kind.lower() == "bearer" else headers.get("x-api-key", "").encode()
        if not _any_equal(given, self._readers):
            reason = "unknown" if given else "missing"
            raise Problem(
                401,
                "key",
                f"the API key is {reason}: send a valid one as 'Authorization: Bearer KEY'",
                {"WWW-Authenticate": "Bearer"},
            )
        writes = method in ("PUT", "DELETE", "PATCH") or path.endswith("/reload")
        if writes and not _any_equal(given, self._admins):
            raise Problem(403, "key", f"this key may read only: use one of {ADMIN_KEYS} to write")

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """Read the whole body, which must be small and come in time."""
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
                    if size > limit:
                        raise _too_large("more", limit)
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError:
            raise Problem(
                408,
                "slow",
                f"the request's body was not complete after {self.settings.body_timeout_s:g} s: send it faster",
                {"Connection": "close"},
            ) from None

    def _tell(self, visit: _Visit) -> None:
        seconds, method = perf_counter() - visit.started, _method(visit.scope)
        route = getattr(visit.scope.get("route"), "path", None) or "other"
        self.metrics.observe(method, route, visit.status, seconds)
        if access.isEnabledFor(logging.INFO):
            fixed = {"request_id": visit.request_id, "method": method, "route": route, "status": visit.status}
            facts = {**fixed, "ms": round(seconds * 1000, 2), **visit.facts}
            access.info("request", extra={"facts": facts})


_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")


class _FullError(Exception):
    """No more requests of this kind may be inside."""


class _Visit:
    """One request on its way; sees its answer's status and adds headers."""

    def __init__(self, scope: Scope, send: Send, draining: Callable[[], bool]) -> None:
        self.scope = scope
        self.started = perf_counter()
        self.status = 0
        self._send, self._draining = send, draining
        given = Headers(scope=scope).get("x-request-id", "")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        self.facts: dict[str, Any] = {}
        scope.setdefault("state", {})["facts"] = self.facts

    async def send(self, message: Message) -> None:
        """Pass an answer on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self.request_id
            headers["X-Content-Type-Options"] = "nosniff"
            if self._draining():
                headers["Connection"] = "close"
        await self._send(message)

    async def refuse(self, problem: Problem) -> None:
        """Answer with a reason; nothing, if an answer was begun."""
        if not self.status:
            self.facts["code"] = problem.code
            await _send(self.send, problem)


async def _send(send: Send, problem: Problem) -> None:
    body = json.dumps(problem.body).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **problem.headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in _METHODS else "other"


def _needs_room(path: str) -> bool:
    return path.startswith("/v1/") and path not in _QUICK


def _no_room(inside: int) -> Problem:
    return busy(f"{inside} requests are being answered and no more may be: ask again in a second")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then whatever comes."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _any_equal(given: bytes, keys: Sequence[bytes]) -> bool:
    """Compare with every key, in a time that does not tell which one it was or how much of it fits."""
    return sum(hmac.compare_digest(given, key) for key in keys) > 0


def _too_large(size: str, limit: int) -> Problem:
    return Problem(
        413,
        "too_large",
        f"the request's body has {size}, at most {limit} bytes are read: send it in parts",
        {"Connection": "close"},
    )
