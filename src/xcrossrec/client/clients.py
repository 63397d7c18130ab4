"""The clients: they send the requests of ``calls``, wait and repeat."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from xcrossrec.client.answers import RequestRefusedError, ServiceBusyError, ServiceError, read
from xcrossrec.client.calls import Call, Questions
from xcrossrec.exceptions import ConfigError
from xcrossrec.extras import require

if TYPE_CHECKING:
    import httpx

P = ParamSpec("P")
T = TypeVar("T")

LOCAL = "http://127.0.0.1:8000"
"""The default address of ``xcrossrec serve``."""

_BUSY = (429, 503)
"""Status codes after which a request may be repeated: the queue was full, or the server was not ready."""

_HOPELESS = "too_costly"
"""Code of requests that would fail again."""

_FIRST_WAIT_S = 0.25
"""Before the first repetition, if the server names no time; doubles with each."""


class _Client:
    """The settings and connections of a client.

    Args:
        url: of the service, perhaps with a path.
        api_key: sent as a bearer token.
        timeout_s: of one attempt, in seconds.
        retries: most repetitions while the service is busy (429, 503).
        patience_s: most seconds of waiting between them in total; a longer ``Retry-After`` ends the call at once.
        transport: of httpx, for tests and proxies.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: no address, or a key that no request can carry.
    """

    _of_httpx = ""

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
        import httpx

        self.url = url if url.endswith("/") else f"{url}/"
        self._retries, self._patience_s = retries, patience_s
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        of_httpx = getattr(httpx, self._of_httpx)
        self._connect = partial(of_httpx, base_url=self.url, timeout=timeout_s, headers=headers, transport=transport)
        with _own_errors(self.url):
            if not (api_key or "").isprintable():  # otherwise a later error of httpx would show the key
                raise ValueError("the key has a line's end, or another character that no request can carry")
            self._http, self._process = self._connect(), os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_http": None, "_process": None}

    def _connected(self) -> Any:
        """The connections of this process: shared with a forked process, they would mix up answers."""
        if self._process != os.getpid():
            self._http, self._process = self._connect(), os.getpid()
        return self._http


class _Patience:
    """Decides for one call whether to wait and repeat it."""

    def __init__(self, retries: int, patience_s: float) -> None:
        self.retries, self.left_s, self.made = retries, patience_s, 0

    def wait_s(self, response: httpx.Response) -> float | None:
        """Seconds to wait before repeating; None if this answer is final."""
        if response.status_code not in _BUSY or _told(response)[1] == _HOPELESS or self.made >= self.retries:
            return None
        named_s = _named_wait_s(response.headers.get("retry-after", ""))
        wait_s = _FIRST_WAIT_S * 2.0**self.made if named_s is None else named_s
        if wait_s > self.left_s:
            return None
        self.made += 1
        self.left_s -= wait_s
        return wait_s


def _named_wait_s(retry_after: str) -> float | None:
    """Read the header Retry-After, seconds or a date; None for anything else."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    with suppress(ValueError, OverflowError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return None


def _result(call: Call[T], response: httpx.Response) -> T:
    if response.is_success:
        answer: T = read(call.answer, response.content, call.key)
        return answer
    message, code = _told(response)
    status = response.status_code
    kind = ServiceBusyError if status in _BUSY else RequestRefusedError if 400 <= status < 500 else ServiceError
    raise kind(message, status=status, code=code, request_id=response.headers.get("x-request-id", ""))


def _told(response: httpx.Response) -> tuple[str, str]:
    """The server's message and code."""
    with suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
        told = response.json()["error"]
        return str(told["message"]), str(told.get("code", ""))
    return f"the server answered {response.status_code} without a reason: check the address, and its log", ""


@contextmanager
def _own_errors(url: str) -> Iterator[None]:
    """Turn failed connections, and requests that cannot be sent, into errors with the address but no password."""
    import httpx

    url = re.sub("//[^/]*@", "//", url)
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError) as error:
        what = "no answer" if isinstance(error, httpx.TransportError) else "no answer that can be read"
        why = f"{type(error).__name__}: {error}".rstrip(": ")
        raise ServiceError(f"{what} from {url} ({why}): check the address, and that the server runs") from None
    except (httpx.InvalidURL, httpx.CookieConflict, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ConfigError(
            f"{url} cannot be asked this ({error}): check the address and the key, and give text, finite numbers, "
            "lists and mappings"
        ) from error
    except (RuntimeError, ImportError, OSError) as error:  # a closed client, or bad settings in the environment
        raise ConfigError(
            f"{url} cannot be asked by this client ({error}): use one that is not closed, in one event loop, and check "
            "what the environment says of proxies and certificates (HTTP_PROXY, SSL_CERT_FILE)"
        ) from error


def _waits(ask: Callable[Concatenate[Any, P], Call[T]]) -> Callable[Concatenate[Client, P], T]:
    """Make a method that waits for the answer."""

    @wraps(ask)
    def method(self: Client, /, *values: P.args, **named: P.kwargs) -> T:
        return self._ask(ask(self, *values, **named))

    return method


def _awaited(
    ask: Callable[Concatenate[Any, P], Call[T]],
) -> Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]]:
    """Make a method that is awaited."""

    @wraps(ask)
    async def method(self: AsyncClient, /, *values: P.args, **named: P.kwargs) -> T:
        return await self._ask(ask(self, *values, **named))

    return method


class Client(_Client):
    """A synchronous client, for use in a ``with`` block by any number of threads."""

    _of_httpx = "Client"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connected().close()

    def _ask(self, call: Call[T]) -> T:
        patience = _Patience(self._retries, self._patience_s)
        while True:
            with _own_errors(self.url):
                response = self._connected().request(call.method, call.path, json=call.body, params=call.query)
            if (wait_s := patience.wait_s(response)) is None:
                return _result(call, response)
            time.sleep(wait_s)

    recommend = _waits(Questions.recommend)
    score = _waits(Questions.score)
    explain = _waits(Questions.explain)
    find_items = _waits(Questions.find_items)
    put_items = _waits(Questions.put_items)
    delete_items = _waits(Questions.delete_items)
    add_purchases = _waits(Questions.add_purchases)
    forget = _waits(Questions.forget)
    model = _waits(Questions.model)
    models = _waits(Questions.models)
    reload = _waits(Questions.reload)


class AsyncClient(_Client):
    """As :class:`Client`, for asyncio: every method is awaited; for use in an ``async with`` block."""

    _of_httpx = "AsyncClient"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        with _own_errors(self.url):
            await self._connected().aclose()

    async def _ask(self, call: Call[T]) -> T:
        patience = _Patience(self._retries, self._patience_s)
        while True:
            with _own_errors(self.url):
                response = await self._connected().request(call.method, call.path, json=call.body, params=call.query)
            if (wait_s := patience.wait_s(response)) is None:
                return _result(call, response)
            await asyncio.sleep(wait_s)

    recommend = _awaited(Questions.recommend)
    score = _awaited(Questions.score)
    explain = _awaited(Questions.explain)
    find_items = _awaited(Questions.find_items)
    put_items = _awaited(Questions.put_items)
    delete_items = _awaited(Questions.delete_items)
    add_purchases = _awaited(Questions.add_purchases)
    forget = _awaited(Questions.forget)
    model = _awaited(Questions.model)
    models = _awaited(Questions.models)
    reload = _awaited(Questions.reload)
