"""How requests are read: known query parameters; JSON in UTF-8, announced as such, without NaN, not nested deeply,
whose names come once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeAlias, cast
from urllib.parse import unquote_to_bytes

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException

from xcrossrec.serving.problems import Problem, invalid

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]

_WIDEST = 10_000
"""Names in an object, at most: metadata that are kept have fewer, and each unknown one would cost time."""


class JsonRoute(APIRoute):
    """A route whose bodies are read strictly, and whose JSON is announced as such."""

    def get_route_handler(self) -> Handler:
        """Wrap FastAPI's handler; one that takes the request and its body alone is called without FastAPI."""
        handler, takes_body = super().get_route_handler(), self.body_field is not None
        if takes_body and not self.dependant.path_params and not self.dependant.query_params:
            handler = _of_body(self.endpoint, cast(Any, self.body_field).field_info.annotation)
        known = sorted(each.alias for each in self.dependant.query_params) if self.include_in_schema else None

        async def handle(request: Request) -> Response:
            if known is not None:
                _check_query(request, known)
            if takes_body:
                _check_content_type(request)
            try:
                return await handler(_JsonRequest(request.scope, request.receive))
            except RequestValidationError as error:
                raise invalid(error.errors()) from None

        return handle


def _of_body(endpoint: Callable[..., Any], model: type[BaseModel]) -> Handler:
    """Give an endpoint a request and its body; FastAPI's way, which is made for any parameters, takes longer."""

    async def handle(request: Request) -> Response:
        if not await request.body():
            raise RequestValidationError([{"loc": ("body",), "msg": "Field required"}])
        value = await request.json()
        try:
            asked = model.model_validate(value, context=request.app.state.service.settings)
        except ValidationError as error:
            raise RequestValidationError([{**each, "loc": ("body", *each["loc"])} for each in error.errors()]) from None
        answer: Response = await endpoint(request, asked)
        return answer

    return handle


class _JsonRequest(Request):
    """Refuses by the kind of error that FastAPI lets through while it reads a body."""

    async def json(self) -> Any:
        body = await self.body()
        limit = self.app.state.service.settings.depth
        try:
            from_json(body, allow_inf_nan=False)  # which is stricter than Python's own, but keeps the last of two names
        except ValueError as error:
            raise HTTPException(400, f"the body is no JSON in UTF-8 ({error}): send what /openapi.json says") from None
        value = json.loads(body, object_pairs_hook=_members)
        if body.count(b"[") + body.count(b"{") > limit and _deeper(value, limit):
            raise HTTPException(400, f"the body nests lists and objects in more than {limit} levels: send it flatter")
        return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(pairs) > _WIDEST:
        raise HTTPException(
            400, f"an object of the body has {len(pairs)} names, at most {_WIDEST} are read: send fewer"
        )
    if len(members) < len(pairs):
        ((twice, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise HTTPException(400, f"an object of the body has {twice[:80]!a} {times} times: send it once")
    return members


def _check_query(request: Request, known: Sequence[str]) -> None:
    try:
        unquote_to_bytes(request.scope["query_string"]).decode()
    except UnicodeDecodeError as error:
        raise Problem(422, "invalid", f"the query is not in UTF-8 ({error}): write its characters in that") from None
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            there = f"known are {', '.join(known)}" if known else "none is known here"
            raise Problem(422, "invalid", f"unknown query parameter {name[:80]!a}: {there}")
        if given.count(name) > 1:
            raise Problem(422, "invalid", f"the query parameter {name!r} is given {given.count(name)} times: give one")


def _check_content_type(request: Request) -> None:
    for header, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        coded = ", ".join(request.headers.getlist(header)).strip().lower()
        if coded not in ("", plain):
            said = f"{header} is {coded[:80]!a}: send the body as it is, without that header"
            raise Problem(415, "encoded", said, {"Accept-Encoding": "identity"})
    given = request.headers.get("content-type", "")
    kind, _, parameters = given.partition(";")
    named = [each.replace('"', "").partition("=") for each in parameters.lower().split(";")]
    charsets = {value.strip() for name, _, value in named if name.strip() == "charset"}
    if kind.strip().lower() != "application/json" or charsets - {"utf-8", "utf8"}:
        raise Problem(415, "content_type", f"the body is announced as {given[:80]!a}: send application/json in UTF-8")


def _deeper(value: Any, levels: int) -> bool:
    """Whether a JSON value nests lists and objects in more levels."""
    if not isinstance(value, (dict, list)):
        return False
    return levels == 0 or any(
        _deeper(inner, levels - 1) for inner in (value.values() if isinstance(value, dict) else value)
    )
