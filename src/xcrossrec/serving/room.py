"""The limit of requests that are answered at once, and the refusal of further ones."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from random import getrandbits
from time import monotonic

from xcrossrec.serving.metrics import Metrics
from xcrossrec.serving.problems import Problem, busy

access = logging.getLogger("xcrossrec.access")

HOLD_S = 0.2
"""Delay of a refusal, in seconds, so that clients that ask again at once slow down the others less."""

_QUICK = ("/v1/models", "/v1/model")
_TELL_EVERY_S = 1.0


class FullError(Exception):
    """No further request of this kind may be answered now."""


class Room:
    """Requests that are being answered, at most ``most`` of each kind: with ids alone, and with titles."""

    def __init__(self, most: int, metrics: Metrics) -> None:
        self.most, self._metrics = most, metrics
        self._inside = {False: 0, True: 0}
        self._refused, self._tell_at = 0, 0.0

    def is_full(self, path: str, body: bytes) -> bool:
        """Whether a request to this path with this body must be refused."""
        return _needs_room(path) and self._inside[_by_titles(body)] >= self.most

    @contextmanager
    def taken(self, path: str, body: bytes) -> Iterator[None]:
        """Take a place for a request (FullError: there is none)."""
        if self.is_full(path, body):
            raise FullError
        titles, places = _by_titles(body), int(_needs_room(path))
        self._inside[titles] += places
        try:
            yield
        finally:
            self._inside[titles] -= places

    def refusal(self) -> Problem:
        """The refusal of a request for which there is no room."""
        inside = sum(self._inside.values())
        problem = busy(f"{inside} requests are being answered and no more may be: ask again in a second")
        problem.headers["X-Request-Id"] = new_request_id()
        return problem

    def refused(self, method: str, seconds: float) -> None:
        """Count a refusal; the log gets their number, at most once a second."""
        self._metrics.observe(method, "refused", 429, seconds)
        self._refused += 1
        if (now := monotonic()) >= self._tell_at:
            facts = {"status": 429, "count": self._refused}
            access.warning("requests refused, the queue is full", extra={"facts": facts})
            self._refused, self._tell_at = 0, now + _TELL_EVERY_S


def new_request_id() -> str:
    """A request's id, which is not secret."""
    return f"{getrandbits(64):016x}"


def _needs_room(path: str) -> bool:
    return path.startswith("/v1/") and path not in _QUICK


def _by_titles(body: bytes) -> bool:
    """Whether a body may name titles: such requests have room of their own, and so do not block those with ids."""
    return any(each in body for each in (b'"title"', b'"other_history"', b"\\u"))
