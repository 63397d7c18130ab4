"""Refusals as HTTP knows them: a status, a short code, and a sentence that names the value and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xcrossrec.catalogue import CatalogueReplacedError
from xcrossrec.exceptions import (
    ConfigError,
    DataError,
    ModelError,
    NoCatalogueError,
    StorageError,
    UnavailableError,
    UnknownItemError,
    XCrossRecError,
)


class Problem(XCrossRecError):  # noqa: N818 - what HTTP calls it
    """A request that gets no answer but a reason: a code, short, for programs, and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """Its body, which is JSON, and its headers."""
        body = json.dumps({"error": {"code": self.code, "message": str(self)}}).encode()
        return body, {"content-type": "application/json", "content-length": str(len(body)), **self.headers}


def busy(message: str, *, status: int = 429, code: str = "busy", retry_s: int = 1) -> Problem:
    """The request may be sent again, after some seconds."""
    return Problem(status, code, message, {"Retry-After": str(retry_s)})


def nothing_at(path: str) -> Problem:
    """No such address."""
    return Problem(404, "http", f"there is nothing at {path[:80]!r}: /openapi.json lists what there is")


def check_limit(what: str, value: int, most: int) -> None:
    """Refuse more than a service takes (Problem, 422)."""
    if value > most:
        raise Problem(422, "limit", f"{value} {what}, at most {most} are allowed here: ask for fewer")


def problem_of(error: BaseException) -> Problem:
    """Turn an expected failure into a refusal; anything else into a 500 that tells nothing."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CatalogueReplacedError):
        return busy(f"{_sentence(error)}; send the request again", status=503, code="replaced")
    if isinstance(error, (UnavailableError, NoCatalogueError)):  # whose tables may be restored right now
        return busy(_sentence(error), status=503, code="database")
    for kind, status, code in (
        (UnknownItemError, 404, "unknown_item"),
        (StorageError, 507, "storage"),
        (ModelError, 422, "model"),
        ((DataError, ConfigError), 422, "invalid"),
    ):
        if isinstance(error, kind):
            return Problem(status, code, _sentence(error))
    return Problem(500, "internal", "the server failed unexpectedly: its log has the reason under the request's id")


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Say in one sentence what does not fit the schema."""
    first = errors[0]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    return Problem(422, "invalid", f"{_place(first['loc'])}: {first['msg']}, got {_shown(first.get('input'))}{more}")


def _place(parts: Iterable[str | int]) -> str:
    names = [str(part) for part in parts]
    return ".".join(names[1:])[:80] or f"the {names[0]}"


def _shown(value: Any) -> str:
    try:
        text = repr(value)  # which escapes what cannot be printed, and no letters
    except ValueError:  # an integer of thousands of digits
        return "a number too long to show"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _sentence(error: BaseException) -> str:
    return " ".join(str(error).split())
