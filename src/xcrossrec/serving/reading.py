"""How requests are read: only known query parameters; JSON in UTF-8 that is declared as such, without NaN, deep nesting
or repeated names."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from email.message import Message
from typing import Any, TypeAlias
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from xcrossrec.serving.problems import Problem, invalid

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_WIDEST = 10_000
"""Names in an object, at most: stored metadata have fewer, and each unknown name would cost time."""


class JsonRoute(APIRoute):
    """A route that reads its bodies strictly, and only as JSON."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler for requests without a body; for the others its reading is slower and less strict."""
        known = sorted(each.alias for each in self.dependant.query_params)
        body: Any = self.body_field
        handler = super().get_route_handler() if body is None else _of_body(self.endpoint, body.field_info.annotation)

        async def handle(request: Request) -> Response:
            check_query(request, known)
            try:
                return await handler(request)
            except RequestValidationError as error:
                raise invalid(error.errors()) from None

        return handle


def _of_body(endpoint: Callable[..., Any], model: type[BaseModel]) -> Handler:
    """A handler that calls an endpoint with a request, its path parameters, and its body as ``asked``."""

    async def handle(request: Request) -> Response:
        _check_content_type(request)
        if not (body := await request.body()):
            raise invalid([{"loc": ("body",), "msg": "Field required"}])
        settings = request.app.state.service.settings
        value = _read_json(body, settings.depth)
        try:
            asked = model.model_validate(value, context=settings)
        except ValidationError as error:
            raise invalid([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
        answer: Response = await endpoint(request, **request.path_params, asked=asked)
        return answer

    return handle


def _read_json(body: bytes, limit: int) -> Any:
    """Read JSON that nests lists and objects in at most ``limit`` levels (else Problem, 400)."""
    try:
        from_json(body, allow_inf_nan=False)  # which is stricter than Python's own, but keeps the last of two names
    except ValueError as error:
        raise _no_json(f"the body is not JSON in UTF-8 ({error}): send what /openapi.json describes") from None
    value = json.loads(body, object_pairs_hook=_members)
    if body.count(b"[") + body.count(b"{") > limit and _deeper(value, limit):
        raise _no_json(f"the body nests lists and objects in more than {limit} levels: send it flatter")
    return value


def _no_json(sentence: str) -> Problem:
    return Problem(400, "json", sentence)


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(pairs) > _WIDEST:
        raise _no_json(f"an object of the body has {len(pairs)} names, at most {_WIDEST} are read: send fewer")
    if len(members) < len(pairs):
        ((twice, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise _no_json(f"an object of the body has {twice[:80]!r} {times} times: send it once")
    return members


def check_query(request: Request, known: Sequence[str]) -> None:
    """Refuse unknown and repeated query parameters, and a query that is not in UTF-8 (Problem, 422)."""
    try:
        unquote_to_bytes(request.scope["query_string"]).decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid", f"the query is not in UTF-8 ({error}): encode it in UTF-8") from None
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            there = f"known are {', '.join(known)}" if known else "none is known here"
            raise Problem(422, "invalid", f"unknown query parameter {name[:80]!r}: {there}")
        if given.count(name) > 1:
            raise Problem(422, "invalid", f"the query parameter {name!r} is given {given.count(name)} times: give one")


def _check_content_type(request: Request) -> None:
    for header, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        coded = ", ".join(request.headers.getlist(header)).strip().lower()
        if coded not in ("", plain):
            said = f"{header} is {coded[:80]!r}: send the body as it is, without that header"
            raise Problem(415, "encoded", said, {"Accept-Encoding": "identity"})
    given = ", ".join(request.headers.getlist("content-type"))
    declared = Message()
    declared["Content-Type"] = given
    plain_json = declared.get_content_type() == "application/json"
    if not plain_json or declared.get_content_charset("utf-8") not in ("utf-8", "utf8"):
        raise Problem(415, "content_type", f"the Content-Type is {given[:80]!r}: send application/json in UTF-8")


def _deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value nests lists and objects in more levels."""
    if not isinstance(value, (dict, list)):
        return False
    return levels == 0 or any(
        _deeper(inner, levels - 1) for inner in (value.values() if isinstance(value, dict) else value)
    )
