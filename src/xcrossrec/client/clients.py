"""The clients: they send and wait; what to send is made by ``calls``, and what to do next is decided here once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from xcrossrec.answers import Explanation
from xcrossrec.client import calls
from xcrossrec.client.answers import Filters, Recommendations, Scores, StoredItem
from xcrossrec.client.calls import Call, Details, HistoryEntry
from xcrossrec.client.errors import RequestRefusedError, ServiceBusyError, ServiceError, foreign
from xcrossrec.extras import require

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

LOCAL = "http://127.0.0.1:8000"
"""Where ``xcrossrec serve`` listens unless it is told otherwise."""

_BUSY = (429, 503)
"""Answers after which the same question may be put again: the queue was full, or the server was not ready."""

_FIRST_WAIT_S = 0.25
"""Before the first repetition, where the server names no time; doubles with each."""


class Attempts(Generic[T]):
    """The attempts of one call: whether to wait and ask again, or what came of it.

    Args:
        call: the question.
        retries: repetitions at most.
        patience_s: seconds waited at most, all repetitions together.
    """

    def __init__(self, call: Call[T], retries: int, patience_s: float) -> None:
        self.call = call
        self.retries = retries
        self.left_s = patience_s
        self.made = 0

    def wait_s(self, response: httpx.Response) -> float | None:
        """Seconds to wait before asking again; None if this answer is the last."""
        if response.status_code not in _BUSY or self.made >= self.retries:
            return None
        wait_s = _named_wait_s(response.headers.get("retry-after"))
        if wait_s is None:
            wait_s = _FIRST_WAIT_S * 2.0**self.made
        if wait_s > self.left_s:
            return None
        self.made += 1
        self.left_s -= wait_s
        return wait_s

    def result(self, response: httpx.Response) -> T:
        """Read the last answer.

        Raises:
            ServiceError: it is no success.
        """
        if not response.is_success:
            raise _failure(response)
        try:
            answer = response.json()
        except ValueError:
            raise foreign("answer", "is no JSON") from None
        return self.call.read(answer)


def _named_wait_s(retry_after: str | None) -> float | None:
    """Read the header Retry-After, seconds or a date."""
    if retry_after is None:
        return None
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None


def _failure(response: httpx.Response) -> ServiceError:
    """Make an error with the server's own sentence."""
    try:
        told = response.json()["error"]
        message, code = str(told["message"]), str(told.get("code", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        message, code = (
            f"the server answered {response.status_code} without a reason: check the address, and its log",
            "",
        )
    status = response.status_code
    kind = ServiceBusyError if status in _BUSY else RequestRefusedError if 400 <= status < 500 else ServiceError
    return kind(message, status=status, code=code, request_id=response.headers.get("x-request-id", ""))


def _silence(url: str, error: Exception) -> ServiceError:
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return ServiceError(f"no answer from {url} ({why}): check the address, and that the server runs")


def _request(call: Call[T]) -> dict[str, Any]:
    return {"method": call.method, "url": call.path, "json": call.body, "params": call.query}


class _Settings:
    """What both clients keep.

    Args:
        url: of the service; a path in it is kept.
        api_key: sent as a bearer token.
        timeout_s: of one attempt, in seconds.
        retries: repetitions at most where the service is busy (429, 503).
        patience_s: seconds waited between them at most, all together; a longer ``Retry-After`` ends the call at once.
        transport: of httpx, for tests and proxies.

    Raises:
        MissingExtraError: httpx is not installed.
    """

    def __init__(
        self,
        url: str = LOCAL,
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 4,
        patience_s: float = 30.0,
        transport: Any = None,
    ) -> None:
        require("client")
        self.url = url if url.endswith("/") else f"{url}/"
        self._retries = retries
        self._patience_s = patience_s
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._connect(base_url=self.url, timeout=timeout_s, headers=headers, transport=transport)

    def _connect(self, **options: Any) -> None:
        raise NotImplementedError

    def _attempts(self, call: Call[T]) -> Attempts[T]:
        return Attempts(call, self._retries, self._patience_s)


class Client(_Settings):
    """Asks the service and waits for its answer; for use in a ``with`` block, by any number of threads."""

    def _connect(self, **options: Any) -> None:
        import httpx

        self._http = httpx.Client(**options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts(call)
        while True:
            response = self._send(call)
            wait_s = attempts.wait_s(response)
            if wait_s is None:
                return attempts.result(response)
            time.sleep(wait_s)

    def _send(self, call: Call[T]) -> httpx.Response:
        import httpx

        try:
            return self._http.request(**_request(call))
        except httpx.TransportError as error:
            raise _silence(self.url, error) from None

    def recommend(
        self,
        history: Sequence[HistoryEntry],
        k: int = 10,
        *,
        model: str | None = None,
        filters: Filters | None = None,
        candidates: Sequence[str] | None = None,
        include_bought: bool = False,
        explain: bool = False,
    ) -> Recommendations:
        """Rank a model's catalogue, or some of it, for a history.

        Args:
            history: ids and titles, oldest first; see :data:`HistoryEntry`.
            k: how many at most.
            model: its name or its domain's; may be left out where the service has one model.
            filters: conditions that every recommended item meets.
            candidates: item ids to choose from; None takes the whole catalogue.
            include_bought: also recommend what is in the history.
            explain: give the reasons with each item; costs many encoder passes.

        Raises:
            ServiceError: refused, busy for too long, failed, or no answer.
        """
        return self._ask(
            calls.recommend(
                history,
                k,
                model=model,
                filters=filters,
                candidates=candidates,
                include_bought=include_bought,
                explain=explain,
            )
        )

    def score(
        self, history: Sequence[HistoryEntry], candidates: Sequence[HistoryEntry], *, model: str | None = None
    ) -> Scores:
        """Score candidates, ids or titles, for a history."""
        return self._ask(calls.score(history, candidates, model))

    def explain(self, history: Sequence[HistoryEntry], item: HistoryEntry, *, model: str | None = None) -> Explanation:
        """Say why an item has its score for a history."""
        return self._ask(calls.explain(history, item, model))

    def find_items(self, query: str, limit: int = 10, *, model: str | None = None) -> tuple[StoredItem, ...]:
        """Search the titles of a model's catalogue."""
        return self._ask(calls.find_items(query, limit, model))

    def put_items(self, items: Sequence[StoredItem], *, model: str | None = None) -> int:
        """Insert or replace items; on disk when this returns, all of them or none. Needs an admin key.

        Returns:
            how many were written.
        """
        return self._ask(calls.put_items(items, model))

    def delete_items(self, ids: Sequence[str], *, model: str | None = None) -> int:
        """Delete items; on disk when this returns. Needs an admin key.

        Returns:
            how many there were.
        """
        return self._ask(calls.delete_items(ids, model))

    def model(self, name: str | None = None) -> Details:
        """Describe one model: sources, parameters, fingerprint, catalogue."""
        return self._ask(calls.model(name))

    def models(self) -> tuple[Details, ...]:
        """Describe every model of the service."""
        return self._ask(calls.models())

    def reload(self, name: str, path: str | None = None) -> Details:
        """Replace a model while it serves. Needs an admin key.

        Args:
            name: of the model.
            path: the new bundle's folder on the server; None reads the present one again.
        """
        return self._ask(calls.reload(name, path))


class AsyncClient(_Settings):
    """As :class:`Client`, for asyncio: every method is awaited; for use in an ``async with`` block."""

    def _connect(self, **options: Any) -> None:
        import httpx

        self._http = httpx.AsyncClient(**options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts(call)
        while True:
            response = await self._send(call)
            wait_s = attempts.wait_s(response)
            if wait_s is None:
                return attempts.result(response)
            await asyncio.sleep(wait_s)

    async def _send(self, call: Call[T]) -> httpx.Response:
        import httpx

        try:
            return await self._http.request(**_request(call))
        except httpx.TransportError as error:
            raise _silence(self.url, error) from None

    async def recommend(
        self,
        history: Sequence[HistoryEntry],
        k: int = 10,
        *,
        model: str | None = None,
        filters: Filters | None = None,
        candidates: Sequence[str] | None = None,
        include_bought: bool = False,
        explain: bool = False,
    ) -> Recommendations:
        """Rank a model's catalogue, or some of it, for a history.

        Args:
            history: ids and titles, oldest first; see :data:`HistoryEntry`.
            k: how many at most.
            model: its name or its domain's; may be left out where the service has one model.
            filters: conditions that every recommended item meets.
            candidates: item ids to choose from; None takes the whole catalogue.
            include_bought: also recommend what is in the history.
            explain: give the reasons with each item; costs many encoder passes.

        Raises:
            ServiceError: refused, busy for too long, failed, or no answer.
        """
        return await self._ask(
            calls.recommend(
                history,
                k,
                model=model,
                filters=filters,
                candidates=candidates,
                include_bought=include_bought,
                explain=explain,
            )
        )

    async def score(
        self, history: Sequence[HistoryEntry], candidates: Sequence[HistoryEntry], *, model: str | None = None
    ) -> Scores:
        """Score candidates, ids or titles, for a history."""
        return await self._ask(calls.score(history, candidates, model))

    async def explain(
        self, history: Sequence[HistoryEntry], item: HistoryEntry, *, model: str | None = None
    ) -> Explanation:
        """Say why an item has its score for a history."""
        return await self._ask(calls.explain(history, item, model))

    async def find_items(self, query: str, limit: int = 10, *, model: str | None = None) -> tuple[StoredItem, ...]:
        """Search the titles of a model's catalogue."""
        return await self._ask(calls.find_items(query, limit, model))

    async def put_items(self, items: Sequence[StoredItem], *, model: str | None = None) -> int:
        """Insert or replace items; on disk when this returns, all of them or none. Needs an admin key.

        Returns:
            how many were written.
        """
        return await self._ask(calls.put_items(items, model))

    async def delete_items(self, ids: Sequence[str], *, model: str | None = None) -> int:
        """Delete items; on disk when this returns. Needs an admin key.

        Returns:
            how many there were.
        """
        return await self._ask(calls.delete_items(ids, model))

    async def model(self, name: str | None = None) -> Details:
        """Describe one model: sources, parameters, fingerprint, catalogue."""
        return await self._ask(calls.model(name))

    async def models(self) -> tuple[Details, ...]:
        """Describe every model of the service."""
        return await self._ask(calls.models())

    async def reload(self, name: str, path: str | None = None) -> Details:
        """Replace a model while it serves. Needs an admin key.

        Args:
            name: of the model.
            path: the new bundle's folder on the server; None reads the present one again.
        """
        return await self._ask(calls.reload(name, path))
