"""HTTP error answers: a status, a short code, and a sentence that names the value and the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xcrossrec import exceptions
from xcrossrec.catalogue import CatalogueReplacedError
from xcrossrec.exceptions import XCrossRecError


class Problem(XCrossRecError):  # noqa: N818 - what HTTP calls it
    """A request that is refused, with a short code for programs, and a sentence for people."""

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})

    def answer(self) -> tuple[bytes, dict[str, str]]:
        """The JSON body and the headers."""
        body = json.dumps({"error": {"code": self.code, "message": str(self)}}).encode()
        return body, {"content-type": "application/json", "content-length": str(len(body)), **self.headers}


def busy(message: str, *, status: int = 429, code: str = "busy", retry_s: int = 1) -> Problem:
    """A refusal of a request that may be sent again after some seconds."""
    return Problem(status, code, message, {"Retry-After": str(retry_s)})


def nothing_at(path: str) -> Problem:
    """A refusal of an unknown path."""
    return Problem(404, "http", f"there is nothing at {path[:80]!r}: /openapi.json lists what there is")


def check_limit(what: str, value: int, most: int) -> None:
    """Refuse more than a service takes (Problem, 422)."""
    if value > most:
        raise Problem(422, "limit", f"{value} {what}, at most {most} are allowed here: ask for fewer")


def problem_of(error: BaseException) -> Problem:
    """Turn an expected failure into a refusal, and any other into a 500 without details."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, CatalogueReplacedError):
        return busy(f"{_sentence(error)}; send the request again", status=503, code="replaced")
    if isinstance(error, exceptions.UnavailableError | exceptions.NoCatalogueError):  # tables may be being restored
        return busy(_sentence(error), status=503, code="database")
    for kind, status, code in (
        (exceptions.UnknownItemError, 404, "unknown_item"),
        (exceptions.StorageError, 507, "storage"),
        (exceptions.ModelError, 422, "model"),
        ((exceptions.DataError, exceptions.ConfigError), 422, "invalid"),
    ):
        if isinstance(error, kind):
            return Problem(status, code, _sentence(error))
    return Problem(500, "internal", "the server failed unexpectedly: its log has the reason under the request's id")


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """A refusal of a request that violates the schema, in one sentence."""
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
